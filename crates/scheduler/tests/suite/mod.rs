//! The store's promises, kept by every database: each case gets an empty one.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing)]

mod attempts;
mod catalogue;
mod claims;
mod control;
mod jobs;
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
    control::upkeep_is_asked_for_until_it_is_done,
    catalogue::a_sealed_point_becomes_the_next_base,
    catalogue::the_ledger_moves_forward_only,
    catalogue::what_nobody_owns_is_reapable,
    catalogue::a_deleted_point_is_gone,
}
#[allow(unused_imports, reason = "one database has one test for all cases")]
pub(crate) use tests_of_all_cases;
