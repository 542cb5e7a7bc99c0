//! The store's promises on SQLite.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod suite;

use std::path::Path;

use suite::world::{SECRET, World};
use suite::{CASES, tests_of_all_cases};

async fn run(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (_, case) = CASES.iter().find(|(known, _)| *known == name).unwrap();
    case(url(folder.path())).await;
}

fn url(folder: &Path) -> String {
    format!("sqlite:{}", folder.join("scheduler.db").display())
}

tests_of_all_cases!(run);

#[tokio::test]
async fn no_secret_is_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(url(folder.path())).await;
    world.running("i-0a").await;
    world.store.close().await;
    let mut n_files = 0;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()));
        n_files += usize::from(bytes.windows(4).any(|window| window == b"acme"));
    }
    assert!(n_files > 0, "the files that were searched are the database's");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    use sqlx::{Connection as _, Executor as _};
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(url(folder.path())).await;
    world.store.close().await;
    let mut raw = sqlx::SqliteConnection::connect(&url(folder.path())).await.unwrap();
    raw.execute("UPDATE meta SET value = '99' WHERE name = 'schema'").await.unwrap();
    raw.close().await.unwrap();
    let opened =
        snapferry_scheduler::store::Store::open(&world.url, suite::world::vault(), world.clock.clone());
    let error = opened.await.unwrap_err().to_string();
    assert!(error.contains("99"), "{error}");
}
