//! Instance types: DescribeInstanceTypes, and how much can be attached to an instance.

use std::collections::BTreeMap;

use super::filter::{Filters, one};
use super::{Call, page};
use crate::faults::Refusal;
use crate::server::form::ec2_error;
use crate::server::xml::Xml;
use crate::world::Instance;

/// Volumes, network interfaces and instance store disks of a Nitro instance.
const MOST_ON_NITRO: usize = 28;
/// Volumes of an older instance: what Linux takes there.
const MOST_ON_XEN: usize = 40;

/// A family: its memory per vCPU, and sizes with their instance store as disks and GB of each.
struct Family {
    name: &'static str,
    mib_per_vcpu: u32,
    is_nitro: bool,
    sizes: &'static [(&'static str, u32, usize, u64)],
}

/// Size, vCPUs, no instance store.
const PLAIN: &[(&str, u32, usize, u64)] =
    &[("large", 2, 0, 0), ("xlarge", 4, 0, 0), ("2xlarge", 8, 0, 0), ("4xlarge", 16, 0, 0)];

/// The types that are described; others can be launched all the same.
const FAMILIES: [Family; 9] = [
    Family { name: "m5", mib_per_vcpu: 4_096, is_nitro: true, sizes: PLAIN },
    Family { name: "m6i", mib_per_vcpu: 4_096, is_nitro: true, sizes: PLAIN },
    Family { name: "c5", mib_per_vcpu: 2_048, is_nitro: true, sizes: PLAIN },
    Family { name: "r5", mib_per_vcpu: 8_192, is_nitro: true, sizes: PLAIN },
    Family {
        name: "t3",
        mib_per_vcpu: 4_096,
        is_nitro: true,
        sizes: &[("large", 2, 0, 0), ("xlarge", 4, 0, 0), ("2xlarge", 8, 0, 0)],
    },
    Family {
        name: "m5d",
        mib_per_vcpu: 4_096,
        is_nitro: true,
        sizes: &[("large", 2, 1, 75), ("xlarge", 4, 1, 150), ("2xlarge", 8, 1, 300), ("4xlarge", 16, 2, 300)],
    },
    Family {
        name: "c5d",
        mib_per_vcpu: 2_048,
        is_nitro: true,
        sizes: &[("large", 2, 1, 50), ("xlarge", 4, 1, 100), ("2xlarge", 8, 1, 200), ("4xlarge", 16, 1, 400)],
    },
    Family {
        name: "i3",
        mib_per_vcpu: 7_808,
        is_nitro: false,
        sizes: &[
            ("large", 2, 1, 475),
            ("xlarge", 4, 1, 950),
            ("2xlarge", 8, 1, 1_900),
            ("4xlarge", 16, 2, 1_900),
        ],
    },
    Family {
        name: "g4dn",
        mib_per_vcpu: 4_096,
        is_nitro: true,
        sizes: &[("xlarge", 4, 1, 125), ("2xlarge", 8, 1, 225), ("4xlarge", 16, 1, 225)],
    },
];

/// One type.
#[derive(Debug, Clone)]
struct Type {
    name: String,
    n_vcpus: u32,
    memory_mib: u32,
    is_nitro: bool,
    n_disks: usize,
    disk_gb: u64,
}

fn all() -> Vec<Type> {
    let of = |family: &Family| {
        let sizes = family.sizes.iter().map(|(size, n_vcpus, n_disks, disk_gb)| Type {
            name: format!("{}.{size}", family.name),
            n_vcpus: *n_vcpus,
            memory_mib: n_vcpus * family.mib_per_vcpu,
            is_nitro: family.is_nitro,
            n_disks: *n_disks,
            disk_gb: *disk_gb,
        });
        sizes.collect::<Vec<_>>()
    };
    let mut types: Vec<Type> = FAMILIES.iter().flat_map(of).collect();
    types.sort_by(|a, b| a.name.cmp(&b.name));
    types
}

impl Type {
    /// How much can be attached, where the quotas do not say otherwise.
    const fn most_attachments(&self) -> usize {
        if self.is_nitro { MOST_ON_NITRO } else { MOST_ON_XEN }
    }
}

/// Refuses to have so many volumes on an instance. Nitro's limit is shared with interfaces and instance store disks;
/// a type that is not in the table counts as Nitro without disks.
pub(super) fn check_attachments(
    call: &Call<'_>,
    instance: &Instance,
    n_volumes: usize,
) -> Result<(), Refusal> {
    let known = all().into_iter().find(|one| one.name == instance.instance_type);
    let most = known.as_ref().map_or(MOST_ON_NITRO, Type::most_attachments);
    let most = call.context.faults.quotas().attachments_per_instance.unwrap_or(most);
    let others = match &known {
        Some(one) if !one.is_nitro => 0,
        _ => instance.interfaces.len() + known.map_or(0, |one| one.n_disks),
    };
    if n_volumes + others <= most {
        return Ok(());
    }
    Err(ec2_error(
        "AttachmentLimitExceeded",
        format!(
            "Instance '{}' of type {} takes {most} attachments; {n_volumes} volumes and {others} others are more",
            instance.id, instance.instance_type
        ),
    ))
}

pub(super) fn describe(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    let (filters, names) = (Filters::of(call), call.form.list("InstanceType"));
    let types = all();
    let unknown: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| !types.iter().any(|one| one.name == *name)).collect();
    if !unknown.is_empty() {
        return Err(ec2_error(
            "InvalidInstanceType",
            format!("The following supplied instance types do not exist: [{}]", unknown.join(", ")),
        ));
    }
    let mut found = Vec::new();
    for kind in types.into_iter().filter(|one| names.is_empty() || names.contains(&one.name)) {
        let passes = filters.pass(&BTreeMap::new(), |name| match name {
            "instance-type" => one(&kind.name),
            "instance-storage-supported" => one(kind.n_disks > 0),
            "processor-info.supported-architecture" => one("x86_64"),
            "hypervisor" => one(hypervisor(&kind)),
            _ => None,
        })?;
        if passes {
            found.push(kind);
        }
    }
    let most = call.context.faults.quotas().attachments_per_instance;
    let (items, next) = page::cut(call, found, |one| one.name.as_str())?;
    Ok(call.reply(|xml| {
        xml.list("instanceTypeSet", &items, |xml, kind| write(xml, kind, most));
        xml.maybe("nextToken", next);
    }))
}

const fn hypervisor(kind: &Type) -> &'static str {
    if kind.is_nitro { "nitro" } else { "xen" }
}

fn write(xml: &mut Xml, kind: &Type, most: Option<usize>) {
    xml.text("instanceType", &kind.name);
    xml.text("currentGeneration", true);
    xml.text("bareMetal", false);
    xml.text("hypervisor", hypervisor(kind));
    xml.nest("processorInfo", |xml| {
        xml.nest("supportedArchitectures", |xml| xml.text("item", "x86_64"));
    });
    xml.nest("vCpuInfo", |xml| xml.text("defaultVCpus", kind.n_vcpus));
    xml.nest("memoryInfo", |xml| xml.text("sizeInMiB", kind.memory_mib));
    xml.text("instanceStorageSupported", kind.n_disks > 0);
    if kind.n_disks > 0 {
        xml.nest("instanceStorageInfo", |xml| {
            let total = u64::try_from(kind.n_disks).unwrap_or_default() * kind.disk_gb;
            xml.text("totalSizeInGB", total);
            xml.list("disks", [kind], |xml, kind| {
                xml.text("sizeInGB", kind.disk_gb);
                xml.text("count", kind.n_disks);
                xml.text("type", "ssd");
            });
        });
    }
    xml.nest("ebsInfo", |xml| {
        xml.text("encryptionSupport", "supported");
        xml.text("nvmeSupport", if kind.is_nitro { "required" } else { "unsupported" });
        xml.text("maximumEbsAttachments", most.unwrap_or(kind.most_attachments()));
        xml.text("attachmentLimitType", if kind.is_nitro { "shared" } else { "dedicated" });
    });
}
