//! The store's promises on a real PostgreSQL: one server, an empty database for each case.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod suite;

use snapferry_testkit::Postgres;
use suite::CASES;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_of_the_store() {
    let mut postgres = Postgres::start().await.unwrap();
    for (name, case) in CASES {
        eprintln!("case {name}");
        case(postgres.new_database().unwrap()).await;
    }
    postgres.stop().await.unwrap();
}
