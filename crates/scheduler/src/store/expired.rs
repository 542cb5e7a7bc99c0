//! Recovery points whose retention lets them go.

use snapferry_types::RecoveryPointId;
use snapferry_types::catalogue::RecoveryPointKind;
use sqlx::AnyConnection;

use super::point::{COLUMNS, PointRow};
use super::row::Read as _;
use super::task::OPEN;
use super::{Store, StoreError, hold};

/// Every given limit agrees: its days are over at `$1`, and it is not among the newest so many of its instance and kind.
/// The newest never goes by age alone. One that lost snapshots, or copies of them in a vault, is none of the newest.
const LET_GO: &str = "(p.keep_until_ms IS NOT NULL OR p.keep_last IS NOT NULL) \
     AND (p.keep_until_ms IS NULL OR p.keep_until_ms <= $1) \
     AND (SELECT COUNT(*) FROM recovery_point n WHERE n.hypervisor_id = p.hypervisor_id \
     AND n.instance_id = p.instance_id AND n.kind = p.kind AND n.deleted_ms IS NULL \
     AND (n.kind <> 'snapshot' OR n.missing = '[]') AND (n.point_in_time_ms > p.point_in_time_ms \
     OR (n.point_in_time_ms = p.point_in_time_ms AND n.id > p.id))) >= COALESCE(p.keep_last, 1)";

/// Recovery points that are looked at at a time.
const PAGE: i64 = 100;

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
    /// Recovery points that their retention lets go and that no open task needs or deletes, oldest first, at most `limit`.
    /// One whose last deletion ended after `tried_ms` is left for later.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn expired(&self, tried_ms: i64, limit: u32) -> Result<Vec<Expired>, StoreError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut conn = self.reader().await?;
        let mut expired = Vec::new();
        let mut after = (i64::MIN, String::new());
        // Those that are held are passed over, however many they are.
        loop {
            let page = self.let_go_after(&mut conn, tried_ms, &after).await?;
            let Some(last) = page.last() else { return Ok(expired) };
            after = (last.point_in_time_ms, last.id.to_string());
            for point in &page {
                if expired.len() >= limit {
                    return Ok(expired);
                }
                if let Some(one) = unless_held(&mut conn, point).await? {
                    expired.push(one);
                }
            }
        }
    }

    /// The next page of recovery points that their retention lets go, held or not, by time.
    async fn let_go_after(
        &self,
        conn: &mut AnyConnection,
        tried_ms: i64,
        (at_ms, id): &(i64, String),
    ) -> Result<Vec<PointRow>, StoreError> {
        let statement = format!(
            "{COLUMNS} WHERE p.deleted_ms IS NULL AND {LET_GO} AND NOT EXISTS (SELECT 1 FROM task d \
             WHERE d.recovery_point_id = p.id AND d.kind = 'delete_recovery_point' \
             AND (d.state IN {OPEN} OR d.finished_ms > $2)) \
             AND (p.point_in_time_ms > $3 OR (p.point_in_time_ms = $3 AND p.id > $4)) \
             ORDER BY p.point_in_time_ms, p.id LIMIT $5"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(self.clock.wall_ms())
            .bind(tried_ms)
            .bind(*at_ms)
            .bind(id.clone())
            .bind(PAGE)
            .fetch_all(conn)
            .await?;
        rows.iter().map(PointRow::read).collect()
    }
}

/// A recovery point that no open task needs.
async fn unless_held(conn: &mut AnyConnection, point: &PointRow) -> Result<Option<Expired>, StoreError> {
    if hold::reader(conn, point).await?.is_some() || hold::builder(conn, point).await?.is_some() {
        return Ok(None);
    }
    let row = sqlx::query(
        "SELECT COUNT(*) AS n FROM task WHERE recovery_point_id = $1 AND kind = 'delete_recovery_point'",
    );
    let row = row.bind(point.id.to_string()).fetch_one(conn).await?;
    Ok(Some(Expired { point: point.id, kind: point.kind, n_tried: row.number("n")? }))
}
