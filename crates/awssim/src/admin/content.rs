//! Bytes into and out of volumes, for set-up and for comparing what came back.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;

use super::{AdminError, Answer, answer};
use crate::ebs::Backend;

/// Bytes moved at once.
const PIECE: usize = 1 << 20;

/// Writes the body to the volume from `offset` on, piece by piece.
pub(super) async fn write<B: Backend>(ctx: &B, id: &str, offset: u64, mut body: Incoming) -> Answer {
    let mut at = offset;
    let mut piece = BytesMut::with_capacity(PIECE);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(AdminError::bad_request)?;
        if let Some(data) = frame.data_ref() {
            piece.extend_from_slice(data);
        }
        if piece.len() >= PIECE {
            at = flush(ctx, id, at, &mut piece)?;
        }
    }
    at = flush(ctx, id, at, &mut piece)?;
    answer(&json!({ "bytes": at - offset }))
}

fn flush<B: Backend>(ctx: &B, id: &str, at: u64, piece: &mut BytesMut) -> Result<u64, AdminError> {
    ctx.store().write_volume(id, at, piece)?;
    let written = u64::try_from(piece.len()).unwrap_or(0);
    piece.clear();
    Ok(at + written)
}

/// Sends `length` bytes (all that follow, when not given) from `offset` on.
pub(super) fn read<B: Backend + 'static>(ctx: &Arc<B>, id: &str, offset: u64, length: Option<u64>) -> Answer {
    let size = ctx.store().volume_size(id)?;
    let end = length.map_or(Some(size), |length| offset.checked_add(length));
    let range = offset..end.filter(|end| *end <= size && offset <= *end).ok_or_else(|| {
        AdminError::bad_request(format!("the range reaches past the volume's {size} bytes"))
    })?;
    let body = VolumeBody { ctx: Arc::clone(ctx), id: id.to_owned(), range };
    let response = Response::builder().header("content-type", "application/octet-stream");
    response.body(body.boxed()).map_err(AdminError::bad_request)
}

/// The volume's ranges with data, as `{"size_bytes":n,"extents":[[offset,length],…]}`.
pub(super) fn map<B: Backend>(ctx: &B, id: &str) -> Answer {
    let extents = ctx.store().volume_extents(id)?;
    let extents: Vec<_> = extents.iter().map(|e| [e.start, e.end - e.start]).collect();
    answer(&json!({ "size_bytes": ctx.store().volume_size(id)?, "extents": extents }))
}

/// Reads as it is sent.
struct VolumeBody<B> {
    ctx: Arc<B>,
    id: String,
    range: Range<u64>,
}

impl<B: Backend> Body for VolumeBody<B> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        let left = this.range.end - this.range.start;
        if left == 0 {
            return Poll::Ready(None);
        }
        let len = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let piece = this.ctx.store().read_volume(&this.id, this.range.start, len).map_err(io::Error::other);
        this.range.start += u64::try_from(len).unwrap_or(left);
        Poll::Ready(Some(piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.range.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.range.end - self.range.start)
    }
}
