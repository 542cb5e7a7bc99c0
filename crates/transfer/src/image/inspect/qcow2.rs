//! Whether a qcow2 file is what it claims.

use super::{Image, ImageInfo};
use crate::error::TransferError;
use crate::image::ImageFormat;
use crate::image::fields::{be32, be64};

/// Where an L1 or L2 entry names a cluster.
const OFFSET_MASK: u64 = 0x00FF_FFFF_FFFF_FE00;
const COMPRESSED: u64 = 1 << 62;
const READS_AS_ZEROES: u64 = 1;
/// Incompatible features: dirty and compression type are harmless to who reads.
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const EXTENDED_L2: u64 = 1 << 4;

pub(super) fn inspect(image: &Image<'_>) -> Result<ImageInfo, TransferError> {
    let head = image.read(0, image.len.min(104))?;
    let version = be32(&head, 4);
    if !(2..=3).contains(&version) || (version == 3 && head.len() < 104) || head.len() < 72 {
        return Err(
            image.corrupt(format!("says it is qcow2 of version {version}, or ends within its header"))
        );
    }
    let (cluster_bits, size, n_l1) = (be32(&head, 20), be64(&head, 24), u64::from(be32(&head, 36)));
    if !(9..=21).contains(&cluster_bits) {
        return Err(
            image.corrupt(format!("has clusters of 2^{cluster_bits} bytes, which qcow2 does not allow"))
        );
    }
    if be64(&head, 8) != 0 {
        return Err(image.invalid("needs its backing file: convert it to one that stands alone"));
    }
    if be32(&head, 32) != 0 {
        return Err(image.invalid("is encrypted by QEMU: convert it to a plain one"));
    }
    let features = if version == 3 { be64(&head, 72) } else { 0 };
    if features & CORRUPT != 0 {
        return Err(image.corrupt("is marked as corrupt: repair it with 'qemu-img check -r all'"));
    }
    if features & EXTERNAL_DATA != 0 {
        return Err(image.invalid("keeps its data in another file: convert it to one that stands alone"));
    }
    let cluster = 1_u64 << cluster_bits;
    let entry_len = if features & EXTENDED_L2 == 0 { 8 } else { 16 };
    let needed = size.div_ceil(cluster).div_ceil(cluster / entry_len);
    if size == 0 || n_l1 < needed {
        let what = format!("claims {size} bytes, but its table of {n_l1} entries covers less");
        return Err(image.corrupt(what));
    }
    image.must_hold(be64(&head, 48), u64::from(be32(&head, 56)) * cluster, "a refcount table")?;
    let mut guest = 0;
    let per_table = cluster / entry_len * cluster;
    image.each_step(be64(&head, 40), n_l1 * 8, |l1| {
        for entry in l1.chunks_exact(8).map(|entry| be64(entry, 0) & OFFSET_MASK) {
            if entry != 0 {
                check_l2(image, entry, Table { guest, size, cluster, entry_len })?;
            }
            guest = guest.saturating_add(per_table);
        }
        Ok(())
    })?;
    let variant = if version == 3 { "qcow2 v3" } else { "qcow2 v2" };
    Ok(ImageInfo { format: ImageFormat::Qcow2, variant, virtual_size: size, file_len: image.len })
}

/// What an L2 table is about.
struct Table {
    /// The first byte of the disk that it covers.
    guest: u64,
    size: u64,
    cluster: u64,
    entry_len: u64,
}

fn check_l2(image: &Image<'_>, offset: u64, table: Table) -> Result<(), TransferError> {
    let Table { mut guest, size, cluster, entry_len } = table;
    let step = usize::try_from(entry_len).unwrap_or(8);
    image.each_step(offset, cluster, |l2| {
        for entry in l2.chunks_exact(step).map(|entry| be64(entry, 0)) {
            if entry & COMPRESSED != 0 {
                // The low bits are the offset; how many depends on the cluster's size.
                let offset_bits = 62 - (cluster.ilog2() - 8);
                image.must_hold(entry & ((1 << offset_bits) - 1), 1, "a compressed cluster")?;
            } else if entry & OFFSET_MASK != 0 && entry & READS_AS_ZEROES == 0 {
                // A file may end with the disk's last byte, within the last cluster.
                let len = cluster.min(size.saturating_sub(guest));
                image.must_hold(entry & OFFSET_MASK, len, "a cluster")?;
            }
            guest = guest.saturating_add(cluster);
        }
        Ok(())
    })
}
