//! The places for volumes on this node: as many as it may have attached, shared by all its tasks. An attempt has a place
//! from before its volume is attached until it is off again, or until the attempt has ended.
//!
//! A process that was killed, or that lost its lease, leaves volumes attached without a place. EC2 says what is really
//! attached: what has no place here is let go when there is no room otherwise. Such a volume's own task attaches it
//! again when it goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use snapferry_aws::ec2::DescribedVolume;
use snapferry_transfer::TransferError;
use snapferry_types::ledger::{Purpose, TAG_DEPLOYMENT, TAG_PURPOSE};
use snapferry_types::{Fence, TaskId, VolumeId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Who has a place.
type Owner = (TaskId, Fence);

/// The places of a node.
#[derive(Debug)]
pub(super) struct Places {
    n_places: usize,
    free: Arc<Semaphore>,
    taken: Mutex<BTreeMap<VolumeId, (Owner, OwnedSemaphorePermit)>>,
}

impl Places {
    /// So many, all free.
    pub(super) fn new(n_places: usize) -> Self {
        Self { n_places, free: Arc::new(Semaphore::new(n_places)), taken: Mutex::default() }
    }

    /// Waits for a free place.
    ///
    /// # Errors
    /// Cancelled by the token.
    pub(super) async fn wait(&self, stop: &CancellationToken) -> Result<OwnedSemaphorePermit, TransferError> {
        tokio::select! {
            () = stop.cancelled() => Err(TransferError::cancelled()),
            place = Arc::clone(&self.free).acquire_owned() => {
                Ok(place.expect("the semaphore of places is never closed"))
            }
        }
    }

    /// Puts a volume into a place. A later attempt takes over from an earlier one.
    pub(super) fn put(&self, volume: &VolumeId, owner: Owner, place: OwnedSemaphorePermit) {
        self.lock().insert(volume.clone(), (owner, place));
    }

    /// The volume is off; its place is free.
    pub(super) fn leave(&self, volume: &VolumeId, owner: Owner) {
        let mut taken = self.lock();
        if taken.get(volume).is_some_and(|(of, _)| *of == owner) {
            taken.remove(volume);
        }
    }

    /// The volumes that an attempt has in places.
    pub(super) fn of(&self, owner: Owner) -> Vec<VolumeId> {
        let taken = self.lock();
        taken.iter().filter(|(_, (of, _))| *of == owner).map(|(volume, _)| volume.clone()).collect()
    }

    /// What is to be let go so that `volume` may be attached beside `attached`, as EC2 says: nothing while there is
    /// room. `None` when there is no room and nothing that is ours to let go.
    pub(super) fn make_room(
        &self,
        volume: &VolumeId,
        attached: &[DescribedVolume],
        deployment: &str,
    ) -> Option<Vec<VolumeId>> {
        let has = |one: &DescribedVolume, key: &str, value: &str| {
            one.tags.iter().any(|tag| tag.key == key && tag.value == value)
        };
        let transport = Purpose::Transport.as_str();
        let others: Vec<&DescribedVolume> =
            attached.iter().filter(|one| one.id != *volume && has(one, TAG_PURPOSE, transport)).collect();
        if others.len() < self.n_places {
            return Some(Vec::new());
        }
        let taken = self.lock();
        let left = others.into_iter().filter(|one| has(one, TAG_DEPLOYMENT, deployment));
        let left: Vec<VolumeId> =
            left.map(|one| one.id.clone()).filter(|one| !taken.contains_key(one)).collect();
        (!left.is_empty()).then_some(left)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VolumeId, (Owner, OwnedSemaphorePermit)>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use snapferry_types::aws::Tag;

    use super::*;

    fn volume(n: u8, deployment: Option<&str>) -> DescribedVolume {
        let ours = |deployment: &str| {
            vec![Tag::new(TAG_DEPLOYMENT, deployment), Tag::new(TAG_PURPOSE, Purpose::Transport.as_str())]
        };
        DescribedVolume {
            id: id(n),
            zone: "eu-central-1a".to_owned(),
            size_gib: 1,
            volume_type: "gp3".to_owned(),
            iops: None,
            throughput_mibps: None,
            encrypted: false,
            kms_key_id: None,
            state: "in-use".to_owned(),
            attachments: Vec::new(),
            tags: deployment.map(ours).unwrap_or_default(),
            multi_attach: false,
            outpost_arn: None,
            snapshot: None,
        }
    }

    fn id(n: u8) -> VolumeId {
        format!("vol-0{n}").parse().unwrap()
    }

    fn owner(n: u128, epoch: u64) -> Owner {
        (TaskId::from_u128(n), Fence { generation: 1, epoch })
    }

    #[tokio::test]
    async fn a_volume_that_nobody_here_works_with_makes_room_and_no_other() {
        let places = Places::new(2);
        let stop = CancellationToken::new();
        places.put(&id(1), owner(1, 1), places.wait(&stop).await.unwrap());
        let own = volume(9, None);
        let room = |attached: &[DescribedVolume]| places.make_room(&id(5), attached, "test");
        assert_eq!(room(&[own.clone(), volume(1, Some("test"))]), Some(Vec::new()));
        // The node's own volumes do not count, nor does the one that is to be attached.
        let mut full = vec![own, volume(1, Some("test")), volume(5, Some("test"))];
        assert_eq!(room(&full), Some(Vec::new()));
        full.push(volume(2, Some("other")));
        assert_eq!(room(&full), None, "another deployment's is not ours to let go");
        full.push(volume(3, Some("test")));
        assert_eq!(room(&full), Some(vec![id(3)]));
    }

    #[tokio::test]
    async fn a_place_is_free_when_its_attempt_says_so_and_a_later_attempt_keeps_its_own() {
        let places = Places::new(1);
        let stop = CancellationToken::new();
        places.put(&id(1), owner(1, 1), places.wait(&stop).await.unwrap());
        assert_eq!(places.of(owner(1, 1)), [id(1)]);
        places.leave(&id(1), owner(1, 2));
        assert_eq!(places.free.available_permits(), 0);
        places.leave(&id(1), owner(1, 1));
        assert_eq!(places.free.available_permits(), 1);
        stop.cancel();
        let _first = places.wait(&CancellationToken::new()).await.unwrap();
        assert!(places.wait(&stop).await.is_err(), "nobody waits longer than it may");
    }
}
