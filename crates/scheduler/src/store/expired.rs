//! Recovery points whose retention lets them go.

use snapferry_types::RecoveryPointId;
use snapferry_types::catalogue::RecoveryPointKind;

use super::point::{COLUMNS, PointRow};
use super::row::Read as _;
use super::task::OPEN;
use super::{Store, StoreError, hold};

/// Every given limit agrees: its days are over at `$1`, and it is not among the newest so many of its instance and kind.
/// The newest never goes by age alone. One that lost snapshots it consists of is none of the newest.
const LET_GO: &str = "(p.keep_until_ms IS NOT NULL OR p.keep_last IS NOT NULL) \
     AND (p.keep_until_ms IS NULL OR p.keep_until_ms <= $1) \
     AND (SELECT COUNT(*) FROM recovery_point n WHERE n.hypervisor_id = p.hypervisor_id \
     AND n.instance_id = p.instance_id AND n.kind = p.kind AND n.deleted_ms IS NULL \
     AND (n.kind <> 'snapshot' OR n.missing = '[]') AND (n.point_in_time_ms > p.point_in_time_ms \
     OR (n.point_in_time_ms = p.point_in_time_ms AND n.id > p.id))) >= COALESCE(p.keep_last, 1)";

/// A recovery point that is to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// Which.
    pub point: RecoveryPointId,
    /// Its kind.
    pub kind: RecoveryPointKind,
    /// How many tasks that were to delete it have ended already.
    pub n_tried: u64,
}

impl Store {
    /// Recovery points that their retention lets go and that no open task needs or deletes, oldest first. One whose last
    /// deletion ended after `tried_ms` is left for later.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn expired(&self, tried_ms: i64, limit: u32) -> Result<Vec<Expired>, StoreError> {
        let statement = format!(
            "{COLUMNS} WHERE p.deleted_ms IS NULL AND {LET_GO} AND NOT EXISTS (SELECT 1 FROM task d \
             WHERE d.recovery_point_id = p.id AND d.kind = 'delete_recovery_point' \
             AND (d.state IN {OPEN} OR d.finished_ms > $2)) ORDER BY p.point_in_time_ms, p.id LIMIT $3"
        );
        let mut conn = self.reader().await?;
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(self.clock.wall_ms())
            .bind(tried_ms)
            .bind(i64::from(limit))
            .fetch_all(&mut *conn)
            .await?;
        let mut expired = Vec::new();
        for row in &rows {
            let point = PointRow::read(row)?;
            if hold::reader(&mut conn, &point).await?.is_some()
                || hold::builder(&mut conn, &point).await?.is_some()
            {
                continue;
            }
            let row = sqlx::query(
                "SELECT COUNT(*) AS n FROM task WHERE recovery_point_id = $1 AND kind = 'delete_recovery_point'",
            );
            let row = row.bind(point.id.to_string()).fetch_one(&mut *conn).await?;
            expired.push(Expired { point: point.id, kind: point.kind, n_tried: row.number("n")? });
        }
        Ok(expired)
    }
}
