//! `/v1/jobs/{id}/events`: server-sent events of a job, from what it is now to its end. A listener that comes back
//! with `Last-Event-ID` gets the sentences it missed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use snapferry_api::job::{Job, JobEvent};
use snapferry_types::JobId;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::Api;
use super::auth::Caller;
use super::problem::Refusal;
use super::read::Id;
use super::tenant_view::View;

/// Two looks at a job are at least this far apart.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
/// A look is taken this often even if no change was heard of.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Follow a job to its end.
#[utoipa::path(get, path = "/v1/jobs/{id}/events", tag = "jobs",
    params(("id" = String, Path), ("Last-Event-ID" = Option<u64>, Header, description = "highest seq of a note seen")),
    responses((status = 200, body = JobEvent, content_type = "text/event-stream")))]
pub(super) async fn watch(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id<JobId>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let changes = api.store.changes();
    super::jobs::visible(&api, &caller, id).await?;
    let view = View::of(&api, &caller).await?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let seen = match last {
        Some(text) => text.parse().map_err(|_| Refusal::invalid("last-event-id: give the seq of a note"))?,
        None => 0,
    };
    let follower = Follower {
        api,
        id,
        view,
        changes,
        seen,
        shown: None,
        ready: VecDeque::new(),
        first: true,
        done: false,
    };
    let stream = futures::stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

struct Follower {
    api: Api,
    id: JobId,
    view: View,
    changes: broadcast::Receiver<JobId>,
    seen: u64,
    shown: Option<Job>,
    ready: VecDeque<Event>,
    first: bool,
    done: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.done || self.api.stop.is_cancelled() {
                return None;
            }
            if !std::mem::take(&mut self.first) {
                self.pause().await?;
            }
            if let Err(error) = self.look().await {
                // The listener comes back when the database does.
                tracing::warn!(job = %self.id, ?error, "follow a job");
                return None;
            }
        }
    }

    /// Waits for a change of the job, for a while; `None` when the scheduler stops.
    async fn pause(&mut self) -> Option<()> {
        let until = tokio::time::Instant::now() + LONGEST_PAUSE;
        tokio::select! {
            () = self.api.stop.cancelled() => return None,
            () = tokio::time::sleep(SHORTEST_PAUSE) => {}
        }
        loop {
            tokio::select! {
                () = self.api.stop.cancelled() => return None,
                () = tokio::time::sleep_until(until) => return Some(()),
                change = self.changes.recv() => match change {
                    Ok(id) if id != self.id => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => return Some(()),
                    Err(RecvError::Closed) => return None,
                }
            }
        }
    }

    async fn look(&mut self) -> Result<(), Refusal> {
        // The job first: a sentence that is written after it comes with the next look, none is lost at the end,
        // because the last sentence is committed together with the last state.
        let job = self.api.store.job(self.id).await?;
        loop {
            let notes = self.api.store.notes_after(self.id, self.seen).await?;
            if notes.is_empty() {
                break;
            }
            for note in notes {
                self.seen = note.seq;
                let event = JobEvent::Note(self.view.note(note));
                self.ready.push_back(encode(&event)?.event("note").id(self.seen.to_string()));
            }
        }
        self.done = job.summary.state.is_terminal();
        let job = self.view.job(job);
        if self.shown.as_ref() != Some(&job) {
            self.ready.push_back(encode(&JobEvent::Job(Box::new(job.clone())))?.event("job"));
            self.shown = Some(job);
        }
        Ok(())
    }
}

fn encode(event: &JobEvent) -> Result<Event, Refusal> {
    Event::default()
        .json_data(event)
        .map_err(|error| Refusal::new(snapferry_api::ProblemCode::Internal, error.to_string()))
}
