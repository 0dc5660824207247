//! `rollback`: undoes what runs of a plan did.

use super::contention::ContentionArgs;
use super::history::History;
use super::{Global, Outcome, confirm, input, interrupts, set};
use crate::error::{Error, ErrorKind};
use crate::event::LockTotals;
use crate::executor::ledger::{Run, StepState};
use crate::executor::{self, Executor, Interrupt, Loss};
use crate::monitor::Watchers;
use crate::postgres::settings::ConnectionSettings;
use crate::report::{Reporter, out, style};
use crate::units;
use clap::Args;
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio_postgres::Client;

/// Undo what was done of a plan, the last first, as long as nothing irreversible is done
#[derive(Debug, Args)]
pub struct Rollback {
    /// The plan file, a directory of plan files, a saved execution plan, or the plan's name
    pub(super) plan: String,
    /// Go ahead without being asked
    #[arg(long, short)]
    pub(super) yes: bool,
    /// What the plan wants to be typed before it is rolled back (`confirm_rollback`); --yes is not enough for it
    ///
    /// May be given several times, for a directory whose plans want different texts.
    #[arg(long, value_name = "TEXT")]
    pub(super) confirm: Vec<String>,
    /// Give up values that the old column cannot hold, instead of refusing to go back
    #[arg(long)]
    accept_loss: bool,
    #[command(flatten)]
    contention: ContentionArgs,
    #[command(flatten)]
    pub(super) watchers: Watchers,
}

impl Rollback {
    pub async fn run(&self, global: &Global) -> Outcome {
        if set::is_directory(&self.plan) {
            return Box::pin(set::rollback::run(self, global)).await;
        }
        let asked = input::asked(&self.plan)?;
        let settings = global.settings()?;
        let session = global.observer(&settings).await?;
        let name = set::names::of(&session.client, global, asked).await?;
        let undoing = Undoing::find(&session.client, &name).await?;
        drop(session);
        if let Some(run) = undoing.baseline() {
            return Err(is_baseline(run).into());
        }
        if !undoing.runs.is_empty() {
            let question = question(&undoing, &settings, self.loss());
            confirm::ask_for(&typed(&undoing.runs), &question, &self.confirm, self.yes)?;
        }
        let reporter = self.watchers.around(global.reporter())?;
        let interrupts = interrupts::watch(reporter.clone())?;
        let undone = Box::pin(self.undo(global, &settings, &undoing.runs, &reporter, &interrupts)).await;
        reporter.finish();
        let undone = undone?;
        if let Some(stays) = &undoing.stays {
            global.note(&format!("note: {stays}"));
        }
        undone.report(global, &name)?;
        Ok(0)
    }

    fn loss(&self) -> Loss {
        if self.accept_loss {
            Loss::Accepted
        } else {
            Loss::Refused
        }
    }

    /// Does it without asking, the last run first.
    pub(super) async fn undo(
        &self,
        global: &Global,
        settings: &ConnectionSettings,
        runs: &[Run],
        reporter: &Arc<dyn Reporter>,
        interrupts: &watch::Receiver<Interrupt>,
    ) -> Result<Undone, Error> {
        let began = Instant::now();
        let mut undone = Undone {
            runs: Vec::new(),
            steps: 0,
            elapsed_ms: 0,
            locks: LockTotals::default(),
        };
        for run in runs.iter().rev() {
            let executor = Executor::open(settings, reporter.clone(), interrupts.clone())
                .await?
                .contending(self.contention.into());
            let outcome = Box::pin(undo(global, settings, executor, run, self.loss())).await?;
            undone.steps += outcome.steps;
            undone.locks = undone.locks.plus(&outcome.locks);
            undone.runs.push(outcome.run);
        }
        undone.elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(undone)
    }
}

/// What is to be undone of a plan.
pub(super) struct Undoing {
    name: String,
    /// Oldest first.
    pub(super) runs: Vec<Run>,
    /// Why a run before them is not undone.
    pub(super) stays: Option<String>,
}

impl Undoing {
    pub(super) async fn find(client: &Client, name: &str) -> Result<Self, Error> {
        let mut runs = History::read(client, name).await?.standing;
        let stays = stays(&mut runs);
        Ok(Self {
            name: name.to_owned(),
            runs,
            stays,
        })
    }

    /// The latest run, where that has no way back because nothing was run.
    pub(super) fn baseline(&self) -> Option<&Run> {
        self.runs.last().filter(|run| run.baseline)
    }
}

fn is_baseline(run: &Run) -> Error {
    let message = format!(
        "run {} of plan {} is a baseline: pgmorph did not make these changes and has no way back",
        run.id, run.plan.name
    );
    Error::new(ErrorKind::Precondition, message)
        .help("nothing was changed; write a plan that takes back what you do not want")
}

/// What has to be typed before any of these is undone.
pub(super) fn typed<'a>(runs: impl IntoIterator<Item = &'a Run>) -> BTreeSet<&'a str> {
    runs.into_iter()
        .filter_map(|run| run.plan.confirm_rollback.as_deref())
        .collect()
}

/// Leaves only the runs after the last one that went past its point of no return or is a baseline, and tells about that one. Where it
/// is the latest itself, the executor refuses it.
fn stays(standing: &mut Vec<Run>) -> Option<String> {
    let (position, why) = standing.iter().enumerate().rev().find_map(|(position, run)| {
        if run.baseline {
            return Some((position, "it is a baseline".to_owned()));
        }
        let (step, reason) = executor::irreversible(run)?;
        Some((
            position,
            format!("its step {} is done and cannot be undone: {reason}", step.id),
        ))
    })?;
    if position + 1 == standing.len() {
        standing.drain(..position);
        return None;
    }
    let after = standing.split_off(position + 1);
    let stays = std::mem::replace(standing, after);
    Some(format!(
        "run {} stays, because {why}",
        stays.last().map_or(0, |run| run.id)
    ))
}

fn question(undoing: &Undoing, settings: &ConnectionSettings, loss: Loss) -> String {
    let Undoing { name, runs, stays } = undoing;
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
        style::name(name),
        settings,
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

/// What a rollback came to.
pub(super) struct Undone {
    /// In the order in which they were undone.
    runs: Vec<i64>,
    steps: usize,
    elapsed_ms: u64,
    locks: LockTotals,
}

impl Undone {
    pub(super) fn json(&self, plan: &str) -> serde_json::Value {
        json!({
            "plan": plan,
            "run": self.runs.first(),
            "runs": self.runs,
            "steps": self.steps,
            "elapsed_ms": self.elapsed_ms,
            "locks": self.locks,
        })
    }

    pub(super) fn human(&self, plan: &str) -> String {
        let name = style::name(plan);
        let steps = units::counted(self.steps, "step");
        let elapsed = units::millis(self.elapsed_ms);
        let text = match self.runs.as_slice() {
            [] => format!("{name}: nothing to roll back\n"),
            [run] => format!("{name}: run {run} rolled back, {steps} undone in {elapsed}\n"),
            several => format!(
                "{name}: {} rolled back, {steps} undone in {elapsed}\n",
                units::counted(several.len(), "run")
            ),
        };
        text + &out::locks(&self.locks)
    }

    fn report(&self, global: &Global, plan: &str) -> Result<(), Error> {
        if global.is_json() {
            return out::json(&self.json(plan));
        }
        out::result(&self.human(plan))
    }
}
