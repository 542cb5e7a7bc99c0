//! What a backup or a backup copy leaves for its next attempt: what the instance was when its snapshots were taken,
//! and what was last read into a session.
//!
//! Dies before it is recorded: the step is done again. Runs twice: what is recorded stays as it is, until a step
//! finds out more.

use serde::{Deserialize, Serialize};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::Transport;
use snapferry_types::instance::InstanceConfig;
use snapferry_wire::v1::record_request::Step;

use super::session::Reading;
use crate::context::TaskContext;

/// What the first attempt saw: the configuration belongs to the moment of the snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// When the snapshots were asked for, milliseconds since 1970 UTC.
    pub(super) point_in_time_ms: u64,
    /// The instance then.
    pub(super) config: InstanceConfig,
}

/// The checkpoint, JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// Nothing before the instance was described.
    #[serde(flatten)]
    pub(super) seen: Option<Seen>,
    /// Nothing before a session was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reading: Option<Reading>,
    /// How blocks are read, once that was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) transport: Option<Transport>,
}

impl Checkpoint {
    /// What the last attempt left.
    ///
    /// # Errors
    /// [`TransferError`] when it is not readable.
    pub(super) fn read(context: &TaskContext) -> Result<Self, TransferError> {
        if context.spec.checkpoint.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_slice(&context.spec.checkpoint).map_err(|error| {
            TransferError::new(ErrorClass::Internal, format!("read the task's checkpoint: {error}"))
        })
    }

    /// Leaves it for the next attempt.
    ///
    /// # Errors
    /// [`TransferError`] of the record call.
    pub(super) async fn keep(&self, context: &TaskContext) -> Result<(), TransferError> {
        let checkpoint = serde_json::to_vec(self).map_err(|error| {
            TransferError::new(ErrorClass::Internal, format!("write the task's checkpoint: {error}"))
        })?;
        context.record(Step::Checkpoint(checkpoint.into())).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::ReadVolume;
    use super::*;

    #[test]
    fn each_part_comes_back_with_or_without_the_other() {
        let config: InstanceConfig = serde_json::from_value(serde_json::json!({
            "version": 1, "instance_id": "i-1", "region": "eu-central-1", "availability_zone": "eu-central-1a",
            "instance_type": "m6i.large", "os": "linux", "architecture": "x86_64", "root_device_name": "/dev/xvda",
            "volumes": [],
        }))
        .unwrap();
        let seen = Seen { point_in_time_ms: 7, config };
        let volume = ReadVolume {
            volume: "vol-1".parse().unwrap(),
            snapshot: "snap-1".parse().unwrap(),
            n_blocks: 2_048,
            base: None,
        };
        let reading = Reading { volumes: vec![volume] };
        for seen in [None, Some(seen)] {
            for reading in [None, Some(reading.clone())] {
                let whole = Checkpoint { seen: seen.clone(), reading, transport: Some(Transport::HotAdd) };
                let read: Checkpoint = serde_json::from_slice(&serde_json::to_vec(&whole).unwrap()).unwrap();
                assert_eq!(read, whole);
            }
        }
    }
}
