//! The keys of a tenant: one that names its chunks and one that seals them. They live wrapped in the scheduler's
//! database, travel only inside a granted specification, and are wiped from memory after use.

use secrecy::SecretBox;

/// A 256-bit key; `Debug` shows nothing of it.
pub type Key256 = SecretBox<[u8; 32]>;

/// The keys of one tenant.
#[derive(Debug, Clone)]
pub struct TenantKeys {
    /// Keys the hash that turns a block's SHA-256 into its chunk id.
    pub id_key: std::sync::Arc<Key256>,
    /// Root of the keys that seal chunks and pages.
    pub data_key: std::sync::Arc<Key256>,
}

impl TenantKeys {
    /// Keys from 2 × 32 bytes.
    #[must_use]
    pub fn new(id_key: [u8; 32], data_key: [u8; 32]) -> Self {
        Self {
            id_key: std::sync::Arc::new(SecretBox::new(Box::new(id_key))),
            data_key: std::sync::Arc::new(SecretBox::new(Box::new(data_key))),
        }
    }
}
