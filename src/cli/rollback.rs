//! `rollback`: undoes the latest run of a plan.

use super::{Global, Outcome, confirm, input, interrupts, resolve};
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
        let run = resolve::recorded(&session.client, &name).await?;
        drop(session);
        let Some(run) = run.filter(|run| run.state != RunState::RolledBack) else {
            report(global, &name, None, 0, 0)?;
            return Ok(0);
        };
        let loss = if self.accept_loss {
            Loss::Accepted
        } else {
            Loss::Refused
        };
        let question = question(&run, &settings, loss);
        match &run.plan.confirm_rollback {
            Some(text) => confirm::ask_for(text, &question, self.confirm.as_deref())?,
            None => confirm::ask(&question, self.yes)?,
        }
        let began = Instant::now();
        let outcome = Box::pin(execute(global, &settings, &run, loss)).await?;
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        report(global, &name, Some(outcome.run), outcome.steps, elapsed_ms)?;
        Ok(0)
    }
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

fn report(global: &Global, name: &str, run: Option<i64>, steps: usize, elapsed_ms: u64) -> Result<(), Error> {
    if global.is_json() {
        return out::json(&json!({"plan": name, "run": run, "steps": steps, "elapsed_ms": elapsed_ms}));
    }
    out::result(&match run {
        None => format!("{}: nothing to roll back\n", style::name(name)),
        Some(_) => format!(
            "{}: rolled back, {} undone in {}\n",
            style::name(name),
            units::counted(steps, "step"),
            units::millis(elapsed_ms)
        ),
    })
}
