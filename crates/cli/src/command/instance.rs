//! `snapferry instance …`

use anyhow::Result;
use snapferry_api::Client;
use snapferry_api::instance::InstanceQuery;

use crate::args::Instance;
use crate::output::{self, Format};

pub(super) async fn run(client: &Client, format: Format, verb: &Instance) -> Result<()> {
    let Instance::List { hypervisor, region } = verb;
    let page = client.instances(*hypervisor, &InstanceQuery { region: region.clone() }).await?;
    let head = ["id", "name", "state", "type", "os", "zone", "volumes"];
    output::list(format, &page.items, &head, |one| {
        vec![
            one.id.to_string(),
            one.name.clone().unwrap_or_default(),
            one.state.clone(),
            one.instance_type.clone(),
            one.os.as_str().to_owned(),
            one.availability_zone.clone(),
            one.volumes.iter().map(|volume| volume.id.to_string()).collect::<Vec<_>>().join(" "),
        ]
    })
}
