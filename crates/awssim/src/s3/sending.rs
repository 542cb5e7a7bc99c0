//! GetObject and HeadObject: whole objects and ranges, read while they are sent.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{Response, response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::error::S3Error;
use super::files::ObjectReader;
use super::{Answer, Call, http_time, quoted};
use crate::faults::body::{self, ReplyBody};
use crate::world::Object;

/// Bytes sent at once.
const PIECE: u64 = 256 << 10;

pub(super) fn get(call: &Call<'_>) -> Answer {
    let object = find(call)?;
    let (range, response) = describe(call, &object)?;
    if call.plan.loses_reply() {
        return Ok(Response::new(body::lost()));
    }
    let len = range.end - range.start;
    let (break_at, flip_at) = call.plan.stream_faults(len);
    call.plan.count_bytes(0, usize::try_from(len).unwrap_or(0));
    let body = ObjectBody {
        reader: call.context.objects.reader(&object),
        break_at: break_at.map(|at| range.start + at),
        flip_at: flip_at.map(|at| range.start + at),
        left: range,
        is_flushed: false,
    };
    finish(response, body.boxed())
}

pub(super) fn head(call: &Call<'_>) -> Answer {
    let object = find(call)?;
    let (range, response) = describe(call, &object)?;
    finish(response.header("content-length", range.end - range.start), body::empty())
}

fn finish(response: response::Builder, body: ReplyBody) -> Answer {
    response.body(body).map_err(|error| io::Error::other(error).into())
}

/// The object, if the caller may read it and the request's conditions hold.
fn find(call: &Call<'_>) -> Result<Object, S3Error> {
    call.permit_object("GetObject")?;
    let object = {
        let state = call.context.world.read();
        let bucket = state.buckets.get(&call.target.bucket).ok_or_else(S3Error::no_such_bucket)?;
        bucket.objects.get(&call.target.key).cloned()
    };
    let Some(object) = object else {
        // Who may not list learns nothing of what is there.
        call.demand(&call.asked("ListBucket", None))?;
        return Err(S3Error::no_such_key());
    };
    let is_it = |wanted: &str| {
        wanted.split(',').map(|one| one.trim().trim_matches('"')).any(|one| one == "*" || one == object.etag)
    };
    if call.header("if-match").is_some_and(|wanted| !is_it(wanted)) {
        return Err(S3Error::precondition_failed());
    }
    if call.header("if-none-match").is_some_and(is_it) {
        return Err(S3Error::new(304, "NotModified", "Not Modified"));
    }
    Ok(object)
}

/// Which bytes are asked for, and the head of the answer.
fn describe(call: &Call<'_>, object: &Object) -> Result<(Range<u64>, response::Builder), S3Error> {
    let size_bytes = object.size_bytes();
    let mut response = Response::builder()
        .header("etag", quoted(&object.etag))
        .header("last-modified", http_time(object.modified_ms))
        .header("accept-ranges", "bytes")
        .header("x-amz-request-id", format!("{:032x}", rand::random::<u128>()));
    if !object.headers.contains_key("content-type") {
        response = response.header("content-type", "binary/octet-stream");
    }
    for (name, value) in &object.headers {
        response = response.header(name, value);
    }
    let Some(asked) = call.header("range") else { return Ok((0..size_bytes, response)) };
    match parse_range(asked, size_bytes) {
        // A range that cannot be read is not looked at, as HTTP wants it.
        None => Ok((0..size_bytes, response)),
        Some(range) if range.is_empty() => {
            Err(S3Error::new(416, "InvalidRange", "The requested range is not satisfiable"))
        }
        Some(range) => {
            let text = format!("bytes {}-{}/{size_bytes}", range.start, range.end - 1);
            Ok((range, response.status(206).header("content-range", text)))
        }
    }
}

/// `bytes=a-b`, `bytes=a-`, `bytes=-n`; empty when it begins past the end.
fn parse_range(text: &str, size_bytes: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let n: u64 = last.parse().ok()?;
        return Some(size_bytes.saturating_sub(n)..size_bytes);
    }
    let first: u64 = first.parse().ok()?;
    let end =
        if last.is_empty() { size_bytes } else { last.parse::<u64>().ok()?.checked_add(1)?.min(size_bytes) };
    if !last.is_empty() && end <= first && first < size_bytes {
        return None;
    }
    Some(first..end.max(first))
}

/// Reads as it is sent.
struct ObjectBody {
    reader: ObjectReader,
    left: Range<u64>,
    break_at: Option<u64>,
    flip_at: Option<u64>,
    is_flushed: bool,
}

impl ObjectBody {
    fn next(&mut self, len: u64) -> io::Result<Frame<Bytes>> {
        let at = self.left.start;
        let mut piece = BytesMut::zeroed(usize::try_from(len).unwrap_or(0));
        self.reader.read_exact_at(at, &mut piece)?;
        let flipped = self.flip_at.and_then(|flip| usize::try_from(flip.checked_sub(at)?).ok());
        if let Some(byte) = flipped.and_then(|place| piece.get_mut(place)) {
            *byte ^= 1;
        }
        self.left.start += len;
        Ok(Frame::data(piece.freeze()))
    }
}

impl Body for ObjectBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if this.left.is_empty() {
            return Poll::Ready(None);
        }
        let end = this.break_at.unwrap_or(this.left.end);
        let len = end.saturating_sub(this.left.start).min(PIECE);
        if len > 0 {
            return Poll::Ready(Some(this.next(len)));
        }
        if !this.is_flushed {
            // The server writes out what it has when the body makes it wait.
            this.is_flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.end - self.left.start)
    }
}

#[cfg(test)]
mod tests {
    use super::parse_range;

    #[test]
    fn ranges_are_read_as_http_has_them() {
        assert_eq!(parse_range("bytes=0-9", 100), Some(0..10));
        assert_eq!(parse_range("bytes=90-200", 100), Some(90..100));
        assert_eq!(parse_range("bytes=90-", 100), Some(90..100));
        assert_eq!(parse_range("bytes=-10", 100), Some(90..100));
        assert_eq!(parse_range("bytes=-200", 100), Some(0..100));
        assert!(parse_range("bytes=100-", 100).unwrap().is_empty());
        assert_eq!(parse_range("bytes=5-4", 100), None);
        assert_eq!(parse_range("lines=0-9", 100), None);
    }
}
