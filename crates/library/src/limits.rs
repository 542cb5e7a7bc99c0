//! Limits on everything a caller or a disk can hand us. Raising one is a format question only where said.

/// Longest sealed record of a chunk: a block of 512 KiB and 1 KiB for nonce, tag and framing.
pub const MAX_RECORD_BYTES: usize = 512 * 1_024 + 1_024;
/// Longest encoded leaf page: 1,024 chunk ids, as many sealed digests, states, and room for the sealing.
pub const MAX_LEAF_BYTES: usize = 128 * 1_024;
/// Longest opaque metadata of a recovery point.
pub const MAX_METADATA_BYTES: usize = 4 * 1_024 * 1_024;
/// Longest session key, in bytes.
pub const MAX_KEY_BYTES: usize = 128;
/// Longest tenant name, in bytes.
pub const MAX_TENANT_BYTES: usize = 256;
/// Longest volume name, in bytes.
pub const MAX_VOLUME_NAME_BYTES: usize = 256;
/// Most volumes of one recovery point (EC2 attaches at most 128 volumes to an instance).
pub const MAX_VOLUMES: usize = 128;
/// Most chunk ids in one `missing_chunks` call: what eight leaf pages refer to.
pub const MAX_ASK: usize = 8_192;
/// Most chunks in one `read_chunks` call; at most 64 MiB of stored bytes.
pub const MAX_READ_CHUNKS: usize = 128;
/// Most items of a listing call (leaves, recovery points, sessions).
pub const MAX_LIST: usize = 1_024;
/// Most leaf pages with their bytes in one call; at most 8 MiB.
pub const MAX_READ_LEAVES: usize = 64;
/// Most open sessions.
pub const MAX_SESSIONS: usize = 4_096;
/// Largest pack a library can be told to make; offsets in a pack are 32 bits.
pub const MAX_PACK_BYTES: u64 = 1 << 30;
/// Longest read that joins neighbouring records of a pack.
pub const MAX_COALESCED_BYTES: u64 = 4 * 1_024 * 1_024;
/// Widest gap that is read over to join two records.
pub const MAX_GAP_BYTES: u64 = 64 * 1_024;
