//! Regions.

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
