//! `status`: what the ledger knows.

use super::{Global, Outcome, input, set};
use crate::executor::ledger::requests::{self, Requests};
use crate::executor::{self, ledger};
use crate::report::out;
use crate::report::status::{self, RunStatus};
use clap::Args;
use jiff::Timestamp;

/// Show what the ledger knows: runs, steps, attempts, and who runs now
#[derive(Debug, Args)]
pub struct Status {
    /// A plan file, a directory of plan files, or a plan's name; without it, the latest run of every plan
    plan: Option<String>,
}

impl Status {
    pub async fn run(&self, global: &Global) -> Outcome {
        if let Some(directory) = self.plan.as_deref().filter(|plan| set::is_directory(plan)) {
            return Box::pin(set::status::run(directory, global)).await;
        }
        let name = self.plan.as_deref().map(input::plan_name).transpose()?;
        let session = global.observer(&global.settings()?).await?;
        let client = &session.client;
        let mut runs = Vec::new();
        let known = ledger::exists(client).await?;
        if known {
            runs = match &name {
                Some(name) => ledger::latest_run(client, name).await?.into_iter().collect(),
                None => ledger::latest_runs(client).await?,
            };
        }
        let mut shown = Vec::new();
        for run in runs {
            let attempts = ledger::attempts(client, run.id).await?;
            let asked = match requests::exist(client).await? {
                true => requests::requests(client, run.id).await?,
                false => Requests::default(),
            };
            let fills = ledger::cursors(client, run.id).await?;
            shown.push(RunStatus {
                run,
                attempts,
                asked,
                fills,
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

fn nothing(name: Option<&str>) -> String {
    match name {
        Some(name) => format!("plan {name} was never applied to this database\n"),
        None => "no plan was ever applied to this database\n".into(),
    }
}
