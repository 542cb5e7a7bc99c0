//! What a transport needs of both accounts beyond what the operation needs anyway, asked before it can be chosen:
//! the service account's volumes or bucket, sharing and copying between the accounts, and the keys of what is moved.
//!
//! Runs twice: only looks.

use std::collections::BTreeSet;

use snapferry_aws::ec2::{self, DescribedVolume};
use snapferry_aws::{Account, AwsError, KeyUse, Probe, S3, SessionScope};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::Transport;
use snapferry_types::aws::Tag;

use super::super::preflight::{Preflight, keys_of, stand_in};
use super::super::{restore_check, share, transit};
use super::choose::Work;
use super::hot_add;
use super::write::importer;
use crate::context::TaskContext;

/// A device name that hardly any instance has: only the permission is asked about.
const FREE_DEVICE: &str = "/dev/sdz";
/// No object has it: ImportSnapshot is asked about before there is one.
const NO_OBJECT: &str = "snapferry-dry-run";

/// Checks that blocks can be moved so; answers what may be missing.
///
/// # Errors
/// [`TransferError`] of a class that is not tried again, with everything that is missing.
pub(super) async fn check(
    context: &TaskContext,
    transport: Transport,
    work: &Work<'_>,
) -> Result<BTreeSet<String>, TransferError> {
    let mut ask = Preflight::for_a_choice(context);
    if !work.writes {
        read(context, &mut ask, transport, work).await?;
        return ask.doubts().await;
    }
    match transport {
        Transport::EbsDirect => return Ok(BTreeSet::new()),
        Transport::HotAdd => {
            let service = hot_add::service(context).await?;
            stays_plain(&service, work).await?;
            node(context, &mut ask, &service, work).await?;
            transit(context, &mut ask, &service, work);
        }
        Transport::Import => {
            let service = importer(context).await?;
            stays_plain(&service, work).await?;
            bucket(context, &mut ask, &service).await?;
            transit(context, &mut ask, &service, work);
        }
    }
    // What the service account has at the end is copied by the tenant.
    if let Some(snapshot) = stand_in(work.tenant).await {
        let source_region = work.tenant.region().clone();
        ask.call(work.tenant, Probe::CopySnapshot { source_region, snapshot });
    }
    ask.doubts().await
}

/// Refuses what is plain where the service account would encrypt it on its way: under AWS's own key it could not be shared,
/// and under any other it would not come back as it was.
async fn stays_plain(service: &Account, work: &Work<'_>) -> Result<(), TransferError> {
    let Some(plain) = work.volumes.iter().find(|volume| !volume.encrypted) else { return Ok(()) };
    match ec2::encrypts_by_default(service).await {
        Ok(false) => Ok(()),
        Ok(true) => {
            let text = format!(
                "{} is not encrypted, and account {} encrypts all new volumes of {} by default, so that it would not come back \
                 as it was: use EBS direct, choose a key for the restore (--kms-key), or turn that default off",
                plain.volume_id,
                service.account(),
                service.region()
            );
            Err(TransferError::new(ErrorClass::Invalid, text))
        }
        // Not being allowed to look is no reason to refuse.
        Err(error) => {
            tracing::debug!(%error, "encryption by default is not looked at");
            Ok(())
        }
    }
}

/// Who opens the volumes' keys, and whether snapshots can be shared where the service account does.
async fn read(
    context: &TaskContext,
    ask: &mut Preflight<'_>,
    transport: Transport,
    work: &Work<'_>,
) -> Result<(), TransferError> {
    let is_hot_add = transport == Transport::HotAdd;
    // The listing of blocks is the tenant's, unless everything is read as the service account.
    if !work.reads_as_service {
        for (key, volume) in keys_of(work.volumes) {
            let way = "let the tenant's role use the key, in the key's policy and the role's";
            ask.key(work.tenant, (key, KeyUse::Decrypt), volume, way);
        }
    }
    if !is_hot_add && !work.reads_as_service {
        return Ok(());
    }
    let service = if is_hot_add {
        hot_add::service(context).await?
    } else {
        context.service(SessionScope::Backup).await?
    };
    let copies = is_hot_add && work.unshareable.is_some();
    if copies {
        let tenant = context.tenant(SessionScope::Backup).await?;
        let snapshot = work.snapshots.first();
        transit::preflight(context, ask, (&tenant, &service), snapshot, "use EBS direct").await;
    }
    for (key, volume) in keys_of(work.volumes) {
        // What is copied first is opened under the copy's key.
        if copies && share::check_key(work.tenant, &volume.to_string(), key).await.is_err() {
            continue;
        }
        let way = format!(
            "let account {} use the key in its policy (kms:DescribeKey, kms:Decrypt, kms:CreateGrant, \
             kms:GenerateDataKeyWithoutPlaintext, kms:ReEncrypt*), or read by EBS direct as the tenant",
            service.account()
        );
        ask.key(&service, (key, KeyUse::Decrypt), volume, way);
    }
    if let Some(snapshot) = work.snapshots.first() {
        let tenant = context.tenant(SessionScope::Backup).await?;
        let share = Probe::ShareSnapshot { snapshot: snapshot.clone(), with: service.account().clone() };
        ask.call(&tenant, share);
    }
    if is_hot_add { node(context, ask, &service, work).await } else { Ok(()) }
}

/// Volumes on the access node.
async fn node(
    context: &TaskContext,
    ask: &mut Preflight<'_>,
    service: &Account,
    work: &Work<'_>,
) -> Result<(), TransferError> {
    let Some(node) = &context.shared.hot_add else { return Ok(()) };
    let instance = node.instance();
    // A policy may demand encryption: a plain volume is asked about only where one will be made.
    let all_encrypted = work.volumes.iter().all(|volume| volume.encrypted);
    let key = match &context.shared.transit_kms_key_id {
        Some(key) if work.writes => key.as_str(),
        _ => "alias/aws/ebs",
    };
    ask.call(
        service,
        Probe::CreateVolume {
            zone: node.zone().to_owned(),
            snapshot: None,
            kms_key_id: all_encrypted.then(|| key.to_owned()),
        },
    );
    let described = match ec2::describe_instance(service, instance).await {
        Ok(described) => described,
        Err(AwsError::NotFound { .. }) => {
            let text = format!(
                "this node is said to be {instance} ([agent.hot_add] instance_id), which does not exist in account \
                 {}, region {}: set it right, or use EBS direct",
                service.account(),
                service.region()
            );
            return Err(TransferError::new(ErrorClass::Invalid, text));
        }
        Err(error) => {
            tracing::debug!(%error, "the node is not looked at");
            return Ok(());
        }
    };
    if described.config.availability_zone != node.zone() {
        let text = format!(
            "this node is {instance} in {}, and availability_zone in its [agent] configuration is {}: a volume made \
             there could not be attached; set it right",
            described.config.availability_zone,
            node.zone()
        );
        return Err(TransferError::new(ErrorClass::Invalid, text));
    }
    // What moves blocks for somebody goes again; the rest stays.
    let is_moving = |volume: &&DescribedVolume| volume.tags.iter().any(Tag::is_ownership);
    let n_staying = described.volumes.iter().filter(|one| !is_moving(one)).count();
    restore_check::room(service, &described.config, n_staying, 1)
        .await
        .map_err(|error| error.context("this access node".to_owned()))?;
    if let Some(own) = described.config.volumes.first() {
        let probe = Probe::AttachVolume {
            volume: own.volume_id.clone(),
            instance: instance.clone(),
            device: FREE_DEVICE.to_owned(),
        };
        ask.call_with(service, probe, "volume");
    }
    Ok(())
}

/// The bucket of disk images, and importing from it.
async fn bucket(
    context: &TaskContext,
    ask: &mut Preflight<'_>,
    service: &Account,
) -> Result<(), TransferError> {
    let Some(config) = &context.shared.import else { return Ok(()) };
    match S3::open(service, &config.bucket)?.check_region(service.region()).await {
        Ok(()) => {}
        Err(error) if error.retryable() => tracing::debug!(%error, "the bucket is not looked at"),
        Err(error) => {
            let error = TransferError::from(error);
            let text = format!(
                "{}: set [agent.import] bucket to one of the service account in {}, or use EBS direct",
                error.message,
                service.region()
            );
            return Err(TransferError::new(error.class, text));
        }
    }
    let probe = Probe::ImportSnapshot { bucket: config.bucket.clone(), key: NO_OBJECT.to_owned() };
    ask.call(service, probe);
    Ok(())
}

/// The key of what lies in the service account in between: written there, opened by the tenant.
fn transit(context: &TaskContext, ask: &mut Preflight<'_>, service: &Account, work: &Work<'_>) {
    let Some(key) = &context.shared.transit_kms_key_id else { return };
    if !work.volumes.iter().any(|volume| volume.encrypted) {
        return;
    }
    let of = "the transit key (transit_kms_key_id)";
    let way = "let the service account use it, or use EBS direct";
    ask.key(service, (key, KeyUse::GenerateDataKeyWithoutPlaintext), of, way);
    let way = format!(
        "let account {} use it in its policy (kms:DescribeKey, kms:Decrypt, kms:CreateGrant, kms:ReEncrypt*), or use \
         EBS direct",
        work.tenant.account()
    );
    ask.key(work.tenant, (key, KeyUse::Decrypt), of, way);
}
