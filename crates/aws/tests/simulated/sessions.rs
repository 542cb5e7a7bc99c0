//! Signing in: keys, roles, wrong external ids, denials, and credentials that expire.

use serde_json::json;
use snapferry_aws::{Account, AwsError, SessionScope, ec2};
use snapferry_types::access::SignIn;

use crate::world::{EXTERNAL_ID, SERVICE, TENANT, TestWorld, purpose};

#[tokio::test]
async fn a_key_and_a_chain_of_roles_reach_the_tenant() {
    let world = TestWorld::start().await;
    world.tenant().await.verify().await.unwrap();
    let by_roles = world.open(&world.tenant_by_roles(Some(EXTERNAL_ID))).await;
    by_roles.verify().await.unwrap();
    assert_eq!(by_roles.calls().calls_of("AssumeRole"), 2);
}

#[tokio::test]
async fn credentials_of_another_account_are_noticed() {
    let world = TestWorld::start().await;
    let mut access = world.tenant_access();
    access.account = SERVICE.parse().unwrap();
    let error = world.open(&access).await.verify().await.unwrap_err();
    assert_eq!(error, AwsError::WrongAccount { expected: SERVICE.to_owned(), found: TENANT.to_owned() });
}

#[tokio::test]
async fn a_wrong_external_id_names_the_role_and_the_way_out() {
    let world = TestWorld::start().await;
    for wrong in [None, Some("guess")] {
        let access = world.tenant_by_roles(wrong);
        let error =
            Account::open_with(&world.clients, &access, purpose(SessionScope::Backup)).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, AwsError::RoleRefused { .. }), "{text}");
        assert!(text.contains("role/snapferry") && text.contains("external id"), "{text}");
        assert!(!error.retryable());
    }
}

#[tokio::test]
async fn a_wrong_secret_is_a_bad_key_and_is_never_shown() {
    let world = TestWorld::start().await;
    let mut access = world.tenant_access();
    if let SignIn::AccessKey(key) = &mut access.sign_in {
        key.secret_access_key = "wrong-secret-0123456789".into();
    }
    let account = world.open(&access).await;
    assert!(!format!("{account:?} {access:?}").contains("wrong-secret"));
    let error = account.verify().await.unwrap_err();
    assert!(matches!(error, AwsError::BadCredentials { .. }), "{error}");
}

#[tokio::test]
async fn the_session_policy_narrows_the_role_to_its_operation() {
    let world = TestWorld::start().await;
    let access = world.tenant_by_roles(Some(EXTERNAL_ID));
    let snapshot = world.synthetic("snap-0c", 1, None);
    let looker = Account::open_with(&world.clients, &access, purpose(SessionScope::Discover)).await.unwrap();
    assert_eq!(ec2::snapshot_states(&looker, std::slice::from_ref(&snapshot)).await.unwrap().len(), 1);
    let error = ec2::delete_snapshot(&looker, &snapshot).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, AwsError::AccessDenied { .. }), "{text}");
    assert!(text.contains("ec2:DeleteSnapshot") && text.contains("snap-0c"), "{text}");
    let keeper = Account::open_with(&world.clients, &access, purpose(SessionScope::CleanUp)).await.unwrap();
    ec2::delete_snapshot(&keeper, &snapshot).await.unwrap();
    ec2::delete_snapshot(&keeper, &snapshot).await.unwrap();
}

#[tokio::test]
async fn sessions_that_aws_ends_early_are_renewed_once_for_all() {
    let world = TestWorld::start().await;
    let account = world.open(&world.tenant_by_roles(Some(EXTERNAL_ID))).await;
    account.verify().await.unwrap();
    world.server.context().world.expire_sessions();
    let (one, two, three) = tokio::join!(account.verify(), account.verify(), account.verify());
    for signed_in in [one, two, three] {
        signed_in.unwrap();
    }
    assert_eq!(account.calls().calls_of("AssumeRole"), 4, "two roles, two times");
}

#[tokio::test]
async fn a_user_without_a_permission_hears_which_one() {
    let world = TestWorld::start().await;
    let only_look = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*" }
    ] });
    let key = world.server.context().world.create_user(TENANT, "looker", vec![only_look]);
    let mut access = world.tenant_access();
    access.sign_in = SignIn::AccessKey(snapferry_types::Credentials {
        access_key_id: key.access_key_id,
        secret_access_key: key.secret_access_key.into(),
    });
    let account = world.open(&access).await;
    let snapshot = world.synthetic("snap-0c", 1, None);
    let error = snapferry_aws::EbsSnapshotSource::open(&account, &snapshot).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, AwsError::AccessDenied { .. }), "{text}");
    assert!(text.contains("ebs:ListSnapshotBlocks") && text.contains("snap-0c"), "{text}");
}
