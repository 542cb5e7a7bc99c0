//! The EBS direct APIs and keys.

use awssim::world::KeyState;
use serde_json::json;

use crate::client::{OTHER, OWNER, REGION, Reply, Sim, escape};

fn assert_refused(reply: &Reply, code: &str, reason: &str) {
    reply.assert_refused(code);
    assert_eq!(reply.json()["Reason"], reason, "{}", reply.text());
}

#[tokio::test]
async fn reading_needs_decrypt_on_an_enabled_key() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let key = sim.world().create_key(OWNER, REGION, None);
    let (first, second) = (sim.snapshot(&admin, Some(&key)).await, sim.snapshot(&admin, Some(&key)).await);
    let blocks = format!("/snapshots/{first}/blocks");
    let reader = sim.without_keys(OWNER, "reader", &["kms:Decrypt"]);
    let listed = reader.ebs("GET", &blocks, None).await.json();
    let token = escape(listed["Blocks"][0]["BlockToken"].as_str().unwrap());
    let block = format!("{blocks}/0?blockToken={token}");
    assert_eq!(reader.ebs("GET", &block, None).await.body, vec![7_u8; 524_288]);

    let changed = format!("/snapshots/{second}/changedblocks?firstSnapshotId={first}");
    let nobody = sim.without_keys(OWNER, "nobody", &["kms:GenerateDataKey*", "kms:DescribeKey"]);
    for path in [&blocks, &block, &changed] {
        let refused = nobody.ebs("GET", path, None).await;
        assert_refused(&refused, "AccessDeniedException", "DEPENDENCY_ACCESS_DENIED");
        assert!(refused.text().contains("kms:Decrypt"), "{}", refused.text());
    }
    for state in [KeyState::Disabled, KeyState::PendingDeletion] {
        assert!(sim.world().set_key_state(&key, state));
        let refused = reader.ebs("GET", &block, None).await;
        assert_refused(&refused, "ValidationException", "INVALID_CUSTOMER_KEY");
    }
    assert!(sim.world().set_key_state(&key, KeyState::Enabled));
    reader.ebs("GET", &block, None).await.assert_done();
}

#[tokio::test]
async fn writing_needs_data_keys() {
    let sim = Sim::start().await;
    let key = sim.world().create_key(OWNER, REGION, None);
    let writer = sim.without_keys(OWNER, "writer", &["kms:DescribeKey", "kms:GenerateDataKey*"]);
    let start = json!({ "VolumeSize": 1, "Encrypted": true, "KmsKeyArn": key });
    let started = writer.ebs("POST", "/snapshots", Some(start.clone())).await.json();
    assert_eq!((&started["KmsKeyArn"], &started["SseType"]), (&json!(key), &json!("sse-kms")));
    let id = started["SnapshotId"].as_str().unwrap();
    writer.put_block(id, 0).await.assert_done();
    for (allowed, missing) in [
        (&["kms:GenerateDataKey*"][..], "kms:DescribeKey"),
        (&["kms:DescribeKey", "kms:GenerateDataKey"][..], "kms:GenerateDataKeyWithoutPlaintext"),
    ] {
        let refused =
            sim.without_keys(OWNER, "half", allowed).ebs("POST", "/snapshots", Some(start.clone())).await;
        assert_refused(&refused, "AccessDeniedException", "DEPENDENCY_ACCESS_DENIED");
        assert!(refused.text().contains(missing), "{}", refused.text());
    }
    let refused = sim.without_keys(OWNER, "half", &["kms:Describe*"]).put_block(id, 1).await;
    assert_refused(&refused, "AccessDeniedException", "DEPENDENCY_ACCESS_DENIED");
    assert!(sim.world().set_key_state(&key, KeyState::Disabled));
    assert_refused(&writer.put_block(id, 1).await, "ValidationException", "INVALID_CUSTOMER_KEY");
    let refused = writer.ebs("POST", "/snapshots", Some(start)).await;
    assert_refused(&refused, "ValidationException", "INVALID_CUSTOMER_KEY");
    let foreign = sim.world().create_key(OTHER, "us-east-1", None);
    for unknown in ["alias/unknown", foreign.as_str()] {
        let start = json!({ "VolumeSize": 1, "Encrypted": true, "KmsKeyArn": unknown });
        let refused = writer.ebs("POST", "/snapshots", Some(start)).await;
        assert_refused(&refused, "ValidationException", "INVALID_CUSTOMER_KEY");
    }
}

#[tokio::test]
async fn a_child_has_its_parents_key_and_the_account_its_default() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let key = sim.world().create_key(OWNER, REGION, None);
    let (parent, plain) = (sim.snapshot(&admin, Some(&key)).await, sim.snapshot(&admin, None).await);
    let start = |body| admin.ebs("POST", "/snapshots", Some(body));
    let child = start(json!({ "VolumeSize": 1, "ParentSnapshotId": parent })).await.json();
    assert_eq!(child["KmsKeyArn"], key.as_str());
    let default = start(json!({ "VolumeSize": 1, "Encrypted": true })).await.json();
    assert_eq!(default["KmsKeyArn"], sim.world().managed_key(OWNER, REGION).as_str());
    assert_eq!(start(json!({ "VolumeSize": 1 })).await.json()["KmsKeyArn"], json!(null));
    admin.ec2("EnableEbsEncryptionByDefault", &[]).await.assert_done();
    admin.ec2("ModifyEbsDefaultKmsKeyId", &[("KmsKeyId", &key)]).await.assert_done();
    assert_eq!(start(json!({ "VolumeSize": 1 })).await.json()["KmsKeyArn"], key.as_str());
    for body in [
        json!({ "VolumeSize": 1, "ParentSnapshotId": plain }),
        json!({ "VolumeSize": 1, "Encrypted": false }),
    ] {
        start(body).await.assert_refused("ValidationException");
    }
}
