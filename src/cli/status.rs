//! `status`: what the ledger knows.

use super::history::History;
use super::{Global, Outcome, input, set, watch};
use crate::error::Error;
use crate::executor::ledger::requests::{self, Requests};
use crate::executor::ledger::{Run, RunState};
use crate::executor::{self, ledger};
use crate::report::out;
use crate::report::status::{self, RunStatus};
use crate::units;
use clap::Args;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_postgres::Client;

/// Show what the ledger knows: runs, steps, attempts, and who runs now
#[derive(Debug, Args)]
pub struct Status {
    /// A plan file, a directory of plan files, or a plan's name; without it, the latest run of every plan
    plan: Option<String>,
    /// Look on while it runs, every so many seconds, until the run has ended; one line a look where nobody is at a
    /// terminal
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = seconds)]
    watch: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let ms = match text.parse::<f64>() {
        Ok(seconds) => units::whole(seconds * 1_000.0),
        Err(_) => units::duration_ms(text),
    };
    match ms {
        Some(ms @ 100..=3_600_000) => Ok(Duration::from_millis(ms)),
        _ => Err("seconds, from 0.1 to 3600; a plan stands in front of --watch".into()),
    }
}

impl Status {
    pub async fn run(&self, global: &Global) -> Outcome {
        let directory = self.plan.as_deref().filter(|plan| set::is_directory(plan));
        if let Some(directory) = directory.filter(|_| self.watch.is_none()) {
            return Box::pin(set::status::run(directory, global)).await;
        }
        // Of a directory whatever runs is watched, one plan after the other.
        let asked = self.plan.as_deref().filter(|_| directory.is_none());
        let asked = asked.map(input::asked).transpose()?;
        let session = global.observer(&global.settings()?).await?;
        let client = &session.client;
        let name = match asked {
            Some(asked) => Some(set::names::of(client, global, asked).await?),
            None => None,
        };
        if let Some(every) = self.watch {
            return Box::pin(watch::run(client, global, name.as_deref(), every)).await;
        }
        let mut runs = Vec::new();
        let known = ledger::exists(client).await?;
        if known {
            runs = match &name {
                Some(name) => of_plan(client, name).await?,
                None => of_all_plans(client).await?,
            };
        }
        let mut shown = Vec::new();
        let mut told = BTreeSet::new();
        for run in runs {
            let attempts = ledger::attempts(client, run.id).await?;
            let asked = match requests::exist(client).await? {
                true => requests::requests(client, run.id).await?,
                false => Requests::default(),
            };
            let fills = ledger::cursors(client, run.id).await?;
            // The latest that stands knows best; what earlier ones left out may have been made since.
            let tells = !is_undone(&run) && told.insert(run.plan.name.clone());
            let waiting = if tells { run.plan.waiting() } else { Vec::new() };
            shown.push(RunStatus {
                run,
                attempts,
                asked,
                fills,
                waiting,
            });
        }
        let runner = executor::runner(client).await?;
        let now = Timestamp::now();
        if global.is_json() {
            out::json(&status::json(&shown, runner.as_ref(), now))?;
        } else if shown.is_empty() {
            out::result(&nothing(name.as_deref()))?;
        } else {
            out::result(&status::human(&shown, runner.as_ref(), name.is_some(), now))?;
        }
        Ok(0)
    }
}

fn is_undone(run: &Run) -> bool {
    run.state == RunState::RolledBack
}

/// The runs of a plan that stand, and the latest, newest first.
async fn of_plan(client: &Client, name: &str) -> Result<Vec<Run>, Error> {
    let History {
        mut standing,
        mut undone,
    } = History::read(client, name).await?;
    standing.extend(undone.pop());
    standing.reverse();
    Ok(standing)
}

/// The latest run of every plan and, where that was rolled back, the latest that was not.
async fn of_all_plans(client: &Client) -> Result<Vec<Run>, Error> {
    let mut runs = Vec::new();
    for run in ledger::latest_runs(client).await? {
        let before = match is_undone(&run) {
            true => History::read(client, &run.plan.name).await?.standing.pop(),
            false => None,
        };
        runs.push(run);
        runs.extend(before);
    }
    Ok(runs)
}

pub(super) fn nothing(name: Option<&str>) -> String {
    match name {
        Some(name) => format!("plan {name} was never applied to this database\n"),
        None => "no plan was ever applied to this database\n".into(),
    }
}
