//! Which transport a task uses. What is possible is found out first, and nothing is made for it; of what is possible
//! the least in money and time is taken. A wish that cannot be kept is refused with the reason.
//!
//! Runs twice: the choice of the first attempt is in the checkpoint, and stays unless this node cannot do it.

use std::fmt::Write as _;

use snapferry_aws::Account;
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::instance::VolumeConfig;
use snapferry_types::{Region, SnapshotId, Transport, TransportWish};

use super::estimate::{Amount, Estimate};
use super::route;
use crate::context::TaskContext;

/// What is to be moved.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Work<'a> {
    /// Whether blocks are written to AWS.
    pub(in super::super) writes: bool,
    /// The volumes, as they are, or shall be.
    pub(in super::super) volumes: &'a [VolumeConfig],
    /// Blocks of 512 KiB to move, where that is known.
    pub(in super::super) blocks: Option<u64>,
    /// Where the snapshots are, or shall be.
    pub(in super::super) region: &'a Region,
    /// Marketplace product codes of what is read.
    pub(in super::super) product_codes: &'a [String],
    /// Why the snapshots cannot be shared with the service account, where they cannot.
    pub(in super::super) unshareable: Option<&'a str>,
    /// The Outpost that what is read is on.
    pub(in super::super) outpost: Option<&'a str>,
    /// The tenant's account.
    pub(in super::super) tenant: &'a Account,
    /// Whether all blocks are read with the service account's credentials.
    pub(in super::super) reads_as_service: bool,
    /// Snapshots that are there already and are read too, or are the base.
    pub(in super::super) snapshots: &'a [SnapshotId],
    /// What an earlier attempt has chosen.
    pub(in super::super) before: Option<Transport>,
}

/// Chooses, and says in the job what was chosen, out of what, and why. Before a choice counts, the permissions that it
/// needs are asked for; where one is missing the transport is out.
///
/// # Errors
/// [`TransferError`] of class `Invalid` when the wish cannot be kept here, `AccessDenied` for want of a permission.
pub(in super::super) async fn choose(
    context: &TaskContext,
    wish: TransportWish,
    work: Work<'_>,
) -> Result<Transport, TransferError> {
    let mut options = Transport::ALL.map(|transport| (transport, possible(context, transport, wish, &work)));
    if let Some(before) = work.before {
        let still = options.iter().find(|(transport, _)| *transport == before);
        if matches!(still, Some((_, Ok(())))) {
            return Ok(before);
        }
    }
    let mut class = ErrorClass::Invalid;
    loop {
        let decision = decide(
            wish,
            &options,
            |transport| Estimate::of(transport, &amount(context, &work), &context.shared.prices),
            |estimate| estimate.weight(&context.shared.prices),
        )
        .map_err(|error| TransferError::new(class, error.message))?;
        match route::check(context, decision.transport, &work).await {
            Ok(()) => {
                context.note(false, decision.why).await?;
                return Ok(decision.transport);
            }
            Err(error) if error.retryable() || error.class == ErrorClass::Cancelled => return Err(error),
            Err(error) => {
                class = error.class;
                let refused = options.iter_mut().filter(|(transport, _)| *transport == decision.transport);
                refused.for_each(|(_, answer)| *answer = Err(error.message.clone()));
            }
        }
    }
}

fn amount(context: &TaskContext, work: &Work<'_>) -> Amount {
    let quotas = context.shared.clients.governor().settings();
    let size_gib: u64 = work.volumes.iter().map(|volume| u64::from(volume.size_gib)).sum();
    Amount {
        writes: work.writes,
        blocks: work.blocks.unwrap_or(size_gib.saturating_mul(2_048)),
        size_gib,
        n_volumes: u32::try_from(work.volumes.len()).unwrap_or(u32::MAX),
        direct_per_second: if work.writes { quotas.put_per_second } else { quotas.get_per_second },
    }
}

/// Why a transport cannot be used for this work on this node.
fn possible(
    context: &TaskContext,
    transport: Transport,
    wish: TransportWish,
    work: &Work<'_>,
) -> Result<(), String> {
    if let Some(outpost) = work.outpost {
        let names: Vec<&str> = work.volumes.iter().map(|volume| volume.volume_id.as_str()).collect();
        return Err(format!(
            "{} of the instance are on the Outpost {outpost}, whose local snapshots cannot be read from the region: \
             move the instance into the region, or back it up with AWS's own means on the Outpost",
            names.join(", ")
        ));
    }
    if transport == Transport::EbsDirect {
        return Ok(());
    }
    if context.spec.service_access.is_none() {
        return Err("the tenant does not use a service account's resources".to_owned());
    }
    if context.shared.region != *work.region {
        return Err(format!("the node is in {}, the snapshots in {}", context.shared.region, work.region));
    }
    if work.writes
        && context.shared.transit_kms_key_id.is_none()
        && let Some(volume) = work.volumes.iter().find(|volume| volume.encrypted)
    {
        return Err(format!(
            "{} is encrypted and would lie in the service account in plain: set transit_kms_key_id to a key of the \
             service account that the tenant may use, or use EBS direct",
            volume.volume_id
        ));
    }
    match transport {
        Transport::EbsDirect => Ok(()),
        Transport::HotAdd if context.shared.hot_add.is_none() => {
            Err("this node is no EC2 instance that volumes can be attached to ([agent.hot_add] is not set)"
                .to_owned())
        }
        Transport::HotAdd if !work.product_codes.is_empty() => Err(format!(
            "the instance, a volume or its snapshot has the Marketplace product codes {}: such volumes cannot be attached to \
             the node; use EBS direct",
            work.product_codes.join(", ")
        )),
        Transport::HotAdd => match work.unshareable {
            None => Ok(()),
            // A whole copy of each snapshot, which takes its time: only for who asks for it.
            Some(_) if wish == TransportWish::HotAdd && context.shared.transit_kms_key_id.is_some() => Ok(()),
            Some(reason) => Err(format!(
                "{reason}; a node with a transit key (transit_kms_key_id) copies the snapshots under that first, \
                 when hot_add is asked for"
            )),
        },
        Transport::Import if !work.writes => Err("Import only writes".to_owned()),
        Transport::Import if context.shared.import.is_none() => {
            Err("there is no bucket for disk images ([agent.import] is not set)".to_owned())
        }
        Transport::Import => Ok(()),
    }
}

struct Decision {
    transport: Transport,
    why: String,
}

fn decide(
    wish: TransportWish,
    options: &[(Transport, Result<(), String>)],
    estimate: impl Fn(Transport) -> Estimate,
    weight: impl Fn(&Estimate) -> f64,
) -> Result<Decision, TransferError> {
    if let Some(only) = wish.only() {
        let answer = options.iter().find(|(transport, _)| *transport == only);
        return match answer {
            Some((_, Err(reason))) => Err(TransferError::new(
                ErrorClass::Invalid,
                format!("{} was asked for and cannot be used: {reason}", only.as_str()),
            )),
            _ => {
                let why = format!("blocks are moved by {}, as asked for: {}", only.as_str(), estimate(only));
                Ok(Decision { transport: only, why })
            }
        };
    }
    let mut best: Option<(Transport, f64)> = None;
    let mut listed = String::new();
    for (transport, answer) in options {
        let separator = if listed.is_empty() { "" } else { "; " };
        // Writing to a string does not fail.
        let _infallible = match answer {
            Ok(()) => {
                let estimate = estimate(*transport);
                let weight = weight(&estimate);
                if best.is_none_or(|(_, least)| weight < least) {
                    best = Some((*transport, weight));
                }
                write!(listed, "{separator}{} {estimate}", transport.as_str())
            }
            Err(reason) => write!(listed, "{separator}{} not possible: {reason}", transport.as_str()),
        };
    }
    let Some((transport, _)) = best else {
        return Err(TransferError::new(ErrorClass::Invalid, format!("no transport can be used: {listed}")));
    };
    let why = format!("blocks are moved by {}, the least in money and time of: {listed}", transport.as_str());
    Ok(Decision { transport, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(transport: Transport) -> Estimate {
        let seconds = match transport {
            Transport::EbsDirect => 60.0,
            Transport::HotAdd => 30.0,
            Transport::Import => 10.0,
        };
        Estimate { seconds, dollars: 0.0 }
    }

    fn run(wish: TransportWish, import: Result<(), String>) -> Result<Decision, TransferError> {
        let options =
            [(Transport::EbsDirect, Ok(())), (Transport::HotAdd, Ok(())), (Transport::Import, import)];
        decide(wish, &options, takes, |estimate| estimate.seconds)
    }

    #[test]
    fn automatic_takes_the_least_of_what_is_possible_and_says_so() {
        assert_eq!(run(TransportWish::Automatic, Ok(())).unwrap().transport, Transport::Import);
        let without = run(TransportWish::Automatic, Err("no bucket".to_owned())).unwrap();
        assert_eq!(without.transport, Transport::HotAdd);
        assert!(without.why.contains("import not possible: no bucket"), "{}", without.why);
        assert!(without.why.contains("ebs_direct 60 s"), "{}", without.why);
    }

    #[test]
    fn a_wish_is_kept_or_refused_with_the_reason() {
        assert_eq!(run(TransportWish::EbsDirect, Ok(())).unwrap().transport, Transport::EbsDirect);
        let refused = run(TransportWish::Import, Err("no bucket".to_owned())).err().unwrap();
        assert_eq!(refused.class, ErrorClass::Invalid);
        assert!(refused.message.contains("no bucket"), "{refused}");
    }
}
