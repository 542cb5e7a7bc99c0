//! Opening a session by its key, or taking it over.
//!
//! What happens twice: opening is idempotent by key. What dies in between: a session is one row and its key
//! another, written in one batch.

use std::collections::HashSet;
use std::sync::Arc;

use snapferry_types::block::leaves_in;
use snapferry_types::{Fence, RecoveryPointId, SessionId};

use super::session::{Session, SessionOpened, SessionRequest, SessionState, SessionVolume};
use super::{Library, lock};
use crate::error::Error;
use crate::index::{BaseRow, KeyRow, SessionLife, SessionRow, SessionVolumeRow};
use crate::limits::{MAX_KEY_BYTES, MAX_SESSIONS, MAX_TENANT_BYTES, MAX_VOLUME_NAME_BYTES, MAX_VOLUMES};

impl Library {
    /// Opens a session by its key, or goes on with the one that is open, or tells what was sealed.
    ///
    /// A fence above the session's takes it over: what the earlier owner had not flushed is dropped, and all its
    /// later calls are refused. A base that cannot be used is no error: see [`SessionOpened::without_base`].
    ///
    /// # Errors
    /// [`Error::StaleFence`], [`Error::SessionMismatch`], [`Error::TooMany`], [`Error::InvalidRequest`].
    pub fn open_session(&self, request: &SessionRequest) -> Result<SessionState, Error> {
        check_request(request)?;
        let _turn = lock(&self.flush);
        let stale = |held: Fence| Error::StaleFence { held, offered: request.fence };
        match self.index.key(&request.key)? {
            Some(KeyRow::Sealed { recovery_point, fence, .. }) => {
                if request.fence < fence {
                    Err(stale(fence))
                } else {
                    Ok(SessionState::AlreadySealed(recovery_point))
                }
            }
            Some(KeyRow::Open { session }) => self.resume_session(session, request),
            Some(KeyRow::Abandoned { fence, .. }) if request.fence < fence => Err(stale(fence)),
            Some(KeyRow::Abandoned { .. }) | None => self.new_session(request),
        }
    }

    fn new_session(&self, request: &SessionRequest) -> Result<SessionState, Error> {
        if lock(&self.sessions).len() >= MAX_SESSIONS {
            return Err(Error::TooMany { what: "open sessions", limit: MAX_SESSIONS });
        }
        self.check_space()?;
        // Under the gate, so that collection sees either the recovery point or the session that builds on it.
        let _gate = super::read(&self.gate);
        let mut without_base = Vec::new();
        let mut volumes = Vec::with_capacity(request.volumes.len());
        for volume in &request.volumes {
            let base = match self.base_of(request, volume)? {
                Ok(base) => base,
                Err(why) => {
                    without_base.push((volume.name.clone(), why));
                    None
                }
            };
            volumes.push(SessionVolumeRow { name: volume.name.clone(), n_blocks: volume.n_blocks, base });
        }
        let now = self.now();
        let row = SessionRow {
            id: SessionId::generate(),
            key: request.key.clone(),
            recovery_point: RecoveryPointId::generate(),
            fence: request.fence,
            tenant: request.tenant.clone(),
            volumes,
            opened_unix_ms: now,
            touched_unix_ms: now,
        };
        let id = row.id;
        let mut batch = self.index.db.batch();
        self.index.put_session(&mut batch, id, &SessionLife::Open(row.clone()));
        self.index.put_key(&mut batch, &row.key, &KeyRow::Open { session: id });
        batch.commit().map_err(Error::index("write"))?;
        self.index.persist()?;
        lock(&self.sessions).insert(id, Arc::new(Session::new(row)));
        Ok(SessionState::Open(SessionOpened { id, resumed: false, without_base }))
    }

    /// The base of a volume, or why it cannot be one.
    fn base_of(
        &self,
        request: &SessionRequest,
        volume: &SessionVolume,
    ) -> Result<Result<Option<BaseRow>, String>, Error> {
        let Some((id, name)) = &volume.base else { return Ok(Ok(None)) };
        let Some(point) = self.index.point(*id)? else {
            return Ok(Err(format!("recovery point {id} is not in this library")));
        };
        if point.tenant != request.tenant {
            return Ok(Err(format!("recovery point {id} is of another tenant")));
        }
        let Some(base) = point.volume(name) else {
            return Ok(Err(format!("recovery point {id} has no volume {name}")));
        };
        if base.n_blocks > volume.n_blocks {
            return Ok(Err(format!("volume {name} of recovery point {id} is longer than the volume is now")));
        }
        Ok(Ok(Some(BaseRow {
            recovery_point: *id,
            volume: name.clone(),
            n_blocks: base.n_blocks,
            root: base.root,
            n_data: base.n_data,
            n_zero: base.n_zero,
        })))
    }

    fn resume_session(&self, id: SessionId, request: &SessionRequest) -> Result<SessionState, Error> {
        let session = self.session(id)?;
        let mut live = session.live();
        if request.fence < live.row.fence {
            return Err(Error::StaleFence { held: live.row.fence, offered: request.fence });
        }
        check_same(&live.row, request)?;
        let mut row = live.row.clone();
        row.fence = request.fence;
        row.touched_unix_ms = self.now();
        let mut batch = self.index.db.batch();
        self.index.put_session(&mut batch, id, &SessionLife::Open(row.clone()));
        batch.commit().map_err(Error::index("write"))?;
        self.index.persist()?;
        if row.fence > live.row.fence {
            self.drop_buffered(&mut live);
        }
        live.rewound = false;
        live.row = row;
        let without_base = (request.volumes.iter().zip(&live.row.volumes))
            .filter(|(asked, has)| asked.base.is_some() && has.base.is_none())
            .map(|(_, has)| {
                (has.name.clone(), "its base could not be used when the session was opened".to_owned())
            })
            .collect();
        Ok(SessionState::Open(SessionOpened { id, resumed: true, without_base }))
    }
}

fn check_request(request: &SessionRequest) -> Result<(), Error> {
    let text = |what, text: &str, limit: usize| {
        if text.is_empty() || text.len() > limit {
            return Err(Error::invalid(what, format!("{} bytes, 1 to {limit} are allowed", text.len())));
        }
        Ok(())
    };
    text("the session key", &request.key, MAX_KEY_BYTES)?;
    text("the tenant", &request.tenant, MAX_TENANT_BYTES)?;
    let n = request.volumes.len();
    if n == 0 || n > MAX_VOLUMES {
        return Err(Error::invalid(
            "the list of volumes",
            format!("{n} volumes, 1 to {MAX_VOLUMES} are allowed"),
        ));
    }
    let mut names = HashSet::new();
    for volume in &request.volumes {
        text("the volume name", &volume.name, MAX_VOLUME_NAME_BYTES)?;
        if leaves_in(volume.n_blocks) == 0 || !names.insert(&volume.name) {
            return Err(Error::invalid("a volume", format!("{:?} is empty or named twice", volume.name)));
        }
    }
    Ok(())
}

fn check_same(row: &SessionRow, request: &SessionRequest) -> Result<(), Error> {
    let differs = |why: &str| Err(Error::SessionMismatch { key: row.key.clone(), why: why.to_owned() });
    if row.tenant != request.tenant {
        return differs("another tenant");
    }
    let same = row.volumes.len() == request.volumes.len()
        && row
            .volumes
            .iter()
            .zip(&request.volumes)
            .all(|(a, b)| a.name == b.name && a.n_blocks == b.n_blocks);
    if !same {
        return differs("other volumes");
    }
    let other_base =
        row.volumes.iter().zip(&request.volumes).any(|(has, asked)| match (&has.base, &asked.base) {
            (Some(has), Some((id, volume))) => has.recovery_point != *id || has.volume != *volume,
            (Some(_), None) => true,
            (None, _) => false,
        });
    if other_base { differs("another base") } else { Ok(()) }
}
