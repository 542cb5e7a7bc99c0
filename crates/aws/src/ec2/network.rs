//! What a restore refers to but does not make: subnets, security groups, key pairs. Asked about before anything is made.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use aws_sdk_ec2::types::Filter;

use crate::ec2::paging::all_pages;
use crate::error::{Asked, AwsError};
use crate::session::Account;

/// AWS keeps the network's address and the three after it.
const KEPT_FIRST: u32 = 4;

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
    /// Its IPv4 addresses, such as `10.0.1.0/24`; none for one of IPv6 alone.
    pub cidr: Option<String>,
}

impl CheckedSubnet {
    /// Why an instance cannot have this address here; nothing when it can, as far as the range tells.
    #[must_use]
    pub fn refuses(&self, address: Ipv4Addr) -> Option<String> {
        let cidr = self.cidr.as_deref()?;
        let (network, length) = cidr.split_once('/')?;
        let (network, length): (Ipv4Addr, u32) = (network.parse().ok()?, length.parse().ok()?);
        let mask = u32::MAX.checked_shl(32_u32.checked_sub(length)?).unwrap_or(0);
        let (first, last) = (network.to_bits() & mask, network.to_bits() | !mask);
        let address = address.to_bits();
        if !(first..=last).contains(&address) {
            return Some(format!("is not in {cidr}"));
        }
        let is_kept = address < first.saturating_add(KEPT_FIRST) || address == last;
        is_kept.then(|| format!("is one that AWS keeps for itself of {cidr}: the first four and the last"))
    }
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
        cidr: found.cidr_block.filter(|cidr| !cidr.is_empty()),
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

/// The network interface that has an address in a subnet, and the instance it is attached to where it is.
///
/// # Errors
/// [`AwsError`].
pub async fn holder_of_address(
    account: &Account,
    subnet: &str,
    address: Ipv4Addr,
) -> Result<Option<String>, AwsError> {
    let asked = Asked::new("ec2:DescribeNetworkInterfaces", "subnet", subnet);
    let filter = |name: &str, value: String| Filter::builder().name(name).values(value).build();
    let reply = account
        .call(|| async {
            let call = account.ec2().describe_network_interfaces();
            let call = call.filters(filter("subnet-id", subnet.to_owned()));
            let call = call.filters(filter("addresses.private-ip-address", address.to_string()));
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    let found = reply.network_interfaces.unwrap_or_default().into_iter().next();
    Ok(found.map(|interface| {
        let id = interface.network_interface_id.unwrap_or_default();
        match interface.attachment.and_then(|attachment| attachment.instance_id) {
            Some(instance) => format!("{id} of {instance}"),
            None => id,
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_the_subnet_or_refused_with_the_reason() {
        let subnet = |cidr: Option<&str>| CheckedSubnet {
            zone: "eu-central-1a".to_owned(),
            vpc: "vpc-1".to_owned(),
            free_addresses: 9,
            outpost_arn: None,
            cidr: cidr.map(ToOwned::to_owned),
        };
        let refused = |cidr: &str, address: &str| subnet(Some(cidr)).refuses(address.parse().unwrap());
        assert_eq!(refused("10.0.1.0/24", "10.0.1.4"), None);
        assert_eq!(refused("10.0.1.0/24", "10.0.1.254"), None);
        assert_eq!(refused("10.0.0.0/20", "10.0.1.255"), None);
        for (cidr, address) in [("10.0.1.0/24", "10.0.2.4"), ("10.0.1.16/28", "10.0.1.15")] {
            assert!(refused(cidr, address).unwrap().contains("is not in"), "{address}");
        }
        for address in ["10.0.1.0", "10.0.1.3", "10.0.1.255"] {
            assert!(refused("10.0.1.0/24", address).unwrap().contains("keeps"), "{address}");
        }
        // What is not known is left to AWS.
        assert_eq!(subnet(None).refuses(Ipv4Addr::new(192, 0, 2, 1)), None);
        assert_eq!(refused("nonsense", "10.0.1.4"), None);
    }
}
