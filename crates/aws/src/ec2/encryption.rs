//! What an account encrypts unasked.

use crate::error::{Asked, AwsError};
use crate::session::Account;

/// Whether the account encrypts every new volume and snapshot of its region, whatever is asked for.
///
/// # Errors
/// [`AwsError`].
pub async fn encrypts_by_default(account: &Account) -> Result<bool, AwsError> {
    let asked = Asked::new("ec2:GetEbsEncryptionByDefault", "account", account.account().as_str());
    let reply = account
        .call(|| async {
            account.ec2().get_ebs_encryption_by_default().send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    Ok(reply.ebs_encryption_by_default.unwrap_or(false))
}
