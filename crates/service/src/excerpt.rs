//! The last log lines of a piece of work, for its report: what is logged inside a span named [`SPAN`] is kept in a
//! ring of bounded size that lives and dies with the span. Only our own lines at level info and above are kept: what
//! libraries log at finer levels may hold more of a request than anybody should see.

use std::collections::VecDeque;
use std::fmt::{Debug, Write as _};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Span, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Name of the spans whose lines are kept.
pub const SPAN: &str = "attempt";
/// Bytes of an excerpt at most.
const MAX_BYTES: usize = 16 << 10;
/// Bytes of one line at most.
const MAX_LINE_BYTES: usize = 2 << 10;
/// Whose lines are kept.
const OURS: &str = "snapferry";

/// The last lines logged inside a span, oldest first, each with the seconds since the span began; at most 16 KiB.
/// Empty when nothing was logged there, or logging was not started.
#[must_use]
pub fn of(span: &Span) -> String {
    let told = span.with_subscriber(|(id, subscriber)| {
        let span = subscriber.downcast_ref::<Registry>()?.span(id)?;
        let extensions = span.extensions();
        extensions.get::<Ring>().map(Ring::text)
    });
    told.flatten().unwrap_or_default()
}

/// The last lines of [`of`] that fit into so many bytes.
#[must_use]
pub fn last(span: &Span, max_bytes: usize) -> String {
    let mut text = of(span);
    if let Some(too_many) = text.len().checked_sub(max_bytes).filter(|too_many| *too_many > 0) {
        // The line that this cuts goes with what is before it.
        let from = text.as_bytes().iter().skip(too_many - 1).position(|byte| *byte == b'\n');
        text.drain(..from.map_or(text.len(), |at| too_many + at));
    }
    text
}

/// Keeps the lines; add it to a [`Registry`].
pub(crate) fn layer<S>() -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    Keeper.with_filter(Targets::new().with_target(OURS, LevelFilter::INFO))
}

struct Keeper;

impl<S> Layer<S> for Keeper
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().name() == SPAN
            && let Some(span) = context.span(id)
        {
            span.extensions_mut().insert(Ring::new());
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(mut spans) = context.event_scope(event) else { return };
        let Some(span) = spans.find(|span| span.name() == SPAN) else { return };
        let mut line = Line(format!("{} {}:", event.metadata().level(), event.metadata().target()));
        event.record(&mut line);
        if let Some(ring) = span.extensions_mut().get_mut::<Ring>() {
            ring.push(line.0);
        }
    }
}

/// The message and the fields of an event in one line.
struct Line(String);

impl Line {
    fn has_room(&self) -> bool {
        self.0.len() < MAX_LINE_BYTES
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if !self.has_room() {
            return;
        }
        let _always_fits = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

struct Ring {
    began: Instant,
    lines: VecDeque<String>,
    bytes: usize,
}

impl Ring {
    fn new() -> Self {
        Self { began: Instant::now(), lines: VecDeque::new(), bytes: 0 }
    }

    fn push(&mut self, line: String) {
        // One line, whoever shows or stores it.
        let line = line.replace(char::is_control, " ");
        let mut line = format!("{:.3} {line}", self.began.elapsed().as_secs_f64());
        line.truncate(line.floor_char_boundary(MAX_LINE_BYTES));
        self.bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.bytes > MAX_BYTES {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.len() + 1;
        }
    }

    fn text(&self) -> String {
        let mut text = String::with_capacity(self.bytes);
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::with_default;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn logged(work: impl FnOnce() -> Span) -> String {
        let subscriber = Registry::default().with(layer());
        with_default(subscriber, || of(&work()))
    }

    #[test]
    fn the_lines_of_a_span_are_told_and_no_others() {
        let text = logged(|| {
            let (one, other) = (tracing::info_span!(SPAN, n = 1), tracing::info_span!(SPAN, n = 2));
            tracing::info!("outside");
            other.in_scope(|| tracing::info!("of another"));
            one.in_scope(|| {
                tracing::info!(volume = "vol-1", "first\nline\0\u{1b}[2J");
                tracing::info_span!("below").in_scope(|| tracing::warn!("second"));
                tracing::debug!("too fine");
                tracing::info!(target: "aws_smithy_runtime", "of a library");
            });
            one
        });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].ends_with("INFO snapferry_service::excerpt::tests: first line  [2J volume=vol-1"),
            "{text}"
        );
        assert!(lines[1].ends_with("WARN snapferry_service::excerpt::tests: second"), "{text}");
    }

    #[test]
    fn the_last_lines_are_whole_ones_that_fit() {
        let subscriber = Registry::default().with(layer());
        with_default(subscriber, || {
            let span = tracing::info_span!(SPAN);
            span.in_scope(|| (0..3).for_each(|n| tracing::info!("line {n} ä")));
            let all = of(&span);
            let lines: Vec<&str> = all.split_inclusive('\n').collect();
            let [_, second, third] = lines.as_slice() else { panic!("{all}") };
            let two = second.len() + third.len();
            for (max_bytes, expected) in [
                (0, String::new()),
                (third.len() - 1, String::new()),
                (third.len(), (*third).to_owned()),
                (two - 1, (*third).to_owned()),
                (two, format!("{second}{third}")),
                (all.len() - 1, format!("{second}{third}")),
                (all.len(), all.clone()),
                (all.len() + 1, all.clone()),
            ] {
                assert_eq!(last(&span, max_bytes), expected, "{max_bytes} of {}", all.len());
            }
        });
    }

    #[test]
    fn an_excerpt_has_a_limit_and_keeps_the_end() {
        let text = logged(|| {
            let span = tracing::info_span!(SPAN);
            span.in_scope(|| {
                for n in 0..1_000 {
                    tracing::info!(n, "{}", "ä".repeat(if n == 990 { 5_000 } else { 20 }));
                }
            });
            span
        });
        assert!(text.len() <= MAX_BYTES, "{}", text.len());
        assert!(text.len() > MAX_BYTES / 2, "{}", text.len());
        assert!(text.trim_end().ends_with("n=999"), "{text}");
        assert!(text.lines().all(|line| line.len() <= MAX_LINE_BYTES));
    }
}
