//! Which transport a task uses. What is possible is found out first, and nothing is made for it; of what is possible
//! the least in money and time is taken, as soon as it is known how many blocks there are. A wish that cannot be kept is
//! refused with the reason.
//!
//! Runs twice: the choice of the first attempt is in the checkpoint, and stays unless this node cannot do it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use snapferry_aws::Account;
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::instance::VolumeConfig;
use snapferry_types::{BLOCK_SIZE, Region, SnapshotId, Transport, TransportWish};

use super::estimate::{Amount, Estimate};
use super::route;
use crate::config::Prices;
use crate::context::TaskContext;

/// What is to be moved.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Work<'a> {
    /// Whether blocks are written to AWS.
    pub(in super::super) writes: bool,
    /// The volumes, as they are, or shall be.
    pub(in super::super) volumes: &'a [VolumeConfig],
    /// Where the snapshots are, or shall be.
    pub(in super::super) region: &'a Region,
    /// Marketplace product codes of what is read.
    pub(in super::super) product_codes: &'a [String],
    /// Why the snapshots cannot be shared with the service account, where they cannot.
    pub(in super::super) unshareable: Option<&'a str>,
    /// The tenant's account.
    pub(in super::super) tenant: &'a Account,
    /// Whether all blocks are read with the service account's credentials.
    pub(in super::super) reads_as_service: bool,
    /// Snapshots that are there already and are read too, or are the base.
    pub(in super::super) snapshots: &'a [SnapshotId],
    /// What an earlier attempt has chosen.
    pub(in super::super) before: Option<Transport>,
}

/// The transports that are possible for a task and permitted, or why they are not. Which one it is, is chosen when it is
/// known how much there is to move.
#[derive(Debug)]
pub(in super::super) struct Options {
    wish: TransportWish,
    /// Of each, what may be missing, or why it cannot be used.
    answers: [(Transport, Answer); 3],
    /// All but the number of blocks.
    amount: Amount,
    /// What an earlier attempt has chosen and this node can do.
    before: Option<Transport>,
}

type Answer = Result<BTreeSet<String>, String>;

impl Options {
    /// Finds out what is possible here, and asks for the permissions that it needs; where one is missing the transport is
    /// out. Nothing is made.
    ///
    /// # Errors
    /// [`TransferError`] of class `Invalid` when the wish cannot be kept here, `AccessDenied` for want of a permission.
    pub(in super::super) async fn find(
        context: &TaskContext,
        wish: TransportWish,
        work: &Work<'_>,
    ) -> Result<Self, TransferError> {
        let can = Transport::ALL.map(|transport| (transport, possible(context, transport, wish, work)));
        let is_possible =
            |before: &Transport| can.iter().any(|(one, answer)| one == before && answer.is_ok());
        let before = work.before.filter(is_possible);
        let (mut answers, mut class) =
            (can.map(|(one, can)| (one, can.map(|()| BTreeSet::new()))), ErrorClass::Invalid);
        for (transport, answer) in answers.iter_mut().filter(|_| before.is_none()) {
            if answer.is_err() || wish.only().is_some_and(|only| only != *transport) {
                continue;
            }
            match route::check(context, *transport, work).await {
                Ok(doubts) => *answer = Ok(doubts),
                Err(error) if error.class == ErrorClass::Cancelled => return Err(error),
                // The service account may be out of reach: that is no reason to wait where nothing else needs it.
                Err(error)
                    if error.retryable() && (wish.only().is_some() || *transport == Transport::EbsDirect) =>
                {
                    return Err(error);
                }
                Err(error) => {
                    class = error.class;
                    *answer = Err(error.message);
                }
            }
        }
        let options = Self { wish, answers, amount: amount(context, work), before };
        // Says what cannot be kept, whatever there is to move.
        match options.decide(&context.shared.prices) {
            Ok(_) => Ok(options),
            Err(reason) => {
                let made = if context.spec.objects.is_empty() { "; nothing was made" } else { "" };
                Err(TransferError::new(class, format!("{reason}{made}")))
            }
        }
    }

    /// Whether a transport may come to be chosen.
    pub(in super::super) fn may_take(&self, transport: Transport) -> bool {
        let may = |only: Transport| only == transport;
        let is_possible = self.answers.iter().any(|(one, answer)| *one == transport && answer.is_ok());
        self.before.or(self.wish.only()).is_none_or(may) && is_possible
    }

    /// Chooses, and says in the job what was chosen, out of what, and why. `n_blocks` is about how many blocks there are to
    /// move; it is not asked for when an earlier attempt has chosen.
    ///
    /// # Errors
    /// [`TransferError`] of the count, or of telling the job.
    pub(in super::super) async fn choose(
        mut self,
        context: &TaskContext,
        n_blocks: impl Future<Output = Result<u64, TransferError>>,
    ) -> Result<Transport, TransferError> {
        if let Some(before) = self.before {
            return Ok(before);
        }
        self.amount.blocks = n_blocks.await?;
        let decision = self.decide(&context.shared.prices);
        let Decision { transport, why } =
            decision.map_err(|reason| TransferError::new(ErrorClass::Invalid, reason))?;
        context.note(false, why).await?;
        let chosen = self.answers.into_iter().find(|(one, _)| *one == transport);
        for doubt in chosen.and_then(|(_, answer)| answer.ok()).into_iter().flatten() {
            context.note(true, doubt).await?;
        }
        Ok(transport)
    }

    fn decide(&self, prices: &Prices) -> Result<Decision, String> {
        let amount = &self.amount;
        let estimate = |transport| Estimate::of(transport, amount, prices);
        decide(self.wish, &self.answers, amount.blocks, estimate, |estimate| estimate.weight(prices))
    }
}

/// How much there is to move, but for the blocks.
fn amount(context: &TaskContext, work: &Work<'_>) -> Amount {
    let quotas = context.shared.clients.governor().settings();
    let sizes = |encrypted: bool| {
        let those = work.volumes.iter().filter(|volume| volume.encrypted == encrypted);
        those.map(|volume| u64::from(volume.size_gib)).sum::<u64>()
    };
    Amount {
        writes: work.writes,
        blocks: 0,
        size_gib: sizes(false) + sizes(true),
        n_volumes: u32::try_from(work.volumes.len()).unwrap_or(u32::MAX),
        is_copied_first: !work.writes && work.unshareable.is_some(),
        filled_gib: if work.writes { sizes(true) } else { 0 },
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
    options: &[(Transport, Answer)],
    n_blocks: u64,
    estimate: impl Fn(Transport) -> Estimate,
    weight: impl Fn(&Estimate) -> f64,
) -> Result<Decision, String> {
    let blocks = format!("about {n_blocks} blocks, {} MiB", (n_blocks * BLOCK_SIZE as u64) >> 20);
    if let Some(only) = wish.only() {
        let answer = options.iter().find(|(transport, _)| *transport == only);
        if let Some((_, Err(reason))) = answer {
            return Err(format!("{} was asked for and cannot be used: {reason}", only.as_str()));
        }
        let why =
            format!("blocks are moved by {}, as asked for: {}; {blocks}", only.as_str(), estimate(only));
        return Ok(Decision { transport: only, why });
    }
    let mut best: Option<(Transport, f64)> = None;
    let mut listed = String::new();
    for (transport, answer) in options {
        let separator = if listed.is_empty() { "" } else { "; " };
        // Writing to a string does not fail.
        let _infallible = match answer {
            Ok(_) => {
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
    let Some((transport, _)) = best else { return Err(format!("no transport can be used: {listed}")) };
    let why = format!(
        "blocks are moved by {}, the least in money and time of: {listed}; {blocks}",
        transport.as_str()
    );
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

    fn run(wish: TransportWish, import: Result<(), String>) -> Result<Decision, String> {
        let yes = || Ok(BTreeSet::new());
        let import = import.map(|()| BTreeSet::new());
        let options =
            [(Transport::EbsDirect, yes()), (Transport::HotAdd, yes()), (Transport::Import, import)];
        decide(wish, &options, 300, takes, |estimate| estimate.seconds)
    }

    #[test]
    fn automatic_takes_the_least_of_what_is_possible_and_says_so() {
        assert_eq!(run(TransportWish::Automatic, Ok(())).unwrap().transport, Transport::Import);
        let without = run(TransportWish::Automatic, Err("no bucket".to_owned())).unwrap();
        assert_eq!(without.transport, Transport::HotAdd);
        assert!(without.why.ends_with("; about 300 blocks, 150 MiB"), "{}", without.why);
        assert!(without.why.contains("import not possible: no bucket"), "{}", without.why);
        assert!(without.why.contains("ebs_direct 60 s"), "{}", without.why);
    }

    #[test]
    fn a_wish_is_kept_or_refused_with_the_reason() {
        assert_eq!(run(TransportWish::EbsDirect, Ok(())).unwrap().transport, Transport::EbsDirect);
        let refused = run(TransportWish::Import, Err("no bucket".to_owned())).err().unwrap();
        assert!(refused.contains("import was asked for and cannot be used: no bucket"), "{refused}");
    }
}
