//! Bodies that end as they should not.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};

/// The body of every answer of the simulator.
pub type ReplyBody = http_body_util::combinators::BoxBody<Bytes, io::Error>;

/// Pieces known in advance, sent without copying them together.
#[derive(Debug)]
struct Pieces {
    left: std::collections::VecDeque<Bytes>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.left.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.iter().map(|piece| u64::try_from(piece.len()).unwrap_or(0)).sum())
    }
}

/// A body of several pieces; empty ones are left out.
#[must_use]
pub fn pieces(pieces: impl IntoIterator<Item = Bytes>) -> ReplyBody {
    let left = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
    Pieces { left }.map_err(|never| match never {}).boxed()
}

/// A body of one piece.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> ReplyBody {
    pieces([bytes.into()])
}

/// No body.
#[must_use]
pub fn empty() -> ReplyBody {
    Empty::new().map_err(|never: Infallible| match never {}).boxed()
}

/// Sends `sent` of a body that was announced as `announced` bytes long, and then breaks the connection.
#[derive(Debug)]
struct Broken {
    sent: Option<Bytes>,
    announced: u64,
    flushed: bool,
}

impl Body for Broken {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(sent) = self.sent.take() {
            return Poll::Ready(Some(Ok(Frame::data(sent))));
        }
        if !self.flushed {
            // The server writes out what it has when the body makes it wait.
            self.flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.announced)
    }
}

/// The beginning of a body, then a broken connection.
#[must_use]
pub fn truncated(sent: Bytes, announced: u64) -> ReplyBody {
    Broken { sent: Some(sent), announced, flushed: false }.boxed()
}

/// A broken connection instead of an answer: the server meets the error before it has written anything.
#[must_use]
pub fn lost() -> ReplyBody {
    Broken { sent: None, announced: 1, flushed: true }.boxed()
}
