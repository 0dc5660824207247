//! A plan for the review of a pull request.

use super::{plan_view, units};
use crate::plan::{Check, ExecutionPlan, Step, Transaction};
use std::fmt::Write;

pub fn plan(plan: &ExecutionPlan) -> String {
    let mut text = format!(
        "# Plan `{}`\n\n{} in {} for {}.",
        plan.name,
        units::counted(plan.changes.len(), "change"),
        units::counted(plan.steps.len(), "step"),
        plan_view::server(plan),
    );
    if !plan.description.is_empty() {
        let _ = write!(text, " {}", plan.description);
    }
    text.push_str("\n\n");
    if plan.steps.is_empty() {
        text.push_str("Nothing to do: the database is as the plan wants it.\n");
        return text;
    }
    phases(&mut text, plan);
    match plan.point_of_no_return() {
        Some(step) => {
            let reason = plan_view::irreversible(step).unwrap_or_default();
            let _ = writeln!(text, "\n> **Point of no return:** `{}` ({}): {reason}.", step.id, step.phase);
        }
        None => text.push_str("\nEvery step can be rolled back.\n"),
    }
    hazards(&mut text, plan);
    checks(&mut text, "Preconditions", &plan.preconditions);
    for (phase, steps) in plan.phases() {
        let _ = writeln!(text, "\n## {phase}\n\nThis phase {}.", plan_view::purpose(phase));
        steps_table(&mut text, &steps);
        for step in steps {
            sql(&mut text, step);
        }
    }
    checks(&mut text, "Postconditions", &plan.postconditions);
    let _ = writeln!(text, "\nDigest: `{}`", plan.digest);
    text
}

/// In a cell, a bar would begin the next cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn phases(text: &mut String, plan: &ExecutionPlan) {
    text.push_str("| phase | steps | strongest lock | blocks | longest step |\n|---|---:|---|---|---|\n");
    for (phase, steps) in plan.phases() {
        let lock = plan_view::strongest(&steps);
        let _ = writeln!(
            text,
            "| {phase} | {} | {} | {} | {} |",
            steps.len(),
            lock.map_or("none".into(), |lock| cell(&format!("{} on {}", lock.mode, lock.relation))),
            lock.map_or("nothing", |lock| lock.mode.blocks()),
            plan_view::longest(&steps).name(),
        );
    }
}

fn hazards(text: &mut String, plan: &ExecutionPlan) {
    let mut title = "\n## Hazards\n\n";
    for step in &plan.steps {
        for hazard in &step.hazards {
            let _ = writeln!(text, "{title}- **{}** (`{}`): {}", hazard.code, step.id, hazard.message);
            title = "";
        }
    }
}

fn checks(text: &mut String, title: &str, checks: &[Check]) {
    if checks.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n## {title}\n\nThese must return no rows.");
    for check in checks {
        let _ = writeln!(text, "\n{}:\n", check.name);
        fenced(text, &[plan_view::terminated(&check.query)]);
    }
}

fn steps_table(text: &mut String, steps: &[&Step]) {
    text.push_str("\n| step | does | lock | blocks | estimate | undo |\n|---|---|---|---|---|---|\n");
    for step in steps {
        let lock = plan_view::strongest(&[step]);
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} |",
            step.id,
            cell(&step.work.summary),
            lock.map_or("none".into(), |lock| cell(&format!("{} on {}", lock.mode, lock.relation))),
            lock.map_or("nothing", |lock| lock.mode.blocks()),
            plan_view::estimate(&step.estimate),
            cell(&plan_view::undo(&step.undo)),
        );
    }
}

fn sql(text: &mut String, step: &Step) {
    let outside = match step.work.transaction {
        Transaction::Single => "",
        Transaction::None => ", outside a transaction",
    };
    let _ = writeln!(
        text,
        "\n<details><summary>SQL of <code>{}</code> (timeouts: {}{outside})</summary>\n",
        step.id,
        plan_view::timeouts(step.work.timeouts)
    );
    fenced(text, &plan_view::sql(&step.work.action));
    text.push_str("\n</details>\n");
}

fn fenced(text: &mut String, statements: &[String]) {
    // A fence must be longer than any run of back quotes in what it holds.
    let mut fence = "```".to_owned();
    while statements.iter().any(|statement| statement.contains(&fence)) {
        fence.push('`');
    }
    let _ = writeln!(text, "{fence}sql\n{}\n{fence}", statements.join("\n"));
}
