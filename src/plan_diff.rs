//! In what two plans differ, or two catalogs: what a reviewer of a change to a plan wants to see. Pure.
//!
//! Steps are recognised by their phase and by what they say they do, not by their numbers: a change that is put in front
//! of the others moves all of these.

use crate::catalog::model::CatalogSnapshot;
use crate::plan::{Check, ExecutionPlan, Step, Undo, Work};
use crate::verifier;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// From one text to another; `None` where there is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `statements`, `locks`, `timeouts`, … of a step; of a catalog the object.
    pub what: String,
    pub from: Option<String>,
    pub to: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum StepDiff {
    Added {
        step: Box<Step>,
    },
    Removed {
        step: Box<Step>,
    },
    Changed {
        /// In the first plan and in the second.
        from: String,
        to: String,
        summary: String,
        phase: crate::plan::Phase,
        differences: Vec<Difference>,
    },
}

/// How a plan differs from an earlier one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanDiff {
    pub from: String,
    pub to: String,
    /// Of the plan as a whole: preconditions, deadlines, the server.
    pub plan: Vec<Difference>,
    /// In the order of the later plan; what it has not any more comes last.
    pub steps: Vec<StepDiff>,
    /// What both have is in another order.
    pub reordered: bool,
}

impl PlanDiff {
    pub fn is_empty(&self) -> bool {
        self.plan.is_empty() && self.steps.is_empty() && !self.reordered
    }

    /// How many steps are added, removed and changed.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |wanted: fn(&StepDiff) -> bool| self.steps.iter().filter(|step| wanted(step)).count();
        (
            count(|step| matches!(step, StepDiff::Added { .. })),
            count(|step| matches!(step, StepDiff::Removed { .. })),
            count(|step| matches!(step, StepDiff::Changed { .. })),
        )
    }
}

/// The texts of an action, as they are shown; rendering is none of this module's business.
pub type Shown<'a> = &'a dyn Fn(&Work) -> String;

/// What `to` has otherwise than `from`.
pub fn plans(from: &ExecutionPlan, to: &ExecutionPlan, shown: Shown<'_>) -> PlanDiff {
    let key = |step: &Step| (step.phase, step.work.summary.clone());
    let mut earlier: BTreeMap<_, Vec<(usize, &Step)>> = BTreeMap::new();
    for (position, step) in from.steps.iter().enumerate().rev() {
        earlier.entry(key(step)).or_default().push((position, step));
    }
    let mut steps = Vec::new();
    let mut kept = Vec::new();
    for step in &to.steps {
        let Some((position, before)) = earlier.get_mut(&key(step)).and_then(Vec::pop) else {
            steps.push(StepDiff::Added {
                step: Box::new(step.clone()),
            });
            continue;
        };
        kept.push(position);
        let differences = of_steps(before, step, shown);
        if !differences.is_empty() {
            steps.push(StepDiff::Changed {
                from: before.id.clone(),
                to: step.id.clone(),
                summary: step.work.summary.clone(),
                phase: step.phase,
                differences,
            });
        }
    }
    let known: BTreeSet<usize> = kept.iter().copied().collect();
    let gone = from
        .steps
        .iter()
        .enumerate()
        .filter(|(position, _)| !known.contains(position));
    steps.extend(gone.map(|(_, step)| StepDiff::Removed {
        step: Box::new(step.clone()),
    }));
    PlanDiff {
        from: from.name.clone(),
        to: to.name.clone(),
        plan: of_wholes(from, to),
        steps,
        reordered: !kept.is_sorted(),
    }
}

fn differ(what: &str, from: String, to: String, into: &mut Vec<Difference>) {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    if from != to {
        into.push(Difference {
            what: what.to_owned(),
            from: some(from),
            to: some(to),
        });
    }
}

fn of_steps(from: &Step, to: &Step, shown: Shown<'_>) -> Vec<Difference> {
    let mut found = Vec::new();
    let locks = |step: &Step| {
        let lines = step
            .work
            .locks
            .iter()
            .map(|lock| format!("{} on {}", lock.mode, lock.relation));
        lines.collect::<Vec<_>>().join("\n")
    };
    let timeouts = |step: &Step| {
        let timeouts = step.work.timeouts;
        let lock = timeouts.lock_ms.map_or("none".into(), |ms| format!("{ms}ms"));
        format!("lock {lock}, statement {}ms", timeouts.statement_ms)
    };
    let hazards = |step: &Step| {
        let lines = step
            .hazards
            .iter()
            .map(|hazard| format!("{}: {}", hazard.code, hazard.message));
        lines.collect::<Vec<_>>().join("\n")
    };
    let undo = |step: &Step| match &step.undo {
        Undo::Work(works) => works.iter().map(shown).collect::<Vec<_>>().join("\n"),
        Undo::NotNeeded { reason } => format!("not needed: {reason}"),
        Undo::Irreversible { reason } => format!("impossible: {reason}"),
    };
    differ("statements", shown(&from.work), shown(&to.work), &mut found);
    differ("locks", locks(from), locks(to), &mut found);
    differ("timeouts", timeouts(from), timeouts(to), &mut found);
    let transaction = |step: &Step| format!("{:?}", step.work.transaction).to_lowercase();
    differ("transaction", transaction(from), transaction(to), &mut found);
    differ("hazards", hazards(from), hazards(to), &mut found);
    differ("undo", undo(from), undo(to), &mut found);
    let estimate = |step: &Step| step.estimate.duration.name().to_owned();
    differ("estimate", estimate(from), estimate(to), &mut found);
    found
}

fn of_wholes(from: &ExecutionPlan, to: &ExecutionPlan) -> Vec<Difference> {
    let mut found = Vec::new();
    let version = |plan: &ExecutionPlan| (plan.server_version_num / 10_000).to_string();
    differ("server", version(from), version(to), &mut found);
    let deadline = |plan: &ExecutionPlan| format!("{}ms", plan.lock_deadline_ms);
    differ("lock_deadline", deadline(from), deadline(to), &mut found);
    let contention = |plan: &ExecutionPlan| serde_json::to_string(&plan.contention).unwrap_or_default();
    differ("contention", contention(from), contention(to), &mut found);
    let point = |plan: &ExecutionPlan| {
        let step = plan.point_of_no_return();
        step.map_or(String::new(), |step| {
            format!("{} ({})", step.work.summary, step.phase)
        })
    };
    differ("point of no return", point(from), point(to), &mut found);
    let confirm = |plan: &ExecutionPlan| plan.confirm_rollback.clone().unwrap_or_default();
    differ("confirm_rollback", confirm(from), confirm(to), &mut found);
    let waiting = |plan: &ExecutionPlan| {
        let lines = plan
            .waiting()
            .into_iter()
            .map(|it| format!("{}: {}", it.operation, it.reason));
        lines.collect::<Vec<_>>().join("\n")
    };
    differ("waiting", waiting(from), waiting(to), &mut found);
    of_checks("precondition", &from.preconditions, &to.preconditions, &mut found);
    of_checks(
        "postcondition",
        &from.postconditions,
        &to.postconditions,
        &mut found,
    );
    found
}

fn of_checks(what: &str, from: &[Check], to: &[Check], found: &mut Vec<Difference>) {
    let by_name = |checks: &[Check]| -> BTreeMap<String, String> {
        let pair = |check: &Check| (check.name.clone(), check.query.trim().to_owned());
        checks.iter().map(pair).collect()
    };
    let (from, to) = (by_name(from), by_name(to));
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    for name in names {
        let query = |checks: &BTreeMap<String, String>| checks.get(name).cloned().unwrap_or_default();
        differ(&format!("{what} {name}"), query(&from), query(&to), found);
    }
}

/// What the later catalog has otherwise; sizes and what else is measured left out.
pub fn catalogs(from: &CatalogSnapshot, to: &CatalogSnapshot) -> Vec<Difference> {
    let mut found = Vec::new();
    let version = |catalog: &CatalogSnapshot| (catalog.server.version_num / 10_000).to_string();
    differ("server", version(from), version(to), &mut found);
    let tables = verifier::differences(from, &to.tables);
    found.extend(tables.into_iter().map(|mismatch| Difference {
        what: mismatch.object,
        from: mismatch.expected,
        to: mismatch.found,
    }));
    let mut others = |kind: &str, from: BTreeMap<String, String>, to: BTreeMap<String, String>| {
        let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
        for name in names {
            let one = |side: &BTreeMap<String, String>| side.get(name).cloned().unwrap_or_default();
            differ(&format!("{kind} {name}"), one(&from), one(&to), &mut found);
        }
    };
    others("view", texts(&from.views), texts(&to.views));
    others("sequence", texts(&from.sequences), texts(&to.sequences));
    others("type", texts(&from.types), texts(&to.types));
    others("publication", texts(&from.publications), texts(&to.publications));
    found
}

fn texts<K: ToString, V: Serialize>(objects: &BTreeMap<K, V>) -> BTreeMap<String, String> {
    let text = |(name, object): (&K, &V)| {
        (
            name.to_string(),
            serde_json::to_string(object).unwrap_or_default(),
        )
    };
    objects.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{catalog, compile, table};
    use crate::plan::Action;

    fn shown(work: &Work) -> String {
        match &work.action {
            Action::Sql(statements) => statements.join("\n"),
            other => format!("{other:?}"),
        }
    }

    fn plan(changes: &str) -> ExecutionPlan {
        let catalog = catalog().with("t", table(&["a bigint", "b bigint"]));
        compile(&catalog, changes).unwrap()
    }

    const ONE: &str = "  - set_default: {table: t, column: a, default: 1}\n";
    const TWO: &str = "  - set_default: {table: t, column: b, default: 2}\n";

    #[test]
    fn a_plan_does_not_differ_from_itself_and_numbers_do_not_count() {
        let both = plan(&format!("{ONE}{TWO}"));
        assert!(plans(&both, &both, &shown).is_empty());
        let one = plans(&plan(TWO), &both, &shown);
        assert_eq!(one.counts(), (1, 0, 0), "{one:#?}");
        let back = plans(&both, &plan(TWO), &shown);
        assert_eq!(back.counts(), (0, 1, 0));
        let turned = plans(&both, &plan(&format!("{TWO}{ONE}")), &shown);
        assert_eq!(
            (turned.counts(), turned.reordered, turned.is_empty()),
            ((0, 0, 0), true, false)
        );
    }

    #[test]
    fn what_a_step_does_otherwise_is_told_part_by_part() {
        let mut other = plan(ONE);
        other.steps[0].work.timeouts.lock_ms = None;
        other.steps[0].work.locks.clear();
        other.lock_deadline_ms = 1;
        let found = plans(&plan(ONE), &other, &shown);
        let [StepDiff::Changed { differences, .. }] = found.steps.as_slice() else {
            panic!("{found:#?}");
        };
        let what: Vec<_> = differences.iter().map(|it| it.what.as_str()).collect();
        assert_eq!(what, ["locks", "timeouts"]);
        assert_eq!(differences[0].to, None);
        assert_eq!(found.plan[0].what, "lock_deadline");
    }

    #[test]
    fn catalogs_differ_by_their_objects() {
        let from = catalog().with("t", table(&["a bigint"]));
        let to = catalog()
            .with("t", table(&["a integer"]))
            .with("u", table(&["a bigint"]));
        assert_eq!(catalogs(&from, &from), []);
        let what: Vec<String> = catalogs(&from, &to).into_iter().map(|it| it.what).collect();
        assert!(what.iter().any(|it| it.contains("public.u")), "{what:?}");
        assert!(what.iter().any(|it| it.contains("public.t")), "{what:?}");
    }
}
