//! `rollback`: undoes what runs of a plan did.

use super::history::History;
use super::{Global, Outcome, confirm, input, interrupts};
use crate::error::{Error, ErrorKind};
use crate::executor::ledger::{Run, StepState};
use crate::executor::{self, Executor, Loss};
use crate::postgres::settings::ConnectionSettings;
use crate::report::{out, style};
use crate::units;
use clap::Args;
use serde_json::json;
use std::fmt::Write;
use std::time::Instant;

/// Undo what was done of a plan, the last first, as long as nothing irreversible is done
#[derive(Debug, Args)]
pub struct Rollback {
    /// The plan file, a saved execution plan, or the plan's name
    plan: String,
    /// Go ahead without being asked
    #[arg(long, short)]
    yes: bool,
    /// What the plan wants to be typed before it is rolled back (`confirm_rollback`); --yes is not enough for it
    #[arg(long, value_name = "TEXT")]
    confirm: Option<String>,
    /// Give up values that the old column cannot hold, instead of refusing to go back
    #[arg(long)]
    accept_loss: bool,
}

impl Rollback {
    pub async fn run(&self, global: &Global) -> Outcome {
        let name = input::plan_name(&self.plan)?;
        let settings = global.settings()?;
        let session = global.observer(&settings).await?;
        let mut history = History::read(&session.client, &name).await?;
        drop(session);
        let stays = stays(&mut history.standing);
        if history.standing.is_empty() {
            report(global, &name, &[], 0, 0)?;
            return Ok(0);
        }
        let loss = if self.accept_loss {
            Loss::Accepted
        } else {
            Loss::Refused
        };
        let question = question(&history.standing, stays.as_deref(), &settings, loss);
        let typed = history
            .standing
            .iter()
            .find_map(|run| run.plan.confirm_rollback.as_deref());
        match typed {
            Some(text) => confirm::ask_for(text, &question, self.confirm.as_deref())?,
            None => confirm::ask(&question, self.yes)?,
        }
        let began = Instant::now();
        let reporter = global.reporter();
        let interrupts = interrupts::watch(reporter.clone())?;
        let mut runs = Vec::new();
        let mut steps = 0;
        let work = async {
            for run in history.standing.iter().rev() {
                let executor = Executor::open(&settings, reporter.clone(), interrupts.clone()).await?;
                let outcome = Box::pin(undo(global, &settings, executor, run, loss)).await?;
                steps += outcome.steps;
                runs.push(outcome.run);
            }
            Ok::<_, Error>(())
        };
        let ended = Box::pin(work).await;
        reporter.finish();
        ended?;
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Some(stays) = stays {
            global.note(&format!("note: {stays}"));
        }
        report(global, &name, &runs, steps, elapsed_ms)?;
        Ok(0)
    }
}

/// Leaves only the runs after the last one that went past its point of no return, and tells about that one. Where it
/// is the latest itself, the executor refuses it.
fn stays(standing: &mut Vec<Run>) -> Option<String> {
    let (position, step) = standing.iter().enumerate().rev().find_map(|(position, run)| {
        let (step, reason) = executor::irreversible(run)?;
        Some((
            position,
            format!("{} is done and cannot be undone: {reason}", step.id),
        ))
    })?;
    if position + 1 == standing.len() {
        standing.drain(..position);
        return None;
    }
    let after = standing.split_off(position + 1);
    let stays = std::mem::replace(standing, after);
    Some(format!(
        "run {} stays, because its step {step}",
        stays.last().map_or(0, |run| run.id)
    ))
}

fn question(runs: &[Run], stays: Option<&str>, settings: &ConnectionSettings, loss: Loss) -> String {
    let touched = |run: &Run| {
        let states = run.steps.iter().map(|step| step.state);
        states
            .filter(|state| !matches!(state, StepState::Pending | StepState::Undone))
            .count()
    };
    let steps: usize = runs.iter().map(touched).sum();
    let ids: Vec<String> = runs.iter().rev().map(|run| run.id.to_string()).collect();
    let mut text = format!(
        "Roll back {} {} of plan {} on {}: {} to undo, the last first.",
        if ids.len() == 1 { "run" } else { "runs" },
        ids.join(", then "),
        style::name(runs.last().map_or("", |run| &run.plan.name)),
        settings.redacted(),
        units::counted(steps, "step"),
    );
    if loss == Loss::Accepted {
        text.push_str(" Values that the old columns cannot hold will be lost.");
    }
    if let Some(stays) = stays {
        let _ = write!(text, "\n{} {stays}", style::careful("Not all of it:"));
    }
    text.push('\n');
    text
}

async fn undo(
    global: &Global,
    settings: &ConnectionSettings,
    executor: Executor,
    run: &Run,
    loss: Loss,
) -> Result<executor::Outcome, Error> {
    // Read again under the run lock: until then the run may have gone on.
    let session = global.observer(settings).await?;
    let mut found = History::read(&session.client, &run.plan.name).await?;
    drop(session);
    match found.standing.pop().filter(|found| found.id == run.id) {
        Some(found) => Box::pin(executor.rollback(&found, loss)).await,
        None => Err(Error::new(
            ErrorKind::Precondition,
            format!(
                "another run of this plan came in between; run {} was not touched",
                run.id
            ),
        )
        .help("see `pgmorph status`, then run the same command again")),
    }
}

/// `runs` in the order in which they were undone.
fn report(global: &Global, name: &str, runs: &[i64], steps: usize, elapsed_ms: u64) -> Result<(), Error> {
    if global.is_json() {
        return out::json(&json!({
            "plan": name,
            "run": runs.first(),
            "runs": runs,
            "steps": steps,
            "elapsed_ms": elapsed_ms,
        }));
    }
    let name = style::name(name);
    let (steps, elapsed) = (units::counted(steps, "step"), units::millis(elapsed_ms));
    out::result(&match runs {
        [] => format!("{name}: nothing to roll back\n"),
        [_] => format!("{name}: rolled back, {steps} undone in {elapsed}\n"),
        several => format!(
            "{name}: {} rolled back, {steps} undone in {elapsed}\n",
            units::counted(several.len(), "run")
        ),
    })
}
