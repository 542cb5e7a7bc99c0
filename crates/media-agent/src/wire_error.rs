//! How an error crosses the wire: a gRPC code for anybody, and a word of ours that both sides know.

/// Metadata key of the class word.
pub(crate) const CLASS_KEY: &str = "snapferry-error-class";

/// Metadata key of the recovery points that a damage touches: their ids, separated by commas.
pub(crate) const TOUCHED_KEY: &str = "snapferry-recovery-points";

/// A session that lost what was not flushed; opening it again heals that.
pub(crate) const REWOUND: &str = "rewound";

/// A leaf whose chunks are not stored.
pub(crate) const MISSING_CHUNKS: &str = "missing_chunks";

/// A limit of the MediaAgent that passes by itself.
pub(crate) const BUSY: &str = "busy";
