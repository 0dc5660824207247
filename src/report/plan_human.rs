//! A plan for people at a terminal, readable at 100 columns. The same plan gives the same bytes.

use super::{plan_view, style, units};
use crate::plan::{Check, ExecutionPlan, Phase, Step, Transaction};
use comfy_table::{ContentArrangement, Table, presets};
use std::fmt::Write;

const WIDTH: u16 = 100;
/// In front of the parts of a step: the indentation and the widest label.
const LABEL: usize = 10;

pub fn plan(plan: &ExecutionPlan) -> String {
    let mut text = heading(plan);
    if plan.steps.is_empty() {
        text.push_str("\nNothing to do: the database is as the plan wants it.\n");
        return text;
    }
    let _ = write!(text, "\n{}", overview(plan));
    checks(&mut text, "Before the first step, these return no rows", &plan.preconditions);
    let point = plan.point_of_no_return();
    for (phase, steps) in plan.phases() {
        let _ = writeln!(
            text,
            "\n{} {}",
            style::heading(phase.name().to_uppercase()),
            style::faint(plan_view::purpose(phase))
        );
        for step in steps {
            if point.is_some_and(|point| point.id == step.id) {
                no_return(&mut text, step);
            }
            one_step(&mut text, step);
        }
    }
    checks(&mut text, "Afterwards, `pgmorph verify` asks whether these return no rows", &plan.postconditions);
    totals(&mut text, plan);
    text
}

fn heading(plan: &ExecutionPlan) -> String {
    let mut text = format!(
        "{} {}: {} in {} for {}\n",
        style::heading("Plan"),
        style::name(&plan.name),
        units::counted(plan.changes.len(), "change"),
        units::counted(plan.steps.len(), "step"),
        plan_view::server(plan),
    );
    for line in units::wrap(&plan.description, WIDTH.into()) {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// One line per phase: what it locks, what that blocks, how long it takes.
pub fn overview(plan: &ExecutionPlan) -> String {
    let mut table = table(&["Phase", "Steps", "Strongest lock", "On", "Blocks", "Longest step"]);
    for (phase, steps) in plan.phases() {
        let lock = plan_view::strongest(&steps);
        table.add_row([
            phase.name().to_owned(),
            steps.len().to_string(),
            lock.map_or("none".into(), |lock| lock.mode.to_string()),
            lock.map_or(String::new(), |lock| lock.relation.to_string()),
            lock.map_or("nothing", |lock| lock.mode.blocks()).to_owned(),
            plan_view::longest(&steps).name().to_owned(),
        ]);
    }
    lines(&table)
}

/// A table in the style of all our tables.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .set_header(header);
    table
}

/// A table with every line ended, and nothing after the last character of a line.
pub fn lines(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn checks(text: &mut String, title: &str, checks: &[Check]) {
    if checks.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}:");
    for check in checks {
        let _ = writeln!(text, "\n  {}", check.name);
        block(text, &plan_view::terminated(&check.query));
    }
}

fn no_return(text: &mut String, step: &Step) {
    let reason = plan_view::irreversible(step).unwrap_or_default();
    let _ = writeln!(text, "\n  {}", style::bad("POINT OF NO RETURN: from here on nothing can be rolled back"));
    part(text, "", &format!("{}: {reason}", step.id));
}

fn one_step(text: &mut String, step: &Step) {
    let work = &step.work;
    let _ = writeln!(text, "\n  {}  {}", style::name(&step.id), work.summary);
    for lock in &work.locks {
        let blocks = format!("blocks {}", lock.mode.blocks());
        let blocks = if lock.mode.blocks_writes() { style::careful(blocks) } else { blocks };
        part(text, "lock", &format!("{} on {}: {blocks}", lock.mode, lock.relation));
    }
    part(text, "timeouts", &plan_view::timeouts(work.timeouts));
    part(text, "estimate", &plan_view::estimate(&step.estimate));
    for hazard in &step.hazards {
        part(text, "hazard", &format!("{}: {}", style::careful(&hazard.code), hazard.message));
    }
    part(text, "undo", &plan_view::undo(&step.undo));
    if work.transaction == Transaction::None {
        part(text, "runs", "outside a transaction");
    }
    for statement in plan_view::sql(&work.action) {
        block(text, &statement);
    }
}

fn part(text: &mut String, label: &str, content: &str) {
    // Styles take no room on the screen; the few characters by which they shorten a line do no harm.
    for (number, line) in units::wrap(content, usize::from(WIDTH) - LABEL - 6).iter().enumerate() {
        let label = if number == 0 { label } else { "" };
        let _ = writeln!(text, "      {} {line}", style::faint(format!("{label:<LABEL$}")));
    }
}

fn block(text: &mut String, sql: &str) {
    for line in sql.lines() {
        let _ = writeln!(text, "        {line}");
    }
}

fn totals(text: &mut String, plan: &ExecutionPlan) {
    let steps: Vec<_> = plan.steps.iter().collect();
    let blocking = steps
        .iter()
        .filter(|step| step.work.locks.iter().any(|lock| lock.mode.blocks_writes()));
    let _ = writeln!(
        text,
        "\n{}: {}, of which {} block the application, each attempt for at most its lock timeout and its own run; \
         disk needed: {}; getting a lock is tried for at most {}",
        style::heading("Total"),
        units::counted(steps.len(), "step"),
        blocking.count(),
        units::signed_size(plan_view::disk_bytes(plan)),
        units::duration(plan.lock_deadline_ms),
    );
    if let Some(step) = plan.point_of_no_return() {
        let _ = writeln!(text, "Point of no return: {} ({})", step.id, step.phase);
    } else {
        text.push_str("Every step can be rolled back.\n");
    }
    if plan.steps.iter().any(|step| step.phase == Phase::Contract) {
        text.push_str("`apply` stops before contract, unless it is told --through contract.\n");
    }
    let _ = writeln!(text, "Digest: {}", plan.digest);
}
