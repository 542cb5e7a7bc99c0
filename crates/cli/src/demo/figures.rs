//! What happened, as a table.

use std::time::{Duration, Instant};

use anyhow::Result;
use comfy_table::{Table, presets};
use snapferry_api::job::Job;
use snapferry_types::ByteCount;

use super::stage::Stage;

/// A moment: time, and the simulator's count of calls.
pub(super) struct Moment {
    at: Instant,
    calls: u64,
}

impl Moment {
    pub(super) fn now(stage: &Stage) -> Self {
        let report = stage.sim.context().faults.counters();
        Self { at: Instant::now(), calls: report.calls.iter().map(|one| one.calls).sum() }
    }
}

struct Step {
    name: String,
    time: Duration,
    read: u64,
    sent: u64,
    deduplicated: u64,
    calls: u64,
}

/// Everything that was seen.
#[derive(Default)]
pub(super) struct Figures {
    steps: Vec<Step>,
    comparisons: Vec<[String; 5]>,
}

impl Figures {
    /// A job that ended well.
    pub(super) fn add(&mut self, name: &str, job: &Job, before: Moment, after: Moment) {
        let sum = |of: fn(&snapferry_api::job::Progress) -> u64| {
            job.tasks.iter().map(|task| of(&task.progress)).sum()
        };
        self.steps.push(Step {
            name: name.to_owned(),
            time: after.at - before.at,
            read: sum(|progress| progress.bytes_read),
            sent: sum(|progress| progress.bytes_sent),
            deduplicated: sum(|progress| progress.blocks_deduplicated),
            calls: after.calls - before.calls,
        });
    }

    /// A volume that was compared.
    pub(super) fn compared(
        &mut self,
        instance: &str,
        original: &str,
        restored: &str,
        differing: u64,
        tags: bool,
    ) {
        let verdict = if differing == 0 { "equal".to_owned() } else { format!("{differing} blocks differ") };
        let tags = if tags { "back" } else { "MISSING" };
        self.comparisons.push([instance, original, restored, &verdict, tags].map(str::to_owned));
    }

    /// Prints both tables.
    pub(super) async fn print(&self, stage: &Stage) -> Result<()> {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header([
            "step",
            "time",
            "read from EBS",
            "to/from MediaAgent",
            "blocks already there",
            "AWS calls",
        ]);
        for step in &self.steps {
            table.add_row([
                step.name.clone(),
                format!("{:.1} s", step.time.as_secs_f64()),
                ByteCount(step.read).to_string(),
                ByteCount(step.sent).to_string(),
                step.deduplicated.to_string(),
                step.calls.to_string(),
            ]);
        }
        println!("{table}");
        let points = stage
            .client
            .recovery_points(&snapferry_api::recovery_point::RecoveryPointQuery::default())
            .await?
            .items;
        // IntelliSnap recovery points are in no library.
        let points: Vec<_> = points.into_iter().filter(|point| point.kind.is_in_library()).collect();
        let logical: u64 = points.iter().map(|point| point.logical_bytes).sum();
        let stored: u64 = points.iter().map(|point| point.stored_bytes).sum();
        println!(
            "{} recovery points of {} are kept in {}: {:.1} % saved",
            points.len(),
            ByteCount(logical),
            ByteCount(stored),
            saved_percent(logical, stored)
        );
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["instance", "volume", "restored as", "content", "tags"]);
        for row in &self.comparisons {
            table.add_row(row);
        }
        println!("{table}");
        Ok(())
    }
}

#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
fn saved_percent(logical: u64, stored: u64) -> f64 {
    if logical == 0 { 0.0 } else { 100.0 * (1.0 - stored as f64 / logical as f64) }
}
