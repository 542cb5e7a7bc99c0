//! `snapferry ledger …`

use anyhow::{Result, ensure};
use snapferry_api::Client;
use snapferry_api::ledger::{LedgerLine, LedgerQuery, Reap};

use crate::args::Ledger;
use crate::output::{self, Format};
use crate::tail;

const HEAD: [&str; 8] =
    ["objects", "kind", "purpose", "state", "account", "region", "task", "why it would go"];

pub(super) async fn run(client: &Client, format: Format, verb: &Ledger) -> Result<()> {
    match verb {
        Ledger::List { reapable } => list(client, format, *reapable).await,
        Ledger::Reap { dry_run, hypervisor } => {
            let reaped = client.reap(&Reap { dry_run: *dry_run, hypervisor: *hypervisor }).await?;
            let head: Vec<&str> = HEAD.into_iter().chain(["outcome"]).collect();
            output::list(format, &reaped.lines, &head, |one| {
                let outcome = match (&one.error, one.removed) {
                    (Some(error), _) => error.clone(),
                    (None, true) => "removed".to_owned(),
                    (None, false) => "would be removed".to_owned(),
                };
                row(&one.line).into_iter().chain([outcome]).collect()
            })?;
            let n_failed = reaped.lines.iter().filter(|one| one.error.is_some()).count();
            ensure!(
                n_failed == 0,
                "{n_failed} of {} objects could not be removed; the reasons are in their lines",
                reaped.lines.len()
            );
            Ok(())
        }
    }
}

async fn list(client: &Client, format: Format, reapable: bool) -> Result<()> {
    let reapable = reapable.then_some(true);
    let ask = |after| async move {
        client.ledger(&LedgerQuery { reapable, after, ..LedgerQuery::default() }).await
    };
    let items = tail::all(ask).await?;
    output::list(format, &items, &HEAD, row)
}

fn row(line: &LedgerLine) -> Vec<String> {
    let entry = &line.entry;
    vec![
        entry.object_ids.join(" "),
        entry.kind.as_str().to_owned(),
        entry.purpose.as_str().to_owned(),
        entry.state.as_str().to_owned(),
        entry.account.to_string(),
        entry.region.to_string(),
        entry.task.to_string(),
        line.reason.clone().unwrap_or_default(),
    ]
}
