//! Regions and their zones.

use aws_sdk_ec2::types::Filter;
use snapferry_types::Region;

use crate::error::{Asked, AwsError};
use crate::session::Account;

/// Whether AWS has the region, and the account may use it.
///
/// # Errors
/// [`AwsError`].
pub async fn region_exists(account: &Account, region: &Region) -> Result<bool, AwsError> {
    let asked = Asked::new("ec2:DescribeRegions", "region", region.as_str());
    let filter = Filter::builder().name("region-name").values(region.as_str()).build();
    let reply = account
        .call(|| async {
            let call = account.ec2().describe_regions().filters(filter.clone());
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    Ok(reply.regions().iter().any(|found| found.region_name() == Some(region.as_str())))
}

/// Names of the region's availability zones that the account may use.
///
/// # Errors
/// [`AwsError`].
pub async fn zone_names(account: &Account) -> Result<Vec<String>, AwsError> {
    let asked = Asked::new("ec2:DescribeAvailabilityZones", "zones of region", account.region().as_str());
    let reply = account
        .call(|| async {
            let call = account.ec2().describe_availability_zones();
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    let zones = reply.availability_zones.unwrap_or_default().into_iter();
    Ok(zones.filter_map(|zone| zone.zone_name).collect())
}
