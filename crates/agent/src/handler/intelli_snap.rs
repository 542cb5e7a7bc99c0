//! IntelliSnap backup: the snapshots of all volumes stay in the tenant's account and are the recovery point. On
//! request they are also copied or shared elsewhere.
//!
//! Runs twice, or dies at:
//! - describe: nothing was made.
//! - snapshots: found again by the ledger entry's tag; the configuration seen then is in the checkpoint.
//! - vault: see [`vault`].
//! - record: the recovery point's id follows from the task, so repeating it changes nothing; from then on the
//!   catalogue owns the snapshots and what is in the vault, and no clean-up takes them.

use std::sync::Arc;

use snapferry_aws::SessionScope;
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::RecoveryPointId;
use snapferry_types::catalogue::{
    RECOVERY_POINT_META_VERSION, RecoveryPointKind, RecoveryPointMeta, VaultMeta, VolumeMeta,
};
use snapferry_types::ledger::Purpose;
use snapferry_types::spec::IntelliSnapSpec;
use snapferry_wire::v1;

use super::checkpoint::Checkpoint;
use super::snapshot::Snapshots;
use super::store::{bytes_in, instance_as_read};
use super::{made, snapshot, vault};
use crate::context::TaskContext;

pub(super) async fn run(
    context: &Arc<TaskContext>,
    spec: &IntelliSnapSpec,
) -> Result<Vec<v1::Made>, TransferError> {
    let account = context.tenant(SessionScope::IntelliSnap).await?;
    let mut checkpoint = Checkpoint::read(context)?;
    let seen = snapshot::see(context, &account, &spec.instance, &mut checkpoint).await?;
    if let Some(wanted) = &spec.vault {
        vault::check(context, &account, wanted, &seen.config).await?;
    }
    snapshot::preflight(context, &account, &spec.instance).await?;
    let snapshots = snapshot::take(context, &account, Purpose::RecoveryPoint, seen, &mut checkpoint).await?;
    let mut vaults = Vec::new();
    if let Some(wanted) = &spec.vault {
        vaults.push(vault::fill(context, &account, wanted, &snapshots).await?);
    }

    // Not all that makes snapshots, copies and shares looks at this, and a seal is not taken back.
    context.stop.check()?;
    context.enter("seal");
    let id = RecoveryPointId::from_u128(context.spec.task.as_u128());
    let logical_bytes = snapshots.taken.iter().map(|one| bytes_in(one.n_blocks)).sum();
    let metadata = serde_json::to_vec(&metadata(context, snapshots, vaults)).map_err(|error| {
        TransferError::new(ErrorClass::Internal, format!("write the recovery point's metadata: {error}"))
    })?;
    let sealed = v1::SealedRecoveryPoint {
        recovery_point_id: id.to_string(),
        metadata: metadata.into(),
        logical_bytes,
        read_bytes: 0,
        stored_bytes: 0,
    };
    context.sealed(sealed).await?;
    Ok(vec![made("recovery_point", id, &spec.instance)])
}

fn metadata(context: &TaskContext, snapshots: Snapshots, vaults: Vec<VaultMeta>) -> RecoveryPointMeta {
    let Snapshots { seen, taken } = snapshots;
    let sizes = taken.iter().map(|one| (&one.volume, one.n_blocks));
    RecoveryPointMeta {
        version: RECOVERY_POINT_META_VERSION,
        account: context.spec.tenant_access.account.clone(),
        task: context.spec.task,
        point_in_time_ms: seen.point_in_time_ms,
        instance: instance_as_read(seen.config, sizes),
        volumes: taken
            .iter()
            .map(|one| VolumeMeta {
                volume_id: one.volume.clone(),
                snapshot_id: one.snapshot.clone(),
                n_blocks: one.n_blocks,
                incremental: false,
            })
            .collect(),
        base: None,
        kind: RecoveryPointKind::Snapshot,
        copy_of: None,
        vaults,
        transport: None,
    }
}
