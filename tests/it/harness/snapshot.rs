//! Expected texts beside the fixtures, and the plan as such a text.

use pgmorph::plan::{
    Action, Backfill, Comparison, ExecutionPlan, MatchColumn, Step, Timeouts, Transaction, Undo, Work,
};
use pgmorph::{release, verifier};
use similar::TextDiff;
use std::fmt::Write;
use std::path::Path;

/// Compares with the file, or writes it where `UPDATE_FIXTURES` is set. A file `x.18.snap` stands for `x.snap` from that
/// release on, where the texts differ; `UPDATE_FIXTURES=18` begins one.
pub fn compare(path: &Path, major: u32, text: &str) -> Result<(), String> {
    let of_release = |release: u32| path.with_extension(format!("{release}.snap"));
    let special = of_release(major);
    let update = std::env::var("UPDATE_FIXTURES").ok();
    let mut latest = (release::OLDEST..=major).rev().map(of_release);
    let latest = latest.find(|file| file.exists());
    let chosen = latest.as_deref().unwrap_or(path);
    let expected = std::fs::read_to_string(chosen).unwrap_or_default();
    if expected == text {
        return Ok(());
    }
    if let Some(update) = update {
        let begun = update == major.to_string();
        std::fs::write(if begun { &special } else { chosen }, text).unwrap();
        return Ok(());
    }
    Err(format!(
        "{} is out of date (UPDATE_FIXTURES=1 writes it):\n{}",
        chosen.display(),
        difference(&expected, text)
    ))
}

pub fn difference(expected: &str, found: &str) -> String {
    let diff = TextDiff::from_lines(expected, found);
    diff.unified_diff().header("expected", "found").to_string()
}

/// Everything of a plan that a reviewer reads: not the estimates, which depend on statistics.
pub fn render_plan(plan: &ExecutionPlan) -> String {
    let mut text = String::new();
    for (phase, steps) in plan.phases() {
        writeln!(text, "{phase}").unwrap();
        for step in steps {
            render_step(&mut text, step);
        }
    }
    if let Some(step) = plan.point_of_no_return() {
        writeln!(text, "point of no return: {}", step.id).unwrap();
    }
    text
}

fn render_step(text: &mut String, step: &Step) {
    writeln!(text, "  {}: {}", step.id, step.work.summary).unwrap();
    render_work(text, "    ", &step.work);
    for hazard in &step.hazards {
        writeln!(text, "    hazard {}: {}", hazard.code, hazard.message).unwrap();
    }
    match &step.undo {
        Undo::Work(works) => {
            for work in works {
                writeln!(text, "    undo: {}", work.summary).unwrap();
                render_work(text, "      ", work);
            }
        }
        Undo::NotNeeded { reason } => writeln!(text, "    undo: not needed, {reason}").unwrap(),
        Undo::Irreversible { reason } => writeln!(text, "    undo: impossible, {reason}").unwrap(),
    }
}

fn render_work(text: &mut String, indent: &str, work: &Work) {
    match &work.action {
        Action::Sql(statements) => {
            for statement in statements {
                let statement = statement.replace('\n', &format!("\n{indent}  "));
                writeln!(text, "{indent}> {statement};").unwrap();
            }
        }
        Action::Backfill(backfill) => {
            let triggers = if backfill.suppress_triggers {
                ""
            } else {
                " (triggers fire)"
            };
            let (table, set, needs) = (&backfill.table, &backfill.set, &backfill.needs);
            writeln!(
                text,
                "{indent}> backfill {table} SET {set} WHERE {needs}{triggers}"
            )
            .unwrap();
        }
        Action::Copy(copying) => {
            writeln!(text, "{indent}> copy {}: {}", copying.from, copying.whole()).unwrap();
        }
        Action::Check(check) => writeln!(text, "{indent}> no rows from {}", check.query).unwrap(),
        Action::Match(it) => {
            writeln!(text, "{indent}> the rows of {}", it.left).unwrap();
            writeln!(text, "{indent}> are those of {}", it.right).unwrap();
            let column =
                |it: &MatchColumn| format!("{} as {}", it.name, it.cast.as_deref().unwrap_or("it is"));
            let columns: Vec<_> = it
                .key
                .iter()
                .chain(it.columns.iter().flatten())
                .map(column)
                .collect();
            writeln!(text, "{indent}> by {}: {}", it.key_list(), columns.join(", ")).unwrap();
        }
        Action::Compare(Comparison { check, mend }) => {
            writeln!(text, "{indent}> no rows from {}", check.query).unwrap();
            for mend in mend {
                let Backfill {
                    table, set, needs, ..
                } = &mend.fill;
                writeln!(text, "{indent}> else fill {table}: {set} where {needs}").unwrap();
            }
        }
    }
    let locks: Vec<String> = work
        .locks
        .iter()
        .map(|lock| format!("{} {}", lock.relation, lock.mode))
        .collect();
    writeln!(
        text,
        "{indent}{}; {}",
        locks.join(", "),
        bounds(work.timeouts, work.transaction)
    )
    .unwrap();
    if let Some(gate) = &work.not_before {
        writeln!(text, "{indent}not before {}ms after {}", gate.ms, gate.step).unwrap();
    }
    for expectation in &work.expect {
        writeln!(text, "{indent}expects: {}", verifier::describe(expectation)).unwrap();
    }
    if let Some(check) = &work.on_violation {
        writeln!(text, "{indent}on violation: {}", check.query).unwrap();
    }
}

fn bounds(timeouts: Timeouts, transaction: Transaction) -> String {
    let lock = timeouts
        .lock_ms
        .map_or("none".into(), |timeout| format!("{timeout}ms"));
    let transaction = match transaction {
        Transaction::Single => "one transaction",
        Transaction::None => "no transaction",
    };
    format!(
        "lock_timeout {lock}, statement_timeout {}ms, {transaction}",
        timeouts.statement_ms
    )
}
