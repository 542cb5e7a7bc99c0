//! The library's objects in a bucket. The library calls from blocking threads; each call waits there for its
//! requests, which run on the daemon's runtime.
//!
//! An object up to one part long is one PutObject; a longer one is a multipart upload, which appears whole when it
//! is completed. What a crash leaves of a multipart upload is invisible and costs storage until the bucket's own
//! rule removes it: set `AbortIncompleteMultipartUpload` to a day.

use std::fmt;
use std::sync::Arc;

use futures::TryStreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig};
use secrecy::ExposeSecret as _;
use snapferry_library::{Backend, BackendError, ObjectName, ObjectWriter};
use snapferry_service::secret::SecretError;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::config::S3Config;

/// Bytes of a part: S3 wants at least 5 MiB, and 10,000 parts make 80 GiB.
const PART_BYTES: usize = 8 * 1_024 * 1_024;

/// Parts of one object on their way at a time.
const PARTS_AT_ONCE: usize = 3;

/// Settings of a bucket that cannot be used.
#[derive(Debug, Error)]
pub enum S3Error {
    /// A secret is not there.
    #[error("bucket {bucket}: {source}")]
    Secret {
        /// The bucket.
        bucket: String,
        /// Why.
        source: SecretError,
    },
    /// The settings do not fit each other.
    #[error("bucket {bucket}: {source}")]
    Settings {
        /// The bucket.
        bucket: String,
        /// Why.
        source: object_store::Error,
    },
}

/// Objects in a bucket, under a prefix.
#[derive(Clone)]
pub struct S3Backend {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    runtime: Handle,
}

impl fmt::Debug for S3Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Backend({}/{})", self.store, self.prefix)
    }
}

impl S3Backend {
    /// A backend on a bucket. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`S3Error`], naming the bucket.
    pub fn open(config: &S3Config, runtime: Handle) -> Result<Self, S3Error> {
        let bucket = || config.bucket.clone();
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&config.bucket)
            .with_region(&config.region)
            .with_retry(RetryConfig {
                max_retries: 5,
                retry_timeout: std::time::Duration::from_secs(60),
                ..RetryConfig::default()
            });
        if let Some(endpoint) = &config.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        let read = |secret: &snapferry_service::SecretRef| {
            secret.read().map_err(|source| S3Error::Secret { bucket: bucket(), source })
        };
        if let Some(secret) = &config.access_key_id {
            builder = builder.with_access_key_id(read(secret)?.expose_secret());
        }
        if let Some(secret) = &config.secret_access_key {
            builder = builder.with_secret_access_key(read(secret)?.expose_secret());
        }
        let store = builder.build().map_err(|source| S3Error::Settings { bucket: bucket(), source })?;
        Ok(Self::on(Arc::new(store), &config.prefix, runtime))
    }

    /// A backend on any object store, such as the one in memory.
    #[must_use]
    pub fn on(store: Arc<dyn ObjectStore>, prefix: &str, runtime: Handle) -> Self {
        Self { store, prefix: prefix.trim_matches('/').to_owned(), runtime }
    }

    fn path(&self, name: &str) -> Path {
        if self.prefix.is_empty() { Path::from(name) } else { Path::from(format!("{}/{name}", self.prefix)) }
    }
}

fn failed(action: &'static str, name: impl ToString) -> impl FnOnce(object_store::Error) -> BackendError {
    move |error| {
        let name = name.to_string();
        match error {
            object_store::Error::NotFound { .. } => BackendError::NotFound { name },
            error => {
                let retryable = !matches!(
                    error,
                    object_store::Error::PermissionDenied { .. }
                        | object_store::Error::Unauthenticated { .. }
                        | object_store::Error::InvalidPath { .. }
                        | object_store::Error::NotSupported { .. }
                );
                BackendError::Other { action, name, retryable, source: Box::new(error) }
            }
        }
    }
}

impl Backend for S3Backend {
    fn create(&self, name: &ObjectName) -> Result<Box<dyn ObjectWriter>, BackendError> {
        Ok(Box::new(S3Writer {
            backend: self.clone(),
            name: name.clone(),
            buffer: Vec::new(),
            upload: None,
            parts: JoinSet::new(),
        }))
    }

    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, BackendError> {
        let short = || BackendError::Short { name: name.to_string(), offset, len };
        if len == 0 {
            return if self.size(name)? < offset { Err(short()) } else { Ok(Vec::new()) };
        }
        let end = offset.checked_add(len as u64).ok_or_else(short)?;
        let path = self.path(name.as_str());
        match self.runtime.block_on(self.store.get_range(&path, offset..end)) {
            Ok(bytes) if bytes.len() == len => Ok(bytes.into()),
            Ok(_) => Err(short()),
            Err(error) => {
                // A range past the end has no error of its own there: the length tells.
                let error = failed("read", name)(error);
                match error {
                    BackendError::Other { .. } if self.size(name).is_ok_and(|size| size < end) => {
                        Err(short())
                    }
                    error => Err(error),
                }
            }
        }
    }

    fn size(&self, name: &ObjectName) -> Result<u64, BackendError> {
        let path = self.path(name.as_str());
        self.runtime.block_on(self.store.head(&path)).map(|meta| meta.size).map_err(failed("look at", name))
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(ObjectName, u64) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        // A store lists whole folders; what is left of the prefix is matched here.
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let path = self.path(folder);
        let own = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let mut objects = self.store.list(if path.as_ref().is_empty() { None } else { Some(&path) });
        while let Some(meta) = self.runtime.block_on(objects.try_next()).map_err(failed("list", prefix))? {
            let Some(name) = meta.location.as_ref().strip_prefix(&own) else { continue };
            if name.starts_with(prefix)
                && let Ok(name) = ObjectName::new(name)
            {
                visit(name, meta.size)?;
            }
        }
        Ok(())
    }

    fn delete(&self, name: &ObjectName) -> Result<(), BackendError> {
        let path = self.path(name.as_str());
        match self.runtime.block_on(self.store.delete(&path)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("delete", name)(error)),
        }
    }

    fn remove_unfinished(&self) -> Result<u64, BackendError> {
        Ok(0)
    }

    fn free_bytes(&self) -> Result<Option<u64>, BackendError> {
        Ok(None)
    }
}

/// An object being written.
struct S3Writer {
    backend: S3Backend,
    name: ObjectName,
    buffer: Vec<u8>,
    upload: Option<Box<dyn MultipartUpload>>,
    parts: JoinSet<object_store::Result<()>>,
}

impl S3Writer {
    /// Sends the buffer as a part, when fewer than [`PARTS_AT_ONCE`] are on their way.
    fn send_part(&mut self) -> Result<(), BackendError> {
        let path = self.backend.path(self.name.as_str());
        let runtime = self.backend.runtime.clone();
        if self.upload.is_none() {
            let started = runtime.block_on(self.backend.store.put_multipart(&path));
            self.upload = Some(started.map_err(failed("start", &self.name))?);
        }
        while self.parts.len() >= PARTS_AT_ONCE {
            self.wait_one()?;
        }
        let payload = PutPayload::from(std::mem::take(&mut self.buffer));
        if let Some(upload) = &mut self.upload {
            self.parts.spawn_on(upload.put_part(payload), &runtime);
        }
        Ok(())
    }

    fn wait_one(&mut self) -> Result<(), BackendError> {
        let done = self.backend.runtime.block_on(self.parts.join_next());
        match done {
            Some(Ok(result)) => result.map_err(failed("write", &self.name)),
            Some(Err(panic)) => Err(failed("write", &self.name)(panic.into())),
            None => Ok(()),
        }
    }
}

impl ObjectWriter for S3Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = PART_BYTES.saturating_sub(self.buffer.len()).min(rest.len());
            let (now, later) = rest.split_at(room);
            self.buffer.extend_from_slice(now);
            rest = later;
            if self.buffer.len() >= PART_BYTES {
                self.send_part()?;
            }
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), BackendError> {
        if self.upload.is_none() {
            let payload = PutPayload::from(std::mem::take(&mut self.buffer));
            let path = self.backend.path(self.name.as_str());
            let put = self.backend.store.put(&path, payload);
            return self.backend.runtime.block_on(put).map(|_| ()).map_err(failed("write", &self.name));
        }
        if !self.buffer.is_empty() {
            self.send_part()?;
        }
        while !self.parts.is_empty() {
            self.wait_one()?;
        }
        let Some(mut upload) = self.upload.take() else { return Ok(()) };
        let completed = self.backend.runtime.block_on(upload.complete());
        completed.map(|_| ()).map_err(failed("finish", &self.name))
    }
}

impl Drop for S3Writer {
    fn drop(&mut self) {
        if let Some(mut upload) = self.upload.take() {
            self.parts.abort_all();
            let name = self.name.clone();
            // Runs on after the writer is gone, since a drop cannot wait; what it misses the bucket's rule removes.
            self.backend.runtime.spawn(async move {
                if let Err(error) = upload.abort().await {
                    tracing::warn!(%name, %error, "an unfinished upload is left to the bucket's own rule");
                }
            });
        }
    }
}
