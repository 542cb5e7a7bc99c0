//! S3, only as far as an import needs it: a disk image goes up in parts and is deleted again. What a killed process
//! left of an upload is found by its key ([`S3::abort_uploads`]).

mod bucket;
mod connection;
mod refusal;
mod upload;

pub use bucket::S3;
