//! Running a program to its end and taking down what it cost: wall time, processor time, peak memory.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use awssim::faults::Faults;

/// How often a running program is looked at; wall times are exact to this.
const LOOK: Duration = Duration::from_millis(5);
/// Clock ticks a second in `/proc`, fixed at 100 on Linux for user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a run cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    pub(super) wall_s: f64,
    /// User and system.
    pub(super) cpu_s: f64,
    /// Peak resident set, MiB.
    pub(super) peak_mib: f64,
}

/// Runs `command` to its end, its output into `log`.
pub(super) async fn run(mut command: Command, log: &Path) -> Result<Cost> {
    let shown = format!("{command:?}");
    let out = std::fs::File::create(log)?;
    let error = out.try_clone()?;
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(out).stderr(error).spawn().context(shown.clone())?;
    let mut peak_mib = 0.0;
    // A program that has ended and is not yet waited for still shows its processor time.
    let (wall_s, cpu_s) = loop {
        peak_mib = peak_of(child.id()).unwrap_or(peak_mib);
        let (state, cpu_s) = stat_of(child.id()).context("read /proc")?;
        if state == 'Z' {
            break (started.elapsed().as_secs_f64(), cpu_s);
        }
        tokio::time::sleep(LOOK).await;
    };
    let status = child.wait()?;
    let text = std::fs::read_to_string(log).unwrap_or_default();
    ensure!(status.success(), "{shown} ended with {status}:\n{text}");
    Ok(Cost { wall_s, cpu_s, peak_mib })
}

/// Peak resident set of a running process, MiB.
pub(super) fn peak_of(id: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib / 1024.0)
}

/// State letter, and processor time in seconds, of all its threads.
pub(super) fn stat_of(id: u32) -> Option<(char, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let mut ticks = fields.skip(10).map(|field| field.parse::<f64>().unwrap_or(0.0));
    Some((state, (ticks.next()? + ticks.next()?) / TICKS_PER_SECOND))
}

/// Does `work`, and says how many calls of an EBS action were answered a second meanwhile, other than by "slower": over
/// the middle 80 % of them, which leaves out how it begins and ends.
pub(super) async fn steady_rate<T>(faults: &Faults, action: &str, work: impl Future<Output = T>) -> (T, f64) {
    let started = Instant::now();
    let mut seen = vec![(0.0, 0)];
    let mut work = std::pin::pin!(work);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            () = tokio::time::sleep(10 * LOOK) => {
                let counters = faults.counters();
                let n = counters.calls_of("ebs", action) - counters.throttled_of("ebs", action);
                seen.push((started.elapsed().as_secs_f64(), n));
            }
        }
    };
    let all = seen.last().map_or(0, |(_, n)| *n);
    let at = |tenths: u64| seen.iter().find(|(_, n)| n * 10 >= all * tenths).copied().unwrap_or_default();
    let ((from_s, from), (until_s, until)) = (at(1), at(9));
    (done, (until - from) as f64 / (until_s - from_s))
}

/// Median with lowest and highest.
pub(super) struct Spread {
    pub(super) median: f64,
    lowest: f64,
    highest: f64,
}

impl Spread {
    pub(super) fn of(figures: impl Iterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.collect();
        figures.sort_by(f64::total_cmp);
        let at = |n: usize| figures.get(n).copied().unwrap_or(f64::NAN);
        Self { median: at(figures.len() / 2), lowest: at(0), highest: at(figures.len().saturating_sub(1)) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2}–{:.2})", self.median, self.lowest, self.highest)
    }
}
