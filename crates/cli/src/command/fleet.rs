//! `snapferry access-node …` and `snapferry media-agent …`

use anyhow::Result;
use snapferry_api::Client;
use snapferry_api::fleet::Maintenance;
use snapferry_api::page::PageQuery;
use snapferry_types::ByteCount;

use crate::args::{ListOnly, MediaAgent};
use crate::output::{self, Format};
use crate::tail;

pub(super) async fn access_nodes(client: &Client, format: Format, ListOnly::List: ListOnly) -> Result<()> {
    let ask = |after| async move { client.access_nodes(&PageQuery { after, limit: None }).await };
    let items = tail::all(ask).await?;
    let head = ["id", "name", "region", "os", "group", "slots", "free", "version", "seen"];
    output::list(format, &items, &head, |one| {
        vec![
            one.id.to_string(),
            one.name.clone(),
            one.region.clone(),
            one.os.clone(),
            one.group.clone(),
            one.slots.to_string(),
            one.free_slots.to_string(),
            one.version.clone(),
            seen(one.online, one.last_seen),
        ]
    })
}

pub(super) async fn media_agents(client: &Client, format: Format, verb: MediaAgent) -> Result<()> {
    let (id, work) = match verb {
        MediaAgent::List => return list_media_agents(client, format).await,
        MediaAgent::Scrub { id } => (id, Maintenance::Scrub),
        MediaAgent::CollectGarbage { id } => (id, Maintenance::CollectGarbage),
    };
    let agent = client.maintain(id, work).await?;
    eprintln!("{} begins with its next hello, within 20 seconds", agent.name);
    Ok(())
}

async fn list_media_agents(client: &Client, format: Format) -> Result<()> {
    let ask = |after| async move { client.media_agents(&PageQuery { after, limit: None }).await };
    let items = tail::all(ask).await?;
    let head = ["id", "name", "endpoint", "stored", "free", "recovery points", "version", "seen"];
    output::list(format, &items, &head, |one| {
        vec![
            one.id.to_string(),
            one.name.clone(),
            one.endpoint.clone(),
            ByteCount(one.stored_bytes).to_string(),
            one.free_bytes.map(|bytes| ByteCount(bytes).to_string()).unwrap_or_default(),
            one.recovery_points.to_string(),
            one.version.clone(),
            seen(one.online, one.last_seen),
        ]
    })
}

fn seen(online: bool, at: jiff::Timestamp) -> String {
    if online { "now".to_owned() } else { format!("offline since {}", output::time(at)) }
}
