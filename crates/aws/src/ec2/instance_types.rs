//! What an instance type can do.

use aws_sdk_ec2::types::{InstanceType, InstanceTypeInfo};

use crate::error::{Asked, AwsError};
use crate::session::Account;

/// An instance type as EC2 describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedInstanceType {
    /// Such as `m6i.large`.
    pub instance_type: String,
    /// Whether its instances have disks of their own, which no snapshot holds.
    pub has_instance_store: bool,
    /// Their size together, in GB (10⁹ bytes).
    pub instance_store_gb: u64,
    /// Volumes that can be attached; unknown for some types.
    pub max_attachments: Option<u32>,
    /// Whether network interfaces count towards [`Self::max_attachments`].
    pub is_limit_shared: bool,
    /// `x86_64`, `arm64`, …
    pub architectures: Vec<String>,
    /// `uefi`, `legacy-bios`, …
    pub boot_modes: Vec<String>,
}

/// What an instance type can do.
///
/// # Errors
/// [`AwsError::NotFound`] for a type that the region does not have, …
pub async fn describe_instance_type(
    account: &Account,
    instance_type: &str,
) -> Result<DescribedInstanceType, AwsError> {
    let asked = Asked::new("ec2:DescribeInstanceTypes", "instance type", instance_type);
    let reply = account
        .call(|| async {
            let call = account.ec2().describe_instance_types();
            let call = call.instance_types(InstanceType::from(instance_type));
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await;
    let missing = || AwsError::NotFound { what: "instance type", id: instance_type.to_owned() };
    let reply = match reply {
        Err(AwsError::Invalid { code, .. }) if code == "InvalidInstanceType" => return Err(missing()),
        other => other?,
    };
    let found = reply.instance_types.unwrap_or_default().into_iter().next().ok_or_else(missing)?;
    Ok(described(instance_type, found))
}

fn described(instance_type: &str, info: InstanceTypeInfo) -> DescribedInstanceType {
    let ebs = info.ebs_info.as_ref();
    let disks = info.instance_storage_info.and_then(|storage| storage.total_size_in_gb);
    let processor = info.processor_info.and_then(|processor| processor.supported_architectures);
    let limit = ebs.and_then(|ebs| ebs.attachment_limit_type.as_ref());
    DescribedInstanceType {
        instance_type: instance_type.to_owned(),
        has_instance_store: info.instance_storage_supported.unwrap_or(false),
        instance_store_gb: disks.and_then(|gb| u64::try_from(gb).ok()).unwrap_or(0),
        max_attachments: ebs.and_then(|ebs| ebs.maximum_ebs_attachments).and_then(|n| u32::try_from(n).ok()),
        is_limit_shared: limit.is_some_and(|limit| limit.as_str() == "shared"),
        architectures: processor
            .unwrap_or_default()
            .into_iter()
            .map(|architecture| architecture.as_str().to_owned())
            .collect(),
        boot_modes: info
            .supported_boot_modes
            .unwrap_or_default()
            .into_iter()
            .map(|mode| mode.as_str().to_owned())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::{EbsInfo, InstanceStorageInfo};

    use super::*;

    #[test]
    fn disks_of_its_own_and_the_limit_of_attachments_are_told() {
        let bare = described("m6i.large", InstanceTypeInfo::builder().build());
        assert!(!bare.has_instance_store && bare.max_attachments.is_none());
        let info = InstanceTypeInfo::builder()
            .instance_storage_supported(true)
            .instance_storage_info(InstanceStorageInfo::builder().total_size_in_gb(237).build())
            .ebs_info(
                EbsInfo::builder().maximum_ebs_attachments(27).attachment_limit_type("shared".into()).build(),
            )
            .build();
        let with_disks = described("m6id.xlarge", info);
        assert_eq!((with_disks.has_instance_store, with_disks.instance_store_gb), (true, 237));
        assert_eq!((with_disks.max_attachments, with_disks.is_limit_shared), (Some(27), true));
    }
}
