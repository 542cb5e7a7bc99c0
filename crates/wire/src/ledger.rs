//! Ledger entries on the wire.

use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind, Purpose};

use crate::convert::{ConvertError, parse};
use crate::v1;

impl From<LedgerEntry> for v1::LedgerEntry {
    fn from(entry: LedgerEntry) -> Self {
        Self {
            ledger_id: entry.id.to_string(),
            task_id: entry.task.to_string(),
            kind: entry.kind.as_str().to_owned(),
            purpose: entry.purpose.as_str().to_owned(),
            account: entry.account.into(),
            region: entry.region.into(),
            object_ids: entry.object_ids,
            state: entry.state.as_str().to_owned(),
        }
    }
}

impl TryFrom<v1::LedgerEntry> for LedgerEntry {
    type Error = ConvertError;

    fn try_from(entry: v1::LedgerEntry) -> Result<Self, ConvertError> {
        Ok(Self {
            id: parse("ledger_id", &entry.ledger_id)?,
            task: parse("task_id", &entry.task_id)?,
            kind: word("kind", &entry.kind, ObjectKind::from_word)?,
            purpose: word("purpose", &entry.purpose, Purpose::from_word)?,
            account: parse("account", &entry.account)?,
            region: parse("region", &entry.region)?,
            object_ids: entry.object_ids,
            state: word("state", &entry.state, LedgerState::from_word)?,
        })
    }
}

fn word<T>(field: &'static str, text: &str, read: fn(&str) -> Option<T>) -> Result<T, ConvertError> {
    read(text).ok_or_else(|| ConvertError::Invalid { field, reason: format!("unknown word {text:?}") })
}
