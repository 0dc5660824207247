//! Commands and URLs that are told when a run or a phase begins and ends.

use super::standing::{Standing, State};
use super::{Watcher, http};
use crate::error::Error;
use crate::event::Event;
use crate::report::Reporter;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::Agent;

/// Version of the JSON that hooks get.
const VERSION: u32 = 1;

pub struct Targets {
    pub commands: Vec<String>,
    pub urls: Vec<String>,
    pub timeout: Duration,
}

pub struct Hooks {
    targets: Targets,
    agent: Agent,
    standing: Standing,
    reporter: Arc<dyn Reporter>,
    is_over: bool,
}

/// What hooks are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    RunStarted,
    PhaseStarted,
    PhaseFinished,
    RunFinished,
    RunFailed,
    RunInterrupted,
}

impl Moment {
    fn name(self) -> &'static str {
        match self {
            Self::RunStarted => "run_started",
            Self::PhaseStarted => "phase_started",
            Self::PhaseFinished => "phase_finished",
            Self::RunFinished => "run_finished",
            Self::RunFailed => "run_failed",
            Self::RunInterrupted => "run_interrupted",
        }
    }
}

impl Hooks {
    pub fn new(targets: Targets, reporter: Arc<dyn Reporter>) -> Result<Self, Error> {
        for url in &targets.urls {
            http::check_url(url)?;
        }
        Ok(Self {
            agent: http::agent(targets.timeout),
            targets,
            standing: Standing::default(),
            reporter,
            is_over: false,
        })
    }

    fn tell(&self, at: Timestamp, moment: Moment) {
        let told = told(at, moment, &self.standing);
        let text = told.to_string();
        for command in &self.targets.commands {
            if let Err(reason) = run(command, &text, moment, &self.standing, self.targets.timeout) {
                self.note(moment, "command", &reason);
            }
        }
        for url in &self.targets.urls {
            if let Err(reason) = http::post(&self.agent, url, &[], &text) {
                self.note(moment, &http::redacted(url), &reason);
            }
        }
    }

    fn note(&self, moment: Moment, who: &str, reason: &str) {
        let moment = moment.name();
        self.reporter.note(&format!("hook at {moment} ({who}): {reason}; the run goes on"));
    }
}

fn told(at: Timestamp, moment: Moment, standing: &Standing) -> Value {
    json!({
        "version": VERSION,
        "event": moment.name(),
        "at": at.to_string(),
        "plan": standing.plan,
        "run": standing.run,
        "phase": standing.phase,
        "direction": if standing.back { "rollback" } else { "apply" },
        "steps": standing.steps,
        "done": standing.done,
        "state": standing.state,
        "message": standing.failure,
    })
}

/// What of the run's story hooks hear, by the event and how the run stood before it.
fn moments(before: &Standing, event: &Event) -> Vec<Moment> {
    let ended = before.phase.map(|_| Moment::PhaseFinished);
    match event {
        Event::RunStarted { .. } => vec![Moment::RunStarted],
        Event::PhaseStarted { .. } => ended.into_iter().chain([Moment::PhaseStarted]).collect(),
        Event::RunFinished { .. } => ended.into_iter().chain([Moment::RunFinished]).collect(),
        Event::StepFailed { .. } => vec![Moment::RunFailed],
        Event::Interrupted { .. } => vec![Moment::RunInterrupted],
        _ => Vec::new(),
    }
}

impl Watcher for Hooks {
    fn take(&mut self, at: Timestamp, event: &Event) {
        for moment in moments(&self.standing, event) {
            // The end of a phase is told while the run still stands in it.
            if moment != Moment::PhaseFinished {
                self.standing.take(event);
            }
            self.tell(at, moment);
            self.is_over = matches!(moment, Moment::RunFinished | Moment::RunFailed | Moment::RunInterrupted);
        }
        if moments(&self.standing, event).is_empty() {
            self.standing.take(event);
        }
    }

    fn flush(&mut self, last: bool) {
        // A run that stops by its own without a word of its end: a lost connection, a used up budget.
        if last && !self.is_over && self.standing.run != 0 {
            self.is_over = true;
            self.standing.state = State::Failed;
            self.tell(Timestamp::now(), Moment::RunFailed);
        }
    }
}

/// By the shell of the machine, with nothing of the plan in its text: only in its input and environment.
fn run(command: &str, input: &str, moment: Moment, standing: &Standing, timeout: Duration) -> Result<(), String> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .env("PGMORPH_EVENT", moment.name())
        .env("PGMORPH_PLAN", &standing.plan)
        .env("PGMORPH_RUN", standing.run.to_string())
        .env("PGMORPH_PHASE", standing.phase.unwrap_or_default())
        .env_remove("DATABASE_URL")
        .env_remove("PGPASSWORD")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| error.to_string())?;
    // A command that does not read it closes the pipe: that is no failure.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    wait(&mut child, timeout)
}

fn wait(child: &mut Child, timeout: Duration) -> Result<(), String> {
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(status.to_string()),
            Ok(None) if began.elapsed() < timeout => std::thread::sleep(Duration::from_millis(10)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("ended after {} s", timeout.as_secs_f32()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Phase;

    #[test]
    fn a_phase_ends_where_the_next_begins_or_the_run_ends() {
        let mut standing = Standing::default();
        let mut heard = Vec::new();
        let events = [
            Event::RunStarted { plan: "p".into(), run: 1, steps: 2, done: 0, resumed: false },
            Event::PhaseStarted { phase: Phase::Expand, steps: 1 },
            Event::StepStarted { step: "a".into(), summary: String::new(), undo: false },
            Event::StepDone { step: "a".into(), elapsed_ms: 1, attempts: 1, undo: false },
            Event::PhaseStarted { phase: Phase::Cutover, steps: 1 },
            Event::RunFinished { state: "completed".into() },
        ];
        for event in &events {
            heard.extend(moments(&standing, event).into_iter().map(Moment::name));
            standing.take(event);
        }
        assert_eq!(
            heard,
            ["run_started", "phase_started", "phase_finished", "phase_started", "phase_finished", "run_finished"]
        );
        assert_eq!((standing.done, standing.state), (1, State::Completed));
    }
}
