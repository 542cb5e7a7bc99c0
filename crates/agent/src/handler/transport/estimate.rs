//! What moving blocks takes, by list prices and the agent's quotas: close enough to choose by, no bill.

use std::fmt;

use snapferry_types::Transport;

use crate::config::Prices;

/// Reading a volume that was just made of a snapshot fetches its blocks for the first time.
const HOT_ADD_READ_MIB_PER_SECOND: f64 = 150.0;
/// A new gp3 volume at 250 MiB/s.
const HOT_ADD_WRITE_MIB_PER_SECOND: f64 = 230.0;
/// Sharing, making, attaching, detaching and deleting a volume.
const HOT_ADD_SECONDS: f64 = 90.0;
/// Its snapshot and the wait for the tenant's copy of that, on top when writing.
const HOT_ADD_WRITE_SECONDS: f64 = 240.0;
/// A copy into another account or under another key, always of all that was written: a guess, AWS names no rate.
const COPY_MIB_PER_SECOND: f64 = 100.0;
/// Making the image and uploading it, and what EC2 does with it.
const IMPORT_MIB_PER_SECOND: f64 = 60.0;
const IMPORT_SECONDS: f64 = 600.0;
const MIB_PER_BLOCK: f64 = 0.5;
const HOURS_PER_MONTH: f64 = 730.0;

/// How much there is to move.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Amount {
    /// Whether blocks are written to AWS; else they are read from it.
    pub(super) writes: bool,
    /// Blocks of 512 KiB to move.
    pub(super) blocks: u64,
    /// Size of the volumes in GiB.
    pub(super) size_gib: u64,
    /// How many volumes.
    pub(super) n_volumes: u32,
    /// Whether HotAdd has to copy the snapshots under another key before it reads them, as it does for who asks for it.
    pub(super) is_copied_first: bool,
    /// GiB of volumes whose holes HotAdd writes, too: nobody says what a block of a new encrypted volume reads as.
    pub(super) filled_gib: u64,
    /// Blocks that EBS direct moves in a second: its quota, as this agent is told to keep it.
    pub(super) direct_per_second: f64,
}

impl Amount {
    /// MiB that are moved.
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    fn mib(&self) -> f64 {
        self.blocks as f64 * MIB_PER_BLOCK
    }

    /// MiB that HotAdd writes: all of the volumes that are filled, and of the others' blocks what their size lets expect.
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    fn mib_by_hot_add(&self) -> f64 {
        let plain_share = 1.0 - self.filled_gib as f64 / self.size_gib.max(1) as f64;
        self.filled_gib as f64 * 1_024.0 + self.mib() * plain_share
    }

    /// MiB of the whole volumes.
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    fn whole_mib(&self) -> f64 {
        self.size_gib as f64 * 1_024.0
    }
}

/// What a transport takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimate {
    /// Seconds.
    pub(super) seconds: f64,
    /// US dollars.
    pub(super) dollars: f64,
}

impl Estimate {
    /// Of moving `amount`.
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    pub(super) fn of(transport: Transport, amount: &Amount, prices: &Prices) -> Self {
        let blocks = amount.blocks as f64;
        let gib_hours = |seconds: f64| amount.size_gib as f64 * seconds / 3_600.0;
        match transport {
            Transport::EbsDirect => {
                let per_thousand =
                    if amount.writes { prices.put_per_thousand } else { prices.get_per_thousand };
                let seconds = 5.0 + blocks / amount.direct_per_second.max(0.001);
                Self { seconds, dollars: blocks / 1_000.0 * per_thousand }
            }
            Transport::HotAdd => {
                let each = HOT_ADD_SECONDS * f64::from(amount.n_volumes.max(1));
                let seconds = if amount.writes {
                    let written = amount.mib_by_hot_add();
                    let copied = written / COPY_MIB_PER_SECOND;
                    each + HOT_ADD_WRITE_SECONDS + written / HOT_ADD_WRITE_MIB_PER_SECOND + copied
                } else {
                    let first = if amount.is_copied_first { amount.whole_mib() } else { 0.0 };
                    each + first / COPY_MIB_PER_SECOND + amount.mib() / HOT_ADD_READ_MIB_PER_SECOND
                };
                let dollars = gib_hours(seconds) / HOURS_PER_MONTH * prices.volume_gib_month;
                Self { seconds, dollars }
            }
            Transport::Import => {
                let copied = amount.mib() / COPY_MIB_PER_SECOND;
                let seconds = IMPORT_SECONDS + amount.mib() / IMPORT_MIB_PER_SECOND + copied;
                let gib = amount.mib() / 1_024.0;
                let dollars = gib * seconds / 3_600.0 / HOURS_PER_MONTH * prices.s3_gib_month;
                Self { seconds, dollars }
            }
        }
    }

    /// One number to compare by: dollars, with time at a price.
    pub(super) fn weight(&self, prices: &Prices) -> f64 {
        self.dollars + self.seconds / 3_600.0 * prices.hour
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.seconds < 120.0 {
            write!(f, "{:.0} s, ${:.3}", self.seconds, self.dollars)
        } else {
            write!(f, "{:.0} min, ${:.3}", self.seconds / 60.0, self.dollars)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIB: Amount = Amount {
        writes: false,
        blocks: 2_097_152,
        size_gib: 1_024,
        n_volumes: 1,
        is_copied_first: false,
        filled_gib: 0,
        direct_per_second: 990.0,
    };

    #[test]
    fn a_tebibyte_costs_what_the_price_list_says() {
        let read = Estimate::of(Transport::EbsDirect, &TIB, &Prices::default());
        assert!((read.dollars - 6.29).abs() < 0.01 && (read.seconds / 60.0 - 35.3).abs() < 0.5, "{read}");
        let write = Estimate::of(Transport::EbsDirect, &Amount { writes: true, ..TIB }, &Prices::default());
        assert!((write.dollars - 12.58).abs() < 0.01, "{write}");
    }

    #[test]
    fn few_changes_go_by_ebs_direct_and_a_full_large_volume_by_hot_add() {
        let prices = Prices::default();
        let weight = |transport, amount: &Amount| Estimate::of(transport, amount, &prices).weight(&prices);
        let few = Amount { blocks: 2_000, ..TIB };
        assert!(weight(Transport::EbsDirect, &few) < weight(Transport::HotAdd, &few));
        assert!(weight(Transport::EbsDirect, &TIB) > weight(Transport::HotAdd, &TIB));
        // A copy that has to come first takes three hours.
        let copied = Amount { is_copied_first: true, ..TIB };
        assert!(weight(Transport::HotAdd, &copied) > weight(Transport::HotAdd, &TIB) + 2.9);
        let hours = Estimate::of(Transport::HotAdd, &copied, &prices).seconds / 3_600.0;
        assert!((4.8..5.0).contains(&hours), "{hours}");
        // What is written is copied by the tenant; of an encrypted volume that is all of it.
        let written = Amount { writes: true, blocks: 20_480, ..TIB };
        let minutes = |transport, amount: &Amount| Estimate::of(transport, amount, &prices).seconds / 60.0;
        let plain = minutes(Transport::HotAdd, &written);
        assert!((7.9..8.0).contains(&plain), "{plain}");
        let encrypted = minutes(Transport::HotAdd, &Amount { filled_gib: 1_024, ..written });
        assert!((250.0..260.0).contains(&encrypted), "{encrypted}");
        let imported = minutes(Transport::Import, &written);
        assert!((14.5..14.6).contains(&imported), "{imported}");
        // A larger quota makes it faster, and a price of time decides.
        let granted = Amount { direct_per_second: 5_000.0, ..TIB };
        let (slow, fast) = (weight(Transport::EbsDirect, &TIB), weight(Transport::EbsDirect, &granted));
        assert!((slow - fast - 2_097_152.0 * (1.0 / 990.0 - 1.0 / 5_000.0) / 3_600.0).abs() < 0.001);
        let dear = Prices { hour: 1_000.0, ..prices };
        let weight = |transport, amount: &Amount| Estimate::of(transport, amount, &dear).weight(&dear);
        assert!(weight(Transport::EbsDirect, &granted) < weight(Transport::HotAdd, &granted));
    }
}
