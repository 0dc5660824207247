//! `plan`: compiles a plan file and prints what would run.

use super::diff::{self, Other};
use super::history::History;
use super::input::{self, Input, PlanFile};
use super::resolve::{self, Way};
use super::{Failure, Format, Global, Outcome, set};
use crate::catalog::model::CatalogSnapshot;
use crate::error::{Error, ErrorKind};
use crate::executor::ledger::{Run, RunState, StepState};
use crate::plan::ExecutionPlan;
use crate::planner;
use crate::report::{out, plan_html, plan_human, plan_markdown, plan_sql};
use clap::Args;
use serde_json::json;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

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
    /// Print what is added, removed and changed since OTHER: a plan file, a saved plan, or a catalog snapshot, against
    /// which PLAN is made then; two snapshots are compared with each other. Exit code 1 where there is a difference
    #[arg(long, value_name = "OTHER", conflicts_with = "output")]
    diff: Option<String>,
}

/// A page is a form of the result; what is saved is for `apply`.
fn not_a_page(path: &Path) -> Result<(), Error> {
    let forms = [
        ("html", "html"),
        ("htm", "html"),
        ("md", "markdown"),
        ("sql", "sql"),
    ];
    let extension = path.extension().map(|it| it.to_ascii_lowercase());
    let form = forms
        .iter()
        .find(|(end, _)| extension.as_deref() == Some(OsStr::new(end)));
    let Some((_, form)) = form else {
        return Ok(());
    };
    let path = path.display();
    Err(Error::new(
        ErrorKind::Usage,
        format!("--output saves the execution plan as JSON, and {path} is called otherwise"),
    )
    .help(format!(
        "write what is printed: `pgmorph plan PLAN --format {form} > {path}`; or call the saved plan FILE.json"
    )))
}

impl Plan {
    pub async fn run(&self, global: &Global) -> Outcome {
        if let Some(other) = &self.diff {
            return Box::pin(self.differs(global, other)).await;
        }
        self.output.as_deref().map_or(Ok(()), not_a_page)?;
        let plan = self.compiled(global, input::read(&self.plan)?).await?;
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

    async fn compiled(&self, global: &Global, input: Input) -> Result<ExecutionPlan, Failure> {
        match (input, &self.catalog) {
            (Input::Saved(plan), _) => Ok(*plan),
            (Input::File(file), Some(catalog)) => against_snapshot(&file, &input::snapshot(catalog)?),
            (file, None) => Box::pin(against_server(global, file)).await,
        }
    }

    async fn differs(&self, global: &Global, other: &str) -> Outcome {
        match (diff::read(&self.plan)?, diff::read(other)?) {
            (Other::Catalog(to), Other::Catalog(from)) => diff::catalogs(global, &from, &to),
            (Other::Plan(input), Other::Plan(from)) => {
                let from = self.compiled(global, from).await?;
                let to = self.compiled(global, input).await?;
                diff::plans(global, &from, &to)
            }
            (Other::Plan(Input::File(file)), Other::Catalog(catalog)) => {
                let from = against_snapshot(&file, &catalog)?;
                let to = self.compiled(global, Input::File(file)).await?;
                diff::plans(global, &from, &to)
            }
            _ => Err(Error::new(
                ErrorKind::Usage,
                "a saved plan was made against a catalog already, and a catalog is no plan",
            )
            .help("compare two plans, a plan file with a snapshot, or two snapshots")
            .into()),
        }
    }
}

fn against_snapshot(file: &PlanFile, catalog: &CatalogSnapshot) -> Result<ExecutionPlan, Failure> {
    planner::plan(&file.plan, catalog).map_err(|diagnostics| file.refused(diagnostics))
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
