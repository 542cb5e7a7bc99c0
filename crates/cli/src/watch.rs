//! Follows a job to its end: on a terminal a bar for each task, and notes above them as they come; elsewhere the notes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use futures::StreamExt as _;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use snapferry_api::job::{Job, JobEvent, JobState, Task};
use snapferry_api::{Client, ClientError};
use snapferry_service::Backoff;
use snapferry_types::{ByteCount, JobId, TaskId};

use crate::command::show_job;
use crate::failure::JobFailed;
use crate::output::Format;

/// A stream that breaks this often without an event in between is given up.
const MAX_RECONNECTS: u32 = 10;

/// Watches, prints the job at its end, and is an error when the job did not succeed.
pub(crate) async fn to_the_end(client: &Client, id: JobId, format: Format) -> Result<()> {
    let job = follow(client, id, &MultiProgress::with_draw_target(ProgressDrawTarget::stderr())).await?;
    show_job(format, &job)?;
    match job.summary.state {
        JobState::Succeeded => Ok(()),
        state => bail!(JobFailed { id, state: state.as_str(), why: job.error }),
    }
}

/// Follows a job, drawing into `bars`; answers it in its terminal state.
pub(crate) async fn follow(client: &Client, id: JobId, bars: &MultiProgress) -> Result<Job> {
    let mut board = Board { bars: bars.clone(), of_task: BTreeMap::new() };
    let mut last_note = None;
    let mut backoff = new_backoff();
    let mut n_failures = 0;
    loop {
        let mut has_heard = false;
        let watched = watch_once(client, id, &mut board, &mut last_note, &mut has_heard).await;
        if has_heard {
            n_failures = 0;
            backoff = new_backoff();
        }
        match watched {
            Ok(Some(job)) => {
                board.finish();
                return Ok(job);
            }
            // The server ended the stream early: ask again.
            Ok(None) => {}
            Err(error) if error.retryable() && n_failures < MAX_RECONNECTS => {
                if n_failures == 0 {
                    board.line(&format!("{error}; trying again"));
                }
                n_failures += 1;
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

fn new_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(250), Duration::from_secs(5))
}

async fn watch_once(
    client: &Client,
    id: JobId,
    board: &mut Board,
    last_note: &mut Option<u64>,
    has_heard: &mut bool,
) -> Result<Option<Job>, ClientError> {
    let mut events = client.watch_job(id, *last_note).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        *has_heard = true;
        match event {
            JobEvent::Note(note) => {
                *last_note = Some(note.seq);
                let mark = if note.warning { "warning: " } else { "" };
                board.line(&format!("{mark}{}", note.text));
            }
            JobEvent::Job(job) => {
                board.show(&job);
                if job.summary.state.is_terminal() {
                    return Ok(Some(*job));
                }
            }
        }
    }
    Ok(None)
}

struct Board {
    bars: MultiProgress,
    of_task: BTreeMap<TaskId, ProgressBar>,
}

impl Board {
    fn show(&mut self, job: &Job) {
        for task in &job.tasks {
            let bar = self.of_task.entry(task.id).or_insert_with(|| self.bars.add(new_bar(task)));
            bar.set_length(task.progress.blocks_total.max(1));
            bar.set_position(task.progress.blocks_done);
            bar.set_message(message(task));
            if task.state.is_terminal() && !bar.is_finished() {
                bar.finish();
            }
        }
    }

    fn line(&self, text: &str) {
        if self.bars.is_hidden() {
            eprintln!("{text}");
            return;
        }
        let _terminal_is_gone = self.bars.println(text);
    }

    fn finish(&self) {
        for bar in self.of_task.values() {
            if !bar.is_finished() {
                bar.finish();
            }
        }
    }
}

fn new_bar(task: &Task) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:22} {bar:28} {percent:>3}%  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let name = task.instance.as_ref().map(ToString::to_string);
    let name = name.unwrap_or_else(|| task.kind.as_str().to_owned());
    ProgressBar::new(1).with_style(style).with_prefix(name)
}

fn message(task: &Task) -> String {
    let progress = &task.progress;
    let what = if task.state.is_leased() { progress.told_phase() } else { task.state.as_str().to_owned() };
    format!("{what}  {} read  {} sent", ByteCount(progress.bytes_read), ByteCount(progress.bytes_sent))
}
