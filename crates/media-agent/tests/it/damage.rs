//! Damaged packs: never wrong bytes, and the recovery points are named.

use std::path::Path;
use std::sync::Arc;

use snapferry_transfer::ErrorClass;
use snapferry_transfer::twin::MemoryVolume;
use snapferry_wire::v1;
use tonic::Code;

use crate::harness::*;

/// Flips a byte in the middle of every pack of at least 256 KiB; gives how many.
fn damage(dir: &Path) -> usize {
    let mut n_damaged = 0;
    let mut folders = vec![dir.join("objects/packs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut bytes = std::fs::read(&path).unwrap();
            if bytes.len() >= 256 * 1_024 {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                std::fs::write(&path, bytes).unwrap();
                n_damaged += 1;
            }
        }
    }
    n_damaged
}

#[tokio::test]
async fn a_damaged_chunk_is_data_loss_that_names_the_recovery_points_and_a_new_full_backup_heals() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path()).await;
    let client = daemon.client().await;
    let volume = Arc::new(MemoryVolume::new(64, 2));
    volume.put(9, noise(9));
    let touched = stored(&client, "touched", Arc::clone(&volume), 64).await;
    assert_eq!(damage(dir.path()), 1);
    let other = Arc::new(MemoryVolume::new(64, 2));
    other.put(9, text(1));
    let whole = stored(&client, "whole", Arc::clone(&other), 64).await;

    let error = restore(&client, touched, 64).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Corrupt, "{error}");
    assert!(error.message.contains(&touched.to_string()), "{error}");
    assert!(!error.message.contains(&whole.to_string()), "{error}");
    assert_eq!(restore(&client, whole, 64).await.unwrap().blocks(), other.blocks());

    let mut raw = v1::media_client::MediaClient::connect(daemon.endpoint.clone()).await.unwrap();
    let record = chunk(&sealer(), &noise(9));
    let mut answers = raw
        .read_chunks(v1::ReadChunksRequest {
            recovery_point_id: touched.to_string(),
            tenant: TENANT.to_owned(),
            chunk_ids: record.id.0.to_vec().into(),
        })
        .await
        .unwrap()
        .into_inner();
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    assert_eq!(status.metadata().get("snapferry-error-class").unwrap(), "corrupt");
    assert_eq!(status.metadata().get("snapferry-recovery-points").unwrap(), &touched.to_string());
    drop(raw);

    let scrub = client.scrub(0).await.unwrap();
    assert_eq!(scrub.recovery_points_touched, [touched.to_string()]);
    assert!(!scrub.damage.is_empty() && scrub.bytes_read > 0);

    let healing = stored(&client, "healing", Arc::clone(&volume), 64).await;
    for id in [touched, healing] {
        assert_eq!(restore(&client, id, 64).await.unwrap().blocks(), volume.blocks());
    }
    assert_eq!(client.scrub(0).await.unwrap().recovery_points_touched, Vec::<String>::new());
    daemon.stop().await;
}
