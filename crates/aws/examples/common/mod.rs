//! How the examples sign in: as the AWS tools do (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …).

use snapferry_aws::{Account, Clients, QuotaSettings, SessionPurpose, SessionScope};
use snapferry_types::AccountAccess;
use snapferry_types::access::SignIn;

/// The account with the machine's own credentials, at these rates.
pub(crate) async fn sign_in(
    account: &str,
    region: &str,
    name: &str,
    quotas: QuotaSettings,
) -> anyhow::Result<Account> {
    let access = AccountAccess {
        account: account.parse()?,
        region: region.parse()?,
        sign_in: SignIn::Ambient,
        roles: Vec::new(),
        endpoint_url: None,
    };
    let purpose = SessionPurpose::named(name, SessionScope::Unrestricted);
    Ok(Account::open_with(&Clients::new(quotas), &access, purpose).await?)
}
