//! What a plan means for a database: begin, go on, nothing to do, or not like this. `plan` shows what `apply` does,
//! because both ask here.

use super::Failure;
use super::history::History;
use super::input::{Input, PlanFile};
use super::permit;
use crate::catalog::{load, probe};
use crate::error::{Error, ErrorKind};
use crate::executor::ledger::{self, PlanRelation, Run, RunState};
use crate::executor::privileges;
use crate::plan::{ExecutionPlan, Expectation, PlannedChange, Waiting};
use crate::planner::{self, Numbers};
use crate::sql::QualifiedName;
use crate::verifier::{self, Mismatch, Tables};
use similar::TextDiff;
use tokio_postgres::Client;

/// What to do with a plan.
pub enum Way {
    /// The compiled plan is to be begun: nothing of it is in place, or it has steps for what is not.
    Begin(Box<ExecutionPlan>),
    /// Go on with this run, by the plan that it recorded.
    Resume(Box<Run>),
    /// All of it is done, but for what is waiting still.
    Finished(Box<Run>, Vec<Waiting>),
    /// Something stands against it; the run is what is recorded.
    Refused(Box<Error>, Box<Run>),
}

pub async fn way(client: &Client, input: &Input, history: &History) -> Result<Way, Failure> {
    let changes = input.changes();
    let Some(run) = history.standing.last() else {
        return Ok(Way::Begin(Box::new(begin(client, input, &Numbers::new()).await?)));
    };
    let refused = |error: Error| Way::Refused(Box::new(error), Box::new(run.clone()));
    let relation = ledger::relation(&run.plan.changes, &changes);
    Ok(match (run.state, relation) {
        (RunState::RollingBack, _) => refused(
            Error::new(
                ErrorKind::Precondition,
                format!("run {} of plan {} is being rolled back", run.id, run.plan.name),
            )
            .help("finish that first: pgmorph rollback PLAN"),
        ),
        (RunState::Completed, PlanRelation::Same | PlanRelation::Extended { .. }) => {
            let in_place = history.in_place(&changes);
            let added = changes.len() > run.plan.changes.len();
            rest(client, input, run, &in_place, added).await?
        }
        (_, PlanRelation::Same) => Way::Resume(Box::new(run.clone())),
        _ => refused(changed(run, &changes)),
    })
}

/// The way on from completed runs: what of the plan is not in place is begun, unless all of that is waiting and was
/// recorded so already.
async fn rest(
    client: &Client,
    input: &Input,
    run: &Run,
    in_place: &Numbers,
    added: bool,
) -> Result<Way, Failure> {
    let finished = |waiting| Way::Finished(Box::new(run.clone()), waiting);
    let all = 1..=input.changes().len();
    if all.clone().all(|number| in_place.contains(&number)) {
        return Ok(finished(Vec::new()));
    }
    if let Input::Saved(plan) = input
        && plan.steps.iter().all(|step| in_place.contains(&step.change))
    {
        return Ok(finished(plan.waiting()));
    }
    let plan = begin(client, input, in_place).await?;
    let waiting = plan.waiting();
    if waiting.len() + in_place.len() == all.count() && !added {
        return Ok(finished(waiting));
    }
    Ok(Way::Begin(Box::new(plan)))
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
pub async fn begin(client: &Client, input: &Input, in_place: &Numbers) -> Result<ExecutionPlan, Failure> {
    match input {
        Input::File(file) => compile(client, file, in_place).await,
        Input::Saved(plan) => {
            refuse_elsewhere(plan, in_place)?;
            refuse_moved(client, plan).await?;
            let missing = privileges::missing(client, plan).await?;
            if !missing.is_empty() {
                return Err(privileges::refusal(&missing).into());
            }
            Ok((**plan).clone())
        }
    }
}

/// Compiles a plan file, all but what is in place, against the catalog as it is.
async fn compile(client: &Client, file: &PlanFile, in_place: &Numbers) -> Result<ExecutionPlan, Failure> {
    let mut catalog = load::snapshot(client).await?;
    let conditions = planner::conditions(&file.plan, in_place);
    probe::ask_conditions(client, &mut catalog, &conditions).await?;
    let questions = |catalog: &_| planner::questions_from(&file.plan, catalog, in_place);
    probe::ask_all(client, &mut catalog, questions).await?;
    match planner::plan_from(&file.plan, &catalog, in_place) {
        Ok(plan) => match permit::missing(client, file, &plan).await? {
            missing if missing.is_empty() => Ok(plan),
            missing => Err(file.refused(missing)),
        },
        Err(complaints) => Err(file.refused(permit::named(client, file, complaints).await?)),
    }
}

/// A saved plan has steps for what was not in place when it was made, and for nothing else.
fn refuse_elsewhere(plan: &ExecutionPlan, in_place: &Numbers) -> Result<(), Error> {
    let numbered = (1..).zip(&plan.changes);
    let has_steps = |number| plan.steps.iter().any(|step| step.change == number);
    let moved = |(number, change): &(usize, &PlannedChange)| match in_place.contains(number) {
        true => has_steps(*number),
        false => change.in_place,
    };
    let moved: Vec<String> = numbered
        .filter(moved)
        .map(|(number, change)| format!("change {number} ({})", change.operation))
        .collect();
    if moved.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Precondition,
        "other changes of this plan are in place than when it was saved; nothing was changed",
    )
    .details(moved)
    .help("make the plan again: pgmorph plan … -o FILE"))
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
    // Names that tables have on the way only.
    let expected = plan.steps.iter().flat_map(|step| &step.work.expect);
    names.extend(expected.filter_map(|expectation| match expectation {
        Expectation::Table { table } => Some(table.clone()),
        _ => None,
    }));
    names.sort();
    names.dedup();
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
            waiting: None,
            in_place: false,
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
