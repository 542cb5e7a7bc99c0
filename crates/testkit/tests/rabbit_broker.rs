//! The private broker comes up, restarts, loses its data on demand and goes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use snapferry_testkit::Broker;
use tokio::net::TcpStream;

#[tokio::test]
async fn a_broker_starts_restarts_is_wiped_and_goes() {
    let mut broker = Broker::start().await.unwrap();
    broker.set_task_policy().await.unwrap();
    assert!(broker.ctl(&["list_policies"]).await.unwrap().contains("snapferry-task"));
    assert_eq!(broker.depth("absent").await.unwrap(), None);
    broker.restart().await.unwrap();
    assert!(broker.ctl(&["list_policies"]).await.unwrap().contains("snapferry-task"));
    broker.wipe().await.unwrap();
    assert!(!broker.ctl(&["list_policies"]).await.unwrap().contains("snapferry-task"));
    let address = broker.address();
    drop(broker);
    assert!(TcpStream::connect(address).await.is_err(), "dropped, yet it listens");
}
