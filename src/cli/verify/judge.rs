//! The judgement of `verify`, as a pure function of what was recorded and what is there.
//!
//! At the end of a plan the predicted catalog is the whole truth. On the way there is no such picture, only what each
//! step promised to hold right after it, and a later step may take that away again: a temporary constraint goes, a
//! shadow column gets its final name. So of every change only the last phase that has done steps counts, and of
//! several promises about one object only the last; one that a step begun since speaks about counts no more.

use super::differences::{describe_difference, is_gone, is_implied, is_ordinary, leftovers};
use crate::executor::ledger::{Run, RunState, StepState};
use crate::plan::{ExecutionPlan, Expectation, Part, Phase, Step, Undo};
use crate::report::verification::{Answer, Finding, FindingKind, StepLine, Verdict, Verification};
use crate::sql::{QualifiedName, ident};
use crate::verifier::{self, Standing, Tables};
use std::collections::{BTreeMap, BTreeSet};

/// What was recorded and what is there.
pub(super) struct Facts<'a> {
    pub plan: &'a ExecutionPlan,
    /// The run of exactly this plan, if one is recorded.
    pub run: Option<&'a Run>,
    pub actual: Tables,
    /// Functions and views of ours that no other run can need, each with its kind.
    pub objects: Vec<String>,
    /// Tables on which another unfinished run works: what is left over there may be its own.
    pub busy: BTreeSet<QualifiedName>,
    /// The answers to [`Expectation::Query`]: true, or why not.
    pub answers: BTreeMap<String, Result<bool, String>>,
    /// The answers to [`Expectation::Text`], or why there is none.
    pub texts: BTreeMap<String, Result<Option<String>, String>>,
    /// What the plan's own questions found.
    pub postconditions: Vec<Finding>,
    /// What the plan's monitor answered.
    pub monitors: Vec<Answer>,
    pub through: Option<Phase>,
    pub notes: Vec<String>,
}

/// How far the recorded run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Untouched,
    /// Some step of this phase is the first that is not done.
    Underway(Phase),
    Finished,
    RollingBack,
    RolledBack,
}

pub(super) fn stage(plan: &ExecutionPlan, run: Option<&Run>) -> Stage {
    let Some(run) = run else { return Stage::Untouched };
    match run.state {
        RunState::RollingBack => Stage::RollingBack,
        RunState::RolledBack => Stage::RolledBack,
        RunState::Completed => Stage::Finished,
        // A crash between the last step and the record of the end leaves all steps done.
        RunState::Started => first_pending(plan, run).map_or(Stage::Finished, Stage::Underway),
    }
}

fn first_pending(plan: &ExecutionPlan, run: &Run) -> Option<Phase> {
    let pending = plan
        .steps
        .iter()
        .filter(|step| state(run, step) != StepState::Done);
    pending.map(|step| step.phase).min()
}

pub(super) fn state(run: &Run, step: &Step) -> StepState {
    let record = run.steps.iter().find(|record| record.id == step.id);
    record.map_or(StepState::Pending, |record| record.state)
}

/// What must hold now: see the top of this file.
pub(super) fn expected_now<'a>(
    plan: &'a ExecutionPlan,
    run: Option<&Run>,
) -> Vec<(&'a Step, &'a Expectation)> {
    let done = |step: &Step| run.is_none_or(|run| state(run, step) == StepState::Done);
    let begun = |step: &Step| {
        run.is_some_and(|run| matches!(state(run, step), StepState::Running | StepState::Failed))
    };
    let mut last_phase = BTreeMap::new();
    for step in plan.steps.iter().filter(|step| done(step)) {
        last_phase.insert(step.change, step.phase);
    }
    let mut seen = BTreeSet::new();
    let mut away = BTreeSet::new();
    for step in plan.steps.iter().filter(|step| begun(step)) {
        seen.extend(step.work.expect.iter().filter_map(key));
        away.extend(taken_away(step));
    }
    let mut expected = Vec::new();
    for step in plan.steps.iter().rev().filter(|step| done(step)) {
        for expectation in step.work.expect.iter().rev() {
            let is_away = expectation.table().is_some_and(|table| away.contains(table));
            let is_last = key(expectation).is_none_or(|key| seen.insert(key));
            // What is made beside the tables is filled in a later phase, and stays.
            let stays = matches!(expectation, Expectation::Text { .. });
            let counts = stays || last_phase.get(&step.change) == Some(&step.phase);
            if is_last && !is_away && counts {
                expected.push((step, expectation));
            }
        }
        away.extend(taken_away(step));
    }
    expected.reverse();
    expected
}

/// As [`expected_now`], or, where the run was rolled back, what the undo of each step promised: of several about one
/// object that of the first step, which was undone last.
pub(super) fn expected<'a>(plan: &'a ExecutionPlan, run: Option<&Run>) -> Vec<(&'a Step, &'a Expectation)> {
    let Some(run) = run.filter(|run| run.state == RunState::RolledBack) else {
        return expected_now(plan, run);
    };
    let undone = plan
        .steps
        .iter()
        .filter(|step| state(run, step) == StepState::Undone);
    let mut seen = BTreeSet::new();
    let mut expected = Vec::new();
    for step in undone {
        let Undo::Work(works) = &step.undo else { continue };
        let texts = works.iter().flat_map(|work| &work.expect);
        // Tables are compared as a whole.
        let texts = texts.filter(|it| matches!(it, Expectation::Text { .. }));
        expected.extend(
            texts
                .filter(|it| key(it).is_none_or(|key| seen.insert(key)))
                .map(|it| (step, it)),
        );
    }
    expected
}

/// The object that an expectation is about; `None` for a question, which is about anything.
fn key(expectation: &Expectation) -> Option<String> {
    Some(match expectation {
        Expectation::Column { table, column, .. } | Expectation::ColumnAbsent { table, column } => {
            format!("table {table}: column {}", ident(column))
        }
        Expectation::Index { table, name, .. } => format!("index {}", table.sibling(name)),
        Expectation::IndexAbsent { index } => format!("index {index}"),
        Expectation::Constraint { table, name, .. } | Expectation::ConstraintAbsent { table, name } => {
            format!("table {table}: constraint {}", ident(name))
        }
        Expectation::Trigger { table, name, .. } | Expectation::TriggerAbsent { table, name } => {
            format!("table {table}: trigger {}", ident(name))
        }
        Expectation::Text { object, .. } => object.clone(),
        Expectation::Table { table } | Expectation::TableAbsent { table } => format!("table {table}"),
        Expectation::Query { .. } => return None,
    })
}

/// Tables that the step takes away, or their names from them: what was promised of them before does not hold any more.
fn taken_away(step: &Step) -> impl Iterator<Item = &QualifiedName> {
    step.work
        .expect
        .iter()
        .filter_map(|expectation| match expectation {
            Expectation::TableAbsent { table } => Some(table),
            _ => None,
        })
}

pub(super) fn judge(facts: Facts<'_>) -> Verification {
    let stage = stage(facts.plan, facts.run);
    let mut findings = Vec::new();
    let verdict = match stage {
        Stage::Untouched => untouched(&facts, &mut findings),
        Stage::Underway(phase) => {
            findings.extend(failed_steps(&facts));
            findings.extend(broken_promises(&facts));
            findings.extend(facts.postconditions.iter().cloned());
            if phase == Phase::Contract {
                Verdict::ContractPending
            } else {
                Verdict::InProgress
            }
        }
        Stage::Finished => {
            findings.extend(ended(&facts, &facts.plan.after));
            findings.extend(broken_questions(&facts));
            findings.extend(facts.postconditions.iter().cloned());
            if findings.is_empty() {
                Verdict::Matches
            } else {
                Verdict::Drifted
            }
        }
        Stage::RollingBack => {
            findings.extend(failed_steps(&facts));
            Verdict::RollingBack
        }
        Stage::RolledBack => {
            findings.extend(ended(&facts, &facts.plan.before));
            findings.extend(broken_questions(&facts));
            Verdict::RolledBack
        }
    };
    let through = facts.through.unwrap_or(Phase::Contract);
    let reached = match stage {
        Stage::Underway(phase) => phase > through,
        Stage::Finished => true,
        Stage::Untouched => verdict == Verdict::Matches,
        Stage::RollingBack | Stage::RolledBack => false,
    };
    Verification {
        plan: facts.plan.name.clone(),
        run: facts.run.map(|run| run.id),
        verdict,
        through: facts.through,
        reached,
        findings,
        steps: steps(&facts),
        notes: facts.notes,
        monitors: facts.monitors,
    }
}

fn steps(facts: &Facts<'_>) -> Vec<StepLine> {
    let line = |step: &Step| StepLine {
        id: step.id.clone(),
        phase: step.phase,
        state: facts
            .run
            .map_or(StepState::Pending, |run| state(run, step))
            .name(),
        summary: step.work.summary.clone(),
    };
    facts.plan.steps.iter().map(line).collect()
}

/// Without a run the catalog alone can tell, and it can only when the plan changes it, or asks.
fn untouched(facts: &Facts<'_>, findings: &mut Vec<Finding>) -> Verdict {
    let plan = facts.plan;
    let moved = verifier::differences(&plan.before, &facts.actual);
    let ahead = verifier::differences(&plan.after, &facts.actual);
    let foreseen = plan.steps.is_empty()
        || !verifier::differences(&plan.after, &plan.before.tables).is_empty()
        || !facts.answers.is_empty()
        || !facts.texts.is_empty();
    let questions = broken_questions(facts);
    let in_place = ahead.is_empty() && questions.is_empty();
    if in_place && foreseen {
        findings.extend(ended(facts, &plan.after));
        findings.extend(facts.postconditions.iter().cloned());
        return if findings.is_empty() {
            Verdict::Matches
        } else {
            Verdict::Drifted
        };
    }
    findings.extend(
        ahead
            .iter()
            .filter(|mismatch| !is_implied(mismatch))
            .map(|mismatch| {
                let mut finding = describe_difference(mismatch);
                finding.remedy = if moved.contains(mismatch) || moved.is_empty() {
                    "pgmorph apply makes it so".into()
                } else {
                    "the catalog has changed since the plan was made; make the plan again".into()
                };
                finding
            }),
    );
    findings.extend(questions);
    Verdict::NotApplied
}

/// The catalog at an end, forwards or backwards: as it must be, and nothing left over.
fn ended(facts: &Facts<'_>, wanted: &crate::catalog::model::CatalogSnapshot) -> Vec<Finding> {
    let mut findings = leftovers(wanted, &facts.actual, &facts.busy, &facts.objects);
    let covered: Vec<_> = findings.iter().map(|finding| finding.object.clone()).collect();
    let is_new = |object: &str| {
        let part_of = |other: &String| object == other || object.starts_with(&format!("{other}:"));
        !covered.iter().any(part_of)
    };
    let differences = verifier::differences(wanted, &facts.actual);
    findings.extend(
        differences
            .iter()
            .filter(|mismatch| is_new(&mismatch.object) && !is_implied(mismatch))
            .filter(|mismatch| !is_ordinary(wanted, &facts.actual, mismatch))
            .map(describe_difference),
    );
    findings
}

fn failed_steps(facts: &Facts<'_>) -> Vec<Finding> {
    let records = facts.run.map_or(&[][..], |run| &run.steps);
    let failed = records.iter().filter(|record| record.state == StepState::Failed);
    failed
        .map(|record| Finding {
            kind: FindingKind::Step,
            object: format!("step {}", record.id),
            expected: Some("done".into()),
            found: Some(format!(
                "failed: {}",
                record.error.as_deref().unwrap_or("no reason recorded")
            )),
            remedy: "remove the cause and run pgmorph apply again, or pgmorph rollback".into(),
            details: Vec::new(),
        })
        .collect()
}

fn broken_promises(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = broken_questions(facts);
    let gone = |step: &Step| {
        let part = step.work.part.as_ref();
        let table = |part: &Part| facts.plan.before.tables.get(&part.table);
        part.is_some_and(|part| table(part).is_some_and(|it| is_gone(it, &part.table, &facts.actual)))
    };
    for (step, expectation) in expected_now(facts.plan, facts.run) {
        if gone(step) {
            continue;
        }
        let found = match verifier::standing(expectation, &facts.actual) {
            Standing::Holds => continue,
            Standing::Absent => None,
            Standing::HalfDone(index) => Some(format!("{index} is there, but not valid")),
            Standing::Conflicts(what) => Some(what),
        };
        findings.push(promise(facts, step, expectation, found));
    }
    findings
}

fn broken_questions(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (step, expectation) in expected(facts.plan, facts.run) {
        let found = match expectation {
            Expectation::Query { query } => match facts.answers.get(query) {
                None | Some(Ok(true)) => continue,
                Some(Ok(false)) => Some("it does not".to_owned()),
                Some(Err(why)) => Some(why.clone()),
            },
            Expectation::Text { query, expected, .. } => match facts.texts.get(query) {
                None => continue,
                Some(Ok(text)) if text == expected => continue,
                Some(Ok(text)) => text.clone(),
                Some(Err(why)) => Some(why.clone()),
            },
            _ => continue,
        };
        findings.push(promise(facts, step, expectation, found));
    }
    findings
}

fn promise(facts: &Facts<'_>, step: &Step, expectation: &Expectation, found: Option<String>) -> Finding {
    let remedy = match stage(facts.plan, facts.run) {
        Stage::RolledBack => format!(
            "step {} was undone, and somebody changed it after that: make it so by hand",
            step.id
        ),
        _ => format!(
            "somebody changed it after step {}: restore it, or run pgmorph rollback",
            step.id
        ),
    };
    Finding {
        kind: FindingKind::Expectation,
        object: key(expectation).unwrap_or_else(|| format!("step {}", step.id)),
        expected: Some(verifier::describe(expectation)),
        found,
        remedy,
        details: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
