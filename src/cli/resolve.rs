//! What a plan means for a database: begin, go on, nothing to do, or not like this. `plan` shows what `apply` does,
//! because both ask here.

use super::Failure;
use super::input::{Input, PlanFile};
use crate::catalog::{load, probe};
use crate::error::{Error, ErrorKind};
use crate::executor::ledger::{self, PlanRelation, Run, RunState};
use crate::plan::{ExecutionPlan, PlannedChange};
use crate::planner;
use crate::sql::QualifiedName;
use crate::verifier::{self, Mismatch, Tables};
use similar::TextDiff;
use tokio_postgres::Client;

/// What to do with a plan.
pub enum Way {
    /// Nothing of it is recorded, or what is was completed or undone: the compiled plan is to be begun.
    Begin(Box<ExecutionPlan>),
    /// Go on with this run, by the plan that it recorded.
    Resume(Box<Run>),
    /// All of it is done.
    Finished(Box<Run>),
    /// Something stands against it; the run is what is recorded.
    Refused(Box<Error>, Box<Run>),
}

/// The latest run of the plan of this name; no ledger is no run.
pub async fn recorded(client: &Client, name: &str) -> Result<Option<Run>, Error> {
    if !ledger::exists(client).await? {
        return Ok(None);
    }
    ledger::latest_run(client, name).await
}

pub async fn way(client: &Client, input: &Input) -> Result<Way, Failure> {
    let run = recorded(client, input.name()).await?;
    let changes = input.changes();
    let Some(run) = run else {
        return Ok(Way::Begin(Box::new(begin(client, input, 0).await?)));
    };
    if run.state == RunState::RolledBack {
        let plan = begin(client, input, in_place(&run, &changes)).await?;
        return Ok(Way::Begin(Box::new(plan)));
    }
    let relation = ledger::relation(&run.plan.changes, &changes);
    Ok(match (run.state, relation) {
        (RunState::RollingBack, _) => {
            let error = Error::new(
                ErrorKind::Precondition,
                format!("run {} of plan {} is being rolled back", run.id, run.plan.name),
            )
            .help("finish that first: pgmorph rollback PLAN");
            Way::Refused(Box::new(error), Box::new(run))
        }
        (RunState::Completed, PlanRelation::Same) => Way::Finished(Box::new(run)),
        (RunState::Completed, PlanRelation::Extended { .. }) => {
            let plan = begin(client, input, in_place(&run, &changes)).await?;
            Way::Begin(Box::new(plan))
        }
        (_, PlanRelation::Same) => Way::Resume(Box::new(run)),
        _ => Way::Refused(Box::new(changed(&run, &changes)), Box::new(run)),
    })
}

/// How many of the given changes are in the catalog already, when this is the latest run of the plan.
pub fn in_place(run: &Run, given: &[PlannedChange]) -> usize {
    let recorded = &run.plan.changes;
    let before = match run.state {
        RunState::Completed => recorded.len(),
        // A run that only added to a completed one has no steps for what that one did, and left it in place.
        RunState::RolledBack => run
            .plan
            .steps
            .iter()
            .map(|step| step.change - 1)
            .min()
            .unwrap_or(0),
        RunState::Started | RunState::RollingBack => 0,
    };
    if given.starts_with(&recorded[..before.min(recorded.len())]) {
        before
    } else {
        0
    }
}

impl Input {
    pub fn changes(&self) -> Vec<PlannedChange> {
        match self {
            Self::File(file) => planner::planned_changes(&file.plan),
            Self::Saved(plan) => plan.changes.clone(),
        }
    }
}

/// The plan to begin with: compiled now, or the saved one if it still fits.
pub async fn begin(client: &Client, input: &Input, recorded: usize) -> Result<ExecutionPlan, Failure> {
    match input {
        Input::File(file) => compile(client, file, recorded).await,
        Input::Saved(plan) => {
            refuse_moved(client, plan).await?;
            Ok((**plan).clone())
        }
    }
}

/// Compiles a plan file, all but its first `recorded` changes, against the catalog as it is.
async fn compile(client: &Client, file: &PlanFile, recorded: usize) -> Result<ExecutionPlan, Failure> {
    let mut catalog = load::snapshot(client).await?;
    let questions = planner::questions_from(&file.plan, &catalog, recorded);
    probe::ask(client, &mut catalog, &questions).await?;
    planner::plan_from(&file.plan, &catalog, recorded).map_err(|diagnostics| file.refused(diagnostics))
}

/// The tables that a plan knows, as they are now.
pub async fn tables(client: &Client, plan: &ExecutionPlan) -> Result<Tables, Error> {
    let mut names: Vec<QualifiedName> = plan.before.tables.keys().cloned().collect();
    names.extend(
        plan.after
            .tables
            .keys()
            .filter(|name| !plan.before.tables.contains_key(name))
            .cloned(),
    );
    Ok(load::tables(client, &names).await?)
}

async fn refuse_moved(client: &Client, plan: &ExecutionPlan) -> Result<(), Error> {
    let differences = verifier::differences(&plan.before, &tables(client, plan).await?);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Precondition,
        "the catalog has moved since the plan was made; nothing was changed",
    )
    .details(differences.iter().map(Mismatch::to_string))
    .help("make the plan again: pgmorph plan … -o FILE"))
}

fn changed(run: &Run, given: &[PlannedChange]) -> Error {
    let error = Error::new(
        ErrorKind::Precondition,
        format!(
            "the plan file is not what run {} of plan {} was made from",
            run.id, run.plan.name
        ),
    )
    .details([difference(&run.plan.changes, given)]);
    if run.state == RunState::Completed {
        error.help(
            "that run is completed: restore the file, add changes only after its own, or choose another name",
        )
    } else {
        error.help("restore the file to go on with that run, or undo it first: pgmorph rollback PLAN")
    }
}

/// What was recorded against what is given, as a unified diff.
fn difference(recorded: &[PlannedChange], given: &[PlannedChange]) -> String {
    let text = |changes: &[PlannedChange]| {
        changes
            .iter()
            .map(|change| format!("{}\n", change.text))
            .collect::<String>()
    };
    let (recorded, given) = (text(recorded), text(given));
    TextDiff::from_lines(&recorded, &given)
        .unified_diff()
        .header("recorded", "given")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_names_both_sides() {
        let change = |text: &str| PlannedChange {
            operation: "x".into(),
            text: text.into(),
        };
        let text = difference(
            &[change("x: 1"), change("x: 2")],
            &[change("x: 1"), change("x: 3")],
        );
        insta::assert_snapshot!(text, @r"
        --- recorded
        +++ given
        @@ -1,2 +1,2 @@
         x: 1
        -x: 2
        +x: 3
        ");
    }
}
