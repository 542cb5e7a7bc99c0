//! The leaves of an incremental's base. They are asked for in ascending order, densely or with wide gaps: a window
//! of leaves is read ahead that doubles while the asking goes on where the window ended, and starts again at one
//! leaf where it jumps, so that what is read stays in proportion to what is asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use snapferry_transfer::{BaseLeaves, Leaf, Sealer, TransferError};
use snapferry_types::RecoveryPointId;
use snapferry_wire::v1;

use super::MediaClient;
use super::call::{SHORT, Tries};
use super::error::is_lost;
use super::page;

/// Leaves read ahead at most; one is at most 68 KiB on the wire and 33 KiB here.
const MAX_WINDOW: u32 = 32;

/// Windows kept: the asking runs in parallel and so is not quite ascending.
const WINDOWS: usize = 2;

/// The leaves of one volume of a recovery point.
#[derive(Debug)]
pub struct VolumeBase {
    client: MediaClient,
    id: RecoveryPointId,
    tenant: String,
    volume: String,
    sealer: Arc<Sealer>,
    windows: Mutex<VecDeque<Window>>,
}

/// What is known of the leaves from `from` to `end`, which is not part of it: those that are not here are holes.
#[derive(Debug)]
struct Window {
    from: u32,
    end: u64,
    asked: u32,
    leaves: Vec<Leaf>,
}

impl Window {
    fn leaf(&self, index: u32) -> Option<Leaf> {
        if index < self.from || u64::from(index) >= self.end {
            return None;
        }
        let found = self.leaves.binary_search_by_key(&index, |leaf| leaf.index).ok();
        Some(found.and_then(|at| self.leaves.get(at)).cloned().unwrap_or_else(|| Leaf::empty(index)))
    }
}

impl VolumeBase {
    pub(super) fn new(
        client: MediaClient,
        id: RecoveryPointId,
        tenant: &str,
        volume: &str,
        sealer: Arc<Sealer>,
    ) -> Self {
        Self {
            client,
            id,
            tenant: tenant.to_owned(),
            volume: volume.to_owned(),
            sealer,
            windows: Mutex::new(VecDeque::new()),
        }
    }

    /// The leaf if it is known, or how many to read from there.
    fn known(&self, index: u32) -> Result<Leaf, u32> {
        let windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = windows.iter().rev().find_map(|window| window.leaf(index)) {
            return Ok(leaf);
        }
        Err(match windows.back() {
            Some(last) if u64::from(index) == last.end => last.asked.saturating_mul(2).min(MAX_WINDOW),
            _ => 1,
        })
    }

    async fn read(&self, from: u32, asked: u32) -> Result<Window, TransferError> {
        let doing = format!("read base leaf {from} of {} in {}", self.volume, self.id);
        let mut tries = Tries::new();
        loop {
            let what = (self.id, self.tenant.as_str(), self.volume.as_str());
            let mut stream = self.client.open_leaves(&doing, what, from, asked).await?;
            let mut answers: Vec<v1::Leaf> = Vec::new();
            let failed = loop {
                match tokio::time::timeout(SHORT, stream.message()).await {
                    Ok(Ok(Some(answer))) => answers.push(answer),
                    Ok(Ok(None)) => return self.window(from, asked, &answers),
                    Ok(Err(status)) if !is_lost(&status) => return Err(self.client.error(&doing, &status)),
                    Ok(Err(status)) => break self.client.error(&doing, &status),
                    Err(_) => break self.client.overdue(&doing, SHORT),
                }
            };
            if !tries.again().await {
                return Err(failed);
            }
        }
    }

    fn window(&self, from: u32, asked: u32, answers: &[v1::Leaf]) -> Result<Window, TransferError> {
        let leaves: Vec<Leaf> =
            answers.iter().map(|answer| page::decode(answer, &self.sealer)).collect::<Result<_, _>>()?;
        // Fewer than asked: the volume has no more leaves, all that follows is holes.
        let is_full = u32::try_from(leaves.len()).is_ok_and(|n| n >= asked);
        let end = match leaves.last() {
            Some(last) if is_full => u64::from(last.index) + 1,
            _ => u64::MAX,
        };
        Ok(Window { from, end, asked, leaves })
    }
}

#[async_trait]
impl BaseLeaves for VolumeBase {
    async fn base_leaf(&self, leaf_index: u32) -> Result<Leaf, TransferError> {
        let asked = match self.known(leaf_index) {
            Ok(leaf) => return Ok(leaf),
            Err(asked) => asked,
        };
        let window = self.read(leaf_index, asked).await?;
        let leaf = window.leaf(leaf_index).unwrap_or_else(|| Leaf::empty(leaf_index));
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= WINDOWS {
            windows.pop_front();
        }
        windows.push_back(window);
        Ok(leaf)
    }
}
