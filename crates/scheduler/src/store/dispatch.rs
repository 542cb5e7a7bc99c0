//! What the dispatcher needs: who waits, writing an offer with its outbox row in one transaction, offers nobody took,
//! waits that are over.

use std::collections::HashMap;

use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::state::TaskEvent;
use snapferry_types::{DispatchId, HypervisorId, TaskId, TaskKind, TaskState};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::row::Read as _;
use super::{Store, StoreError, ability, fleet, task};

/// Tasks of one group that are tried before the group is left for the next round.
const CANDIDATES: i64 = 20;

/// A backup or copy of an instance waits while another one of the same kind is under way, for both would build on the
/// same base. A restore in place has the instance to itself. A task that has begun and waits for its next attempt, or is
/// suspended, is under way for those that came after it: they do not overtake it.
const FREE_INSTANCE: &str = "NOT EXISTS (SELECT 1 FROM task o \
     WHERE o.instance_id = t.instance_id AND o.hypervisor_id = t.hypervisor_id AND o.id <> t.id \
     AND (o.state IN ('dispatched', 'running', 'suspect', 'retry_wait') \
     OR (o.state IN ('ready', 'suspended') AND o.epoch > 0 \
     AND (o.created_ms < t.created_ms OR (o.created_ms = t.created_ms AND o.id < t.id)))) \
     AND ((o.kind = t.kind AND t.kind IN ('streaming_backup', 'intelli_snap', 'backup_copy')) \
     OR (t.in_place = 1 AND o.kind IN ('streaming_backup', 'intelli_snap', 'restore')) \
     OR (o.in_place = 1 AND t.kind IN ('streaming_backup', 'intelli_snap', 'restore'))))";

/// The MediaAgent of a task was heard since `$4`; or it needs none; or it needs one that is still to be chosen, and some
/// MediaAgent was heard.
const STORE_ONLINE: &str = "((t.media_agent_id IS NULL AND t.kind NOT IN ('streaming_backup', 'backup_copy')) \
     OR EXISTS (SELECT 1 FROM media_agent m WHERE m.last_seen_ms >= $4 \
     AND (t.media_agent_id IS NULL OR m.id = t.media_agent_id)))";

/// Waiting tasks of one tenant in one region and band.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingGroup {
    /// The tenant.
    pub hypervisor: HypervisorId,
    /// The region of the tasks.
    pub region: String,
    /// The band they were asked for in: 0 low, 1 normal, 2 high.
    pub priority: i64,
    /// Since when the oldest waits.
    pub oldest_ms: i64,
    /// How many wait.
    pub n_waiting: u64,
}

/// An offer that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The task.
    pub task: TaskId,
    /// The offer.
    pub dispatch: DispatchId,
}

/// An offer that is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEntry {
    /// The offer.
    pub dispatch: DispatchId,
    /// The task.
    pub task: TaskId,
    /// Its kind.
    pub kind: TaskKind,
    /// Where to.
    pub queue: String,
}

impl Store {
    /// Groups of ready tasks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn waiting(&self) -> Result<Vec<WaitingGroup>, StoreError> {
        let rows = sqlx::query(
            "SELECT hypervisor_id, region, priority, MIN(ready_ms) AS oldest_ms, COUNT(*) AS n FROM task \
             WHERE state = 'ready' GROUP BY hypervisor_id, region, priority",
        )
        .fetch_all(self.db.read())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(WaitingGroup {
                    hypervisor: row.parsed("hypervisor_id")?,
                    region: row.text("region")?,
                    priority: row.int("priority")?,
                    oldest_ms: row.int("oldest_ms")?,
                    n_waiting: row.number("n")?,
                })
            })
            .collect()
    }

    /// How many tasks of each tenant are offered or leased.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn usage(&self) -> Result<Vec<(HypervisorId, u64)>, StoreError> {
        let rows = sqlx::query(
            "SELECT hypervisor_id, COUNT(*) AS n FROM task WHERE state IN ('dispatched', 'running', 'suspect') \
             GROUP BY hypervisor_id",
        )
        .fetch_all(self.db.read())
        .await?;
        rows.iter().map(|row| Ok((row.parsed("hypervisor_id")?, row.number("n")?))).collect()
    }

    /// Number of tasks by state.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn count_by_state(&self) -> Result<HashMap<TaskState, i64>, StoreError> {
        let rows = sqlx::query("SELECT state, COUNT(*) AS n FROM task GROUP BY state")
            .fetch_all(self.db.read())
            .await?;
        rows.iter().map(|row| Ok((row.word("state", TaskState::from_word)?, row.int("n")?))).collect()
    }

    /// Offers the oldest task of a group that can be offered: its MediaAgent was heard since `since_ms`, if it needs one,
    /// its instance is free, and a node of the queue can do it. `None` when there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn offer(
        &self,
        group: &WaitingGroup,
        queue: &str,
        since_ms: i64,
    ) -> Result<Option<Offer>, StoreError> {
        let now_ms = self.clock.wall_ms();
        let mut tx = self.begin().await?;
        let able = ability::condition(&mut tx, queue, &group.region, since_ms).await?;
        let statement = format!(
            "SELECT t.id FROM task t WHERE t.state = 'ready' AND t.hypervisor_id = $1 AND t.region = $2 \
             AND t.priority = $3 AND {STORE_ONLINE} AND {FREE_INSTANCE} AND {able} ORDER BY t.ready_ms, t.id LIMIT $5"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(group.hypervisor.to_string())
            .bind(group.region.clone())
            .bind(group.priority)
            .bind(since_ms)
            .bind(CANDIDATES)
            .fetch_all(&mut *tx)
            .await?;
        for row in &rows {
            let Some(before) = self.lock_task(&mut tx, row.parsed("id")?).await? else { continue };
            if before.state != TaskState::Ready {
                continue;
            }
            let mut after = before.clone();
            if let (None, Some(kind), Some(instance)) =
                (after.media_agent, stored_as(after.kind), &after.instance)
            {
                let chosen =
                    fleet::choose_media_agent(&mut tx, after.hypervisor, instance, kind, since_ms).await?;
                if chosen.is_none() {
                    continue;
                }
                after.media_agent = chosen;
            }
            let dispatch = DispatchId::generate();
            after.apply(TaskEvent::Offered, now_ms)?;
            after.dispatch = Some(dispatch);
            after.queue = Some(queue.to_owned());
            task::save(&mut tx, &before, &after).await?;
            sqlx::query(
                "INSERT INTO outbox (dispatch_id, task_id, kind, queue, created_ms) VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(dispatch.to_string())
            .bind(after.id.to_string())
            .bind(after.kind.as_str())
            .bind(queue.to_owned())
            .bind(now_ms)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            self.changed(after.job);
            return Ok(Some(Offer { task: after.id, dispatch }));
        }
        Ok(None)
    }

    /// Offers that were not confirmed yet, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn outbox(&self, limit: u32) -> Result<Vec<OutboxEntry>, StoreError> {
        let rows =
            sqlx::query("SELECT dispatch_id, task_id, kind, queue FROM outbox ORDER BY dispatch_id LIMIT $1")
                .bind(i64::from(limit))
                .fetch_all(self.db.read())
                .await?;
        rows.iter()
            .map(|row| {
                Ok(OutboxEntry {
                    dispatch: row.parsed("dispatch_id")?,
                    task: row.parsed("task_id")?,
                    kind: row.word("kind", TaskKind::from_word)?,
                    queue: row.text("queue")?,
                })
            })
            .collect()
    }

    /// The broker confirmed an offer. Dying before this publishes it twice, which a claim sorts out.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn published(&self, dispatch: DispatchId) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        forget_offer(&mut tx, dispatch).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Offers that are open.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open_offers(&self) -> Result<Vec<Offer>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, dispatch_id FROM task WHERE state = 'dispatched' AND dispatch_id IS NOT NULL",
        )
        .fetch_all(self.db.read())
        .await?;
        let read = |row: &AnyRow| Ok(Offer { task: row.parsed("id")?, dispatch: row.parsed("dispatch_id")? });
        rows.iter().map(read).collect()
    }

    /// Nobody took an offer by its deadline: the task is ready again. Nothing happens when it was taken meanwhile.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn withdraw(&self, offer: Offer) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let Some(before) = self.lock_task(&mut tx, offer.task).await? else { return Ok(false) };
        if before.state != TaskState::Dispatched || before.dispatch != Some(offer.dispatch) {
            return Ok(false);
        }
        let mut after = before.clone();
        let ready_ms = before.ready_ms;
        after.apply(TaskEvent::OfferExpired, self.clock.wall_ms())?;
        // It keeps its place in the line.
        after.ready_ms = ready_ms;
        task::save(&mut tx, &before, &after).await?;
        forget_offer(&mut tx, offer.dispatch).await?;
        tx.commit().await?;
        self.changed(after.job);
        Ok(true)
    }

    /// Tasks whose wait is over are ready again, at most 1,000 at a time.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_waits(&self) -> Result<u64, StoreError> {
        let now_ms = self.clock.wall_ms();
        let rows = sqlx::query(
            "SELECT id FROM task WHERE state = 'retry_wait' AND (not_before_ms IS NULL OR not_before_ms <= $1) \
             LIMIT 1000",
        )
        .bind(now_ms)
        .fetch_all(self.db.read())
        .await?;
        let mut n = 0;
        for row in &rows {
            let mut tx = self.begin().await?;
            let Some(before) = self.lock_task(&mut tx, row.parsed("id")?).await? else { continue };
            if before.state != TaskState::RetryWait {
                continue;
            }
            let mut after = before.clone();
            after.apply(TaskEvent::WaitOver, now_ms)?;
            task::save(&mut tx, &before, &after).await?;
            tx.commit().await?;
            self.changed(after.job);
            n += 1;
        }
        Ok(n)
    }
}

/// What a task stores on a MediaAgent that is chosen when it is offered.
const fn stored_as(kind: TaskKind) -> Option<RecoveryPointKind> {
    match kind {
        TaskKind::StreamingBackup => Some(RecoveryPointKind::Streamed),
        TaskKind::BackupCopy => Some(RecoveryPointKind::Copy),
        TaskKind::Restore
        | TaskKind::DeleteRecoveryPoint
        | TaskKind::IntelliSnap
        | TaskKind::Replication
        | TaskKind::Conversion => None,
    }
}

pub(super) async fn forget_offer(conn: &mut AnyConnection, dispatch: DispatchId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM outbox WHERE dispatch_id = $1").bind(dispatch.to_string()).execute(conn).await?;
    Ok(())
}
