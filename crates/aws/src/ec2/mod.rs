//! The EC2 steps of a backup and a restore. Each is one call, or one wait; those that make something take the tags
//! (or the token) by which the same thing is found when the reply is lost. Deleting what is already gone is done.

mod images;
mod instances;
mod launch;
mod paging;
mod regions;
mod remove;
mod snapshots;
mod tags;
mod volumes;
mod wait;

pub use images::{ImageVolume, NewImage, deregister_image, image_available, register_image};
pub use instances::{
    DescribedInstance, InstancePage, InstanceSummary, describe_instance, instance_state, list_instances,
};
pub use launch::{NewInstance, run_instance, terminate_instance, wait_instance_running};
pub use regions::region_exists;
pub use remove::{remove_object, share_id};
pub use snapshots::{
    Exclude, SnapshotPhase, SnapshotState, create_snapshots, delete_snapshot, share_snapshot,
    snapshot_states, unshare_snapshot, wait_snapshots_completed,
};
pub use tags::{create_tags, find_by_ledger_tag};
pub use volumes::{
    NewVolume, attach_volume, create_volume, delete_volume, detach_volume, volume_state,
    wait_volume_available,
};

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use crate::session::Account;

    fn is_send<T: Send>(future: T) -> T {
        future
    }

    /// Handlers run the steps in spawned tasks; this compiles only while that is possible.
    #[allow(dead_code)]
    async fn steps_can_be_spawned(account: &Account) {
        let stop = CancellationToken::new();
        let (volume, instance) = ("vol-1".parse().unwrap(), "i-1".parse().unwrap());
        let snapshot = ["snap-1".parse().unwrap()];
        is_send(super::wait_volume_available(account, &volume, &stop)).await.unwrap();
        is_send(super::wait_instance_running(account, &instance, &stop)).await.unwrap();
        is_send(super::wait_snapshots_completed(account, &snapshot, |_| (), &stop)).await.unwrap();
        is_send(super::describe_instance(account, &instance)).await.unwrap();
        is_send(super::snapshot_states(account, &snapshot)).await.unwrap();
        let kind = snapferry_types::ledger::ObjectKind::Volume;
        let entry = snapferry_types::LedgerId::generate();
        is_send(super::find_by_ledger_tag(account, kind, entry)).await.unwrap();
    }
}
