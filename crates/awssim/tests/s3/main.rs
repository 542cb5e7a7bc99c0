//! S3 and VM import over real HTTP: object_store, unmodified, and requests that are signed here so that a test can also
//! say what no client would.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod import;
mod objects;
mod signing;
mod streamed;

use std::path::Path;

use awssim::{Config, Running, Server};

pub(crate) const ACCOUNT: &str = "666666666666";
pub(crate) const REGION: &str = "eu-central-1";
pub(crate) const BUCKET: &str = "images";

/// A server over a data folder.
pub(crate) async fn start(data: &Path) -> Running {
    let listen = "127.0.0.1:0".parse().unwrap();
    Server::start(Config { listen, data_dir: data.to_owned() }).await.unwrap()
}
