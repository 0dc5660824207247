//! The run in numbers, as OpenMetrics text (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).

use super::Watcher;
use super::standing::{Standing, State};
use crate::event::Event;
use crate::report::Reporter;
use jiff::Timestamp;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub struct Metrics {
    standing: Standing,
    /// By steps that ended.
    rows: u64,
    /// Of the step at work.
    current_rows: u64,
    done: u64,
    total: u64,
    per_second: f64,
    lock_timeouts: u64,
    /// Waits that ended, and the one that goes on.
    waited_ms: u64,
    waiting_ms: u64,
    blockers: usize,
    aside_ms: u64,
    is_aside: bool,
    reconnects: u64,
    step_ms: u64,
    at: Option<Timestamp>,
}

impl Metrics {
    pub fn take(&mut self, at: Timestamp, event: &Event) {
        // Of a directory, one plan comes after the other: each has its own counts.
        if let Event::RunStarted { plan, .. } = event
            && *plan != self.standing.plan
        {
            *self = Self::default();
        }
        self.at = Some(at);
        self.standing.take(event);
        match event {
            Event::Progress {
                done,
                total,
                rows,
                per_second,
                batch,
                ..
            } => {
                self.moves();
                (self.done, self.total, self.per_second) = (*done, *total, *per_second);
                // What is only compared is not filled.
                if batch.is_some() {
                    self.current_rows = *rows;
                }
            }
            Event::Waiting {
                waited_ms, blockers, ..
            } => {
                self.waiting_ms = *waited_ms;
                self.blockers = blockers.len();
            }
            Event::LockTimeout { blockers, .. } => {
                self.lock_timeouts += 1;
                self.blockers = blockers.len();
            }
            Event::StandingAside { waited_ms, .. } => {
                self.is_aside = true;
                self.aside_ms = *waited_ms;
                self.per_second = 0.0;
            }
            Event::Reconnecting { .. } => self.reconnects += 1,
            Event::StepDone { elapsed_ms, .. } => {
                self.step_ms += elapsed_ms;
                self.step_ends();
            }
            Event::StepSkipped { .. } | Event::StepFailed { .. } | Event::Interrupted { .. } => {
                self.step_ends()
            }
            _ => {}
        }
    }

    fn moves(&mut self) {
        self.waited_ms += std::mem::take(&mut self.waiting_ms);
        self.blockers = 0;
        self.is_aside = false;
        self.aside_ms = 0;
    }

    fn step_ends(&mut self) {
        self.moves();
        self.rows += std::mem::take(&mut self.current_rows);
        (self.done, self.total, self.per_second) = (0, 0, 0.0);
    }

    pub fn text(&self) -> String {
        let mut text = Text(String::new());
        let plan = label("plan", &self.standing.plan);
        self.tell_run(&mut text, &plan);
        self.tell_work(&mut text, &plan);
        self.tell_waits(&mut text, &plan);
        text.0.push_str("# EOF\n");
        text.0
    }

    fn tell_run(&self, text: &mut Text, plan: &str) {
        let standing = &self.standing;
        text.family("pgmorph_build", "info", "The program.");
        text.sample(
            "pgmorph_build_info",
            &label("version", env!("CARGO_PKG_VERSION")),
            1,
        );
        text.family("pgmorph_run_state", "stateset", "What the run is at.");
        for state in State::ALL {
            let labels = format!("{plan},{}", label("pgmorph_run_state", state.name()));
            text.sample("pgmorph_run_state", &labels, u8::from(state == standing.state));
        }
        text.family("pgmorph_run_number", "gauge", "Number of the run in the ledger.");
        text.sample("pgmorph_run_number", plan, standing.run);
        text.family("pgmorph_steps", "gauge", "Steps of the run.");
        text.sample("pgmorph_steps", plan, standing.steps);
        text.family(
            "pgmorph_steps_done",
            "gauge",
            "Steps that are done, or undone while it goes back.",
        );
        text.sample("pgmorph_steps_done", plan, standing.done);
        text.family("pgmorph_phase", "info", "The phase and the step at work.");
        let step = label("step", standing.step.as_deref().unwrap_or_default());
        let phase = label("phase", standing.phase.unwrap_or_default());
        text.sample("pgmorph_phase_info", &format!("{plan},{phase},{step}"), 1);
    }

    fn tell_work(&self, text: &mut Text, plan: &str) {
        text.family("pgmorph_rows", "counter", "Rows that were filled or copied.");
        text.sample("pgmorph_rows_total", plan, self.rows + self.current_rows);
        text.family("pgmorph_rows_per_second", "gauge", "Rate of the step at work.");
        text.sample("pgmorph_rows_per_second", plan, self.per_second);
        text.family(
            "pgmorph_progress_ratio",
            "gauge",
            "How much of the step at work is done, from 0 to 1.",
        );
        text.sample("pgmorph_progress_ratio", plan, ratio(self.done, self.total));
        text.seconds(
            "pgmorph_step_seconds",
            "counter",
            "Time of the steps that are done.",
            plan,
            self.step_ms,
        );
    }

    fn tell_waits(&self, text: &mut Text, plan: &str) {
        text.family(
            "pgmorph_lock_timeouts",
            "counter",
            "Attempts at a lock that were given up.",
        );
        text.sample("pgmorph_lock_timeouts_total", plan, self.lock_timeouts);
        let waited = self.waited_ms + self.waiting_ms;
        text.seconds(
            "pgmorph_lock_wait_seconds",
            "counter",
            "Time spent beside the queue.",
            plan,
            waited,
        );
        text.family(
            "pgmorph_blockers",
            "gauge",
            "Sessions that hold a conflicting lock at present.",
        );
        text.sample("pgmorph_blockers", plan, self.blockers);
        text.family(
            "pgmorph_standing_aside",
            "gauge",
            "1 while a backfill waits for standbys, slots, the archiver or others.",
        );
        text.sample("pgmorph_standing_aside", plan, u8::from(self.is_aside));
        let (name, help) = (
            "pgmorph_standing_aside_seconds",
            "How long it has stood aside this time.",
        );
        text.seconds(name, "gauge", help, plan, self.aside_ms);
        text.family("pgmorph_reconnects", "counter", "Connections that were lost.");
        text.sample("pgmorph_reconnects_total", plan, self.reconnects);
        if let Some(at) = self.at {
            let (name, help) = (
                "pgmorph_last_event_timestamp_seconds",
                "When something happened last.",
            );
            text.family(name, "gauge", help);
            text.sample(name, plan, seconds(at.as_millisecond()));
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "beyond 2^53 nobody counts")]
fn ratio(done: u64, total: u64) -> f64 {
    if total == 0 {
        0.0
    } else {
        (done as f64 / total as f64).min(1.0)
    }
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

fn label(name: &str, value: &str) -> String {
    let value = value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# TYPE {name} {kind}\n# HELP {name} {help}\n");
        if name.ends_with("_seconds") {
            let _ = writeln!(self.0, "# UNIT {name} seconds");
        }
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name}{{{labels}}} {value}");
    }

    fn seconds(&mut self, name: &str, kind: &str, help: &str, labels: &str, ms: u64) {
        self.family(name, kind, help);
        let suffix = if kind == "counter" { "_total" } else { "" };
        self.sample(
            &format!("{name}{suffix}"),
            labels,
            seconds(i64::try_from(ms).unwrap_or(i64::MAX)),
        );
    }
}

/// Keeps the metrics, and the file of them.
pub struct Keeper {
    metrics: Arc<Mutex<Metrics>>,
    file: Option<PathBuf>,
    written: Option<Instant>,
    is_stale: bool,
    has_failed: bool,
    reporter: Arc<dyn Reporter>,
}

const EVERY: Duration = Duration::from_secs(1);

impl Keeper {
    pub fn new(metrics: Arc<Mutex<Metrics>>, file: Option<PathBuf>, reporter: Arc<dyn Reporter>) -> Self {
        Self {
            metrics,
            file,
            written: None,
            is_stale: false,
            has_failed: false,
            reporter,
        }
    }

    /// Under another name first: who reads it never sees half of it.
    fn write(&mut self) {
        let Some(file) = &self.file else { return };
        let text = self.metrics.lock().unwrap_or_else(PoisonError::into_inner).text();
        let mut beside = file.clone().into_os_string();
        beside.push(".new");
        let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, file));
        self.written = Some(Instant::now());
        self.is_stale = false;
        if let Err(error) = written
            && !self.has_failed
        {
            self.has_failed = true;
            let file = file.display();
            self.reporter.note(&format!(
                "metrics cannot be written to {file}: {error}; the run goes on"
            ));
        }
    }
}

impl Watcher for Keeper {
    fn take(&mut self, at: Timestamp, event: &Event) {
        self.metrics
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(at, event);
        self.is_stale = true;
    }

    fn flush(&mut self, last: bool) {
        if last {
            let mut metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
            self.is_stale |= metrics.standing.is_cut_off();
        }
        let due = self.written.is_none_or(|at| at.elapsed() >= EVERY);
        if self.is_stale && (due || last) {
            self.write();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Phase;

    #[test]
    #[expect(clippy::too_many_lines, reason = "it is one list of events")]
    fn counts_what_happens() {
        let mut metrics = Metrics::default();
        let at = Timestamp::from_millisecond(1_700_000_000_250).unwrap();
        let progress = |rows| Event::Progress {
            step: "a".into(),
            stage: String::new(),
            unit: crate::event::Unit::Pages,
            done: 1,
            total: 4,
            rows,
            per_second: 250.5,
            batch: Some(crate::event::BatchSize {
                number: 1,
                pages: 1,
                passes: 1,
                held_us: 1,
            }),
            lag: None,
        };
        let events = [
            Event::RunStarted {
                plan: "a \"b\"\\".into(),
                run: 7,
                steps: 3,
                done: 1,
                resumed: true,
            },
            Event::PhaseStarted {
                phase: Phase::Backfill,
                steps: 1,
            },
            Event::StepStarted {
                step: "a".into(),
                summary: String::new(),
                undo: false,
            },
            Event::Waiting {
                step: "a".into(),
                waited_ms: 1_500,
                blockers: Vec::new(),
            },
            Event::LockTimeout {
                step: "a".into(),
                attempt: 1,
                sqlstate: "55P03".into(),
                retry_in_ms: 10,
                waited_ms: 200,
                blockers: Vec::new(),
            },
            progress(100),
            Event::StandingAside {
                step: "a".into(),
                reason: "lag".into(),
                waited_ms: 2_000,
            },
            progress(200),
        ];
        for event in &events {
            metrics.take(at, event);
        }
        let text = metrics.text();
        for line in [
            "pgmorph_run_state{plan=\"a \\\"b\\\"\\\\\",pgmorph_run_state=\"running\"} 1",
            "pgmorph_rows_total{plan=\"a \\\"b\\\"\\\\\"} 200",
            "pgmorph_rows_per_second{plan=\"a \\\"b\\\"\\\\\"} 250.5",
            "pgmorph_progress_ratio{plan=\"a \\\"b\\\"\\\\\"} 0.25",
            "pgmorph_lock_timeouts_total{plan=\"a \\\"b\\\"\\\\\"} 1",
            "pgmorph_lock_wait_seconds_total{plan=\"a \\\"b\\\"\\\\\"} 1.500",
            "pgmorph_standing_aside{plan=\"a \\\"b\\\"\\\\\"} 0",
            "pgmorph_last_event_timestamp_seconds{plan=\"a \\\"b\\\"\\\\\"} 1700000000.250",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
