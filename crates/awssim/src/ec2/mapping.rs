//! Block device mappings in requests, and what each volume type allows.

use crate::faults::Refusal;
use crate::server::form::{Form, ec2_error};
use crate::world::Mapping;

/// Provisioned performance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Performance {
    pub(super) iops: Option<u32>,
    pub(super) throughput: Option<u32>,
}

/// Refuses what the type does not take; fills in what it has by itself.
pub(super) fn check_performance(
    kind: &str,
    size_gib: u64,
    given: Performance,
) -> Result<Performance, Refusal> {
    let refuse = |what: &str| {
        Err(ec2_error(
            "InvalidParameterCombination",
            format!("The parameter {what} is not supported for {kind} volumes."),
        ))
    };
    let (least, most) = match kind {
        "gp2" | "gp3" => (1, 16_384),
        "io1" => (4, 16_384),
        "io2" => (4, 65_536),
        "st1" | "sc1" => (125, 16_384),
        "standard" => (1, 1_024),
        other => {
            return Err(ec2_error(
                "UnknownVolumeType",
                format!("Unsupported volume type '{other}' for volume creation."),
            ));
        }
    };
    if !(least..=most).contains(&size_gib) {
        return Err(ec2_error(
            "InvalidParameterValue",
            format!("Volume of {size_gib}GiB is not allowed; a {kind} volume has {least} to {most} GiB"),
        ));
    }
    if given.throughput.is_some() && kind != "gp3" {
        return refuse("throughput");
    }
    match kind {
        "gp3" => Ok(Performance {
            iops: Some(given.iops.unwrap_or(3_000)),
            throughput: Some(given.throughput.unwrap_or(125)),
        }),
        "io1" | "io2" if given.iops.is_none() => {
            Err(ec2_error("MissingParameter", "The request must contain the parameter iops"))
        }
        "io1" | "io2" => Ok(given),
        _ if given.iops.is_some() => refuse("iops"),
        // Reported by DescribeVolumes, though CreateVolume refuses it.
        "gp2" => {
            Ok(Performance { iops: u32::try_from((size_gib * 3).clamp(100, 16_000)).ok(), throughput: None })
        }
        _ => Ok(given),
    }
}

/// `BlockDeviceMapping.N`.
pub(super) fn read(form: &Form) -> Result<Vec<Mapping>, Refusal> {
    form.structures("BlockDeviceMapping")
        .into_iter()
        .map(|one| {
            let device = one.required("DeviceName")?.to_owned();
            let ebs = one.below("Ebs");
            Ok(Mapping {
                device,
                virtual_name: one.text("VirtualName").map(str::to_owned),
                is_left_out: one.has("NoDevice"),
                snapshot: ebs.text("SnapshotId").map(str::to_owned),
                size_gib: ebs.number("VolumeSize")?.map(u64::from),
                kind: ebs.text("VolumeType").map(str::to_owned),
                iops: ebs.number("Iops")?,
                throughput: ebs.number("Throughput")?,
                delete_on_termination: ebs.maybe_flag("DeleteOnTermination"),
                encrypted: ebs.maybe_flag("Encrypted"),
                kms_key: ebs.text("KmsKeyId").map(str::to_owned),
            })
        })
        .collect()
}

/// The image's mappings with the request's over them.
pub(super) fn merge(image: &[Mapping], request: &[Mapping]) -> Vec<Mapping> {
    let mut merged = image.to_vec();
    for given in request {
        match merged.iter_mut().find(|one| one.device == given.device) {
            None => merged.push(given.clone()),
            Some(one) => {
                // Another type has other performance: what was the image's is not asked of it.
                if given.kind.is_some() && given.kind != one.kind {
                    (one.iops, one.throughput) = (None, None);
                }
                one.is_left_out = given.is_left_out;
                one.virtual_name = given.virtual_name.clone().or(one.virtual_name.take());
                one.snapshot = given.snapshot.clone().or(one.snapshot.take());
                one.size_gib = given.size_gib.or(one.size_gib);
                one.kind = given.kind.clone().or(one.kind.take());
                one.iops = given.iops.or(one.iops);
                one.throughput = given.throughput.or(one.throughput);
                one.delete_on_termination = given.delete_on_termination.or(one.delete_on_termination);
                one.encrypted = given.encrypted.or(one.encrypted);
                one.kms_key = given.kms_key.clone().or(one.kms_key.take());
            }
        }
    }
    merged.retain(|one| !one.is_left_out);
    merged
}
