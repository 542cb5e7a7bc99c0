//! Objects in memory: the twin of the real backends in tests and demonstrations.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Backend, BackendError, ObjectName, ObjectWriter};

type Objects = Arc<Mutex<BTreeMap<ObjectName, Arc<Vec<u8>>>>>;

/// Objects in memory; clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryBackend {
    objects: Objects,
}

fn lock(objects: &Objects) -> MutexGuard<'_, BTreeMap<ObjectName, Arc<Vec<u8>>>> {
    objects.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryBackend {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn get(&self, name: &ObjectName) -> Result<Arc<Vec<u8>>, BackendError> {
        lock(&self.objects)
            .get(name)
            .cloned()
            .ok_or_else(|| BackendError::NotFound { name: name.to_string() })
    }
}

impl Backend for MemoryBackend {
    fn create(&self, name: &ObjectName) -> Result<Box<dyn ObjectWriter>, BackendError> {
        Ok(Box::new(MemoryWriter {
            objects: Arc::clone(&self.objects),
            name: name.clone(),
            bytes: Vec::new(),
        }))
    }

    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, BackendError> {
        let object = self.get(name)?;
        usize::try_from(offset)
            .ok()
            .and_then(|start| object.get(start..start.checked_add(len)?))
            .map(<[u8]>::to_vec)
            .ok_or_else(|| BackendError::Short { name: name.to_string(), offset, len })
    }

    fn size(&self, name: &ObjectName) -> Result<u64, BackendError> {
        Ok(self.get(name)?.len() as u64)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(ObjectName, u64) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let found: Vec<_> = lock(&self.objects)
            .iter()
            .filter(|(name, _)| name.as_str().starts_with(prefix))
            .map(|(name, bytes)| (name.clone(), bytes.len() as u64))
            .collect();
        found.into_iter().try_for_each(|(name, size)| visit(name, size))
    }

    fn delete(&self, name: &ObjectName) -> Result<(), BackendError> {
        lock(&self.objects).remove(name);
        Ok(())
    }

    fn remove_unfinished(&self) -> Result<u64, BackendError> {
        Ok(0)
    }

    fn free_bytes(&self) -> Result<Option<u64>, BackendError> {
        Ok(None)
    }
}

struct MemoryWriter {
    objects: Objects,
    name: ObjectName,
    bytes: Vec<u8>,
}

impl ObjectWriter for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), BackendError> {
        let this = *self;
        lock(&this.objects).insert(this.name, Arc::new(this.bytes));
        Ok(())
    }
}
