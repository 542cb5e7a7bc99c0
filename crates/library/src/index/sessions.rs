//! Sessions, their keys and their leaves in the index.

use fjall::{OwnedWriteBatch, Readable, Snapshot};
use serde::de::DeserializeOwned;
use snapferry_types::{PageId, SessionId};

use super::{Index, KeyRow, SessionLife, SessionRow};
use crate::codec::{Malformed, Reader, Writer};
use crate::error::Error;

/// Rows removed in one batch.
const REMOVE_BATCH: usize = 8_192;

/// A durable leaf of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeafRow {
    pub(crate) page: PageId,
    pub(crate) n_data: u32,
    pub(crate) n_zero: u32,
}

impl LeafRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(40);
        out.bytes(&self.page.0).u32(self.n_data).u32(self.n_zero);
        out.done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new("leaf row", bytes);
        let row = Self { page: PageId(r.array()?), n_data: r.u32()?, n_zero: r.u32()? };
        r.end()?;
        Ok(row)
    }
}

fn leaf_key(session: SessionId, volume: u16, leaf: u32) -> [u8; 22] {
    let mut key = [0_u8; 22];
    let (id, rest) = key.split_at_mut(16);
    id.copy_from_slice(&session.as_u128().to_be_bytes());
    let (v, l) = rest.split_at_mut(2);
    v.copy_from_slice(&volume.to_be_bytes());
    l.copy_from_slice(&leaf.to_be_bytes());
    key
}

fn leaf_of_key(key: &[u8]) -> Result<(SessionId, u16, u32), Malformed> {
    let array =
        <[u8; 22]>::try_from(key).map_err(|_| Malformed::new("leaf row", "its key is not 22 bytes"))?;
    let [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15, v0, v1, l0, l1, l2, l3] =
        array;
    let id = u128::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15]);
    Ok((SessionId::from_u128(id), u16::from_be_bytes([v0, v1]), u32::from_be_bytes([l0, l1, l2, l3])))
}

fn from_json<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|e| Malformed::new(what, e.to_string()).into())
}

fn to_json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("rows of plain fields always serialise")
}

impl Index {
    pub(crate) fn session(&self, id: SessionId) -> Result<Option<SessionLife>, Error> {
        let value = self.sessions.get(id.as_u128().to_be_bytes()).map_err(Error::index("read"))?;
        value.map(|v| from_json("session row", &v)).transpose()
    }

    pub(crate) fn open_sessions(&self) -> Result<Vec<SessionRow>, Error> {
        let mut rows = Vec::new();
        for row in self.sessions.iter() {
            if let SessionLife::Open(row) =
                from_json("session row", &row.value().map_err(Error::index("read"))?)?
            {
                rows.push(row);
            }
        }
        Ok(rows)
    }

    pub(crate) fn key(&self, key: &str) -> Result<Option<KeyRow>, Error> {
        let value = self.keys.get(key).map_err(Error::index("read"))?;
        value.map(|v| from_json("session key row", &v)).transpose()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Result<(String, KeyRow), Error>> + use<> {
        self.keys.iter().map(|row| {
            let (key, value) = row.into_inner().map_err(Error::index("read"))?;
            Ok((String::from_utf8_lossy(&key).into_owned(), from_json("session key row", &value)?))
        })
    }

    pub(crate) fn put_session(&self, batch: &mut OwnedWriteBatch, id: SessionId, life: &SessionLife) {
        batch.insert(&self.sessions, id.as_u128().to_be_bytes(), to_json(life));
    }

    pub(crate) fn remove_session(&self, batch: &mut OwnedWriteBatch, id: SessionId) {
        batch.remove(&self.sessions, id.as_u128().to_be_bytes());
    }

    pub(crate) fn put_key(&self, batch: &mut OwnedWriteBatch, key: &str, row: &KeyRow) {
        batch.insert(&self.keys, key, to_json(row));
    }

    pub(crate) fn put_leaf(
        &self,
        batch: &mut OwnedWriteBatch,
        session: SessionId,
        volume: u16,
        leaf: u32,
        row: &LeafRow,
    ) {
        batch.insert(&self.leaves, leaf_key(session, volume, leaf), row.encode());
    }

    /// Durable leaves of a session's volume from `from` on, in order.
    pub(crate) fn leaves(
        &self,
        snapshot: &Snapshot,
        session: SessionId,
        volume: u16,
        from: u32,
    ) -> impl Iterator<Item = Result<(u32, LeafRow), Error>> + use<> {
        let range = leaf_key(session, volume, from)..=leaf_key(session, volume, u32::MAX);
        snapshot.range(&self.leaves, range).map(|row| {
            let (key, value) = row.into_inner().map_err(Error::index("read"))?;
            Ok((leaf_of_key(&key)?.2, LeafRow::decode(&value)?))
        })
    }

    /// Removes the leaves of sessions that `keep` refuses.
    pub(crate) fn remove_leaves(&self, keep: impl Fn(SessionId) -> bool) -> Result<(), Error> {
        self.remove_leaf_rows(self.leaves.iter(), keep)
    }

    /// Removes the leaves of one session.
    pub(crate) fn remove_leaves_of(&self, session: SessionId) -> Result<(), Error> {
        self.remove_leaf_rows(self.leaves.prefix(session.as_u128().to_be_bytes()), |_| false)
    }

    fn remove_leaf_rows(&self, rows: fjall::Iter, keep: impl Fn(SessionId) -> bool) -> Result<(), Error> {
        let mut batch = self.db.batch();
        for row in rows {
            let key = row.key().map_err(Error::index("read"))?;
            if keep(leaf_of_key(&key)?.0) {
                continue;
            }
            batch.remove(&self.leaves, key);
            if batch.len() >= REMOVE_BATCH {
                std::mem::replace(&mut batch, self.db.batch()).commit().map_err(Error::index("write"))?;
            }
        }
        batch.commit().map_err(Error::index("write"))
    }
}
