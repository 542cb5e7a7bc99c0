//! Backup copies: which IntelliSnap recovery points are read into a library, oldest first.

use snapferry_api::job::Work;
use snapferry_api::protect::BackupCopy;
use snapferry_types::HypervisorId;
use snapferry_types::catalogue::RecoveryPointKind;
use sqlx::AnyConnection;

use super::draft::{Drafts, known_media_agent, of_point, tenant};
use super::job::Submission;
use super::point::{COLUMNS, PointRow};
use super::{Store, StoreError, hold};

/// Tasks of one job.
const MAX_COPIES: usize = 1_000;
/// Recovery points that are looked through for ones to copy; those that lost snapshots are among them.
const CANDIDATES: i64 = 10_000;

impl Store {
    pub(super) async fn backup_copy(
        &self,
        conn: &mut AnyConnection,
        submission: &Submission<'_>,
        copy: &BackupCopy,
    ) -> Result<Drafts, StoreError> {
        let tenant = tenant(conn, submission, copy.hypervisor).await?;
        known_media_agent(conn, copy.media_agent).await?;
        self.take_turns(conn, tenant.id).await?;
        let points = if copy.recovery_points.is_empty() {
            not_copied(conn, tenant.id).await?
        } else {
            named(conn, tenant.id, copy).await?
        };
        if points.is_empty() {
            return Err(StoreError::Conflict(format!(
                "nothing to copy: every IntelliSnap recovery point of hypervisor {} that has its snapshots was copied, \
                 or is being copied",
                tenant.name
            )));
        }
        let one = |point: &PointRow| {
            let work = BackupCopy { recovery_points: vec![point.id], ..copy.clone() };
            let mut row = of_point(point, Work::BackupCopy(work));
            row.media_agent = copy.media_agent;
            row
        };
        Ok(Drafts { hypervisor: tenant.id, tasks: points.iter().map(one).collect() })
    }
}

/// The recovery points that were named, oldest first.
async fn named(
    conn: &mut AnyConnection,
    tenant: HypervisorId,
    copy: &BackupCopy,
) -> Result<Vec<PointRow>, StoreError> {
    let mut points = Vec::with_capacity(copy.recovery_points.len());
    for id in &copy.recovery_points {
        let point = PointRow::load(conn, *id).await?;
        if point.hypervisor != tenant {
            return Err(StoreError::not_found("recovery point", id));
        }
        if let Some(reason) = obstacle(conn, &point).await? {
            return Err(StoreError::Conflict(format!("recovery point {id} cannot be copied: {reason}")));
        }
        points.push(point);
    }
    points.sort_by_key(|point| (point.point_in_time_ms, point.id));
    Ok(points)
}

/// All of a tenant that can be copied, oldest first.
async fn not_copied(conn: &mut AnyConnection, tenant: HypervisorId) -> Result<Vec<PointRow>, StoreError> {
    let statement = format!(
        "{COLUMNS} WHERE p.hypervisor_id = $1 AND p.kind = 'snapshot' AND p.deleted_ms IS NULL AND NOT EXISTS (\
         SELECT 1 FROM recovery_point c WHERE c.copy_of = p.id AND c.deleted_ms IS NULL) \
         ORDER BY p.point_in_time_ms, p.id LIMIT $2"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(tenant.to_string())
        .bind(CANDIDATES)
        .fetch_all(&mut *conn)
        .await?;
    let mut points = Vec::new();
    for row in &rows {
        let point = PointRow::read(row)?;
        if obstacle(conn, &point).await?.is_none() {
            points.push(point);
        }
        if points.len() == MAX_COPIES {
            break;
        }
    }
    Ok(points)
}

/// Why a recovery point cannot be copied.
async fn obstacle(conn: &mut AnyConnection, point: &PointRow) -> Result<Option<String>, StoreError> {
    if point.kind != RecoveryPointKind::Snapshot {
        return Ok(Some("its blocks are in a MediaAgent's library already".to_owned()));
    }
    if let Some(copy) = point.copies(conn).await?.first() {
        return Ok(Some(format!("it was copied already, as {}", copy.id)));
    }
    if let Some(task) = hold::copier(conn, point.id).await? {
        return Ok(Some(format!("it is being copied by task {task}")));
    }
    if let Some(task) = hold::deleter(conn, point.id).await? {
        return Ok(Some(format!("it is being deleted by task {task}")));
    }
    if !point.has_snapshots(conn, &[]).await? {
        let lost = if point.missing.is_empty() { "all".to_owned() } else { point.missing.join(", ") };
        return Ok(Some(format!("snapshots of it were deleted by somebody else ({lost})")));
    }
    Ok(None)
}
