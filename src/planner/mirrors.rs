//! Mirrors that hang on one table are put up and taken down by one transaction: between two, rows would reach one of
//! their targets and not the other, and a foreign key between the targets would refuse the application's write.

use crate::plan::{Action, Phase, Step, Undo, Work};

/// Merges the steps that lock the same tables in the same phase for mirrors of one plan. What triggers call is there
/// before them and goes after them: they are made in the place of the last, and dropped in that of the first.
pub fn joined(steps: Vec<Step>) -> Vec<Step> {
    let mut kept: Vec<Step> = Vec::with_capacity(steps.len());
    for step in steps {
        let earlier = kept
            .iter()
            .position(|earlier| is_triggers(earlier) && is_triggers(&step) && alike(earlier, &step));
        match earlier {
            Some(at) if step.phase == Phase::Expand => {
                let mut one = kept.remove(at);
                join(&mut one, step);
                kept.push(one);
            }
            Some(at) => join(&mut kept[at], step),
            None => kept.push(step),
        }
    }
    kept
}

/// Whether it makes or drops triggers of a mirror.
fn is_triggers(step: &Step) -> bool {
    let part = step.id.rsplit('-').next().unwrap_or_default();
    step.operation == "sync" && (part.starts_with("follow") || part.starts_with("leave"))
}

fn alike(one: &Step, other: &Step) -> bool {
    let undo_locks = |step: &Step| match &step.undo {
        Undo::Work(works) => match works.as_slice() {
            [work] => Some(work.locks.clone()),
            _ => None,
        },
        _ => Some(Vec::new()),
    };
    one.phase == other.phase
        && one.work.locks == other.work.locks
        && one.work.transaction == other.work.transaction
        && undo_locks(one).is_some()
        && undo_locks(one) == undo_locks(other)
}

fn join(earlier: &mut Step, later: Step) {
    append(&mut earlier.work, later.work);
    earlier.hazards.extend(later.hazards);
    if let (Undo::Work(works), Undo::Work(more)) = (&mut earlier.undo, later.undo)
        && let (Some(work), Some(mut first)) = (works.pop(), more.into_iter().next())
    {
        append(&mut first, work);
        works.push(first);
    }
}

fn append(work: &mut Work, more: Work) {
    if let (Action::Sql(statements), Action::Sql(others)) = (&mut work.action, more.action) {
        let new = others.into_iter().filter(|text| !text.starts_with("LOCK TABLE "));
        statements.extend(new);
    }
    work.summary = format!("{}; {}", work.summary, more.summary);
    work.expect.extend(more.expect);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{catalog, compile, table};

    /// Of each, whether it drops triggers, and whether it drops what they call.
    fn what_triggers_need(works: &[&Work]) -> Vec<(bool, bool)> {
        let has = |work: &&Work, word: &str| match &work.action {
            Action::Sql(statements) => statements.iter().any(|text| text.contains(word)),
            _ => false,
        };
        let both = |work: &&Work| (has(work, "_write() CASCADE"), has(work, "_row(bigint)"));
        works.iter().map(both).collect()
    }

    #[test]
    fn triggers_come_after_what_they_call_and_go_before_it() {
        let one = |columns: &[&str]| table(columns).with_primary_key("pk", &["id"]);
        let catalog = catalog()
            .with("t", one(&["id bigint not null", "a text"]))
            .with("u", one(&["id bigint not null", "a text"]))
            .with("v", one(&["id bigint not null", "a text"]));
        let sync = |into: &str| {
            format!("  - sync: {{name: to_{into}, from: t, into: {into}, key: [id], columns: [a]}}\n")
        };
        let plan = compile(&catalog, &(sync("u") + &sync("v"))).unwrap();
        let ids = |phase: Phase| {
            let of_phase = plan.steps.iter().filter(|step| step.phase == phase);
            of_phase.map(|step| step.id.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(
            ids(Phase::Expand),
            ["01-sync-define", "02-sync-define", "01-sync-follow"]
        );
        assert_eq!(
            ids(Phase::Contract),
            ["01-sync-leave_1", "01-sync-forget", "02-sync-forget"]
        );
        let undo = plan.steps.iter().rev().flat_map(|step| match &step.undo {
            Undo::Work(works) => works.as_slice(),
            _ => &[],
        });
        let contract = plan.steps.iter().filter(|step| step.phase == Phase::Contract);
        let expected = [(true, false), (false, true), (false, true)];
        assert_eq!(what_triggers_need(&undo.collect::<Vec<_>>()), expected);
        let contract: Vec<&Work> = contract.map(|step| &step.work).collect();
        assert_eq!(what_triggers_need(&contract), expected);
    }

    #[test]
    fn triggers_of_one_table_come_and_go_at_once() {
        let catalog = catalog().with("t", table(&["a bigint"]));
        let changes = "  - set_default: {table: t, column: a, default: 1}\n  - set_default: {table: t, column: a, default: 2}\n";
        let mut steps = compile(&catalog, changes).unwrap().steps;
        assert_eq!(
            joined(steps.clone()).len(),
            2,
            "other operations stay as they are"
        );
        for step in &mut steps {
            step.operation = "sync".into();
            step.id = format!("0{}-sync-follow_1", step.change);
        }
        let merged = joined(steps);
        let [step] = merged.as_slice() else {
            panic!("{merged:#?}");
        };
        let texts = |work: &Work| match &work.action {
            Action::Sql(statements) => statements.join("; "),
            other => panic!("{other:?}"),
        };
        insta::assert_snapshot!(texts(&step.work), @"ALTER TABLE public.t ALTER COLUMN a SET DEFAULT 1; ALTER TABLE public.t ALTER COLUMN a SET DEFAULT 2");
        let Undo::Work(works) = &step.undo else {
            panic!("{:?}", step.undo);
        };
        insta::assert_snapshot!(texts(&works[0]), @"ALTER TABLE ONLY public.t ALTER COLUMN a SET DEFAULT 1; ALTER TABLE ONLY public.t ALTER COLUMN a DROP DEFAULT");
    }
}
