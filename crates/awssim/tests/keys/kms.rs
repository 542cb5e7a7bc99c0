//! The calls of KMS itself.

use std::time::Duration;

use awssim::world::KeyState;
use serde_json::{Value, json};

use crate::client::{OTHER, OWNER, REGION, Sim, lets, policy_with};

#[tokio::test]
async fn a_key_is_found_by_id_arn_alias_and_arn_of_the_alias() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let made = admin.kms("CreateKey", json!({ "Description": "of tests" })).await.json();
    let (id, arn) =
        (made["KeyMetadata"]["KeyId"].clone(), made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned());
    admin.kms("CreateAlias", json!({ "AliasName": "alias/tests", "TargetKeyId": id })).await.assert_done();
    let alias_arn = format!("arn:aws:kms:{REGION}:{OWNER}:alias/tests");
    for reference in [id.as_str().unwrap(), &arn, "alias/tests", &alias_arn] {
        let found = admin.kms("DescribeKey", json!({ "KeyId": reference })).await.json();
        assert_eq!(found["KeyMetadata"]["Arn"], arn.as_str(), "{reference}");
        assert_eq!(found["KeyMetadata"]["KeyManager"], "CUSTOMER");
        assert_eq!(found["KeyMetadata"]["KeyState"], "Enabled");
    }
    for reference in ["alias/none", "11111111-2222-4333-a444-555555555555"] {
        admin.kms("DescribeKey", json!({ "KeyId": reference })).await.assert_refused("NotFoundException");
    }
    let again = json!({ "AliasName": "alias/tests", "TargetKeyId": id });
    admin.kms("CreateAlias", again).await.assert_refused("AlreadyExistsException");
    let reserved = json!({ "AliasName": "alias/aws/mine", "TargetKeyId": id });
    admin.kms("CreateAlias", reserved).await.assert_refused("InvalidAliasNameException");
    let keys = admin.kms("ListKeys", json!({})).await.json();
    assert_eq!(keys["Keys"], json!([{ "KeyId": id, "KeyArn": arn }]));
    let aliases = admin.kms("ListAliases", json!({ "KeyId": id })).await.json();
    assert_eq!(aliases["Aliases"][0]["AliasName"], "alias/tests");
}

#[tokio::test]
async fn lists_come_in_pages() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    for _ in 0..5 {
        sim.world().create_key(OWNER, REGION, None);
    }
    let (mut seen, mut marker) = (Vec::new(), Value::Null);
    loop {
        let mut asked = json!({ "Limit": 2 });
        if !marker.is_null() {
            asked["Marker"] = marker;
        }
        let page = admin.kms("ListKeys", asked).await.json();
        seen.extend(
            page["Keys"].as_array().unwrap().iter().map(|key| key["KeyId"].as_str().unwrap().to_owned()),
        );
        marker = page["NextMarker"].clone();
        if page["Truncated"] == false {
            break;
        }
    }
    seen.dedup();
    assert_eq!(seen.len(), 5);
}

#[tokio::test]
async fn the_managed_key_is_made_on_demand_and_cannot_be_changed() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let found = admin.kms("DescribeKey", json!({ "KeyId": "alias/aws/ebs" })).await.json();
    assert_eq!(found["KeyMetadata"]["KeyManager"], "AWS");
    assert_eq!(found["KeyMetadata"]["Arn"], sim.world().managed_key(OWNER, REGION).as_str());
    let key = json!({ "KeyId": "alias/aws/ebs" });
    admin.kms("DisableKey", key.clone()).await.assert_refused("AccessDeniedException");
    // Only EC2 and EBS may use it.
    let data_key = json!({ "KeyId": "alias/aws/ebs", "KeySpec": "AES_256" });
    admin.kms("GenerateDataKey", data_key).await.assert_refused("AccessDeniedException");
    admin.kms("GetKeyPolicy", key).await.assert_refused("NotFoundException");
    let key = json!({ "KeyId": found["KeyMetadata"]["Arn"] });
    let policy = admin.kms("GetKeyPolicy", key).await.json();
    assert!(policy["Policy"].as_str().unwrap().contains("kms:ViaService"));
}

#[tokio::test]
async fn a_key_that_cannot_be_used_says_why() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let key = json!({ "KeyId": sim.world().create_key(OWNER, REGION, None) });
    let data_key = json!({ "KeyId": key["KeyId"], "NumberOfBytes": 16 });
    admin.kms("DisableKey", key.clone()).await.assert_done();
    admin.kms("GenerateDataKey", data_key.clone()).await.assert_refused("DisabledException");
    let gone =
        admin.kms("ScheduleKeyDeletion", json!({ "KeyId": key["KeyId"], "PendingWindowInDays": 7 })).await;
    assert_eq!(gone.json()["KeyState"], "PendingDeletion");
    for call in ["EnableKey", "DisableKey", "ScheduleKeyDeletion"] {
        admin.kms(call, key.clone()).await.assert_refused("KMSInvalidStateException");
    }
    admin.kms("GenerateDataKey", data_key.clone()).await.assert_refused("KMSInvalidStateException");
    admin.kms("CancelKeyDeletion", key.clone()).await.assert_done();
    admin.kms("CancelKeyDeletion", key.clone()).await.assert_refused("KMSInvalidStateException");
    admin.kms("GenerateDataKey", data_key.clone()).await.assert_refused("DisabledException");
    admin.kms("EnableKey", key.clone()).await.assert_done();
    admin.kms("GenerateDataKey", data_key).await.assert_done();
}

#[tokio::test]
async fn a_deleted_key_is_gone_at_its_date() {
    let sim = Sim::start().await;
    let key = sim.world().create_key(OWNER, REGION, None);
    assert!(sim.world().set_key_state(&key, KeyState::PendingDeletion));
    assert_eq!(sim.world().key_state(&key), Some(KeyState::PendingDeletion));
    sim.server.context().faults.clock().advance(Duration::from_secs(31 * 24 * 3_600));
    assert_eq!(sim.world().key_state(&key), None);
}

#[tokio::test]
async fn keys_aliases_and_grants_outlive_a_restart() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let key = sim.world().create_key(OWNER, REGION, None);
    assert!(sim.world().name_key(&key, "alias/kept"));
    let grant = json!({ "KeyId": key, "GranteePrincipal": format!("arn:aws:iam::{OTHER}:root"),
        "Operations": ["Decrypt"] });
    let grant = admin.kms("CreateGrant", grant).await.json()["GrantId"].clone();
    let sealed = admin.kms("GenerateDataKey", json!({ "KeyId": key, "KeySpec": "AES_256" })).await.json();
    assert!(sim.world().set_key_state(&key, KeyState::Disabled));
    let sim = sim.restart().await;
    assert_eq!(sim.world().key_state(&key), Some(KeyState::Disabled));
    let admin = sim.admin(OWNER);
    let grants = admin.kms("ListGrants", json!({ "KeyId": "alias/kept" })).await.json();
    assert_eq!(grants["Grants"][0]["GrantId"], grant);
    admin.kms("EnableKey", json!({ "KeyId": "alias/kept" })).await.assert_done();
    let opened = admin.kms("Decrypt", json!({ "CiphertextBlob": sealed["CiphertextBlob"] })).await.json();
    assert_eq!(opened["Plaintext"], sealed["Plaintext"]);
}

#[tokio::test]
async fn data_keys_open_with_their_context_and_move_to_another_key() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let (one, two) =
        (sim.world().create_key(OWNER, REGION, None), sim.world().create_key(OWNER, REGION, None));
    let context = json!({ "aws:ebs:id": "vol-1" });
    let asked = json!({ "KeyId": one, "KeySpec": "AES_256", "EncryptionContext": context });
    let made = admin.kms("GenerateDataKey", asked).await.json();
    let sealed = made["CiphertextBlob"].clone();
    let opened =
        admin.kms("Decrypt", json!({ "CiphertextBlob": sealed, "EncryptionContext": context })).await;
    assert_eq!(opened.json()["Plaintext"], made["Plaintext"]);
    assert_eq!(opened.json()["KeyId"], one.as_str());
    let bare = admin.kms("Decrypt", json!({ "CiphertextBlob": sealed })).await;
    bare.assert_refused("InvalidCiphertextException");
    let wrong = json!({ "CiphertextBlob": sealed, "EncryptionContext": context, "KeyId": two });
    admin.kms("Decrypt", wrong).await.assert_refused("IncorrectKeyException");
    let moved =
        json!({ "CiphertextBlob": sealed, "SourceEncryptionContext": context, "DestinationKeyId": two });
    let moved = admin.kms("ReEncrypt", moved).await.json();
    let opened = admin.kms("Decrypt", json!({ "CiphertextBlob": moved["CiphertextBlob"] })).await.json();
    assert_eq!((&opened["Plaintext"], opened["KeyId"].as_str()), (&made["Plaintext"], Some(two.as_str())));
}

#[tokio::test]
async fn a_dry_run_tells_what_would_happen() {
    let sim = Sim::start().await;
    let key = sim.world().create_key(OWNER, REGION, None);
    let user = sim.without_keys(OWNER, "half", &["kms:GenerateDataKey", "kms:Decrypt", "kms:ReEncryptFrom"]);
    let data_key = json!({ "KeyId": key, "KeySpec": "AES_256", "DryRun": true });
    let fits = user.kms("GenerateDataKey", data_key.clone()).await;
    fits.assert_refused("DryRunOperationException");
    let refused = user.kms("GenerateDataKeyWithoutPlaintext", data_key).await;
    refused.assert_refused("AccessDeniedException");
    let message = refused.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("kms:GenerateDataKeyWithoutPlaintext on resource: ") && message.contains(&key));
    let ignoring = json!({ "KeyId": key, "DryRun": true, "DryRunModifiers": ["IGNORE_CIPHERTEXT"] });
    user.kms("Decrypt", ignoring).await.assert_refused("DryRunOperationException");
    let nonsense = json!({ "KeyId": key, "DryRun": true, "CiphertextBlob": "AAAA" });
    user.kms("Decrypt", nonsense).await.assert_refused("InvalidCiphertextException");
    let sealed = sim.admin(OWNER).kms("GenerateDataKey", json!({ "KeyId": key, "KeySpec": "AES_128" })).await;
    let sealed = sealed.json()["CiphertextBlob"].clone();
    user.kms("Decrypt", json!({ "CiphertextBlob": sealed, "DryRun": true }))
        .await
        .assert_refused("DryRunOperationException");
    let to_same = json!({ "CiphertextBlob": sealed, "DestinationKeyId": key, "DryRun": true });
    let refused = user.kms("ReEncrypt", to_same).await;
    assert!(refused.assert_refused("AccessDeniedException").text().contains("kms:ReEncryptTo"));
    let grant = json!({ "KeyId": key, "GranteePrincipal": format!("arn:aws:iam::{OTHER}:root"),
        "Operations": ["Decrypt"], "DryRun": true });
    let refused = user.kms("CreateGrant", grant.clone()).await;
    assert!(refused.assert_refused("AccessDeniedException").text().contains("kms:CreateGrant"));
    sim.admin(OWNER).kms("CreateGrant", grant).await.assert_refused("DryRunOperationException");
    let grants = sim.admin(OWNER).kms("ListGrants", json!({ "KeyId": key })).await.json();
    assert_eq!(grants["Grants"], json!([]), "a dry run makes nothing");
}

#[tokio::test]
async fn another_account_needs_the_key_policy_and_its_own_policy() {
    let sim = Sim::start().await;
    let key = sim.world().create_key(OWNER, REGION, None);
    let (with, without) =
        (sim.without_keys(OTHER, "with", &["kms:*"]), sim.without_keys(OTHER, "without", &[]));
    let asked = json!({ "KeyId": key, "KeySpec": "AES_256", "DryRun": true });
    let refused = with.kms("GenerateDataKey", asked.clone()).await;
    assert!(refused.assert_refused("AccessDeniedException").text().contains("no resource-based policy"));
    assert!(sim.world().set_key_policy(&key, policy_with(&[lets(OTHER)])));
    with.kms("GenerateDataKey", asked.clone()).await.assert_refused("DryRunOperationException");
    let refused = without.kms("GenerateDataKey", asked.clone()).await;
    assert!(refused.assert_refused("AccessDeniedException").text().contains("no identity-based policy"));
    // Naming the user itself is no more than naming its account, across accounts.
    let named = json!({ "Effect": "Allow", "Action": "kms:*", "Resource": "*",
        "Principal": { "AWS": format!("arn:aws:iam::{OTHER}:user/without") } });
    assert!(sim.world().set_key_policy(&key, policy_with(&[named])));
    without.kms("GenerateDataKey", asked).await.assert_refused("AccessDeniedException");
}

#[tokio::test]
async fn within_the_account_the_key_policy_may_name_a_user_and_deny_wins() {
    let sim = Sim::start().await;
    let who = format!("arn:aws:iam::{OWNER}:user/named");
    let named =
        json!({ "Effect": "Allow", "Action": "kms:Generate*", "Resource": "*", "Principal": { "AWS": who } });
    let key = sim.world().create_key(OWNER, REGION, Some(policy_with(std::slice::from_ref(&named))));
    let user = sim.without_keys(OWNER, "named", &[]);
    let asked = json!({ "KeyId": key, "KeySpec": "AES_256", "DryRun": true });
    user.kms("GenerateDataKey", asked.clone()).await.assert_refused("DryRunOperationException");
    user.kms("DescribeKey", json!({ "KeyId": key })).await.assert_refused("AccessDeniedException");
    let mut deny = named.clone();
    deny["Effect"] = json!("Deny");
    assert!(sim.world().set_key_policy(&key, policy_with(&[named, deny])));
    let refused = user.kms("GenerateDataKey", asked).await;
    assert!(refused.assert_refused("AccessDeniedException").text().contains("explicit deny"));
}

#[tokio::test]
async fn a_grant_lets_a_user_in_until_it_is_taken_back() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let key = sim.world().create_key(OWNER, REGION, None);
    let user = sim.without_keys(OWNER, "granted", &[]);
    let who = format!("arn:aws:iam::{OWNER}:user/granted");
    let grant = json!({ "KeyId": key, "GranteePrincipal": who, "RetiringPrincipal": who,
        "Operations": ["GenerateDataKey"], "Name": "tests" });
    let asked = json!({ "KeyId": key, "KeySpec": "AES_256", "DryRun": true });
    for taken_back_by in ["RevokeGrant", "RetireGrant"] {
        user.kms("GenerateDataKey", asked.clone()).await.assert_refused("AccessDeniedException");
        let made = admin.kms("CreateGrant", grant.clone()).await.json();
        user.kms("GenerateDataKey", asked.clone()).await.assert_refused("DryRunOperationException");
        let listed = admin.kms("ListGrants", json!({ "KeyId": key })).await.json();
        assert_eq!(listed["Grants"][0]["GrantId"], made["GrantId"]);
        assert_eq!(listed["Grants"][0]["Operations"], json!(["GenerateDataKey"]));
        let by = if taken_back_by == "RetireGrant" { &user } else { &admin };
        let which = json!({ "KeyId": key, "GrantId": made["GrantId"] });
        by.kms(taken_back_by, which.clone()).await.assert_done();
        by.kms(taken_back_by, which).await.assert_refused("NotFoundException");
    }
    user.kms("GenerateDataKey", asked).await.assert_refused("AccessDeniedException");
}

#[tokio::test]
async fn a_policy_that_locks_its_author_out_is_refused() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let key = sim.world().create_key(OWNER, REGION, None);
    let put = |policy: &str| json!({ "KeyId": key, "PolicyName": "default", "Policy": policy });
    let others = json!({ "Statement": [lets(OTHER)] }).to_string();
    admin.kms("PutKeyPolicy", put(&others)).await.assert_refused("MalformedPolicyDocumentException");
    admin.kms("PutKeyPolicy", put("{")).await.assert_refused("MalformedPolicyDocumentException");
    let good = policy_with(&[lets(OTHER)]).to_string();
    admin.kms("PutKeyPolicy", put(&good)).await.assert_done();
    let read = admin.kms("GetKeyPolicy", json!({ "KeyId": key })).await.json();
    assert_eq!(read["Policy"], good.as_str());
}

#[tokio::test]
async fn keys_are_set_up_through_the_admin_endpoint() {
    let sim = Sim::start().await;
    let http = reqwest::Client::new();
    let url = format!("{}/_awssim/keys", sim.server.endpoint());
    let new = json!({ "account": OWNER, "region": REGION, "alias": "alias/a", "policy": policy_with(&[lets(OTHER)]) });
    let made: Value = http.post(&url).json(&new).send().await.unwrap().json().await.unwrap();
    let arn = made["arn"].as_str().unwrap();
    let change = json!({ "arn": arn, "state": "Disabled" });
    assert!(http.put(&url).json(&change).send().await.unwrap().status().is_success());
    assert_eq!(sim.world().key_state(arn), Some(KeyState::Disabled));
    let found = sim.admin(OWNER).kms("DescribeKey", json!({ "KeyId": "alias/a" })).await.json();
    assert_eq!(found["KeyMetadata"]["Enabled"], false);
    let unknown = json!({ "arn": "arn:aws:kms:r:a:key/none", "state": "Enabled" });
    assert_eq!(http.put(&url).json(&unknown).send().await.unwrap().status().as_u16(), 400);
}
