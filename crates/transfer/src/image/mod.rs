//! Disk images in the formats that people and hypervisors take: raw, qcow2, VHD and stream-optimised VMDK.
//!
//! All but VMDK are written in place, block by block, in any order and by many writers at once. What stands where
//! follows from the volume's size alone: a block's bytes and the table entries that name it have fixed positions,
//! are written when the block is, and are never held in memory. So writing a block twice is harmless, memory does
//! not grow with the volume, and an attempt that was killed is gone on with from the file itself. The file is
//! sparse: what has no data takes no room, though its length is that of the whole volume.
//!
//! A stream-optimised VMDK is sequential by nature: blocks go to a raw sparse file, which is converted at the end.

mod convert;
mod disk;
mod fields;
mod fixed;
mod inspect;
mod qcow2;
// They read files as Unix does, and with qemu-img.
#[cfg(test)]
#[cfg(unix)]
mod tests;
mod vhd;
mod vmdk;

pub use convert::convert_to_stream_vmdk;
pub use disk::DiskImage;
pub use inspect::{ImageInfo, inspect_image};
pub use snapferry_types::ImageFormat;
