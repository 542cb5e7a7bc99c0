//! Reading requests: what has to be there, what has to parse, and how much there may be.

use snapferry_library::{RecoveryPoint, SessionRequest, SessionVolume};
use snapferry_types::{ChunkId, Fence, RecoveryPointId, SessionId};
use snapferry_wire::convert::{parse, parse_optional, required};
use snapferry_wire::v1;
use tonic::Status;

use super::status::invalid;

/// Bytes of a chunk's name.
const ID_BYTES: usize = 32;

fn bad(error: snapferry_wire::ConvertError) -> Status {
    invalid(error.to_string())
}

pub(super) fn session_ref(session: Option<v1::SessionRef>) -> Result<(SessionId, Fence), Status> {
    let session = required("session", session).map_err(bad)?;
    let id = parse("session_id", &session.session_id).map_err(bad)?;
    let fence = required("fence", session.fence).map_err(bad)?;
    Ok((id, fence.into()))
}

pub(super) fn recovery_point(text: &str) -> Result<RecoveryPointId, Status> {
    parse("recovery_point_id", text).map_err(bad)
}

pub(super) fn after(text: &str) -> Result<Option<RecoveryPointId>, Status> {
    parse_optional("after", text).map_err(bad)
}

pub(super) fn tenant(tenant: String) -> Result<String, Status> {
    if tenant.is_empty() { Err(invalid("message has no tenant")) } else { Ok(tenant) }
}

/// Concatenated names, at most `max`.
pub(super) fn chunk_ids(bytes: &[u8], max: usize) -> Result<Vec<ChunkId>, Status> {
    let (ids, rest) = bytes.as_chunks::<ID_BYTES>();
    if !rest.is_empty() {
        return Err(invalid(format!("field chunk_ids: {} bytes are no multiple of {ID_BYTES}", bytes.len())));
    }
    if ids.len() > max {
        return Err(invalid(format!("field chunk_ids: {} ids where at most {max} are allowed", ids.len())));
    }
    Ok(ids.iter().copied().map(ChunkId).collect())
}

pub(super) fn open_session(request: v1::OpenSessionRequest) -> Result<SessionRequest, Status> {
    let fence = required("fence", request.fence).map_err(bad)?;
    let volumes = request.volumes.into_iter().map(volume).collect::<Result<_, Status>>()?;
    Ok(SessionRequest { key: request.key, fence: fence.into(), tenant: request.tenant, volumes })
}

fn volume(volume: v1::SessionVolume) -> Result<SessionVolume, Status> {
    let base = parse_optional("base_recovery_point_id", &volume.base_recovery_point_id).map_err(bad)?;
    Ok(SessionVolume {
        name: volume.name,
        n_blocks: volume.n_blocks,
        base: base.map(|id| (id, volume.base_volume)),
    })
}

/// A recovery point as the contract shows it.
pub(super) fn shown(point: RecoveryPoint) -> v1::RecoveryPoint {
    v1::RecoveryPoint {
        recovery_point_id: point.id.to_string(),
        tenant: point.tenant,
        created_unix_ms: point.created_unix_ms,
        metadata: point.metadata.into(),
        volumes: point
            .volumes
            .into_iter()
            .map(|volume| v1::RecoveryPointVolume {
                name: volume.name,
                n_blocks: volume.n_blocks,
                n_data: volume.n_data.into(),
                n_zero: volume.n_zero.into(),
            })
            .collect(),
    }
}
