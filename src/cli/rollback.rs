//! `rollback`: undoes the latest run of a plan.

use super::{Global, Outcome, confirm, input, interrupts, resolve, set};
use crate::error::{Error, ErrorKind};
use crate::executor::ledger::{Run, RunState, StepState};
use crate::executor::{self, Executor, Loss};
use crate::postgres::settings::ConnectionSettings;
use crate::report::{out, style};
use crate::units;
use clap::Args;
use serde_json::json;
use std::time::Instant;

/// Undo the latest run of a plan, as long as nothing irreversible is done
#[derive(Debug, Args)]
pub struct Rollback {
    /// The plan file, a directory of plan files, a saved execution plan, or the plan's name
    pub(super) plan: String,
    /// Go ahead without being asked
    #[arg(long, short)]
    pub(super) yes: bool,
    /// What the plan wants to be typed before it is rolled back (`confirm_rollback`); --yes is not enough for it
    #[arg(long, value_name = "TEXT")]
    pub(super) confirm: Option<String>,
    /// Give up values that the old column cannot hold, instead of refusing to go back
    #[arg(long)]
    accept_loss: bool,
}

impl Rollback {
    pub async fn run(&self, global: &Global) -> Outcome {
        if set::is_directory(&self.plan) {
            return Box::pin(set::rollback::run(self, global)).await;
        }
        let name = input::plan_name(&self.plan)?;
        let settings = global.settings()?;
        let session = global.observer(&settings).await?;
        let run = resolve::recorded(&session.client, &name).await?;
        drop(session);
        if let Some(run) = run.as_ref().filter(|run| run.state != RunState::RolledBack) {
            refuse_baseline(run)?;
            let question = question(run, &settings, self.loss());
            match &run.plan.confirm_rollback {
                Some(text) => confirm::ask_for(text, &question, self.confirm.as_deref())?,
                None => confirm::ask(&question, self.yes)?,
            }
        }
        let undone = Box::pin(self.undo_run(global, &settings, &name, run)).await?;
        match global.is_json() {
            true => out::json(&undone.json())?,
            false => out::result(&undone.human())?,
        }
        Ok(0)
    }

    fn loss(&self) -> Loss {
        if self.accept_loss {
            Loss::Accepted
        } else {
            Loss::Refused
        }
    }

    /// Undoes the plan without asking.
    pub(super) async fn undo(
        &self,
        global: &Global,
        settings: &ConnectionSettings,
        name: &str,
    ) -> Result<Undone, Error> {
        let session = global.observer(settings).await?;
        let run = resolve::recorded(&session.client, name).await?;
        drop(session);
        Box::pin(self.undo_run(global, settings, name, run)).await
    }

    async fn undo_run(
        &self,
        global: &Global,
        settings: &ConnectionSettings,
        name: &str,
        run: Option<Run>,
    ) -> Result<Undone, Error> {
        let mut undone = Undone {
            plan: name.to_owned(),
            run: None,
            steps: 0,
            elapsed_ms: 0,
        };
        if let Some(run) = run.filter(|run| run.state != RunState::RolledBack) {
            refuse_baseline(&run)?;
            let began = Instant::now();
            let outcome = Box::pin(execute(global, settings, &run, self.loss())).await?;
            undone.run = Some(outcome.run);
            undone.steps = outcome.steps;
            undone.elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        }
        Ok(undone)
    }
}

/// What a rollback came to; no run means that there was nothing to undo.
pub(super) struct Undone {
    plan: String,
    run: Option<i64>,
    steps: usize,
    elapsed_ms: u64,
}

impl Undone {
    pub(super) fn json(&self) -> serde_json::Value {
        json!({"plan": self.plan, "run": self.run, "steps": self.steps, "elapsed_ms": self.elapsed_ms})
    }

    pub(super) fn human(&self) -> String {
        let name = style::name(&self.plan);
        match self.run {
            None => format!("{name}: nothing to roll back\n"),
            Some(_) => format!(
                "{name}: rolled back, {} undone in {}\n",
                units::counted(self.steps, "step"),
                units::millis(self.elapsed_ms)
            ),
        }
    }
}

fn refuse_baseline(run: &Run) -> Result<(), Error> {
    if !run.baseline {
        return Ok(());
    }
    let message = format!(
        "run {} of plan {} is a baseline: pgmorph did not make these changes and has no way back",
        run.id, run.plan.name
    );
    Err(Error::new(ErrorKind::Precondition, message)
        .help("nothing was changed; write a plan that takes back what you do not want"))
}

fn question(run: &Run, settings: &ConnectionSettings, loss: Loss) -> String {
    let touched = run
        .steps
        .iter()
        .filter(|step| !matches!(step.state, StepState::Pending | StepState::Undone));
    let lost = match loss {
        Loss::Refused => "",
        Loss::Accepted => " Values that the old columns cannot hold will be lost.",
    };
    format!(
        "Roll back run {} of plan {} on {}: {} to undo, the last first.{lost}\n",
        run.id,
        style::name(&run.plan.name),
        settings.redacted(),
        units::counted(touched.count(), "step"),
    )
}

async fn execute(
    global: &Global,
    settings: &ConnectionSettings,
    run: &Run,
    loss: Loss,
) -> Result<executor::Outcome, Error> {
    let reporter = global.reporter();
    let interrupts = interrupts::watch(reporter.clone())?;
    let work = async {
        let executor = Executor::open(settings, reporter.clone(), interrupts).await?;
        // Read again under the run lock: until then the run may have gone on.
        let session = global.observer(settings).await?;
        let found = resolve::recorded(&session.client, &run.plan.name).await?;
        drop(session);
        match found.filter(|found| found.id == run.id && found.state != RunState::RolledBack) {
            Some(found) => Box::pin(executor.rollback(&found, loss)).await,
            None => Err(Error::new(
                ErrorKind::Precondition,
                "another run of this plan came in between; nothing was changed",
            )
            .help("see `pgmorph status`, then run the same command again")),
        }
    };
    let outcome = Box::pin(work).await;
    reporter.finish();
    outcome
}
