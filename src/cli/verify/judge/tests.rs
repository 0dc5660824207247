use super::*;
use crate::executor::ledger::StepRecord;
use crate::ops::testing::{catalog, compile, table};
use crate::plan::{ColumnFacts, Undo};

fn planned() -> ExecutionPlan {
    let catalog = catalog().with("t", table(&["a bigint"]));
    compile(&catalog, "  - set_default: {table: t, column: a, default: 1}\n").unwrap()
}

fn column(name: &str, there: bool) -> Expectation {
    let (table, column) = (QualifiedName::new("public", "t"), name.to_owned());
    if there {
        let facts = ColumnFacts::default();
        Expectation::Column { table, column, facts }
    } else {
        Expectation::ColumnAbsent { table, column }
    }
}

/// The plan with steps `0`, `1`, … of one change, each in its phase with its promises.
fn promising(promises: &[(Phase, &[(&str, bool)])]) -> ExecutionPlan {
    let mut plan = planned();
    let model = plan.steps.remove(0);
    for (number, (phase, facts)) in promises.iter().enumerate() {
        let mut step = model.clone();
        step.id = number.to_string();
        step.phase = *phase;
        step.work.expect = facts.iter().map(|(name, there)| column(name, *there)).collect();
        step.undo = Undo::NotNeeded {
            reason: "test".into(),
        };
        plan.steps.push(step);
    }
    plan
}

fn run(plan: &ExecutionPlan, state: RunState, states: &[StepState]) -> Run {
    let now = jiff::Timestamp::UNIX_EPOCH;
    let record = |(step, state): (&Step, &StepState)| StepRecord {
        id: step.id.clone(),
        state: *state,
        attempts: 1,
        undone_works: 0,
        started_at: None,
        finished_at: None,
        error: (*state == StepState::Failed).then(|| "it broke".into()),
    };
    Run {
        id: 7,
        plan: plan.clone(),
        state,
        started_by: "postgres".into(),
        client: None,
        started_at: now,
        updated_at: now,
        finished_at: None,
        baseline: false,
        steps: plan.steps.iter().zip(states).map(record).collect(),
    }
}

fn facts<'a>(plan: &'a ExecutionPlan, run: Option<&'a Run>, actual: &Tables) -> Facts<'a> {
    Facts {
        plan,
        run,
        actual: actual.clone(),
        objects: Vec::new(),
        busy: BTreeSet::new(),
        answers: BTreeMap::new(),
        texts: BTreeMap::new(),
        postconditions: Vec::new(),
        monitors: Vec::new(),
        through: None,
        notes: Vec::new(),
    }
}

fn promised(plan: &ExecutionPlan, run: &Run) -> Vec<String> {
    expected_now(plan, Some(run))
        .iter()
        .map(|(step, expectation)| format!("{} {}", step.id, verifier::describe(expectation)))
        .collect()
}

use StepState::{Done, Failed, Pending, Running};

#[test]
fn what_a_later_step_takes_away_is_no_longer_promised() {
    let plan = promising(&[
        (Phase::Expand, &[("shadow", true)]),
        (Phase::Cutover, &[("proof", true), ("a", true)]),
        (Phase::Cutover, &[("proof", false)]),
        (Phase::Contract, &[("a", false)]),
    ]);
    let at = |states: &[StepState]| promised(&plan, &run(&plan, RunState::Started, states));
    assert_eq!(
        at(&[Done, Pending, Pending, Pending]),
        ["0 column public.t.shadow exists"]
    );
    assert_eq!(
        at(&[Done, Done, Done, Pending]),
        ["1 column public.t.a exists", "2 column public.t.proof is gone"],
        "the cutover may have renamed what expand added"
    );
    assert_eq!(
        at(&[Done, Done, Done, Running]),
        ["2 column public.t.proof is gone"],
        "a step under way may have taken it already"
    );
}

#[test]
fn the_answers() {
    let plan = planned();
    let (before, after) = (&plan.before.tables, &plan.after.tables);
    let verdict = |run: Option<&Run>, actual: &Tables| {
        let verification = judge(facts(&plan, run, actual));
        (
            verification.verdict,
            verification.findings.len(),
            verification.passes(),
        )
    };
    let with = |state, step| run(&plan, state, &[step]);
    assert_eq!(verdict(None, before), (Verdict::NotApplied, 1, false));
    assert_eq!(verdict(None, after), (Verdict::Matches, 0, true));
    let failed = with(RunState::Started, Failed);
    assert_eq!(verdict(Some(&failed), before), (Verdict::InProgress, 1, false));
    let completed = with(RunState::Completed, Done);
    assert_eq!(verdict(Some(&completed), after), (Verdict::Matches, 0, true));
    assert_eq!(verdict(Some(&completed), before), (Verdict::Drifted, 1, false));
    let ended_unrecorded = with(RunState::Started, Done);
    assert_eq!(
        verdict(Some(&ended_unrecorded), after),
        (Verdict::Matches, 0, true)
    );
    let back = with(RunState::RolledBack, StepState::Undone);
    assert_eq!(verdict(Some(&back), before), (Verdict::RolledBack, 0, true));
    assert_eq!(verdict(Some(&back), after), (Verdict::RolledBack, 1, false));
    assert_eq!(
        verdict(Some(&with(RunState::RollingBack, Done)), after),
        (Verdict::RollingBack, 0, false)
    );
}

#[test]
fn contract_pending_is_good_only_through_cutover() {
    let plan = promising(&[
        (Phase::Cutover, &[("a", true)]),
        (Phase::Contract, &[("a", false)]),
    ]);
    let pending = run(&plan, RunState::Started, &[Done, Pending]);
    let there = catalog().with("t", table(&["a bigint"])).tables;
    let asked = |through, actual: &Tables| {
        let verification = judge(Facts {
            through,
            ..facts(&plan, Some(&pending), actual)
        });
        assert_eq!(verification.verdict, Verdict::ContractPending);
        verification.passes()
    };
    assert!(!asked(None, &there));
    assert!(asked(Some(Phase::Cutover), &there));
    assert!(!asked(Some(Phase::Contract), &there));
    assert!(
        !asked(Some(Phase::Cutover), &Tables::new()),
        "the cutover's own promise is broken"
    );
}

#[test]
fn a_leftover_is_told_once() {
    let plan = planned();
    let completed = run(&plan, RunState::Completed, &[Done]);
    let mut actual = plan.after.tables.clone();
    let table = actual.values_mut().next().unwrap();
    let mut left = table.columns[0].clone();
    left.name = "~pgmorph_a_old".into();
    table.columns.push(left);
    let verification = judge(facts(&plan, Some(&completed), &actual));
    let objects: Vec<_> = verification
        .findings
        .iter()
        .map(|finding| finding.object.as_str())
        .collect();
    assert_eq!(objects, ["table public.t: column \"~pgmorph_a_old\""]);
}

#[test]
fn without_a_run_silence_of_the_catalog_is_no_proof() {
    let mut plan = planned();
    plan.after = plan.before.clone();
    let actual = plan.before.tables.clone();
    assert_eq!(judge(facts(&plan, None, &actual)).verdict, Verdict::NotApplied);
}

#[test]
fn a_table_that_lost_its_name_keeps_no_promises_made_under_it() {
    let mut plan = promising(&[(Phase::Expand, &[("a", true)]), (Phase::Cutover, &[("a", true)])]);
    plan.steps[0].change = 2;
    let table = QualifiedName::new("public", "t");
    plan.steps[1].work.expect = vec![Expectation::TableAbsent { table }];
    let states = [StepState::Done, StepState::Done];
    let done = run(&plan, RunState::Started, &states);
    assert_eq!(promised(&plan, &done), ["1 there is no table public.t"]);
    let states = [StepState::Done, StepState::Running];
    let begun = run(&plan, RunState::Started, &states);
    assert_eq!(promised(&plan, &begun), [""; 0]);
}
