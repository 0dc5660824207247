//! What the ledger knows, for people and machines.

use super::{plan_human, style};
use crate::event::Blocker;
use crate::executor::brake::Brake;
use crate::executor::gate;
use crate::executor::ledger::requests::Requests;
use crate::executor::ledger::{AttemptRecord, Cursor, Run, RunState, StepRecord, StepState};
use crate::plan::Waiting;
use crate::units;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::fmt::Write;

/// One run, with what of it is asked separately.
pub struct RunStatus {
    pub run: Run,
    /// Attempts that did not succeed.
    pub attempts: Vec<AttemptRecord>,
    pub asked: Requests,
    /// Where its backfills stand, by their steps.
    pub fills: Vec<(String, Cursor)>,
    /// Changes that it left out, and no later run has made.
    pub waiting: Vec<Waiting>,
}

/// `2026-07-28 10:00:00Z`.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// How long a step has taken; `now` counts for one that is still running.
fn elapsed_ms(step: &StepRecord, now: Timestamp) -> Option<u64> {
    let end = match step.state {
        StepState::Running => now,
        _ => step.finished_at?,
    };
    u64::try_from(end.duration_since(step.started_at?).as_millis()).ok()
}

/// `steps` shows every step of every run, rather than of unfinished runs only.
pub fn human(runs: &[RunStatus], runner: Option<&Blocker>, steps: bool, now: Timestamp) -> String {
    let mut text = String::new();
    match runner {
        Some(runner) => {
            let pid = runner.pid.map_or(String::new(), |pid| format!("pid {pid}, "));
            let _ = writeln!(
                text,
                "Running now: {pid}{} from {} for {}",
                runner.user,
                if runner.client.is_empty() {
                    "the server itself"
                } else {
                    &runner.client
                },
                units::millis(runner.age_ms)
            );
        }
        None => text.push_str("No run holds this database now.\n"),
    }
    for status in runs {
        text.push('\n');
        one_run(&mut text, status, steps, runner.is_some(), now);
    }
    text
}

fn one_run(text: &mut String, status: &RunStatus, steps: bool, running: bool, now: Timestamp) {
    let run = &status.run;
    let done = run
        .steps
        .iter()
        .filter(|step| step.state == StepState::Done)
        .count();
    let state = match run.state {
        RunState::Completed if run.baseline => style::good("baseline, recorded as applied"),
        RunState::Completed => style::good("completed"),
        RunState::Started => style::careful("started, not finished"),
        RunState::RollingBack => style::careful("being rolled back, not finished"),
        RunState::RolledBack => "rolled back".into(),
    };
    let _ = writeln!(
        text,
        "{} (run {}): {state}, {done} of {} done\n  begun {} by {}{}, last written {}",
        style::name(&run.plan.name),
        run.id,
        units::counted(run.steps.len(), "step"),
        time(run.started_at),
        run.started_by,
        run.client
            .as_ref()
            .map_or(String::new(), |client| format!(" from {client}")),
        time(run.updated_at),
    );
    for waiting in &status.waiting {
        let _ = writeln!(text, "  {} {waiting}", style::careful("waiting:"));
    }
    if steps || matches!(run.state, RunState::Started | RunState::RollingBack) {
        if run.state == RunState::Started {
            text.push_str(&asked(&status.asked, &run.plan.name));
            for date in gate::dates(run) {
                let _ = writeln!(text, "  {date}");
            }
        }
        fills(text, status);
        steps_table(text, run, running, now);
        attempts(text, &status.attempts);
    }
}

/// What is asked of a run, a line each.
pub fn asked(requests: &Requests, plan: &str) -> String {
    let mut text = String::new();
    if let Some(pause) = &requests.paused {
        let _ = writeln!(
            text,
            "  {} since {} by {}; it goes on with: pgmorph resume {plan}",
            style::careful("paused"),
            time(pause.since),
            pause.by
        );
    }
    if let Some(workers) = requests.workers {
        let _ = writeln!(text, "  workers: {workers}, as asked for");
    }
    if requests.throttle != Brake::Off {
        let _ = writeln!(text, "  throttle: {}", requests.throttle);
    }
    text
}

/// How far the steps are that are being filled.
fn fills(text: &mut String, status: &RunStatus) {
    let is_open = |id: &str| {
        let record = status.run.steps.iter().find(|step| step.id == id);
        record.is_some_and(|step| matches!(step.state, StepState::Running | StepState::Failed))
    };
    for (step, cursor) in status.fills.iter().filter(|(step, _)| is_open(step)) {
        let count = |number: i64| units::count(u64::try_from(number).unwrap_or(0));
        let _ = writeln!(
            text,
            "  {step}: {} of {} pages ({} %), {} rows filled",
            count(cursor.next_page),
            count(cursor.end_page),
            100 * cursor.next_page / cursor.end_page.max(1),
            count(cursor.rows_done)
        );
    }
}

fn steps_table(text: &mut String, run: &Run, running: bool, now: Timestamp) {
    let mut table = plan_human::table(&["Step", "Phase", "State", "Attempts", "Took", "Last error"]);
    for step in &run.steps {
        // Recorded as running, with nobody there to run it: the next call goes on there.
        let stopped = step.state == StepState::Running && !running;
        let took = elapsed_ms(step, now).filter(|_| !stopped);
        table.add_row([
            step.id.clone(),
            phase_of(run, step).to_owned(),
            if stopped { "stopped" } else { step.state.name() }.to_owned(),
            step.attempts.to_string(),
            took.map_or(String::new(), units::millis),
            step.error.clone().unwrap_or_default(),
        ]);
    }
    text.push_str(&plan_human::lines(&table));
}

fn phase_of(run: &Run, record: &StepRecord) -> &'static str {
    let step = run.plan.steps.iter().find(|step| step.id == record.id);
    step.map_or("", |step| step.phase.name())
}

fn attempts(text: &mut String, attempts: &[AttemptRecord]) {
    /// The latest say most; the ledger and `--format json` have all.
    const SHOWN: usize = 10;
    if attempts.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "  attempts that did not succeed, the latest of {}:",
        units::count(attempts.len() as u64)
    );
    for attempt in attempts.iter().skip(attempts.len().saturating_sub(SHOWN)) {
        let _ = writeln!(
            text,
            "    {} {} after {}: {}",
            time(attempt.at),
            attempt.step,
            units::millis(u64::try_from(attempt.elapsed_ms).unwrap_or(0)),
            attempt.message
        );
    }
}

pub fn json(runs: &[RunStatus], runner: Option<&Blocker>, now: Timestamp) -> Value {
    let runs: Vec<_> = runs.iter().map(|status| run_json(status, now)).collect();
    json!({"runner": runner, "runs": runs})
}

fn run_json(status: &RunStatus, now: Timestamp) -> Value {
    let run = &status.run;
    let step = |step: &StepRecord| {
        json!({
            "id": step.id,
            "phase": phase_of(run, step),
            "state": step.state.name(),
            "attempts": step.attempts,
            "started_at": step.started_at,
            "finished_at": step.finished_at,
            "elapsed_ms": elapsed_ms(step, now),
            "error": step.error,
        })
    };
    let fill = |(step, cursor): &(String, Cursor)| json!({"step": step, "cursor": cursor});
    json!({
        "plan": run.plan.name,
        "digest": run.plan.digest,
        "run": run.id,
        "state": run.state.name(),
        "baseline": run.baseline,
        "started_by": run.started_by,
        "client": run.client,
        "started_at": run.started_at,
        "updated_at": run.updated_at,
        "finished_at": run.finished_at,
        "steps": run.steps.iter().map(step).collect::<Vec<_>>(),
        "attempts": status.attempts,
        "not_before": gate::dates(run),
        "requests": status.asked.json(),
        "waiting": status.waiting,
        "backfills": status.fills.iter().map(fill).collect::<Vec<_>>(),
    })
}
