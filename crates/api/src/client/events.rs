//! Server-sent events of a job as a stream.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};

use super::error::ClientError;
use crate::job::JobEvent;

/// A longer event than this is refused.
const MAX_EVENT_BYTES: usize = 16 << 20;

type Body = Pin<Box<dyn Stream<Item = Result<Bytes, reqwest::Error>> + Send>>;

/// The events of one job; ends after its terminal state.
pub struct JobEvents {
    url: String,
    body: Body,
    parser: EventParser,
    ready: VecDeque<String>,
    ended: bool,
}

impl std::fmt::Debug for JobEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobEvents").field("url", &self.url).finish_non_exhaustive()
    }
}

impl JobEvents {
    pub(super) fn new(response: reqwest::Response) -> Self {
        Self {
            url: response.url().to_string(),
            body: Box::pin(response.bytes_stream()),
            parser: EventParser::default(),
            ready: VecDeque::new(),
            ended: false,
        }
    }
}

impl Stream for JobEvents {
    type Item = Result<JobEvent, ClientError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(data) = this.ready.pop_front() {
                return Poll::Ready(Some(serde_json::from_str(&data).map_err(|error| ClientError::Answer {
                    url: this.url.clone(),
                    reason: error.to_string(),
                })));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            match ready!(this.body.poll_next_unpin(cx)) {
                Some(Ok(part)) => {
                    if let Err(reason) = this.parser.push(&part, &mut this.ready) {
                        this.ended = true;
                        return Poll::Ready(Some(Err(ClientError::Answer { url: this.url.clone(), reason })));
                    }
                }
                Some(Err(source)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(ClientError::Unreachable {
                        url: this.url.clone(),
                        source,
                    })));
                }
                None => this.ended = true,
            }
        }
    }
}

/// Lines into events: only `data` matters here, comments keep the connection alive.
#[derive(Debug, Default)]
struct EventParser {
    line: Vec<u8>,
    data: String,
}

impl EventParser {
    fn push(&mut self, part: &[u8], events: &mut VecDeque<String>) -> Result<(), String> {
        for byte in part {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() + self.data.len() > MAX_EVENT_BYTES {
                    return Err(format!("an event has more than {MAX_EVENT_BYTES} bytes"));
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8(line).map_err(|_| "an event is not UTF-8".to_owned())?;
            let line = line.trim_end_matches('\r');
            if line.is_empty() {
                if !self.data.is_empty() {
                    events.push_back(std::mem::take(&mut self.data));
                }
            } else if let Some(data) = line.strip_prefix("data:") {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_the_bytes_are_cut() {
        let text = b": hello\n\nevent: note\nid: 4\ndata: {\"a\":\r\ndata: 1}\n\ndata:x\n\n";
        for cut in 0..text.len() {
            let mut parser = EventParser::default();
            let mut events = VecDeque::new();
            parser.push(&text[..cut], &mut events).unwrap();
            parser.push(&text[cut..], &mut events).unwrap();
            assert_eq!(events, ["{\"a\":\n1}", "x"]);
        }
    }
}
