//! What the ledger knows of one plan. Several runs of it may be in place: the first, and others that made what had
//! been waiting then, or what was added to the file since.

use crate::error::Error;
use crate::executor::ledger::{self, PlanRelation, Run, RunState};
use crate::plan::PlannedChange;
use crate::planner::Numbers;
use tokio_postgres::Client;

/// Runs of one plan, oldest first. Only the last of those that stand can be unfinished.
#[derive(Debug, Default)]
pub struct History {
    /// Not rolled back.
    pub standing: Vec<Run>,
    /// The latest run, when it was rolled back, and those that stood together with it and were rolled back too.
    pub undone: Vec<Run>,
}

impl History {
    /// No ledger is no run.
    pub async fn read(client: &Client, name: &str) -> Result<Self, Error> {
        if !ledger::exists(client).await? {
            return Ok(Self::default());
        }
        let runs = ledger::standing_runs(client, name).await?;
        let (undone, standing) = runs
            .into_iter()
            .partition(|run| run.state == RunState::RolledBack);
        Ok(Self { standing, undone })
    }

    /// What tells one moment of it from another.
    pub fn marks(&self) -> Vec<(i64, RunState)> {
        let runs = self.standing.iter().chain(&self.undone);
        runs.map(|run| (run.id, run.state)).collect()
    }

    /// The changes that completed runs have made, as far as the given ones begin with what those were made from.
    pub fn in_place(&self, given: &[PlannedChange]) -> Numbers {
        let completed = self
            .standing
            .iter()
            .filter(|run| run.state == RunState::Completed);
        let same =
            completed.filter(|run| ledger::relation(&run.plan.changes, given) != PlanRelation::Changed);
        same.flat_map(|run| made(&run.plan.changes)).collect()
    }

    /// A rollback that undid the latest runs and not those before them, in words.
    pub fn undone_in_part(&self) -> Option<String> {
        let (undone, left) = (self.undone.first()?, self.standing.last()?);
        Some(format!(
            "run {} of this plan was rolled back; run {} before it stands",
            undone.id, left.id
        ))
    }

    /// All runs that stand, as if they were one; where none does, those that were rolled back last.
    pub fn whole(&self) -> Option<Run> {
        whole(&self.standing).or_else(|| whole(&self.undone))
    }
}

/// The changes that a run has made, or found made.
fn made(changes: &[PlannedChange]) -> impl Iterator<Item = usize> {
    let numbered = changes.iter().enumerate();
    numbered
        .filter(|(_, change)| change.waiting.is_none())
        .map(|(position, _)| position + 1)
}

/// The last of them with what the others did before it, from the catalog before the first to the one after the last.
fn whole(runs: &[Run]) -> Option<Run> {
    let (last, earlier) = runs.split_last()?;
    let mut whole = last.clone();
    for run in earlier.iter().rev() {
        whole.plan.before.overlay(&run.plan.after, &run.plan.before);
        whole.plan.steps.splice(0..0, run.plan.steps.iter().cloned());
        whole.steps.splice(0..0, run.steps.iter().cloned());
    }
    if let Some(first) = runs.first() {
        let mut after = first.plan.after.clone();
        for run in &runs[1..] {
            after.overlay(&run.plan.before, &run.plan.after);
        }
        whole.plan.after = after;
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::model::CatalogSnapshot;
    use crate::change_plan;
    use crate::ops::testing::{catalog, table};
    use crate::plan::ExecutionPlan;
    use crate::planner;

    const PLAN: &str = "name: x
changes:
  - set_default: {table: t, column: a, default: 1}
  - set_default: {table: u, column: a, default: 2, when: {table_exists: u}}
  - set_default: {table: t, column: b, default: 3}
";

    fn compiled(now: &CatalogSnapshot, in_place: &[usize]) -> ExecutionPlan {
        let in_place = in_place.iter().copied().collect();
        planner::plan_from(&change_plan::parse(PLAN).unwrap(), now, &in_place).unwrap()
    }

    fn run(id: i64, state: RunState, plan: ExecutionPlan) -> Run {
        let now = jiff::Timestamp::UNIX_EPOCH;
        Run {
            id,
            plan,
            state,
            started_by: "postgres".into(),
            client: None,
            started_at: now,
            updated_at: now,
            finished_at: None,
            baseline: false,
            steps: Vec::new(),
        }
    }

    #[test]
    fn two_runs_as_one_lead_from_the_first_catalog_to_the_last() {
        let first = catalog().with("t", table(&["a bigint", "b bigint"]));
        let one = compiled(&first, &[]);
        let between = one.after.clone().with("u", table(&["a bigint"]));
        let two = compiled(&between, &[1, 3]);
        let history = History {
            standing: vec![
                run(1, RunState::Completed, one.clone()),
                run(2, RunState::Completed, two.clone()),
            ],
            undone: Vec::new(),
        };
        assert_eq!(history.in_place(&two.changes), Numbers::from([1, 2, 3]));
        let whole = history.whole().unwrap();
        let tables = |catalog: &CatalogSnapshot| -> Vec<String> {
            catalog.tables.keys().map(ToString::to_string).collect()
        };
        assert_eq!(tables(&whole.plan.before), ["public.t", "public.u"]);
        assert_eq!(
            whole.plan.before.tables[&"public.t".parse().unwrap()],
            one.before.tables[&"public.t".parse().unwrap()]
        );
        assert_eq!(
            whole.plan.after.tables[&"public.t".parse().unwrap()],
            one.after.tables[&"public.t".parse().unwrap()]
        );
        assert_eq!(
            whole.plan.after.tables[&"public.u".parse().unwrap()],
            two.after.tables[&"public.u".parse().unwrap()]
        );
        let steps: Vec<&str> = whole.plan.steps.iter().map(|step| step.id.as_str()).collect();
        assert_eq!(
            steps,
            ["01-set_default-set", "03-set_default-set", "02-set_default-set"]
        );
        assert_eq!((whole.id, whole.plan.waiting()), (2, Vec::new()));
    }

    #[test]
    fn what_is_in_place_is_what_completed_runs_of_this_plan_made() {
        let now = catalog().with("t", table(&["a bigint", "b bigint"]));
        let plan = compiled(&now, &[]);
        let mut history = History {
            standing: vec![run(1, RunState::Completed, plan.clone())],
            undone: Vec::new(),
        };
        assert_eq!(history.in_place(&plan.changes), Numbers::from([1, 3]));
        assert_eq!(
            history.in_place(&plan.changes[..2]),
            Numbers::new(),
            "another plan"
        );
        history.standing[0].state = RunState::Started;
        assert_eq!(history.in_place(&plan.changes), Numbers::new());
    }
}
