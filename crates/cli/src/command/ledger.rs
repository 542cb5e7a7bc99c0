//! `snapferry ledger …`

use anyhow::Result;
use snapferry_api::Client;
use snapferry_api::ledger::LedgerQuery;

use crate::args::Ledger;
use crate::output::{self, Format};
use crate::tail;

pub(super) async fn run(client: &Client, format: Format, verb: &Ledger) -> Result<()> {
    let Ledger::List { reapable } = verb;
    let reapable = reapable.then_some(true);
    let ask = |after| async move {
        client.ledger(&LedgerQuery { reapable, after, ..LedgerQuery::default() }).await
    };
    let items = tail::all(ask).await?;
    let head = ["objects", "kind", "purpose", "state", "account", "region", "task"];
    output::list(format, &items, &head, |line| {
        let entry = &line.entry;
        vec![
            entry.object_ids.join(" "),
            entry.kind.as_str().to_owned(),
            entry.purpose.as_str().to_owned(),
            entry.state.as_str().to_owned(),
            entry.account.to_string(),
            entry.region.to_string(),
            entry.task.to_string(),
        ]
    })
}
