//! ListSnapshotBlocks and ListChangedBlocks.
//!
//! The JSON of a page is written by hand: a page of ten thousand tokens is most of what these calls cost.

use std::fmt::Write;

use bytes::Bytes;
use http::Response;

use super::error::EbsError;
use super::route::{Route, check_snapshot_id};
use super::token::{Kind, Refused, Tokens};
use super::{Backend, Request, json_response};
use crate::faults::PageFill;
use crate::faults::body::ReplyBody;
use crate::store::{BLOCK_BYTES, Page};

/// Where a page begins and how much it may hold.
struct Window {
    from: u32,
    max: usize,
}

pub(super) fn snapshot_blocks(request: &Request<'_, impl Backend>) -> Result<Response<ReplyBody>, EbsError> {
    let id = &request.route.snapshot_id;
    let snapshot = request.completed(id)?;
    let pages = Tokens::new(request.store().secret(), Kind::SnapshotPage, &[id]);
    let window = window(request, &pages)?;
    let page = request.store().list_blocks(id, window.from, window.max)?;
    let tokens = Tokens::new(request.store().secret(), Kind::Block, &[id]);
    let expires = block_expiry(request);
    let mut json = String::with_capacity(200 + page.items.len() * 110);
    json.push_str("{\"Blocks\":[");
    for (place, block) in page.items.iter().enumerate() {
        open_block(&mut json, place, block.index);
        json.push_str(",\"BlockToken\":\"");
        tokens.write(block.index, expires, &mut json);
        json.push_str("\"}");
    }
    json.push(']');
    finish(request, json, &page, window.from, snapshot.volume_size_gib, &pages)
}

pub(super) fn changed_blocks(request: &Request<'_, impl Backend>) -> Result<Response<ReplyBody>, EbsError> {
    let second_id = &request.route.snapshot_id;
    let first_id = request.route.query("firstSnapshotId").ok_or_else(|| {
        EbsError::validation("INVALID_SNAPSHOT_ID", "FirstSnapshotId must be given with SecondSnapshotId.")
    })?;
    check_snapshot_id(first_id)?;
    request.completed(first_id)?;
    let second = request.completed(second_id)?;
    let secret = request.store().secret();
    let pages = Tokens::new(secret, Kind::ChangedPage, &[first_id, second_id]);
    let window = window(request, &pages)?;
    let page = request.store().changed_blocks(first_id, second_id, window.from, window.max)?;
    let (first, in_second) =
        (Tokens::new(secret, Kind::Block, &[first_id]), Tokens::new(secret, Kind::Block, &[second_id]));
    let expires = block_expiry(request);
    let mut json = String::with_capacity(200 + page.items.len() * 200);
    json.push_str("{\"ChangedBlocks\":[");
    for (place, block) in page.items.iter().enumerate() {
        open_block(&mut json, place, block.index);
        for (name, there, tokens) in
            [("FirstBlockToken", block.in_first, &first), ("SecondBlockToken", block.in_second, &in_second)]
        {
            if there {
                let _ = write!(json, ",\"{name}\":\"");
                tokens.write(block.index, expires, &mut json);
                json.push('"');
            }
        }
        json.push('}');
    }
    json.push(']');
    finish(request, json, &page, window.from, second.volume_size_gib, &pages)
}

fn open_block(json: &mut String, place: usize, index: u32) {
    if place > 0 {
        json.push(',');
    }
    let _ = write!(json, "{{\"BlockIndex\":{index}");
}

fn block_expiry(request: &Request<'_, impl Backend>) -> u64 {
    request.now() + request.faults().behaviour().block_token_seconds
}

/// A NextToken says where to begin and makes StartingBlockIndex count for nothing.
fn window(request: &Request<'_, impl Backend>, pages: &Tokens) -> Result<Window, EbsError> {
    let route: &Route = &request.route;
    let from = match route.query("pageToken") {
        None => route.starting_block_index()?,
        Some(token) => pages.check(token, request.now()).map_err(|refused| {
            let what = match refused {
                Refused::Invalid => "is not valid",
                Refused::Expired => "has expired",
            };
            EbsError::validation("INVALID_PAGE_TOKEN", format!("The page token {what}."))
        })?,
    };
    let max = route.max_results()?;
    let max = match request.faults().next_page() {
        PageFill::Full => max,
        PageFill::Short => max / 3 + 1,
        PageFill::Empty => 0,
    };
    Ok(Window { from, max })
}

fn finish<T, B: Backend>(
    request: &Request<'_, B>,
    mut json: String,
    page: &Page<T>,
    from: u32,
    volume_size_gib: u64,
    pages: &Tokens,
) -> Result<Response<ReplyBody>, EbsError> {
    let expires = block_expiry(request);
    let _ = write!(
        json,
        ",\"ExpiryTime\":{expires}.0,\"VolumeSize\":{volume_size_gib},\"BlockSize\":{BLOCK_BYTES}"
    );
    if let Some(next) = page.next {
        let life = request.faults().behaviour().page_token_seconds;
        let _ = write!(json, ",\"NextToken\":\"{}\"", pages.make(next.max(from), request.now() + life));
    }
    json.push('}');
    json_response(request, 200, Bytes::from(json))
}
