//! A finished raw image becomes a stream-optimised VMDK: its data extents are read in order, each grain that is not
//! all zeroes is deflated and streamed out. In memory are one grain, one grain table and the grain directory (4 bytes
//! for 32 MiB of the volume).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::{Compress, Compression, FlushCompress, Status};
use snapferry_types::BLOCK_SIZE;
use tokio_util::sync::CancellationToken;

use super::vmdk::{self, AT_END, GRAIN, GRAIN_SECTORS, Marker, PER_TABLE, SECTOR};
use crate::error::{ErrorClass, TransferError};
use crate::file::{blocking, failed, os};
use crate::progress::TransferProgress;

/// Fast, and noise is stored as it is: level 1 would grow it by an eighth.
const LEVEL: u32 = 2;

/// Converts `raw`, whose length is a multiple of 512 KiB, to `out`. Written under a temporary name beside `out`, and
/// there only when it is whole and on the disk. A second call begins anew; one that is dropped ends soon, so that it does
/// not write beside that.
///
/// # Errors
/// `raw` cannot be read or is no volume, `out` cannot be written or grows past the 2 TiB that the format can
/// address; `Cancelled` when `stop` was.
pub async fn convert_to_stream_vmdk(
    raw: impl Into<PathBuf>,
    out: impl Into<PathBuf>,
    progress: Arc<TransferProgress>,
    stop: CancellationToken,
) -> Result<(), TransferError> {
    let (raw, out) = (raw.into(), out.into());
    let stop = stop.child_token();
    let _ends_with_its_caller = stop.clone().drop_guard();
    blocking(move || {
        let temporary = super::disk::beside(&out, "converting");
        Conversion::open(&raw, &temporary, &out)?.run(&progress, &stop)?;
        if stop.is_cancelled() {
            return Err(TransferError::cancelled());
        }
        super::disk::put_in_place(&temporary, &out)
    })
    .await
}

struct Conversion<'a> {
    raw: File,
    raw_path: &'a Path,
    len: u64,
    out: BufWriter<File>,
    out_path: &'a Path,
    /// Bytes written so far.
    position: u64,
    compress: Compress,
    deflated: Vec<u8>,
    table: Vec<u32>,
    table_index: u64,
    directory: Vec<u32>,
}

impl<'a> Conversion<'a> {
    fn open(raw_path: &'a Path, temporary: &'a Path, out: &Path) -> Result<Self, TransferError> {
        let raw = File::open(raw_path).map_err(|cause| failed("open", raw_path, &cause))?;
        let len = raw.metadata().map_err(|cause| failed("measure", raw_path, &cause))?.len();
        if len == 0 || !len.is_multiple_of(BLOCK_SIZE as u64) {
            let message = format!("{} has {len} bytes, not a multiple of 512 KiB", raw_path.display());
            return Err(TransferError::new(ErrorClass::Invalid, message));
        }
        let file = File::create(temporary).map_err(|cause| failed("create", temporary, &cause))?;
        let n_tables = (len / GRAIN as u64).div_ceil(PER_TABLE);
        let mut conversion = Self {
            raw,
            raw_path,
            len,
            out: BufWriter::with_capacity(1 << 20, file),
            out_path: temporary,
            position: 0,
            compress: Compress::new(Compression::new(LEVEL), true),
            deflated: vec![0; GRAIN + GRAIN / 8 + 1_024],
            table: vec![0; 512],
            table_index: 0,
            directory: vec![0; usize::try_from(n_tables).unwrap_or(0)],
        };
        let name = out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let id = u32::try_from(len % 0xFFFF_FFFE).unwrap_or(0);
        let n_sectors = len / SECTOR;
        conversion.put(&vmdk::header(n_sectors, AT_END))?;
        conversion.put(&vmdk::descriptor(n_sectors, &name, id))?;
        Ok(conversion)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        self.out.write_all(bytes).map_err(|cause| failed("write", self.out_path, &cause))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Fills up the sector.
    fn pad(&mut self) -> Result<(), TransferError> {
        let missing = self.position.next_multiple_of(SECTOR) - self.position;
        self.put(&vec![0; usize::try_from(missing).unwrap_or(0)])
    }

    /// The sector that comes next, as tables name it.
    fn sector(&self) -> Result<u32, TransferError> {
        u32::try_from(self.position / SECTOR).map_err(|_| {
            let path = self.out_path.display();
            let message =
                format!("{path} grows past 2 TiB, the most a VMDK can address: choose raw or qcow2");
            TransferError::new(ErrorClass::Invalid, message)
        })
    }

    fn run(mut self, progress: &TransferProgress, stop: &CancellationToken) -> Result<(), TransferError> {
        progress.start(u32::try_from(self.len / BLOCK_SIZE as u64).unwrap_or(u32::MAX));
        let mut grain = vec![0; GRAIN];
        let mut next = 0;
        while let Some((start, end)) = os::next_data(&self.raw, next * GRAIN as u64, self.len)
            .map_err(|cause| failed("find the data of", self.raw_path, &cause))?
        {
            let first = (start / GRAIN as u64).max(next);
            next = end.div_ceil(GRAIN as u64).max(first + 1);
            for index in first..next {
                if stop.is_cancelled() {
                    return Err(TransferError::cancelled());
                }
                os::read_exact_at(&self.raw, &mut grain, index * GRAIN as u64)
                    .map_err(|cause| failed("read", self.raw_path, &cause))?;
                progress.add_read(GRAIN as u64);
                self.put_grain(index, &grain)?;
                progress.reach((index + 1) * GRAIN as u64 / BLOCK_SIZE as u64);
            }
        }
        let written = self.finish()?;
        progress.add_written(written);
        progress.reach(u64::MAX);
        Ok(())
    }

    fn put_grain(&mut self, index: u64, grain: &[u8]) -> Result<(), TransferError> {
        if grain.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        if index / PER_TABLE != self.table_index {
            self.put_table()?;
            self.table_index = index / PER_TABLE;
        }
        self.compress.reset();
        let deflated = self.compress.compress(grain, &mut self.deflated, FlushCompress::Finish);
        let n_deflated = match deflated {
            Ok(Status::StreamEnd) => usize::try_from(self.compress.total_out()).unwrap_or(usize::MAX),
            Ok(_) | Err(_) => {
                let message = format!("grain {index} could not be deflated: {deflated:?}");
                return Err(TransferError::new(ErrorClass::Internal, message));
            }
        };
        let sector = self.sector()?;
        let place = usize::try_from(index % PER_TABLE).unwrap_or(usize::MAX);
        if let Some(entry) = self.table.get_mut(place) {
            *entry = sector;
        }
        self.put(&(index * GRAIN_SECTORS).to_le_bytes())?;
        self.put(&u32::try_from(n_deflated).unwrap_or(u32::MAX).to_le_bytes())?;
        let deflated = std::mem::take(&mut self.deflated);
        let done = self.put(deflated.get(..n_deflated).unwrap_or_default());
        self.deflated = deflated;
        done?;
        self.pad()
    }

    /// Writes the table of the grains so far, if there are any.
    fn put_table(&mut self) -> Result<(), TransferError> {
        if self.table.iter().all(|sector| *sector == 0) {
            return Ok(());
        }
        let bytes: Vec<u8> = self.table.iter().flat_map(|sector| sector.to_le_bytes()).collect();
        self.put(&Marker::GrainTable.sector(bytes.len() as u64 / SECTOR))?;
        let sector = self.sector()?;
        let place = usize::try_from(self.table_index).unwrap_or(usize::MAX);
        if let Some(entry) = self.directory.get_mut(place) {
            *entry = sector;
        }
        self.table.fill(0);
        self.put(&bytes)
    }

    /// The directory, the footer and the end; the length of the file, which is on the disk then.
    fn finish(mut self) -> Result<u64, TransferError> {
        self.put_table()?;
        let mut directory: Vec<u8> = self.directory.iter().flat_map(|sector| sector.to_le_bytes()).collect();
        directory.resize(directory.len().next_multiple_of(512), 0);
        self.put(&Marker::GrainDirectory.sector(directory.len() as u64 / SECTOR))?;
        let sector = self.sector()?;
        self.put(&directory)?;
        self.put(&Marker::Footer.sector(1))?;
        self.put(&vmdk::header(self.len / SECTOR, u64::from(sector)))?;
        self.put(&Marker::EndOfStream.sector(0))?;
        let file = self.out.into_inner().map_err(|cause| failed("write", self.out_path, cause.error()))?;
        file.sync_all().map_err(|cause| failed("sync", self.out_path, &cause))?;
        Ok(self.position)
    }
}
