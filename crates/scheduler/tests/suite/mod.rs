//! The store's promises, kept by every database: each case gets an empty one.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing)]

mod abilities;
mod attempts;
mod catalogue;
mod claims;
mod control;
mod copies;
mod jobs;
mod keeping;
mod ordering;
mod restores;
mod shares;
mod snaps;
pub(crate) mod world;

use std::future::Future;
use std::pin::Pin;

/// A case: takes the URL of an empty database.
pub(crate) type Case = fn(String) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! cases {
    ($($module:ident::$name:ident,)*) => {
        /// Every case by name.
        pub(crate) const CASES: &[(&str, Case)] =
            &[$((stringify!($name), |url| Box::pin($module::$name(url)))),*];

        /// One test a case, for databases that cost nothing to make.
        #[allow(unused_macros)]
        macro_rules! tests_of_all_cases {
            ($run:ident) => {
                $(#[tokio::test]
                async fn $name() {
                    $run(stringify!($name)).await;
                })*
            };
        }
    };
}

cases! {
    jobs::a_repeated_key_makes_one_job,
    jobs::impossible_and_foreign_work_is_refused,
    jobs::lists_come_in_pages,
    jobs::what_there_is_is_counted,
    jobs::a_cancelled_job_ends_where_nobody_works,
    jobs::a_hypervisor_in_use_stays,
    jobs::secrets_open_only_with_their_key,
    claims::two_claims_make_one_grant,
    claims::the_same_process_gets_the_same_grant,
    claims::a_withdrawn_offer_is_gone,
    claims::an_offer_survives_a_crash_before_publishing,
    claims::only_the_announced_process_of_the_queue_may_claim,
    claims::cancel_and_claim_have_one_outcome,
    claims::one_backup_of_an_instance_at_a_time,
    claims::work_waits_for_its_media_agent,
    attempts::a_stale_fence_is_refused_everywhere,
    attempts::finishing_twice_counts_once,
    attempts::retries_end,
    attempts::three_crashes_quarantine,
    attempts::what_a_lost_attempt_told_is_kept,
    attempts::a_suspect_comes_back,
    attempts::an_orderly_stop_is_no_failed_attempt,
    attempts::cancel_and_finish_have_one_outcome,
    attempts::a_raised_generation_voids_old_grants,
    control::suspended_work_keeps_its_progress_and_goes_on,
    control::a_suspension_is_kept_whatever_happens_to_the_agent,
    control::a_suspension_that_no_agent_heard_of_is_taken_back,
    control::a_new_priority_holds_for_what_is_not_done,
    control::attempts_are_remembered,
    control::work_that_moves_forward_is_not_given_up,
    control::an_exchange_of_volumes_that_was_begun_is_cancelled_by_an_agent,
    control::upkeep_is_asked_for_until_it_is_done,
    catalogue::a_sealed_point_becomes_the_next_base,
    catalogue::the_ledger_moves_forward_only,
    catalogue::what_nobody_owns_is_reapable,
    catalogue::a_deleted_point_is_gone,
    snaps::a_snapshot_point_needs_no_media_agent,
    snaps::a_vault_is_checked_before_anything_is_made,
    snaps::a_vault_in_the_service_account_brings_its_access,
    snaps::a_snapshot_point_is_deleted_with_all_its_snapshots,
    snaps::replication_and_conversion_are_refused_with_the_reason,
    copies::all_that_were_not_copied_are_copied_once_and_oldest_first,
    copies::what_cannot_be_copied_is_refused_with_the_reason,
    copies::a_copy_builds_on_the_copy_before_while_its_snapshots_exist,
    copies::a_copy_holds_its_source,
    copies::a_sealed_backup_keeps_its_base_after_a_crash,
    restores::a_restore_reads_the_fastest_that_exists,
    restores::a_restore_keeps_to_what_was_asked_for,
    restores::lost_snapshots_are_no_source,
    restores::copies_in_a_vault_are_a_source_when_the_snapshots_are_lost,
    restores::what_is_here_and_there_is_restored_volume_by_volume,
    restores::a_restore_that_does_not_find_snapshots_reads_a_copy_next,
    restores::a_base_that_a_restore_reads_is_not_superseded,
    restores::what_is_deleted_is_not_restored,
    ordering::a_silent_media_agent_starves_nobody,
    ordering::a_later_backup_does_not_overtake,
    ordering::a_restore_in_place_has_the_instance_to_itself,
    keeping::days_and_last_must_agree,
    keeping::the_newest_never_goes_by_age,
    keeping::what_an_open_task_needs_is_kept,
    keeping::what_is_held_hides_nothing_behind_it,
    keeping::a_deletion_is_asked_for_once_and_again_after_it_failed,
    keeping::lost_snapshots_are_noticed,
    keeping::an_account_that_does_not_answer_has_lost_nothing,
    keeping::a_snapshot_that_is_being_deleted_is_not_lost,
    abilities::a_task_goes_to_a_node_that_can,
    abilities::a_task_waits_while_the_nodes_that_can_are_busy,
    abilities::no_more_is_offered_than_the_nodes_that_can_have_room_for,
    abilities::what_nobody_can_is_offered_to_be_refused_unless_it_was_begun,
    abilities::another_queue_has_the_node_that_can,
    abilities::staged_images_are_of_use_to_the_node_that_has_the_task,
    abilities::of_disk_images_it_is_said_whose_tasks_are_over,
    shares::the_last_task_that_needs_a_share_takes_it_back,
    shares::who_needs_a_share_anew_waits_until_it_is_taken_back,
    shares::the_reaper_leaves_a_share_to_those_who_need_it,
    shares::only_a_share_of_ones_own_is_released,
}
#[allow(
    unused_imports,
    clippy::single_component_path_imports,
    redundant_imports,
    reason = "one database has one test for all cases"
)]
pub(crate) use tests_of_all_cases;
