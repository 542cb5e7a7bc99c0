//! What a restore refers to but does not make: subnets, security groups, key pairs. Asked about before anything is made.

use std::collections::HashMap;

use aws_sdk_ec2::types::Filter;

use crate::ec2::paging::all_pages;
use crate::error::{Asked, AwsError};
use crate::session::Account;

/// A subnet that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedSubnet {
    /// Its availability zone, in which an instance's volumes must be.
    pub zone: String,
    /// Its VPC, of which the security groups must be.
    pub vpc: String,
    /// Private addresses that are left.
    pub free_addresses: u32,
    /// The Outpost it is on.
    pub outpost_arn: Option<String>,
}

/// Where a subnet is and whether there is room in it.
///
/// # Errors
/// [`AwsError::NotFound`] naming it, …
pub async fn check_subnet(account: &Account, id: &str) -> Result<CheckedSubnet, AwsError> {
    let asked = Asked::new("ec2:DescribeSubnets", "subnet", id);
    let reply = account
        .call(|| async {
            account.ec2().describe_subnets().subnet_ids(id).send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    let found = reply.subnets.unwrap_or_default().into_iter().next();
    let found = found.ok_or_else(|| AwsError::NotFound { what: "subnet", id: id.to_owned() })?;
    Ok(CheckedSubnet {
        zone: found.availability_zone.ok_or_else(|| asked.lacks("AvailabilityZone"))?,
        vpc: found.vpc_id.ok_or_else(|| asked.lacks("VpcId"))?,
        free_addresses: found.available_ip_address_count.and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        outpost_arn: found.outpost_arn.filter(|arn| !arn.is_empty()),
    })
}

/// Checks that the security groups exist and are of the VPC.
///
/// # Errors
/// [`AwsError::NotFound`] naming the first that is missing; [`AwsError::Invalid`] for one of another VPC.
pub async fn check_security_groups(account: &Account, ids: &[String], vpc: &str) -> Result<(), AwsError> {
    if ids.is_empty() {
        return Ok(());
    }
    let names = ids.join(", ");
    let asked = Asked::new("ec2:DescribeSecurityGroups", "security groups", &names);
    let filter = Filter::builder().name("group-id").set_values(Some(ids.to_vec())).build();
    let found = all_pages(asked, async |token: Option<String>| {
        let reply = account
            .call(|| async {
                let call = account.ec2().describe_security_groups().filters(filter.clone());
                call.set_next_token(token.clone()).send().await.map_err(|error| asked.sort(&error))
            })
            .await?;
        Ok((reply.security_groups.unwrap_or_default(), reply.next_token))
    })
    .await?;
    let vpcs: HashMap<String, String> =
        found.into_iter().filter_map(|group| Some((group.group_id?, group.vpc_id?))).collect();
    for id in ids {
        match vpcs.get(id) {
            None => return Err(AwsError::NotFound { what: "security group", id: id.clone() }),
            Some(of) if of != vpc => {
                let message = format!("{id} is of {of}, and the subnet of {vpc}");
                return Err(asked.invalid("OtherVpc", message));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Checks that a key pair exists.
///
/// # Errors
/// [`AwsError::NotFound`] naming it, …
pub async fn check_key_pair(account: &Account, name: &str) -> Result<(), AwsError> {
    let asked = Asked::new("ec2:DescribeKeyPairs", "key pair", name);
    let reply = account
        .call(|| async {
            account
                .ec2()
                .describe_key_pairs()
                .key_names(name)
                .send()
                .await
                .map_err(|error| asked.sort(&error))
        })
        .await?;
    if reply.key_pairs.unwrap_or_default().is_empty() {
        return Err(AwsError::NotFound { what: "key pair", id: name.to_owned() });
    }
    Ok(())
}
