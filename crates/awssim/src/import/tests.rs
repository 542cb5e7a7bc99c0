//! Images of every format, built here byte by byte, whole and hurt.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::convert::read_block;
use super::image::Image;
use crate::store::{BLOCK_BYTES, BLOCK_LEN};
use crate::world::ImageFormat;

const GRAIN: usize = 65_536;

/// A disk of `n_blocks` blocks and `extra` bytes, with data in a few places: block 0, and a little in block 3.
fn disk(n_blocks: usize, extra: usize) -> Vec<u8> {
    let mut disk = vec![0; n_blocks * BLOCK_LEN + extra];
    disk[..BLOCK_LEN].iter_mut().zip(0_u32..).for_each(|(byte, n)| *byte = (n % 251).to_le_bytes()[0]);
    disk[3 * BLOCK_LEN + 70_000..3 * BLOCK_LEN + 70_010].fill(7);
    let end = disk.len();
    disk[end - 3..].fill(9);
    disk
}

fn checksum(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum = !bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}

fn footer(disk_bytes: usize, kind: u32) -> Vec<u8> {
    let mut footer = vec![0; 512];
    footer[..8].copy_from_slice(b"conectix");
    let header_at = if kind == 3 { 512 } else { u64::MAX };
    footer[16..24].copy_from_slice(&header_at.to_be_bytes());
    footer[48..56].copy_from_slice(&u64::try_from(disk_bytes).unwrap().to_be_bytes());
    footer[60..64].copy_from_slice(&kind.to_be_bytes());
    checksum(&mut footer, 64);
    footer
}

fn fixed_vhd(disk: &[u8]) -> Vec<u8> {
    [disk.to_vec(), footer(disk.len(), 2)].concat()
}

/// Blocks of 2 MiB; those without data are left out, and so are the bits of sectors without.
fn dynamic_vhd(disk: &[u8]) -> Vec<u8> {
    let block_len = 2 << 20;
    let n_blocks = disk.len().div_ceil(block_len);
    let mut header = vec![0; 1_024];
    header[..8].copy_from_slice(b"cxsparse");
    header[16..24].copy_from_slice(&1_536_u64.to_be_bytes());
    header[28..32].copy_from_slice(&u32::try_from(n_blocks).unwrap().to_be_bytes());
    header[32..36].copy_from_slice(&u32::try_from(block_len).unwrap().to_be_bytes());
    checksum(&mut header, 36);
    let mut table = vec![0xff; (n_blocks * 4).next_multiple_of(512)];
    let mut blocks = Vec::new();
    let start = 1_536 + table.len();
    for (block, data) in disk.chunks(block_len).enumerate() {
        if data.iter().all(|byte| *byte == 0) {
            continue;
        }
        let sector = u32::try_from((start + blocks.len()) / 512).unwrap();
        table[block * 4..block * 4 + 4].copy_from_slice(&sector.to_be_bytes());
        let mut bitmap = vec![0_u8; 512];
        let mut body = vec![0xee; block_len];
        for (number, sector) in data.chunks(512).enumerate().filter(|(_, s)| s.iter().any(|b| *b != 0)) {
            bitmap[number / 8] |= 0x80 >> (number % 8);
            body[number * 512..number * 512 + sector.len()].copy_from_slice(sector);
        }
        blocks.extend_from_slice(&bitmap);
        blocks.extend_from_slice(&body);
    }
    let footer = footer(disk.len(), 3);
    [footer.clone(), header, table, blocks, footer].concat()
}

fn vmdk_header(sectors: usize, descriptor: (u64, u64), directory: u64) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..4].copy_from_slice(b"KDMV");
    header[4..8].copy_from_slice(&3_u32.to_le_bytes());
    header[8..12].copy_from_slice(&0x30_001_u32.to_le_bytes());
    header[12..20].copy_from_slice(&u64::try_from(sectors).unwrap().to_le_bytes());
    header[20..28].copy_from_slice(&128_u64.to_le_bytes());
    header[28..36].copy_from_slice(&descriptor.0.to_le_bytes());
    header[36..44].copy_from_slice(&descriptor.1.to_le_bytes());
    header[44..48].copy_from_slice(&512_u32.to_le_bytes());
    header[56..64].copy_from_slice(&directory.to_le_bytes());
    header[73..77].copy_from_slice(b"\n \r\n");
    header[77..79].copy_from_slice(&1_u16.to_le_bytes());
    header
}

fn pad(file: &mut Vec<u8>) {
    file.resize(file.len().next_multiple_of(512), 0);
}

fn sector(file: &[u8]) -> u32 {
    u32::try_from(file.len() / 512).unwrap()
}

fn marker(file: &mut Vec<u8>, sectors: u64, kind: u32) {
    file.extend_from_slice(&sectors.to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    file.extend_from_slice(&kind.to_le_bytes());
    pad(file);
}

/// As a stream: header, descriptor, grains with a table after each 512, directory, footer, end.
fn vmdk(disk: &[u8]) -> Vec<u8> {
    let sectors = disk.len() / 512;
    let mut file = vmdk_header(sectors, (1, 1), u64::MAX);
    file.extend_from_slice(
        format!("# Disk DescriptorFile\nversion=1\ncreateType=\"streamOptimized\"\n\nRW {sectors} SPARSE \"d.vmdk\"\n")
            .as_bytes(),
    );
    pad(&mut file);
    let mut directory = Vec::new();
    let grains: Vec<&[u8]> = disk.chunks(GRAIN).collect();
    for (table_number, grains) in grains.chunks(512).enumerate() {
        let mut table = vec![0; 2_048];
        for (number, grain) in grains.iter().enumerate().filter(|(_, g)| g.iter().any(|b| *b != 0)) {
            table[number * 4..number * 4 + 4].copy_from_slice(&sector(&file).to_le_bytes());
            let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
            zlib.write_all(grain).unwrap();
            let zlib = zlib.finish().unwrap();
            let lba = u64::try_from((table_number * 512 + number) * 128).unwrap();
            file.extend_from_slice(&lba.to_le_bytes());
            file.extend_from_slice(&u32::try_from(zlib.len()).unwrap().to_le_bytes());
            file.extend_from_slice(&zlib);
            pad(&mut file);
        }
        marker(&mut file, 4, 1);
        directory.extend_from_slice(&sector(&file).to_le_bytes());
        file.extend_from_slice(&table);
    }
    marker(&mut file, 1, 2);
    let directory_at = u64::from(sector(&file));
    file.extend_from_slice(&directory);
    pad(&mut file);
    marker(&mut file, 1, 3);
    file.extend_from_slice(&vmdk_header(sectors, (1, 1), directory_at));
    marker(&mut file, 0, 0);
    file
}

/// A disk's size in bytes, and its blocks that are not all zero by their indexes.
type Disk = (u64, Vec<(u64, Vec<u8>)>);

/// The disk in an image, or why there is none.
fn blocks(file: Vec<u8>, format: ImageFormat) -> Result<Disk, String> {
    let mut image = Image::open(file, format).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for index in 0..image.disk_bytes().div_ceil(BLOCK_BYTES) {
        if let Some(block) = read_block(&mut image, index).map_err(|error| error.to_string())? {
            found.push((index, block.to_vec()));
        }
    }
    Ok((image.disk_bytes(), found))
}

fn expected(disk: &[u8]) -> Disk {
    let blocks = (0..).zip(disk.chunks(BLOCK_LEN)).filter(|(_, block)| block.iter().any(|byte| *byte != 0));
    let padded = blocks.map(|(index, block)| {
        let mut block = block.to_vec();
        block.resize(BLOCK_LEN, 0);
        (index, block)
    });
    (u64::try_from(disk.len()).unwrap(), padded.collect())
}

fn assert_refused(file: Vec<u8>, format: ImageFormat, why: &str) {
    let error = blocks(file, format).unwrap_err();
    assert!(error.contains(why), "{error}");
}

#[test]
fn every_format_gives_the_disk_back() {
    // 70 blocks need two grain tables.
    for (n_blocks, extra) in [(4, 0), (5, 1_536), (70, 512)] {
        let disk = disk(n_blocks, extra);
        let wanted = expected(&disk);
        assert_eq!(wanted.1.len(), if extra == 0 { 2 } else { 3 });
        assert_eq!(blocks(disk.clone(), ImageFormat::Raw).unwrap(), wanted, "RAW {n_blocks}");
        assert_eq!(blocks(fixed_vhd(&disk), ImageFormat::Vhd).unwrap(), wanted, "fixed VHD {n_blocks}");
        assert_eq!(blocks(dynamic_vhd(&disk), ImageFormat::Vhd).unwrap(), wanted, "dynamic VHD {n_blocks}");
        assert_eq!(blocks(vmdk(&disk), ImageFormat::Vmdk).unwrap(), wanted, "VMDK {n_blocks}");
    }
}

#[test]
fn a_cut_file_is_refused_wherever_it_is_cut() {
    let disk = disk(5, 512);
    for (name, file, format) in [
        ("fixed", fixed_vhd(&disk), ImageFormat::Vhd),
        ("dynamic", dynamic_vhd(&disk), ImageFormat::Vhd),
        ("vmdk", vmdk(&disk), ImageFormat::Vmdk),
    ] {
        for left in [0, 1, 511, 512, 600, 1_024, file.len() / 2, file.len() - 512, file.len() - 1] {
            assert!(blocks(file[..left].to_vec(), format).is_err(), "{name} cut to {left} bytes");
        }
    }
    assert_refused(Vec::new(), ImageFormat::Raw, "the disk has 0 bytes");
}

#[test]
fn a_vhd_that_lies_is_refused() {
    let disk = disk(5, 0);
    let mut wrong_sum = fixed_vhd(&disk);
    let end = wrong_sum.len();
    wrong_sum[end - 1] ^= 1;
    assert_refused(wrong_sum, ImageFormat::Vhd, "checksum is wrong");
    let larger = [disk.clone(), footer(disk.len() + 512, 2)].concat();
    assert_refused(larger, ImageFormat::Vhd, "the footer tells of");
    assert_refused([disk.clone(), footer(disk.len(), 4)].concat(), ImageFormat::Vhd, "differencing");
    assert_refused(disk.clone(), ImageFormat::Vhd, "Unsupported VHD File Format");
    let mut beyond = dynamic_vhd(&disk);
    beyond[1_536..1_540].copy_from_slice(&0x00ff_ffff_u32.to_be_bytes());
    assert_refused(beyond, ImageFormat::Vhd, "Truncated VHD File] block 0");
    let mut more = dynamic_vhd(&disk);
    let end = more.len();
    let tail = footer(disk.len() * 4, 3);
    more[end - 512..].copy_from_slice(&tail);
    assert_refused(more, ImageFormat::Vhd, "and the table has");
}

#[test]
fn a_vmdk_that_lies_is_refused() {
    let disk = disk(5, 0);
    let file = vmdk(&disk);
    assert_refused(disk, ImageFormat::Vmdk, "Unsupported VMDK File Format");
    let mut sparse = file.clone();
    sparse[8..12].copy_from_slice(&1_u32.to_le_bytes());
    assert_refused(sparse, ImageFormat::Vmdk, "not stream-optimised");
    let mut larger = file.clone();
    larger[12..20].copy_from_slice(&1_000_000_u64.to_le_bytes());
    assert_refused(larger, ImageFormat::Vmdk, "the header tells of 1000000 sectors, the descriptor of");
    let mut as_text = file.clone();
    as_text[73] = b' ';
    assert_refused(as_text, ImageFormat::Vmdk, "transfer as text");
    // The first grain follows the descriptor: its marker, then its zlib.
    let mut elsewhere = file.clone();
    elsewhere[1_024] = 1;
    assert_refused(elsewhere, ImageFormat::Vmdk, "grain 0 starts at sector 1, not 0");
    let mut no_zlib = file.clone();
    no_zlib[1_024 + 12] ^= 0xff;
    assert_refused(no_zlib, ImageFormat::Vmdk, "grain 0 is no zlib");
    let mut huge = file;
    huge[1_024 + 8..1_024 + 12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_refused(huge, ImageFormat::Vmdk, "bytes of zlib");
}
