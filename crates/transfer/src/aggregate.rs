//! The LINEAR aggregate of EBS: SHA-256 over the raw SHA-256s of all written blocks, in ascending order.

use aws_lc_rs::digest;
use snapferry_types::Sha256Digest;

/// An aggregate being computed.
#[derive(Clone)]
pub(crate) struct Aggregate {
    context: digest::Context,
    n_blocks: u32,
}

impl Aggregate {
    pub(crate) fn new() -> Self {
        Self { context: digest::Context::new(&digest::SHA256), n_blocks: 0 }
    }

    /// Adds the next written block.
    pub(crate) fn add(&mut self, sha256: &Sha256Digest) {
        self.context.update(&sha256.0);
        self.n_blocks = self.n_blocks.saturating_add(1);
    }

    /// How many blocks, and their aggregate.
    pub(crate) fn finish(self) -> (u32, Sha256Digest) {
        let digest = self.context.finish();
        (self.n_blocks, Sha256Digest::try_from(digest.as_ref()).expect("a SHA-256 has 32 bytes"))
    }
}
