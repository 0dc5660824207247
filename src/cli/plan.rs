//! `plan`: compiles a plan file and prints what would run.

use super::history::History;
use super::input::{self, Input};
use super::resolve::{self, Way};
use super::{Failure, Format, Global, Outcome, set};
use crate::executor::ledger::{Run, RunState, StepState};
use crate::plan::ExecutionPlan;
use crate::planner;
use crate::report::{out, plan_html, plan_human, plan_markdown, plan_sql};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Compile a plan file and print phases, locks, SQL, hazards and estimates; changes nothing
#[derive(Debug, Args)]
pub struct Plan {
    /// The plan file, or a saved execution plan to print; `-` is standard input
    plan: String,
    /// Save the execution plan as JSON: `apply` takes it in place of the plan file
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Plan against a catalog snapshot (see `snapshot`) instead of a server
    #[arg(long, value_name = "FILE")]
    catalog: Option<String>,
}

impl Plan {
    pub async fn run(&self, global: &Global) -> Outcome {
        let input = input::read(&self.plan)?;
        let plan = match (&input, &self.catalog) {
            (Input::Saved(plan), _) => (**plan).clone(),
            (Input::File(file), Some(catalog)) => {
                let catalog = input::snapshot(catalog)?;
                planner::plan(&file.plan, &catalog).map_err(|diagnostics| file.refused(diagnostics))?
            }
            (Input::File(file), None) => against_server(global, Input::File(file.clone())).await?,
        };
        if let Some(path) = &self.output {
            input::write(path, &out::pretty(&plan))?;
        }
        match global.format {
            // The last two are refused for this command before it runs.
            Format::Human | Format::Sarif | Format::Github => out::result(&plan_human::plan(&plan))?,
            Format::Json => out::json(&json!({"plan": plan}))?,
            Format::Sql => out::script(&plan_sql::plan(&plan))?,
            Format::Markdown => out::result(&plan_markdown::plan(&plan))?,
            Format::Html => out::result(&plan_html::plan(&plan))?,
        }
        Ok(0)
    }
}

/// What `apply` would run; where it would refuse, what a new plan would be, if that is possible.
async fn against_server(global: &Global, mut input: Input) -> Result<ExecutionPlan, Failure> {
    let session = global.observer(&global.settings()?).await?;
    let client = &session.client;
    set::names::recognise(client, global, &mut input).await?;
    let input = &input;
    let history = History::read(client, input.name()).await?;
    Ok(match resolve::way(client, input, &history).await? {
        Way::Begin(plan) => *plan,
        Way::Resume(run) | Way::Finished(run, _) => {
            global.note(&format!(
                "note: {}; this is the plan that it recorded",
                progress(&run)
            ));
            run.plan
        }
        Way::Refused(error, run) => {
            global.note(&format!(
                "note: {}; `apply` would refuse: {}",
                progress(&run),
                error.message
            ));
            match resolve::begin(client, input, &planner::Numbers::new()).await {
                Ok(plan) => plan,
                Err(Failure::Plan(_)) => {
                    global.note("note: a new plan cannot be made now; this is the recorded one");
                    run.plan
                }
                Err(failure) => return Err(failure),
            }
        }
    })
}

fn progress(run: &Run) -> String {
    let done = run
        .steps
        .iter()
        .filter(|step| step.state == StepState::Done)
        .count();
    let state = match run.state {
        RunState::Started => "is not finished",
        RunState::Completed => "is completed",
        RunState::RollingBack => "is being rolled back",
        RunState::RolledBack => "was rolled back",
    };
    format!(
        "run {} of this plan {state} ({done} of {} steps done)",
        run.id,
        run.steps.len()
    )
}
