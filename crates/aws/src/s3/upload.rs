//! A file goes up in parts, several at a time. An upload that fails or is stopped leaves nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use object_store::PutPayload;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as Key;
use tokio_util::sync::CancellationToken;

use crate::error::{Asked, AwsError};
use crate::s3::bucket::{S3, path_of};
use crate::s3::refusal::sort;

const MIB: u64 = 1_024 * 1_024;
/// Parts are at least this long but for the last; S3 wants 5 MiB.
const MIN_PART_BYTES: u64 = 16 * MIB;
/// S3 takes no more parts of one object.
const MAX_PARTS: u64 = 10_000;
/// S3 takes no longer objects: 5 TiB.
const MAX_OBJECT_BYTES: u64 = 5 * 1_024 * 1_024 * MIB;

impl S3 {
    /// Sends a file and gives its length in bytes. Parts together have at most `in_flight_bytes` in memory, but one
    /// part goes always: it is 16 MiB, and more only above 156 GiB. `on_progress` gets bytes sent and bytes in all.
    /// The object appears when all of it is there.
    ///
    /// # Errors
    /// [`AwsError`]; [`AwsError::File`] when the file cannot be read to the length it had at first,
    /// [`AwsError::Cancelled`] by the token.
    pub async fn upload_file(
        &self,
        file: &Path,
        key: &str,
        in_flight_bytes: u64,
        on_progress: impl FnMut(u64, u64) + Send,
        stop: &CancellationToken,
    ) -> Result<u64, AwsError> {
        let name = self.name_of(key);
        let asked = Asked::new("s3:PutObject", "object", &name);
        let path = path_of(&asked, key)?;
        let n_bytes = tokio::fs::metadata(file).await.map_err(|error| unreadable(file, &error))?.len();
        let part_bytes = part_bytes(n_bytes).map_err(|message| asked.invalid("FileSize", message))?;
        if stop.is_cancelled() {
            return Err(AwsError::Cancelled);
        }
        let id = self
            .account
            .call(|| async {
                self.account.calls().count_call("CreateMultipartUpload");
                self.store.create_multipart(&path).await.map_err(|error| sort(&asked, &error))
            })
            .await?;
        let upload = Upload { s3: self, asked, file, path: &path, id: &id, n_bytes, part_bytes };
        match upload.run(in_flight_bytes, on_progress, stop).await {
            Ok(()) => Ok(n_bytes),
            Err(error) => {
                // The first error is what went wrong; what is left is found again by the key.
                if let Err(left) = self.abort(&path, &id).await {
                    tracing::warn!(object = %name, error = %left, "an upload could not be aborted");
                }
                Err(error)
            }
        }
    }
}

/// An upload at work.
struct Upload<'a> {
    s3: &'a S3,
    asked: Asked<'a>,
    file: &'a Path,
    path: &'a Key,
    id: &'a String,
    n_bytes: u64,
    part_bytes: u64,
}

impl Upload<'_> {
    async fn run(
        &self,
        in_flight_bytes: u64,
        mut on_progress: impl FnMut(u64, u64) + Send,
        stop: &CancellationToken,
    ) -> Result<(), AwsError> {
        let at_once = usize::try_from(in_flight_bytes / self.part_bytes).unwrap_or(usize::MAX).max(1);
        let mut waiting = (0..self.n_bytes.div_ceil(self.part_bytes)).map(|index| self.part(index));
        let mut in_flight: FuturesUnordered<_> = waiting.by_ref().take(at_once).collect();
        let (mut parts, mut n_sent) = (BTreeMap::new(), 0);
        loop {
            let sent = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(AwsError::Cancelled),
                sent = in_flight.next() => sent,
            };
            let Some(sent) = sent else { break };
            let (index, part, len) = sent?;
            parts.insert(index, part);
            n_sent += len;
            on_progress(n_sent, self.n_bytes);
            in_flight.extend(waiting.next());
        }
        let parts: Vec<PartId> = parts.into_values().collect();
        let s3 = self.s3;
        s3.account
            .call(|| async {
                s3.account.calls().count_call("CompleteMultipartUpload");
                let completed = s3.store.complete_multipart(self.path, self.id, parts.clone()).await;
                completed.map_err(|error| sort(&self.asked, &error))
            })
            .await
            .map(drop)
    }

    /// Reads and sends one part.
    async fn part(&self, index: u64) -> Result<(u64, PartId, u64), AwsError> {
        let offset = index * self.part_bytes;
        let len = self.part_bytes.min(self.n_bytes - offset);
        let payload = PutPayload::from(read_part(self.file, offset, len).await?);
        let part_index = usize::try_from(index).map_err(|_| self.asked.lacks("a part of that index"))?;
        let part = self
            .s3
            .account
            .call(|| async {
                self.s3.account.calls().count_call("UploadPart");
                let sent = self.s3.store.put_part(self.path, self.id, part_index, payload.clone()).await;
                sent.map_err(|error| sort(&self.asked, &error))
            })
            .await?;
        Ok((index, part, len))
    }
}

/// The length of a part, so that the parts of the file are not too many. A multiple of 1 MiB.
fn part_bytes(n_bytes: u64) -> Result<u64, String> {
    match n_bytes {
        0 => Err("the file is empty".to_owned()),
        n if n > MAX_OBJECT_BYTES => Err(format!("the file has {n} bytes, and S3 takes {MAX_OBJECT_BYTES}")),
        n => Ok(n.div_ceil(MAX_PARTS).next_multiple_of(MIB).max(MIN_PART_BYTES)),
    }
}

async fn read_part(file: &Path, offset: u64, len: u64) -> Result<Bytes, AwsError> {
    let path = file.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; usize::try_from(len).map_err(std::io::Error::other)?];
        let mut file = File::open(&path)?;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    });
    match read.await {
        Ok(Ok(bytes)) => Ok(Bytes::from(bytes)),
        Ok(Err(error)) => Err(unreadable(file, &error)),
        Err(error) => Err(unreadable(file, &std::io::Error::other(error))),
    }
}

fn unreadable(file: &Path, error: &std::io::Error) -> AwsError {
    AwsError::File { path: file.display().to_string(), cause: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_large_enough_to_be_few() {
        const GIB: u64 = 1_024 * MIB;
        assert_eq!(part_bytes(1), Ok(16 * MIB));
        assert_eq!(part_bytes(156 * GIB), Ok(16 * MIB));
        assert_eq!(part_bytes(600 * GIB), Ok(62 * MIB));
        for n_bytes in [MIB, 157 * GIB, 1_024 * GIB, 4_000 * GIB + 1, MAX_OBJECT_BYTES] {
            let part = part_bytes(n_bytes).unwrap();
            assert!(n_bytes.div_ceil(part) <= MAX_PARTS && part.is_multiple_of(MIB), "{n_bytes}: {part}");
        }
        assert!(part_bytes(0).is_err() && part_bytes(MAX_OBJECT_BYTES + 1).is_err());
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        std::fs::write(&path, [7; 100]).unwrap();
        assert_eq!(read_part(&path, 90, 10).await.unwrap().as_ref(), [7; 10]);
        let error = read_part(&path, 90, 11).await.unwrap_err();
        assert!(matches!(&error, AwsError::File { .. }) && error.to_string().contains("disk.raw"), "{error}");
    }
}
