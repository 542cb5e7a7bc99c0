use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use snapferry_types::{BLOCK_SIZE, BlockIndex};
use tokio_util::sync::CancellationToken;

use super::{DiskImage, ImageFormat, inspect_image};
use crate::block::Block;
use crate::budget::{BudgetPermit, ByteBudget};
use crate::conformance::check_block_target;
use crate::copy::resume_copy;
use crate::error::ErrorClass;
use crate::fault::{Fault, FaultPlan, Faulty, When};
use crate::file::FileSource;
use crate::high_water::HighWater;
use crate::open::sha256;
use crate::progress::TransferProgress;
use crate::sink::BlockTarget;
use crate::source::BlockSource;
use crate::twin::{MemoryVolume, seeded_block};
use crate::zero::zero_block;

fn qemu_img(args: &[&str]) -> String {
    let done = Command::new("qemu-img").args(args).output();
    let done = done.expect("qemu-img is needed by this test, and is not installed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "qemu-img {args:?}: {}{}", text(&done.stdout), text(&done.stderr));
    text(&done.stdout)
}

/// As `qemu-img` calls it.
fn qemu_name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Raw => "raw",
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Vmdk => "vmdk",
        ImageFormat::Vhd => "vpc",
    }
}

fn block(index: u32, data: &Bytes) -> Block {
    Block { index: BlockIndex(index), sha256: sha256(data), data: data.clone(), permit: BudgetPermit::free() }
}

/// Data at the start, at the very end, around the borders of 2 MiB and of a qcow2 table; zeroes; noise.
fn volume(n_blocks: u32) -> BTreeMap<u32, Bytes> {
    let mut blocks = BTreeMap::new();
    let wanted = [0, 1, 3, 4, 7, 11, 500, 1_023, 1_024, 2_047, 2_049, n_blocks / 2, n_blocks - 1];
    for index in wanted.into_iter().filter(|index| *index < n_blocks) {
        blocks.insert(index, seeded_block(u64::from(index)));
    }
    for index in [5, 1_030].into_iter().filter(|index| *index + 1 < n_blocks) {
        blocks.insert(index, zero_block());
    }
    if n_blocks > 20 {
        let mut noise = vec![0; BLOCK_SIZE];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        blocks.insert(17, Bytes::from(noise));
    }
    blocks
}

/// Writes blocks in an order that depends on `seed`, eight at once, each twice.
async fn write(target: &Arc<dyn BlockTarget>, blocks: &BTreeMap<u32, Bytes>, seed: u8) {
    let mut order: Vec<u32> = blocks.keys().chain(blocks.keys()).copied().collect();
    order.sort_by_cached_key(|index| sha256(&[&index.to_le_bytes()[..], &[seed]].concat()).0);
    futures::stream::iter(order)
        .map(|index| async move { target.write(&block(index, &blocks[&index])).await })
        .buffer_unordered(8)
        .try_collect::<Vec<()>>()
        .await
        .unwrap();
}

async fn finish(image: DiskImage) -> PathBuf {
    image.target().complete(0, sha256(&[])).await.unwrap();
    image.finish(Arc::new(TransferProgress::new()), CancellationToken::new()).await.unwrap()
}

/// The image is what QEMU takes it for: without errors, of exactly this size, with these blocks and zeroes else.
async fn check(path: &Path, format: ImageFormat, n_blocks: u32, blocks: &BTreeMap<u32, Bytes>) {
    let name = path.to_str().unwrap();
    if matches!(format, ImageFormat::Qcow2 | ImageFormat::Vmdk) {
        let found = qemu_img(&["check", "-f", qemu_name(format), name]);
        assert!(found.contains("No errors"), "{found}");
    }
    let raw = path.with_extension("raw-again");
    qemu_img(&["convert", "-f", qemu_name(format), "-O", "raw", name, raw.to_str().unwrap()]);
    let source = FileSource::open(&raw).unwrap();
    assert_eq!(std::fs::metadata(&raw).unwrap().len(), u64::from(n_blocks) << 19, "{format} of {n_blocks}");
    let listed: Vec<_> = source.list(0).try_collect().await.unwrap();
    let mut found = BTreeMap::new();
    for listed in listed {
        let block = source.read(&listed, BudgetPermit::free()).await.unwrap();
        found.insert(listed.index.0, block.data.clone());
    }
    let data = |all: &BTreeMap<u32, Bytes>| -> BTreeMap<u32, Bytes> {
        all.iter().filter(|(_, data)| **data != zero_block()).map(|(i, data)| (*i, data.clone())).collect()
    };
    let (found, expected) = (data(&found), data(blocks));
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>(),
        "{format} of {n_blocks}"
    );
    assert!(found == expected, "{format} of {n_blocks}");
    std::fs::remove_file(raw).unwrap();

    let info = inspect_image(path).unwrap();
    assert_eq!((info.format, info.virtual_size), (format, u64::from(n_blocks) << 19));
}

#[tokio::test]
async fn each_format_holds_the_volume_whatever_the_order_of_writes() {
    let folder = tempfile::tempdir().unwrap();
    for (seed, n_blocks) in (0..).zip([1, 3, 5, 1_023, 2_051, 70_001]) {
        let blocks = volume(n_blocks);
        for format in ImageFormat::ALL {
            let path = folder.path().join(format!("disk-{n_blocks}.{}", format.as_str()));
            let image = DiskImage::open_or_create(&path, format, n_blocks).unwrap();
            assert!(image.is_new());
            write(&image.target(), &blocks, seed).await;
            assert!(!path.exists(), "the name is there when the image is whole");
            assert_eq!(finish(image).await, path);
            check(&path, format, n_blocks, &blocks).await;
            let room = std::fs::metadata(&path).unwrap().blocks() * 512;
            let data = (blocks.len() as u64 + 2) << 19;
            assert!(room < data + (2 << 20), "{format} of {n_blocks} takes {room} bytes for {data}");
        }
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(left.len(), 4 * (usize::from(seed) + 1), "no partial file is left: {left:?}");
    }
}

#[tokio::test]
async fn an_attempt_that_was_killed_is_gone_on_with_from_the_file_alone() {
    let folder = tempfile::tempdir().unwrap();
    let n_blocks = 2_051;
    let blocks = volume(n_blocks);
    for format in ImageFormat::ALL {
        let path = folder.path().join(format!("disk.{}", format.as_str()));
        let mut first = blocks.clone();
        first.retain(|index, _| index % 2 == 0);
        let image = DiskImage::open_or_create(&path, format, n_blocks).unwrap();
        write(&image.target(), &first, 1).await;
        drop(image);

        let image = DiskImage::open_or_create(&path, format, n_blocks).unwrap();
        assert!(!image.is_new(), "{format}");
        let mut rest = blocks.clone();
        rest.retain(|index, _| index % 2 == 1 || *index < 600);
        write(&image.target(), &rest, 2).await;
        let path = finish(image).await;
        check(&path, format, n_blocks, &blocks).await;

        assert!(
            DiskImage::open_or_create(&path, format, n_blocks).unwrap().is_new(),
            "the partial file is gone"
        );
    }
}

#[tokio::test]
async fn a_partial_file_of_another_size_or_without_its_head_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    for format in ImageFormat::ALL {
        let path = folder.path().join(format!("disk.{}", format.as_str()));
        let partial = folder.path().join(format!("disk.{}.partial", format.as_str()));
        let image = DiskImage::open_or_create(&path, format, 64).unwrap();
        write(&image.target(), &volume(64), 1).await;
        drop(image);
        assert!(DiskImage::open_or_create(&path, format, 65).unwrap().is_new(), "{format} of another size");
        assert!(!DiskImage::open_or_create(&path, format, 65).unwrap().is_new());
        if matches!(format, ImageFormat::Qcow2 | ImageFormat::Vhd) {
            let file = std::fs::OpenOptions::new().write(true).open(&partial).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[0; 512], 0).unwrap();
            assert!(DiskImage::open_or_create(&path, format, 65).unwrap().is_new(), "killed before its head");
        }
        let image = DiskImage::open_or_create(&path, format, 65).unwrap();
        write(&image.target(), &volume(65), 1).await;
        drop(image);
        let image = DiskImage::create(&path, format, 65).unwrap();
        assert!(image.is_new());
        check(&finish(image).await, format, 65, &BTreeMap::new()).await;
    }
}

#[tokio::test]
async fn a_block_that_was_data_in_a_killed_attempt_can_become_zeroes() {
    let folder = tempfile::tempdir().unwrap();
    for format in ImageFormat::ALL {
        let path = folder.path().join(format!("disk.{}", format.as_str()));
        let image = DiskImage::open_or_create(&path, format, 64).unwrap();
        let mut blocks = BTreeMap::from([(4, seeded_block(4)), (5, seeded_block(5))]);
        write(&image.target(), &blocks, 1).await;
        drop(image);
        let image = DiskImage::open_or_create(&path, format, 64).unwrap();
        blocks.insert(5, zero_block());
        blocks.insert(6, zero_block());
        write(&image.target(), &blocks, 1).await;
        check(&finish(image).await, format, 64, &blocks).await;
    }
}

#[tokio::test]
async fn a_copy_that_fails_at_any_write_is_gone_on_with_at_its_mark() {
    let folder = tempfile::tempdir().unwrap();
    let source = Arc::new(MemoryVolume::new(2_051, 8));
    let blocks = volume(2_051);
    blocks.iter().for_each(|(index, data)| source.put(*index, data.clone()));
    let budget = ByteBudget::new(8 << 20);
    for (n, format) in (1..).step_by(2).zip([ImageFormat::ALL; 2].concat()) {
        let path = folder.path().join(format!("disk-{n}.{}", format.as_str()));
        let image = DiskImage::open_or_create(&path, format, 2_051).unwrap();
        let plan = FaultPlan::new(Fault::FailAfter(ErrorClass::Unavailable), When::From(n));
        let mut mark = 0;
        let mut tell = |block| mark = block;
        let target = Arc::new(Faulty::new(image.target(), plan));
        let (mem, stop) = (budget.clone(), CancellationToken::new());
        let start = HighWater::new(0, &mut tell);
        let failed = resume_copy(source.clone(), target, mem, start, Arc::default(), stop).await;
        assert_eq!(failed.unwrap_err().class, ErrorClass::Unavailable);
        drop(image);
        let image = DiskImage::open_or_create(&path, format, 2_051).unwrap();
        let (mem, stop) = (budget.clone(), CancellationToken::new());
        let target = image.target();
        let mut rise = |_| {};
        let mark = HighWater::new(mark, &mut rise);
        resume_copy(source.clone(), target, mem, mark, Arc::default(), stop).await.unwrap();
        let path = image.finish(Arc::default(), CancellationToken::new()).await.unwrap();
        check(&path, format, 2_051, &blocks).await;
    }
}

#[tokio::test]
async fn every_format_keeps_the_promises_of_a_target() {
    let folder = tempfile::tempdir().unwrap();
    for format in ImageFormat::ALL {
        let path = folder.path().join(format.as_str());
        for _ in 0..2 {
            check_block_target(DiskImage::open_or_create(&path, format, 64).unwrap().target()).await;
        }
        let image = DiskImage::open_or_create(&path, format, 64).unwrap();
        assert!(!image.is_new());
        check(&finish(image).await, format, 64, &BTreeMap::from([(3, seeded_block(3))])).await;
    }
}

#[tokio::test]
async fn a_stopped_conversion_leaves_the_partial_image_and_is_done_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vmdk");
    let image = DiskImage::open_or_create(&path, ImageFormat::Vmdk, 64).unwrap();
    write(&image.target(), &volume(64), 1).await;
    let stop = CancellationToken::new();
    stop.cancel();
    let error = image.finish(Arc::default(), stop).await.unwrap_err();
    assert_eq!((error.class, path.exists()), (ErrorClass::Cancelled, false));
    let image = DiskImage::open_or_create(&path, ImageFormat::Vmdk, 64).unwrap();
    assert!(!image.is_new());
    let progress = Arc::new(TransferProgress::new());
    image.finish(Arc::clone(&progress), CancellationToken::new()).await.unwrap();
    check(&path, ImageFormat::Vmdk, 64, &volume(64)).await;
    assert!(progress.snapshot().bytes_read > 0 && progress.snapshot().volume_blocks == 64);
}

#[test]
fn what_a_format_cannot_hold_is_refused_before_a_file_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhd");
    let error = DiskImage::open_or_create(&path, ImageFormat::Vhd, 2_041 * 2_048).err().unwrap();
    assert!(error.class == ErrorClass::Invalid && error.message.contains("2040 GiB"), "{error}");
    let error = DiskImage::open_or_create(&path, ImageFormat::Raw, 0).err().unwrap();
    assert_eq!(error.class, ErrorClass::Invalid);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_largest_vhd_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhd");
    let n_blocks = 2_040 * 2_048;
    let image = DiskImage::open_or_create(&path, ImageFormat::Vhd, n_blocks).unwrap();
    let last = seeded_block(9);
    image.target().write(&block(n_blocks - 1, &last)).await.unwrap();
    let path = finish(image).await;
    let size = u64::from(n_blocks) << 19;
    assert_eq!(inspect_image(&path).unwrap().virtual_size, size);
    let info = qemu_img(&["info", "--output=json", "-f", "vpc", path.to_str().unwrap()]);
    assert!(info.contains(&format!("\"virtual-size\": {size}")), "{info}");
    let out = folder.path().join("last");
    let (from, to) = (format!("if={}", path.display()), format!("of={}", out.display()));
    let skip = format!("skip={}", n_blocks - 1);
    qemu_img(&["dd", "-f", "vpc", "-O", "raw", "bs=524288", "count=4194304", &skip, &from, &to]);
    assert!(std::fs::read(out).unwrap() == last);
}

#[test]
fn images_of_qemu_are_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("qcow2", "", ImageFormat::Qcow2, "qcow2 v3"),
        ("qcow2", "compat=0.10", ImageFormat::Qcow2, "qcow2 v2"),
        ("vpc", "force_size=on", ImageFormat::Vhd, "dynamic"),
        ("vpc", "subformat=fixed,force_size=on", ImageFormat::Vhd, "fixed"),
        ("vmdk", "subformat=monolithicSparse", ImageFormat::Vmdk, "monolithicSparse"),
        ("vmdk", "subformat=streamOptimized", ImageFormat::Vmdk, "streamOptimized"),
        ("raw", "", ImageFormat::Raw, "raw"),
    ];
    let raw = folder.path().join("source");
    let mut bytes = vec![0; 8 << 20];
    bytes[3 << 20..5 << 20].fill(7);
    std::fs::write(&raw, bytes).unwrap();
    for (name, options, format, variant) in cases {
        let path = folder.path().join("disk");
        let (from, to) = (raw.to_str().unwrap(), path.to_str().unwrap());
        let mut args = vec!["convert", "-f", "raw", "-O", name, from, to];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        qemu_img(&args);
        let info = inspect_image(&path).unwrap();
        assert_eq!((info.format, info.variant, info.virtual_size), (format, variant, 8 << 20), "{name}");
    }
    for (name, expected) in [("vhdx", "a VHDX"), ("vdi", "a VDI")] {
        let path = folder.path().join("other");
        qemu_img(&["create", "-f", name, path.to_str().unwrap(), "8M"]);
        let error = inspect_image(&path).unwrap_err();
        assert!(error.class == ErrorClass::Invalid && error.message.contains(expected), "{error}");
    }
    let path = folder.path().join("child");
    let base = format!("backing_file={},backing_fmt=raw", raw.display());
    qemu_img(&["create", "-f", "qcow2", "-o", &base, path.to_str().unwrap()]);
    assert!(inspect_image(&path).unwrap_err().message.contains("backing file"));
}

#[tokio::test]
async fn an_image_that_is_cut_off_or_lies_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    for format in [ImageFormat::Qcow2, ImageFormat::Vhd, ImageFormat::Vmdk] {
        let path = folder.path().join(format!("disk.{}", format.as_str()));
        let image = DiskImage::open_or_create(&path, format, 64).unwrap();
        write(&image.target(), &volume(64), 1).await;
        let path = finish(image).await;
        let whole = std::fs::read(&path).unwrap();
        let bad = folder.path().join(format!("bad.{}", format.as_str()));
        let refuses = |bytes: &[u8], what: &str| {
            std::fs::write(&bad, bytes).unwrap();
            let error = inspect_image(&bad).err().unwrap_or_else(|| panic!("{format}, {what}"));
            assert!(error.message.contains(bad.to_str().unwrap()), "{error}");
        };
        let cuts = [whole.len() - 1, whole.len() - 512, whole.len() / 2, 4_096, 1_024, 600, 60, 8];
        for len in cuts {
            refuses(&whole[..len], &format!("cut to {len}"));
        }
        // Where the header says the size, or what it depends on.
        let lies: &[usize] = match format {
            ImageFormat::Qcow2 => &[24, 40, 48],
            ImageFormat::Vhd => &[48, 64, 512 + 30, 512 + 36, whole.len() - 512 + 48],
            ImageFormat::Vmdk | ImageFormat::Raw => &[16, 47, whole.len() - 1_024 + 58],
        };
        for at in lies {
            let mut bytes = whole.clone();
            bytes[*at] ^= 0x7F;
            refuses(&bytes, &format!("byte {at} changed"));
        }
    }
    let odd = folder.path().join("odd");
    std::fs::write(&odd, vec![1; 1_000]).unwrap();
    assert!(inspect_image(&odd).unwrap_err().message.contains("odd"));
    assert_eq!(inspect_image(folder.path().join("none")).unwrap_err().class, ErrorClass::NotFound);
}
