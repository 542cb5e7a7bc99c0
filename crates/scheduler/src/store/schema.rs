//! The schema, and the steps that lead to it. A step that was released is never changed: a new one follows it.
//! Numbers are BIGINT, times are milliseconds since 1970 UTC, ids are the text that the API shows.

use sqlx::Row as _;

use super::db::{Db, Dialect};
use super::error::StoreError;

type Step = &'static [&'static str];

const FIRST: Step = &[
    "CREATE TABLE hypervisor (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, account TEXT NOT NULL, regions TEXT NOT NULL,
        endpoint_url TEXT, read_as TEXT NOT NULL, role TEXT NOT NULL, admin_id TEXT REFERENCES hypervisor (id),
        sign_in TEXT NOT NULL, role_arns TEXT NOT NULL, access {BLOB} NOT NULL, created_ms BIGINT NOT NULL)",
    "CREATE TABLE tenant_key (
        hypervisor_id TEXT PRIMARY KEY REFERENCES hypervisor (id), wrapped {BLOB} NOT NULL)",
    "CREATE TABLE job (
        id TEXT PRIMARY KEY, hypervisor_id TEXT NOT NULL REFERENCES hypervisor (id), kind TEXT NOT NULL,
        priority BIGINT NOT NULL, idempotency_key TEXT UNIQUE, request TEXT NOT NULL, created_ms BIGINT NOT NULL,
        cancel_requested BIGINT NOT NULL DEFAULT 0, note_seq BIGINT NOT NULL DEFAULT 0)",
    "CREATE INDEX job_by_hypervisor ON job (hypervisor_id, id)",
    "CREATE TABLE task (
        id TEXT PRIMARY KEY, job_id TEXT NOT NULL REFERENCES job (id),
        hypervisor_id TEXT NOT NULL REFERENCES hypervisor (id), kind TEXT NOT NULL, work TEXT NOT NULL,
        region TEXT NOT NULL, instance_id TEXT, recovery_point_id TEXT, media_agent_id TEXT,
        state TEXT NOT NULL, epoch BIGINT NOT NULL DEFAULT 0, generation BIGINT NOT NULL DEFAULT 0,
        priority BIGINT NOT NULL, created_ms BIGINT NOT NULL, ready_ms BIGINT NOT NULL, not_before_ms BIGINT,
        attempts BIGINT NOT NULL DEFAULT 0, crashes BIGINT NOT NULL DEFAULT 0,
        dispatch_id TEXT, queue TEXT, node_id TEXT, incarnation TEXT, desired TEXT NOT NULL DEFAULT 'run',
        progress TEXT NOT NULL DEFAULT '{}', error_class TEXT, error_message TEXT, made TEXT NOT NULL DEFAULT '[]',
        base TEXT, finished_epoch BIGINT, started_ms BIGINT, finished_ms BIGINT)",
    "CREATE INDEX task_by_job ON task (job_id, id)",
    "CREATE INDEX task_by_state ON task (state, hypervisor_id, region, priority, ready_ms)",
    "CREATE INDEX task_by_instance ON task (instance_id, state)",
    "CREATE TABLE checkpoint (task_id TEXT PRIMARY KEY REFERENCES task (id), body {BLOB} NOT NULL)",
    "CREATE TABLE outbox (
        dispatch_id TEXT PRIMARY KEY, task_id TEXT NOT NULL REFERENCES task (id), kind TEXT NOT NULL,
        queue TEXT NOT NULL, created_ms BIGINT NOT NULL)",
    "CREATE INDEX outbox_by_task ON outbox (task_id)",
    "CREATE TABLE ledger (
        id TEXT PRIMARY KEY, task_id TEXT NOT NULL REFERENCES task (id),
        hypervisor_id TEXT NOT NULL REFERENCES hypervisor (id), kind TEXT NOT NULL, purpose TEXT NOT NULL,
        account TEXT NOT NULL, region TEXT NOT NULL, object_ids TEXT NOT NULL, state TEXT NOT NULL,
        changed_ms BIGINT NOT NULL)",
    "CREATE INDEX ledger_by_task ON ledger (task_id, state)",
    "CREATE INDEX ledger_by_state ON ledger (state, id)",
    "CREATE TABLE recovery_point (
        id TEXT PRIMARY KEY, hypervisor_id TEXT NOT NULL REFERENCES hypervisor (id), instance_id TEXT NOT NULL,
        media_agent_id TEXT NOT NULL, task_id TEXT NOT NULL REFERENCES task (id),
        point_in_time_ms BIGINT NOT NULL, logical_bytes BIGINT NOT NULL, read_bytes BIGINT NOT NULL,
        stored_bytes BIGINT NOT NULL, meta TEXT NOT NULL, deleted_ms BIGINT)",
    "CREATE INDEX recovery_point_by_instance ON recovery_point (instance_id, media_agent_id, id)",
    "CREATE TABLE access_node (
        id TEXT PRIMARY KEY, incarnation TEXT NOT NULL, name TEXT NOT NULL, region TEXT NOT NULL,
        availability_zone TEXT NOT NULL, os TEXT NOT NULL, node_group TEXT NOT NULL, queue TEXT NOT NULL,
        slots BIGINT NOT NULL, free_slots BIGINT NOT NULL, version TEXT NOT NULL, last_seen_ms BIGINT NOT NULL)",
    "CREATE TABLE media_agent (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, endpoint TEXT NOT NULL, version TEXT NOT NULL,
        stored_bytes BIGINT NOT NULL, free_bytes BIGINT NOT NULL, recovery_points BIGINT NOT NULL,
        last_seen_ms BIGINT NOT NULL)",
    "CREATE TABLE note (
        job_id TEXT NOT NULL REFERENCES job (id), seq BIGINT NOT NULL, task_id TEXT NOT NULL REFERENCES task (id),
        at_ms BIGINT NOT NULL, warning BIGINT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (job_id, seq))",
    "CREATE INDEX note_by_task ON note (task_id, seq)",
];

/// Recovery points of snapshots and copies of them, retention, lost snapshots; restores in place.
const OPERATIONS: Step = &[
    "CREATE TABLE recovery_point_2 (
        id TEXT PRIMARY KEY, hypervisor_id TEXT NOT NULL REFERENCES hypervisor (id), instance_id TEXT NOT NULL,
        media_agent_id TEXT, task_id TEXT NOT NULL REFERENCES task (id),
        point_in_time_ms BIGINT NOT NULL, logical_bytes BIGINT NOT NULL, read_bytes BIGINT NOT NULL,
        stored_bytes BIGINT NOT NULL, meta TEXT NOT NULL, deleted_ms BIGINT,
        kind TEXT NOT NULL DEFAULT 'streamed', copy_of TEXT, keep_until_ms BIGINT, keep_last BIGINT,
        missing TEXT NOT NULL DEFAULT '[]')",
    "INSERT INTO recovery_point_2 (id, hypervisor_id, instance_id, media_agent_id, task_id, point_in_time_ms,
        logical_bytes, read_bytes, stored_bytes, meta, deleted_ms)
        SELECT id, hypervisor_id, instance_id, media_agent_id, task_id, point_in_time_ms, logical_bytes, read_bytes,
        stored_bytes, meta, deleted_ms FROM recovery_point",
    "DROP TABLE recovery_point",
    "ALTER TABLE recovery_point_2 RENAME TO recovery_point",
    "CREATE INDEX recovery_point_by_instance ON recovery_point (instance_id, media_agent_id, id)",
    "CREATE INDEX recovery_point_by_task ON recovery_point (task_id)",
    "CREATE INDEX recovery_point_by_source ON recovery_point (copy_of)",
    "ALTER TABLE task ADD COLUMN in_place BIGINT NOT NULL DEFAULT 0",
    "CREATE INDEX task_by_recovery_point ON task (recovery_point_id, state)",
];

/// What is kept of attempts, and upkeep that is asked for.
const CONTROL: Step = &[
    "CREATE TABLE attempt (
        task_id TEXT NOT NULL REFERENCES task (id), epoch BIGINT NOT NULL, n BIGINT NOT NULL, node_id TEXT,
        started_ms BIGINT NOT NULL, finished_ms BIGINT NOT NULL, outcome TEXT NOT NULL, error TEXT,
        progress TEXT NOT NULL, phases TEXT NOT NULL, log_excerpt TEXT NOT NULL, PRIMARY KEY (task_id, epoch))",
    "ALTER TABLE task ADD COLUMN failures BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE media_agent ADD COLUMN scrub_asked BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE media_agent ADD COLUMN scrub_done BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE media_agent ADD COLUMN collect_asked BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE media_agent ADD COLUMN collect_done BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE media_agent ADD COLUMN scrub TEXT",
];

/// What access nodes can do; shares that several tasks need.
const SHARING: Step = &[
    "ALTER TABLE access_node ADD COLUMN transports TEXT NOT NULL DEFAULT '[]'",
    "ALTER TABLE ledger ADD COLUMN taken_back BIGINT NOT NULL DEFAULT 0",
    "CREATE INDEX ledger_by_share ON ledger (object_ids) WHERE kind = 'share'",
];

/// What is known of attempts that go on.
const SO_FAR: Step = &["CREATE TABLE attempt_so_far (
        task_id TEXT PRIMARY KEY REFERENCES task (id), epoch BIGINT NOT NULL, phases TEXT NOT NULL,
        log_excerpt TEXT NOT NULL)"];

const STEPS: &[Step] = &[FIRST, OPERATIONS, CONTROL, SHARING, SO_FAR];

/// Brings the schema up to date, all of it or nothing.
pub(super) async fn migrate(db: &Db) -> Result<(), StoreError> {
    migrate_by(db, STEPS).await
}

async fn migrate_by(db: &Db, steps: &[Step]) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    if db.dialect() == Dialect::Postgres {
        // Two schedulers that start together take turns.
        sqlx::query("SELECT pg_advisory_xact_lock(7480)").execute(&mut *tx).await?;
    }
    sqlx::query("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        .execute(&mut *tx)
        .await?;
    let found = sqlx::query("SELECT value FROM meta WHERE name = 'schema'").fetch_optional(&mut *tx).await?;
    let found = match found {
        Some(row) => row
            .try_get::<String, _>(0)?
            .parse::<i64>()
            .map_err(|error| StoreError::Corrupt { column: "meta.schema", reason: error.to_string() })?,
        None => 0,
    };
    let known = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    let binary = match db.dialect() {
        Dialect::Sqlite => "BLOB",
        Dialect::Postgres => "BYTEA",
    };
    for step in steps.iter().skip(usize::try_from(found).unwrap_or(0)) {
        for statement in *step {
            let statement = statement.replace("{BLOB}", binary);
            sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *tx).await?;
        }
    }
    for (name, value) in [("schema", known.to_string()), ("generation", "1".to_owned())] {
        let keep = if name == "schema" { "UPDATE SET value = excluded.value" } else { "NOTHING" };
        let statement =
            format!("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO {keep}");
        sqlx::query(sqlx::AssertSqlSafe(statement)).bind(name).bind(value).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use snapferry_testkit::Postgres;

    use super::super::row::Read as _;
    use super::*;

    /// A database of the first version with one recovery point comes up to date with it.
    async fn an_older_database_keeps_its_recovery_points(url: &str) {
        let db = Db::connect(url).await.unwrap();
        migrate_by(&db, &[FIRST]).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        for statement in [
            "INSERT INTO hypervisor (id, name, account, regions, read_as, role, sign_in, role_arns, access, created_ms) \
             VALUES ('hv', 'acme', '2', '[]', 'tenant', 'tenant', 'ambient', '[]', 'x', 1)",
            "INSERT INTO job (id, hypervisor_id, kind, priority, request, created_ms) VALUES ('j', 'hv', 'k', 1, '', 1)",
            "INSERT INTO task (id, job_id, hypervisor_id, kind, work, region, state, priority, created_ms, ready_ms) \
             VALUES ('t', 'j', 'hv', 'streaming_backup', '{}', 'r', 'succeeded', 1, 1, 1)",
            "INSERT INTO recovery_point (id, hypervisor_id, instance_id, media_agent_id, task_id, point_in_time_ms, \
             logical_bytes, read_bytes, stored_bytes, meta) VALUES ('rp', 'hv', 'i', 'ma', 't', 7, 3, 2, 1, '{}')",
        ] {
            sqlx::query(statement).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        for _ in 0..2 {
            migrate(&db).await.unwrap();
        }
        let row = sqlx::query(
            "SELECT media_agent_id, point_in_time_ms, kind, copy_of, keep_until_ms, missing FROM recovery_point",
        );
        let row = row.fetch_one(db.read()).await.unwrap();
        assert_eq!(row.opt_text("media_agent_id").unwrap().as_deref(), Some("ma"));
        assert_eq!(
            (row.int("point_in_time_ms").unwrap(), row.text("kind").unwrap().as_str()),
            (7, "streamed")
        );
        assert_eq!((row.opt_text("copy_of").unwrap(), row.opt_int("keep_until_ms").unwrap()), (None, None));
        assert_eq!(row.text("missing").unwrap(), "[]");
        let older = migrate_by(&db, &[FIRST]).await;
        let steps = i64::try_from(STEPS.len()).unwrap();
        assert!(matches!(older, Err(StoreError::NewerSchema { found, known: 1 }) if found == steps));
        db.close().await;
    }

    #[tokio::test]
    async fn sqlite_comes_up_to_date() {
        let folder = tempfile::tempdir().unwrap();
        an_older_database_keeps_its_recovery_points(&format!("sqlite:{}/db", folder.path().display())).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres_comes_up_to_date() {
        let mut postgres = Postgres::start().await.unwrap();
        an_older_database_keeps_its_recovery_points(&postgres.new_database().unwrap()).await;
        postgres.stop().await.unwrap();
    }
}
