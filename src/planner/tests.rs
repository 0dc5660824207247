use super::*;
use crate::change_plan;
use crate::ops::testing::{catalog, table};

#[test]
fn rows_are_repaired_before_they_are_checked() {
    let phases = |changes: &str| {
        let source = format!("name: x\nchanges:\n{changes}");
        let now = catalog().with("t", table(&["a bigint", "b bigint"]));
        let steps = plan(&change_plan::parse(&source).unwrap(), &now).unwrap().steps;
        let shown = steps.iter().map(|step| format!("{} {}", step.phase, step.id));
        shown.collect::<Vec<_>>().join("\n")
    };
    let repair = "- sql: {run: UPDATE t SET a = 0 WHERE a IS NULL, no_undo: harmless, phase: backfill}\n";
    let checks = "- set_not_null: {table: t, column: a}\n- add_check: {table: t, expression: b > 0}\n";
    insta::assert_snapshot!(phases(&format!("{repair}{checks}")), @"
    backfill 01-sql-run
    validate 02-set_not_null-add
    validate 02-set_not_null-validate
    validate 03-add_check-add
    validate 03-add_check-validate
    cutover 02-set_not_null-set
    ");
    assert!(phases(checks).starts_with("expand 01-set_not_null-add\nexpand 02-add_check-add\n"));
}

#[test]
fn an_extended_plan_has_steps_for_what_was_added_only() {
    let source = "name: x\nchanges:\n  - set_default: {table: gone, column: a, default: 1}\n  - set_default: {table: t, column: a, default: 2}\n";
    let file = change_plan::parse(source).unwrap();
    let now = catalog().with("t", table(&["a bigint"]));
    assert!(
        plan(&file, &now).is_err(),
        "the first change has no table any more"
    );
    let in_place = Numbers::from([1]);
    let added = plan_from(&file, &now, &in_place).unwrap();
    let steps: Vec<_> = added
        .steps
        .iter()
        .map(|step| (step.id.as_str(), step.change))
        .collect();
    assert_eq!(steps, [("02-set_default-set", 2)]);
    assert_eq!(added.changes.len(), 2);
    assert_eq!(questions_from(&file, &now, &in_place).len(), 1);
    let marks: Vec<bool> = added.changes.iter().map(|change| change.in_place).collect();
    assert_eq!(marks, [true, false]);
}

fn numbers_and_reasons(plan: &ExecutionPlan) -> Vec<String> {
    plan.waiting().iter().map(ToString::to_string).collect()
}

fn step_ids(plan: &ExecutionPlan) -> Vec<&str> {
    plan.steps.iter().map(|step| step.id.as_str()).collect()
}

#[test]
fn conditions_see_what_earlier_changes_leave() {
    let source = "name: x\nchanges:
  - add_column: {table: t, column: b, type: text}
  - set_default: {table: t, column: b, default: 1, when: {column_exists: t.b}}
  - add_column: {table: u, column: c, type: text, when: {table_exists: u}}
  - set_default: {table: u, column: c, default: 2, when: {column_exists: u.c}}
";
    let file = change_plan::parse(source).unwrap();
    let now = catalog().with("t", table(&["a bigint"]));
    let first = plan(&file, &now).unwrap();
    assert_eq!(step_ids(&first), ["01-add_column-add", "02-set_default-set"]);
    assert_eq!(
        numbers_and_reasons(&first),
        [
            "change 3 (add_column): table public.u does not exist",
            "change 4 (set_default): column public.u.c does not exist"
        ]
    );
    assert!(questions(&file, &now).iter().all(|question| match question {
        Question::Probe(probe) => probe.table.name == "t",
        Question::Trial(_) => false,
    }));

    let now = now.with("u", table(&["a bigint"]));
    let second = plan_from(&file, &now, &Numbers::from([1, 2])).unwrap();
    assert_eq!(step_ids(&second), ["03-add_column-add", "04-set_default-set"]);
    assert_eq!(numbers_and_reasons(&second), [""; 0]);
    assert_eq!(first.changes, second.changes, "it is the same plan");
    assert_ne!(first.digest, second.digest);
}

#[test]
fn the_answer_to_a_query_decides_where_all_else_holds() {
    let source = "name: x\nchanges:
  - set_default: {table: t, column: a, default: 1, when: {query: SELECT true;}}
  - set_default: {table: u, column: a, default: 2, when: {table_exists: u, query: SELECT false FROM u}}
";
    let file = change_plan::parse(source).unwrap();
    let mut now = catalog().with("t", table(&["a bigint"]));
    let asked = conditions(&file, &Numbers::new());
    let asked: Vec<&str> = asked.keys().map(String::as_str).collect();
    assert_eq!(asked, ["SELECT false FROM u", "SELECT true"]);
    assert_eq!(plan(&file, &now).unwrap_err()[0].code, "needs_server");

    let mut answer = |query: &str, answer| drop(now.conditions.insert(query.into(), answer));
    answer("SELECT true", Ok(true));
    answer("SELECT false FROM u", Err("there is no u".to_owned()));
    let planned = plan(&file, &now).unwrap();
    assert_eq!(
        numbers_and_reasons(&planned),
        ["change 2 (set_default): table public.u does not exist"]
    );
    assert!(planned.before.conditions.is_empty() && planned.after.conditions.is_empty());

    let mut now = now.with("u", table(&["a bigint"]));
    let refused = plan(&file, &now).unwrap_err();
    assert_eq!(refused[0].code, "condition_fails");
    assert_eq!(&source[refused[0].span.unwrap().range()], "SELECT false FROM u");
    now.conditions.insert("SELECT false FROM u".into(), Ok(false));
    assert_eq!(
        numbers_and_reasons(&plan(&file, &now).unwrap()),
        ["change 2 (set_default): the query is not true: SELECT false FROM u"]
    );
}

#[test]
fn plans_recorded_before_there_were_conditions_are_still_known() {
    let old = r#"{"operation": "x", "text": "x: {}"}"#;
    let old: PlannedChange = serde_json::from_str(old).unwrap();
    assert!(old.waiting.is_none() && !old.in_place);
    assert_eq!(
        serde_json::to_string(&old).unwrap(),
        r#"{"operation":"x","text":"x: {}"}"#
    );
}
