//! The EC2 steps of a backup and a restore. Each is one call, or one wait; those that make something take the tags
//! (or the token) by which the same thing is found when the reply is lost. Deleting what is already gone is done.

mod attachments;
mod copies;
mod encryption;
mod images;
mod imports;
mod instance_types;
mod instances;
mod launch;
mod network;
mod paging;
mod power;
mod regions;
mod remove;
mod sharing;
mod snapshots;
mod tags;
mod taking;
mod volumes;
mod wait;

pub use attachments::{
    attach_volume, detach_volume, detach_volume_from, free_device_name, wait_volume_attached,
    wait_volume_detached, wait_volume_off,
};
pub use copies::{NewCopy, copy_snapshot};
pub use encryption::encrypts_by_default;
pub use images::{
    ImageVolume, NewImage, deregister_image, image_available, instance_store_devices, register_image,
};
pub use imports::{
    ImportFormat, ImportPhase, ImportState, NewImport, cancel_import, find_import_by_ledger_tag,
    import_snapshot, import_state, wait_import,
};
pub use instance_types::{DescribedInstanceType, describe_instance_type};
pub use instances::{
    DescribedInstance, InstancePage, InstanceSummary, describe_instance, instance_state, list_instances,
};
pub(crate) use launch::profile;
pub use launch::{NewInstance, run_instance, terminate_instance, wait_instance_running};
pub use network::{CheckedSubnet, check_key_pair, check_security_groups, check_subnet, holder_of_address};
pub use power::{modify_delete_on_termination, start_instance, stop_instance, wait_instance_stopped};
pub use regions::{region_exists, zone_names};
pub use remove::{Removal, remove_object, share_id};
pub use sharing::{share_snapshot, snapshot_product_codes, snapshot_sharing, unshare_snapshot};
pub use snapshots::{
    SnapshotPhase, SnapshotState, delete_snapshot, existing_snapshots, one_of_ours, snapshot_states,
    wait_snapshots_completed,
};
pub use tags::{FittedTags, create_tags, delete_tags, find_by_ledger_tag, fit_tags};
pub(crate) use tags::{specification as tag_specification, to_ec2 as to_ec2_tags};
pub use taking::{Exclude, create_snapshot, create_snapshots};
pub use volumes::{
    DescribedVolume, NewVolume, VolumeAttachment, create_volume, delete_volume, describe_volume,
    volume_product_codes, volume_state, wait_volume_available,
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
        is_send(super::existing_snapshots(account, &snapshot)).await.unwrap();
        is_send(super::wait_volume_attached(account, &volume, &instance, &stop)).await.unwrap();
        is_send(super::wait_volume_detached(account, &volume, &stop)).await.unwrap();
        is_send(super::wait_instance_stopped(account, &instance, &stop)).await.unwrap();
        is_send(super::check_security_groups(account, &[], "vpc-1")).await.unwrap();
        is_send(super::wait_import(account, "import-snap-1", |_| (), &stop)).await.unwrap();
        let kind = snapferry_types::ledger::ObjectKind::Volume;
        let entry = snapferry_types::LedgerId::generate();
        is_send(super::find_by_ledger_tag(account, kind, entry)).await.unwrap();
        is_send(super::find_import_by_ledger_tag(account, entry)).await.unwrap();
    }
}
