//! ImportSnapshot, DescribeImportSnapshotTasks, CancelImportTask. The work itself is [`crate::import`]'s.

use super::filter::{Filters, one};
use super::{Call, encryption, page, tags};
use crate::faults::Refusal;
use crate::server::form::{Form, ec2_error};
use crate::server::xml::Xml;
use crate::world::{ImageFormat, ImportStep, ImportTask, Via, new_id};

/// The role that VM import takes when none is named.
const DEFAULT_ROLE: &str = "vmimport";

fn invalid(message: impl Into<String>) -> Refusal {
    ec2_error("InvalidParameter", message)
}

pub(super) fn create(call: &Call<'_>) -> Result<String, Refusal> {
    let form = call.form;
    let container = form.below("DiskContainer");
    let format = container.required("Format")?;
    let format = ImageFormat::parse(format)
        .ok_or_else(|| invalid(format!("Disk container format {format} is not one of RAW, VHD, VMDK")))?;
    let (bucket, key) = place(&container)?;
    let tags = tags::requested(form, "import-snapshot-task")?;
    let tasks = format!("arn:aws:ec2:{}:{}:import-snapshot-task/*", call.region, call.account());
    call.permit(&call.asked(&tasks))?;
    let (scope, fingerprint, token) = (call.token_scope(), form.fingerprint(), form.text("ClientToken"));
    let role = form.text("RoleName").unwrap_or(DEFAULT_ROLE);
    let task = call.context.world.change(|state| {
        let before = state.by_token(&scope, token, &fingerprint)?;
        if let Some(task) = before.and_then(|id| state.imports.get(&id)) {
            return Ok(task.clone());
        }
        if !state.importer_may(call.account(), role, &bucket, &key) {
            return Err(invalid(format!(
                "The service role {role} provided does not exist or does not have sufficient permissions"
            )));
        }
        let place = state.buckets.get(&bucket).filter(|one| one.account == call.account());
        let place = place.ok_or_else(|| invalid(format!("The given S3 bucket {bucket} does not exist")))?;
        if place.region != call.region {
            return Err(invalid("The given S3 object is not local to the region"));
        }
        let object = place.objects.get(&key);
        let object =
            object.ok_or_else(|| invalid(format!("The given S3 object {bucket}/{key} does not exist")))?;
        let image_bytes = object.size_bytes();
        let sealed_with = object.headers.get("x-amz-server-side-encryption-aws-kms-key-id").cloned();
        let importer = state.importer(call.account(), role);
        if let Some(named) = sealed_with {
            let now = call.now_ms();
            let arn = state.find_key(call.account(), call.region, &named, now).unwrap_or(named);
            let opened = state.use_key(&importer, &arn, &["Decrypt"], Via::S3, now);
            opened.map_err(|refusal| {
                invalid(format!("The given S3 object {bucket}/{key} cannot be read: {refusal}"))
            })?;
        }
        let encrypted = form.maybe_flag("Encrypted");
        let encryption =
            encryption::plan_for(&importer, state, call, encrypted, form.text("KmsKeyId"), None)?;
        let task = ImportTask {
            id: new_id("import-snap"),
            account: call.account().to_owned(),
            region: call.region.to_owned(),
            description: form.text("Description").unwrap_or_default().to_owned(),
            disk_description: container.text("Description").unwrap_or_default().to_owned(),
            image_bytes,
            url: container.text("Url").map(str::to_owned),
            bucket,
            key,
            format,
            encrypted: encryption.encrypted,
            kms_key: encryption.key,
            tags,
            step: ImportStep::Pending,
            progress_percent: 0,
            failure: encryption.refusal.map(|refusal| format!("ClientError: {refusal}")),
            snapshot: None,
        };
        state.remember_token(&scope, token, &task.id, &fingerprint);
        state.imports.insert(task.id.clone(), task.clone());
        Ok(task)
    })?;
    call.context.imports.ring();
    Ok(call.reply(|xml| write(xml, &task)))
}

/// Where the image is: `DiskContainer.UserBucket`, or `DiskContainer.Url` as `s3://bucket/key`.
fn place(container: &Form) -> Result<(String, String), Refusal> {
    let bucket = container.below("UserBucket");
    match (container.text("Url"), bucket.text("S3Bucket"), bucket.text("S3Key")) {
        (None, Some(bucket), Some(key)) => Ok((bucket.to_owned(), key.to_owned())),
        (Some(url), None, None) => url
            .strip_prefix("s3://")
            .and_then(|rest| rest.split_once('/'))
            .filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
            .map(|(bucket, key)| (bucket.to_owned(), key.to_owned()))
            .ok_or_else(|| invalid(format!("The url {url} is not of the form s3://bucket/key"))),
        (Some(_), ..) => Err(ec2_error(
            "InvalidParameterCombination",
            "The parameters DiskContainer.Url and DiskContainer.UserBucket exclude each other",
        )),
        (None, ..) => Err(ec2_error(
            "MissingParameter",
            "The request must contain DiskContainer.Url or DiskContainer.UserBucket with S3Bucket and S3Key",
        )),
    }
}

fn write(xml: &mut Xml, task: &ImportTask) {
    xml.text("importTaskId", &task.id);
    xml.text("description", &task.description);
    xml.nest("snapshotTaskDetail", |xml| {
        xml.text("description", &task.disk_description);
        xml.text("diskImageSize", format!("{}.0", task.image_bytes));
        xml.text("encrypted", task.encrypted);
        xml.text("format", task.format);
        xml.maybe("kmsKeyId", task.kms_key.as_deref());
        if task.step.is_alive() {
            xml.text("progress", task.progress_percent);
        }
        if task.step == ImportStep::Completed {
            xml.maybe("snapshotId", task.snapshot.as_deref());
        }
        xml.text("status", task.step.status());
        xml.maybe("statusMessage", message(task));
        match &task.url {
            Some(url) => xml.text("url", url),
            None => xml.nest("userBucket", |xml| {
                xml.text("s3Bucket", &task.bucket);
                xml.text("s3Key", &task.key);
            }),
        }
    });
    tags::write(xml, &task.tags);
}

fn message(task: &ImportTask) -> Option<&str> {
    match task.step {
        ImportStep::Pending => Some("pending"),
        ImportStep::Converting => Some("converting"),
        ImportStep::Updating => Some("updating"),
        ImportStep::Completed => None,
        ImportStep::Deleting => Some("cancelling"),
        ImportStep::Deleted => task.failure.as_deref(),
    }
}

pub(super) fn describe(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    // The one call of EC2 whose filters are spelt so.
    let filters = Filters::named(call, "Filters");
    let ids = call.form.list("ImportTaskId");
    let mut found = Vec::new();
    {
        let state = call.context.world.read();
        let is_own = |one: &&ImportTask| one.account == call.account() && one.region == call.region;
        for id in &ids {
            state.imports.get(id).filter(is_own).ok_or_else(|| not_found(id))?;
        }
        for task in state.imports.values().filter(is_own) {
            if !(ids.is_empty() || ids.contains(&task.id)) {
                continue;
            }
            let passes = filters.pass(&task.tags, |name| match name {
                "task-state" => one(task.step.status()),
                _ => None,
            })?;
            if passes {
                found.push(task.clone());
            }
        }
    }
    let (items, next) = page::cut(call, found, |one| one.id.as_str())?;
    Ok(call.reply(|xml| {
        xml.list("importSnapshotTaskSet", &items, write);
        xml.maybe("nextToken", next);
    }))
}

fn not_found(id: &str) -> Refusal {
    ec2_error("InvalidConversionTaskId", format!("The import task ID '{id}' does not exist"))
}

pub(super) fn cancel(call: &Call<'_>) -> Result<String, Refusal> {
    let id = call.form.required("ImportTaskId")?;
    let find = |task: Option<&ImportTask>| {
        let is_own = |one: &&ImportTask| one.account == call.account() && one.region == call.region;
        task.filter(is_own).cloned().ok_or_else(|| not_found(id))
    };
    let task = find(call.context.world.read().imports.get(id))?;
    call.permit(&call.asked_of("import-snapshot-task", id, &task.tags))?;
    let (before, after) = call.context.world.change(|state| {
        let task = state.imports.get_mut(id).ok_or_else(|| not_found(id))?;
        let before = task.step;
        if before == ImportStep::Completed {
            return Err(ec2_error(
                "IncorrectState",
                format!("The import task {id} is completed and cannot be cancelled"),
            ));
        }
        if before.is_alive() {
            task.step = ImportStep::Deleting;
        }
        Ok((before, task.step))
    })?;
    call.context.imports.ring();
    Ok(call.reply(|xml| {
        xml.text("importTaskId", id);
        xml.text("previousState", before.status());
        xml.text("state", after.status());
    }))
}
