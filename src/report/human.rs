//! A run for people: a progress bar on a terminal, else one line per event.

use super::{Reporter, out, safe, screen, style};
use crate::event::{Blocker, Event, Listener, Stall, Unit};
use crate::units;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Without a terminal, progress and waiting are told at most this often: a log is read, not watched.
const QUIET_FOR: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(120);

/// Lines on stderr; what passes quickly only now and then.
#[derive(Default)]
pub struct LineReporter {
    last_passing: Mutex<Option<Instant>>,
    pace: Mutex<Pace>,
}

impl LineReporter {
    fn is_due(&self) -> bool {
        let mut last = self.last_passing.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= QUIET_FOR);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

impl Listener for LineReporter {
    fn tell(&self, event: &Event) {
        if let Some(line) = lasting(event) {
            out::line(&line);
        } else if let Some(line) = with_time_left(event, &self.pace).filter(|_| self.is_due()) {
            out::line(&format!("  {line}"));
        }
    }
}

impl Reporter for LineReporter {
    fn note(&self, text: &str) {
        out::line(text);
    }
}

/// Lines below the bar, for what the step is at.
const LINES: usize = 4;
/// Where the terminal is narrower, the bar is shorter.
const WIDE: usize = 80;

/// A bar at the bottom of the terminal for the current step, and below it how far it is or what it waits for; what stays is
/// printed above it.
pub struct BarReporter {
    bar: ProgressBar,
    pace: Mutex<Pace>,
}

/// Where a step stood when its progress was first told: what it did before was done by an earlier run.
#[derive(Default)]
struct Pace {
    step: String,
    since: Option<(Instant, u64)>,
}

impl Pace {
    /// Milliseconds until the end at the average rate so far.
    fn remaining_ms(&mut self, step: &str, done: u64, total: u64) -> Option<u64> {
        if self.step != step {
            *self = Self {
                step: step.to_owned(),
                since: None,
            };
        }
        let (began, first) = *self.since.get_or_insert_with(|| (Instant::now(), done));
        remaining_ms(
            began.elapsed(),
            done.checked_sub(first)?,
            total.checked_sub(done)?,
        )
    }
}

/// The line of an event that the next of its kind replaces; of progress, with what is still to come.
fn with_time_left(event: &Event, pace: &Mutex<Pace>) -> Option<String> {
    let line = passing(event)?;
    let Event::Progress {
        step, done, total, ..
    } = event
    else {
        return Some(line);
    };
    let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
    Some(match pace.remaining_ms(step, *done, *total) {
        Some(left) => format!("{line}, {} left", units::millis(left)),
        None => line,
    })
}

impl BarReporter {
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, screen::target(std::io::stderr()));
        bar.set_style(look("{spinner} {prefix} {wide_msg}"));
        bar.enable_steady_tick(TICK);
        Self {
            bar,
            pace: Mutex::default(),
        }
    }

    /// What the step is at, below its name: a line would be cut where the terminal ends, and the end says how long it takes
    /// or who is in the way.
    fn say(&self, text: &str) {
        let columns = screen::columns(std::io::stderr());
        let lines = screen::folded(&safe::one_line(text), columns.saturating_sub(5), LINES);
        let lines: String = lines.iter().map(|line| format!("\n    {line}")).collect();
        self.bar.set_message(lines);
    }

    fn print(&self, line: &str) {
        self.bar.suspend(|| out::line(line));
    }
}

impl Default for BarReporter {
    fn default() -> Self {
        Self::new()
    }
}

impl Listener for BarReporter {
    fn tell(&self, event: &Event) {
        match event {
            Event::StepStarted { step, summary, .. } => {
                self.bar.set_style(look("{spinner} {prefix}{msg}"));
                // In this order no frame shows the new step with the words of the last one.
                self.bar.set_message("");
                self.bar.set_prefix(safe::one_line(step));
                self.say(summary);
            }
            Event::Progress { done, total, .. } if *total > 0 => {
                let bar = match screen::columns(std::io::stderr()) {
                    WIDE.. => "{bar:24}",
                    _ => "{bar:12}",
                };
                self.bar.set_style(look(&format!(
                    "{{spinner}} {{prefix}} [{bar}] {{percent:>3}}%{{msg}}"
                )));
                self.bar.set_length(*total);
                self.bar.set_position(*done);
                self.say(&with_time_left(event, &self.pace).unwrap_or_default());
            }
            _ => {
                if let Some(line) = passing(event) {
                    self.say(&line);
                }
                if let Some(line) = lasting(event) {
                    self.print(&line);
                }
            }
        }
    }
}

impl Reporter for BarReporter {
    fn note(&self, text: &str) {
        self.print(text);
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn look(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .progress_chars("=> ")
}

fn remaining_ms(elapsed: Duration, done: u64, left: u64) -> Option<u64> {
    if done == 0 || elapsed < Duration::from_secs(1) {
        return None;
    }
    u64::try_from(elapsed.as_millis() * u128::from(left) / u128::from(done)).ok()
}

/// The line of an event that is worth keeping.
fn lasting(event: &Event) -> Option<String> {
    Some(match event {
        Event::RunStarted {
            plan,
            run,
            steps,
            done,
            resumed,
        } => {
            let how = if *resumed {
                format!(", resumed after {done}")
            } else {
                String::new()
            };
            format!(
                "{} as run {run}: {}{how}",
                style::name(plan),
                units::counted(*steps, "step")
            )
        }
        Event::PhaseStarted { phase, steps } => {
            format!("{} ({})", style::heading(phase), units::counted(*steps, "step"))
        }
        Event::Interrupted { reason } => format!("{}: {reason}", style::careful("interrupted")),
        Event::RunFinished { state } if state == "started" => style::good("these phases are done"),
        Event::RunFinished { state } => style::good(state.replace('_', " ")),
        of_step => {
            let (step, what) = step_line(of_step)?;
            format!("  {} {what}", style::name(step))
        }
    })
}

/// What happened to which step.
fn step_line(event: &Event) -> Option<(&str, String)> {
    Some(match event {
        Event::StepStarted { step, summary, undo } => {
            let what = if *undo { "undoing" } else { "begun" };
            (step, format!("{what}: {}", safe::one_line(summary)))
        }
        Event::StepSkipped { step, reason } => (step, format!("skipped: {reason}")),
        Event::StepDone {
            step,
            elapsed_ms,
            attempts,
            undo,
        } => {
            let done = style::good(if *undo { "undone" } else { "done" });
            let tries = if *attempts > 1 {
                format!(", {attempts} attempts")
            } else {
                String::new()
            };
            (step, format!("{done} in {}{tries}", units::millis(*elapsed_ms)))
        }
        Event::StepFailed { step, message } => (step, format!("{}: {message}", style::bad("failed"))),
        Event::LockTimeout {
            step,
            attempt,
            retry_in_ms,
            blockers,
            ..
        } => {
            let again = units::millis(*retry_in_ms);
            let locked = style::careful("locked");
            (
                step,
                format!(
                    "{locked}: attempt {attempt} gave up, again in {again}{}",
                    by(blockers)
                ),
            )
        }
        // Nothing to speak of, unless it was given up for their sake.
        Event::Stalled {
            step,
            stall,
            cut: Some(cut),
            ..
        } => (step, gave_way(stall, cut)),
        Event::Ended { step, how, blocker } => (
            step,
            format!(
                "{} {}",
                style::careful(how),
                by(std::slice::from_ref(blocker)).trim_start_matches("; in the way: ")
            ),
        ),
        Event::Reconnecting {
            step,
            reason,
            retry_in_ms,
        } => {
            let again = units::millis(*retry_in_ms);
            (
                step,
                format!("{}: {reason}; again in {again}", style::careful("disconnected")),
            )
        }
        Event::CleanedUp { step, what } => (step, format!("cleaned up: {what}")),
        Event::Noted { step, what } => (step, format!("{}: {what}", style::careful("note"))),
        _ => return None,
    })
}

/// An attempt that was given up for the sake of others.
fn gave_way(stall: &Stall, cut: &str) -> String {
    let verb = style::careful("gave way");
    if cut == "blind" {
        return format!("{verb}: nobody could see who waited behind it");
    }
    let who = match stall.applications.as_slice() {
        [] => String::new(),
        names => format!(" ({})", names.join(", ")),
    };
    format!(
        "{verb}: {}{who} waited behind it for {} together, one for {}: {cut}",
        units::counted(stall.sessions, "session"),
        units::millis(stall.backend_ms),
        units::millis(stall.worst_ms)
    )
}

/// The line of an event that the next of its kind replaces.
fn passing(event: &Event) -> Option<String> {
    match event {
        Event::Waiting {
            waited_ms, blockers, ..
        } => Some(format!(
            "waiting for {}{}",
            units::millis(*waited_ms),
            by(blockers)
        )),
        Event::StandingAside {
            reason, waited_ms, ..
        } => Some(format!(
            "standing aside for {}: {reason}",
            units::millis(*waited_ms)
        )),
        Event::Progress {
            stage,
            unit,
            done,
            total,
            rows,
            per_second,
            ..
        } => {
            let unit = match unit {
                Unit::Pages => "pages",
                Unit::Blocks => "blocks",
                Unit::Tuples => "rows",
            };
            let mut parts = Vec::new();
            parts.extend((!stage.is_empty()).then(|| stage.clone()));
            parts.push(format!(
                "{} of {} {unit}",
                units::count(*done),
                units::count(*total)
            ));
            parts.extend((*rows > 0).then(|| format!("{} rows", units::count(*rows))));
            parts.extend(rate(*per_second));
            Some(parts.join(", "))
        }
        _ => None,
    }
}

fn rate(per_second: f64) -> Option<String> {
    (per_second >= 1.0 && per_second.is_finite()).then(|| {
        // Saturating, and a rate is a rough figure anyway.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let whole = per_second as u64;
        format!("{}/s", units::count(whole))
    })
}

fn by(blockers: &[Blocker]) -> String {
    let one = |blocker: &Blocker| {
        let who = match blocker.pid {
            Some(pid) => format!("pid {pid}"),
            None => "a prepared transaction".into(),
        };
        let application = match blocker.application.as_str() {
            "" => String::new(),
            name => format!(" ({name})"),
        };
        // Who waits for a row or for an old snapshot waits for a whole transaction, not for a lock on a relation.
        let what = match blocker.relation.as_str() {
            "" => "its transaction must end first".to_owned(),
            relation => format!("holds {} on {relation}", blocker.mode),
        };
        let age = units::millis(blocker.age_ms);
        format!(
            "{who} of {}{application}, {} for {age}, {what}",
            blocker.user, blocker.state
        )
    };
    match blockers {
        [] => String::new(),
        [only] => format!("; in the way: {}", safe::one_line(&one(only))),
        [first, rest @ ..] => {
            let first = safe::one_line(&one(first));
            format!("; in the way: {first}, and {} more", rest.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: Option<String>) -> String {
        crate::report::safe::plain(&text.unwrap_or_default())
    }

    fn blocker(pid: Option<i32>) -> Blocker {
        Blocker {
            pid,
            user: "app".into(),
            application: "worker".into(),
            client: "10.0.0.1".into(),
            state: "idle in transaction".into(),
            mode: "RowExclusiveLock".into(),
            relation: "public.orders".into(),
            age_ms: 80_000,
        }
    }

    #[test]
    fn says_who_is_in_the_way() {
        let event = Event::LockTimeout {
            step: "01-x".into(),
            attempt: 2,
            sqlstate: "55P03".into(),
            retry_in_ms: 1_500,
            waited_ms: 400,
            blockers: vec![blocker(Some(7)), blocker(None)],
        };
        insta::assert_snapshot!(plain(lasting(&event)), @"  01-x locked: attempt 2 gave up, again in 1.5s; in the way: pid 7 of app (worker), idle in transaction for 1m 20s, holds RowExclusiveLock on public.orders, and 1 more");
    }

    #[test]
    fn progress_has_a_rate() {
        let event = Event::Progress {
            step: "01-x".into(),
            stage: "building".into(),
            unit: Unit::Pages,
            done: 500,
            total: 12_800,
            rows: 70_000,
            per_second: 12_345.6,
            batch: None,
            lag: None,
        };
        assert!(lasting(&event).is_none());
        insta::assert_snapshot!(plain(passing(&event)), @"building, 500 of 12,800 pages, 70,000 rows, 12,345/s");
    }

    #[test]
    fn what_an_earlier_run_did_does_not_count_for_the_pace() {
        assert_eq!(remaining_ms(Duration::from_secs(10), 100, 300), Some(30_000));
        assert_eq!(remaining_ms(Duration::from_secs(10), 0, 300), None);
        assert_eq!(remaining_ms(Duration::from_millis(10), 5, 300), None);
    }
}
