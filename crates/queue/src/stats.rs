//! Counters of a queue client. Plain atomics: the process that owns the client exports them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the client was made.
#[derive(Debug, Default)]
pub struct QueueStats {
    published: AtomicU64,
    returned: AtomicU64,
    nacked: AtomicU64,
    unknown: AtomicU64,
    delivered: AtomicU64,
    redelivered: AtomicU64,
    dead_lettered: AtomicU64,
    stale_settlements: AtomicU64,
    reconnects: AtomicU64,
}

/// What [`QueueStats`] counted, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Messages that were confirmed.
    pub published: u64,
    /// Messages that came back because no queue takes them.
    pub returned: u64,
    /// Messages that the broker refused.
    pub nacked: u64,
    /// Messages without an answer.
    pub unknown: u64,
    /// Tickets handed to a consumer, redelivered ones included.
    pub delivered: u64,
    /// Tickets that had been delivered before.
    pub redelivered: u64,
    /// Messages that are no ticket, sent to the dead queue.
    pub dead_lettered: u64,
    /// Acknowledgements and returns that came after their delivery had been taken back.
    pub stale_settlements: u64,
    /// Times a consumer or a publisher had to build its connection or channel again.
    pub reconnects: u64,
}

macro_rules! counters {
    ($($add:ident $field:ident;)*) => {
        impl QueueStats {
            $(pub(crate) fn $add(&self) {
                self.$field.fetch_add(1, Ordering::Relaxed);
            })*

            /// The counters now.
            #[must_use]
            pub fn counts(&self) -> QueueCounts {
                QueueCounts { $($field: self.$field.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    add_published published;
    add_returned returned;
    add_nacked nacked;
    add_unknown unknown;
    add_delivered delivered;
    add_redelivered redelivered;
    add_dead_lettered dead_lettered;
    add_stale_settlement stale_settlements;
    add_reconnect reconnects;
}
