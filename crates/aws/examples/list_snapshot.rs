//! Lists all blocks of a snapshot and counts them.
//!
//! `list_snapshot ACCOUNT REGION SNAPSHOT`
//!
//! Credentials and endpoint come as the AWS tools take them. Listings are streamed: memory does not grow with the
//! number of blocks.

use futures::StreamExt as _;
use snapferry_aws::{Account, Clients, EbsSnapshotSource, QuotaSettings, SessionPurpose, SessionScope};
use snapferry_transfer::BlockSource as _;
use snapferry_types::AccountAccess;
use snapferry_types::access::SignIn;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [account, region, snapshot] = arguments.as_slice() else {
        anyhow::bail!("usage: list_snapshot ACCOUNT REGION SNAPSHOT");
    };
    let access = AccountAccess {
        account: account.parse()?,
        region: region.parse()?,
        sign_in: SignIn::Ambient,
        roles: Vec::new(),
        endpoint_url: None,
    };
    let purpose = SessionPurpose::named("list-snapshot", SessionScope::Unrestricted);
    let account = Account::open_with(&Clients::new(QuotaSettings::default()), &access, purpose).await?;
    let source = EbsSnapshotSource::open(&account, &snapshot.parse()?).await?;
    let mut listing = source.list(0);
    let mut n_blocks = 0_u64;
    while let Some(block) = listing.next().await {
        block?;
        n_blocks += 1;
    }
    println!("{n_blocks} of {} blocks are written", source.n_blocks());
    Ok(())
}
