//! Making an AWS object so that it can be repeated: record the intent, look whether an earlier attempt has made it,
//! make it, record it.
//!
//! Is dropped when another volume of the task fails: only before or after it, see [`crate::making`].
//! Dies before the record of the intent: nothing was made. Dies before the call: the next attempt looks, finds
//! nothing, makes it. Dies after the call, or its reply is lost: the next attempt finds it by its tag. Runs twice:
//! the second finds the first's object.

use std::future::Future;

use snapferry_aws::{Account, ec2};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind, Purpose};

use crate::context::TaskContext;

/// The entry of an object that exists; `create` gets the entry for its tags and client token.
///
/// # Errors
/// [`TransferError`] of the record, the search or the creation.
pub(crate) async fn ensure<C, F>(
    context: &TaskContext,
    account: &Account,
    (kind, purpose, label): (ObjectKind, Purpose, &str),
    create: C,
) -> Result<LedgerEntry, TransferError>
where
    C: FnOnce(LedgerEntry) -> F,
    F: Future<Output = Result<Vec<String>, TransferError>>,
{
    let _under_way = context.making.begin()?;
    let (entry, was_known) = context.ledger.intend(account, kind, purpose, label).await?;
    match entry.state {
        LedgerState::Made | LedgerState::Kept | LedgerState::HandedOver => return Ok(entry),
        LedgerState::Intended | LedgerState::Gone => {}
    }
    // The first attempt has nothing to find.
    let mut object_ids =
        if was_known { ec2::find_by_ledger_tag(account, kind, entry.id).await? } else { Vec::new() };
    if object_ids.is_empty() {
        object_ids = create(entry.clone()).await?;
    }
    context.ledger.made(&entry, object_ids).await
}

/// The entry of an object whose id is known before it is made, such as a share: it goes into the ledger with its id.
/// `create` is repeatable, so nothing is looked for.
///
/// # Errors
/// [`TransferError`] of the record or the creation.
pub(crate) async fn ensure_named<C, F>(
    context: &TaskContext,
    account: &Account,
    (kind, purpose, label): (ObjectKind, Purpose, &str),
    id: &str,
    create: C,
) -> Result<LedgerEntry, TransferError>
where
    C: FnOnce() -> F,
    F: Future<Output = Result<(), TransferError>>,
{
    let ids = vec![id.to_owned()];
    let (entry, _) = context.ledger.intend_named(account, kind, purpose, label, ids.clone()).await?;
    match entry.state {
        LedgerState::Made | LedgerState::Kept | LedgerState::HandedOver => return Ok(entry),
        LedgerState::Intended | LedgerState::Gone => {}
    }
    create().await?;
    context.ledger.made(&entry, ids).await
}

/// The one id of an entry that stands for one object.
pub(crate) fn parse_one<T>(entry: &LedgerEntry) -> Result<T, TransferError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let Some(id) = entry.object_ids.first() else {
        return Err(TransferError::new(
            ErrorClass::Internal,
            format!("ledger entry {} names no object", entry.id),
        ));
    };
    id.parse().map_err(|error: T::Err| {
        TransferError::new(ErrorClass::Internal, format!("read ledger entry {}: {error}", entry.id))
    })
}
