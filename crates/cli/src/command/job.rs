//! `snapferry job …`

use std::time::Duration;

use anyhow::Result;
use snapferry_api::Client;
use snapferry_api::job::{Attempt, Job as Shown, JobQuery, Phase, Task};
use snapferry_types::ByteCount;

use crate::args::Job;
use crate::output::{self, Format};
use crate::{tail, watch};

pub(super) async fn run(client: &Client, format: Format, verb: &Job) -> Result<()> {
    match verb {
        Job::List { hypervisor, open } => {
            let open = open.then_some(true);
            let ask = |after| async move {
                client.jobs(&JobQuery { hypervisor: *hypervisor, open, after, limit: None }).await
            };
            let items = tail::all(ask).await?;
            output::list(format, &items, &["id", "kind", "hypervisor", "state", "tasks", "created"], |one| {
                vec![
                    one.id.to_string(),
                    one.kind.as_str().to_owned(),
                    one.hypervisor_name.clone(),
                    one.state.as_str().to_owned(),
                    format!("{}/{}", one.tasks_done, one.tasks_total),
                    output::time(one.created_at),
                ]
            })
        }
        Job::Show { id } => show(format, &client.job(*id).await?),
        Job::Watch { id } => watch::to_the_end(client, *id, format).await,
        Job::Cancel { id } => show(format, &client.cancel_job(*id).await?),
        Job::Suspend { id } => show(format, &client.suspend_job(*id).await?),
        Job::Resume { id } => show(format, &client.resume_job(*id).await?),
        Job::Priority { id, priority } => show(format, &client.set_priority(*id, (*priority).into()).await?),
    }
}

/// Prints a job with its tasks, notes and errors.
pub(crate) fn show(format: Format, job: &Shown) -> Result<()> {
    if format == Format::Json {
        return output::json(job);
    }
    let summary = &job.summary;
    output::one(
        format,
        job,
        &[
            ("job", summary.id.to_string()),
            ("kind", summary.kind.as_str().to_owned()),
            ("hypervisor", summary.hypervisor_name.clone()),
            ("state", summary.state.as_str().to_owned()),
            ("created", output::time(summary.created_at)),
            ("finished", summary.finished_at.map(output::time).unwrap_or_default()),
            ("error", job.error.clone().unwrap_or_default()),
        ],
    )?;
    for task in &job.tasks {
        println!();
        output::one(format, task, &task_lines(task))?;
        for note in &task.notes {
            let mark = if note.warning { "warning" } else { "note" };
            println!("  {} {mark}: {}", output::time(note.at), note.text);
        }
        for attempt in &task.history {
            println!("  {}", attempt_line(attempt));
            for line in attempt.log_excerpt.lines() {
                println!("    | {line}");
            }
        }
    }
    Ok(())
}

/// An attempt that ended, in one line.
fn attempt_line(attempt: &Attempt) -> String {
    let phase =
        |phase: &Phase| format!("{} {:.1} s", phase.name, Duration::from_millis(phase.took_ms).as_secs_f64());
    let phases: Vec<String> = attempt.phases.iter().map(phase).collect();
    let node = attempt.access_node.map(|node| format!(" on {node}")).unwrap_or_default();
    let ended = output::time(attempt.finished_at);
    format!("attempt {}{node} {} at {ended}: {}", attempt.n, attempt.outcome, phases.join(", "))
}

fn task_lines(task: &Task) -> Vec<(&'static str, String)> {
    let progress = &task.progress;
    let made = task.made.iter().map(|made| match made.source.as_str() {
        "" => made.id.clone(),
        source => format!("{} (of {source})", made.id),
    });
    vec![
        ("task", task.id.to_string()),
        ("of", task.instance.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("recovery point", task.recovery_point.map(|id| id.to_string()).unwrap_or_default()),
        ("state", task.state.as_str().to_owned()),
        ("waits for", task.waits_for.clone().unwrap_or_default()),
        ("phase", progress.told_phase()),
        ("attempts", task.attempts.to_string()),
        ("blocks", format!("{} of {}", progress.blocks_done, progress.blocks_total)),
        ("read", ByteCount(progress.bytes_read).to_string()),
        ("sent", ByteCount(progress.bytes_sent).to_string()),
        ("AWS calls", format!("{}, {} throttled", progress.aws_calls, progress.throttled)),
        ("made", made.collect::<Vec<_>>().join(", ")),
        ("next try", task.not_before.map(output::time).unwrap_or_default()),
        (
            "error",
            task.error
                .as_ref()
                .map(|error| format!("[{}] {}", error.class, error.message))
                .unwrap_or_default(),
        ),
    ]
}
