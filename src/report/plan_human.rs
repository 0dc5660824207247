//! A plan for people at a terminal, readable at 100 columns. The same plan gives the same bytes.

use super::{plan_picture, plan_view, safe, style};
use crate::plan::{Action, Check, ExecutionPlan, Phase, Step, Transaction, Waiting, Work};
use crate::units;
use comfy_table::{ContentArrangement, Table, presets};
use std::fmt::Write;

const WIDTH: u16 = 100;
/// In front of the parts of a step: the indentation and the widest label.
const LABEL: usize = 10;

pub fn plan(plan: &ExecutionPlan) -> String {
    let mut text = heading(plan);
    if plan.steps.is_empty() {
        text.push_str(plan_view::nothing_to_do(plan));
        left_out(&mut text, plan);
        return text;
    }
    let _ = write!(text, "\n{}\n{}", overview(plan), plan_picture::picture(plan));
    left_out(&mut text, plan);
    checks(
        &mut text,
        "Before the first step, these return no rows",
        &plan.preconditions,
    );
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
    checks(
        &mut text,
        "Afterwards, `pgmorph verify` asks whether these return no rows",
        &plan.postconditions,
    );
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

fn left_out(text: &mut String, plan: &ExecutionPlan) {
    let waiting = plan.waiting();
    if !waiting.is_empty() {
        let _ = writeln!(text, "\n{}", plan_view::WAITING);
    }
    for waiting in waiting {
        let line = waiting.to_string();
        let _ = writeln!(
            text,
            "  {}",
            units::wrap(&line, usize::from(WIDTH) - 2).join("\n    ")
        );
    }
}

/// What is waiting, in a line: `1 change is waiting: table public.trades does not exist`.
pub fn waiting(waiting: &[Waiting]) -> String {
    let verb = if waiting.len() == 1 { "is" } else { "are" };
    let mut reasons: Vec<&str> = waiting.iter().map(|waiting| waiting.reason.as_str()).collect();
    reasons.dedup();
    format!(
        "{} {verb} waiting: {}",
        units::counted(waiting.len(), "change"),
        reasons.join("; ")
    )
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
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .set_header(header);
    table
}

/// A table with every line ended, and nothing after the last character of a line.
pub fn lines(table: &Table) -> String {
    table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

fn checks(text: &mut String, title: &str, checks: &[Check]) {
    if checks.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}:");
    for check in checks {
        let _ = writeln!(text, "\n  {}", safe::one_line(&check.name));
        block(text, &plan_view::terminated(&check.query));
    }
}

fn no_return(text: &mut String, step: &Step) {
    let reason = plan_view::irreversible(step).unwrap_or_default();
    let _ = writeln!(
        text,
        "\n  {}",
        style::bad("POINT OF NO RETURN: from here on nothing can be rolled back")
    );
    part(text, "", &format!("{}: {reason}", step.id));
}

fn one_step(text: &mut String, step: &Step) {
    let work = &step.work;
    let _ = writeln!(
        text,
        "\n  {}  {}",
        style::name(&step.id),
        safe::one_line(&work.summary)
    );
    for lock in &work.locks {
        let blocks = format!("blocks {}", lock.mode.blocks());
        let blocks = if lock.mode.blocks_writes() {
            style::careful(blocks)
        } else {
            blocks
        };
        part(
            text,
            "lock",
            &format!("{} on {}: {blocks}", lock.mode, lock.relation),
        );
    }
    if let Some(gate) = &work.not_before {
        part(text, "waits", &plan_view::not_before(gate));
    }
    part(text, "timeouts", &plan_view::timeouts(work.timeouts));
    part(text, "estimate", &plan_view::estimate(&step.estimate));
    for hazard in &step.hazards {
        part(
            text,
            "hazard",
            &format!("{}: {}", style::careful(&hazard.code), hazard.message),
        );
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
    for (number, line) in units::wrap(content, usize::from(WIDTH) - LABEL - 6)
        .iter()
        .enumerate()
    {
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
    let blocks = |step: &&Step| step.work.locks.iter().any(|lock| lock.mode.blocks_writes());
    let _ = writeln!(
        text,
        "\n{}: {}, {} of them with a lock that blocks the application; disk needed: {}",
        style::heading("Total"),
        units::counted(plan.steps.len(), "step"),
        plan.steps.iter().filter(blocks).count(),
        units::signed_size(plan_view::disk_bytes(plan)),
    );
    let _ = writeln!(
        text,
        "Getting one lock is tried again and again, for at most {}.",
        units::millis(plan.lock_deadline_ms)
    );
    if plan.steps.iter().any(|step| locks_several(&step.work)) {
        text.push_str(
            "Where several tables are locked together, every second attempt takes them in the other order.\n",
        );
    }
    if let Some(step) = plan.point_of_no_return() {
        let _ = writeln!(text, "Point of no return: {} ({})", step.id, step.phase);
    } else {
        text.push_str("Every step can be rolled back.\n");
    }
    if plan.steps.iter().any(|step| step.phase == Phase::Contract) {
        text.push_str("`apply` stops before contract, unless it is told --through contract.\n");
    }
    let _ = writeln!(text, "Digest: {}", plan.digest);
    if plan.steps.iter().any(|step| !step.hazards.is_empty()) {
        text.push_str("What a hazard means, and what to do: pgmorph explain NAME\n");
    }
}

fn locks_several(work: &Work) -> bool {
    let several = |statement: &String| statement.starts_with("LOCK TABLE ") && statement.contains(", ");
    matches!(&work.action, Action::Sql(statements) if statements.iter().any(several))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    /// One of everything, in two parts.
    fn rendered() -> (String, String) {
        let text = crate::report::safe::plain(&plan(&sample::plan()));
        let (first, second) = text.split_once("\nVALIDATE").unwrap();
        (first.to_owned(), second.to_owned())
    }

    #[test]
    fn through_backfill() {
        insta::assert_snapshot!(rendered().0, @r"
        Plan widen: 1 change in 5 steps for PostgreSQL 15.18
        Room for more versions

         Phase     Steps  Strongest lock          On             Blocks            Longest step
         expand    1      SHARE UPDATE EXCLUSIVE  public.orders  nothing           seconds
         backfill  1      ROW EXCLUSIVE           public.orders  nothing           seconds
         validate  1      ACCESS SHARE            public.orders  nothing           seconds
         cutover   1      ACCESS EXCLUSIVE        public.orders  reads and writes  instant
         contract  1      ACCESS EXCLUSIVE        public.orders  reads and writes  instant

        Over time, not to scale (# blocks reads and writes, = writes, - nothing):
         expand    --------                          1,000,000 rows, 30 MB of disk
         backfill          ---------                 1,000,000 rows
         validate                   --------         1,000,000 rows
         cutover                             ##      a lock: 200ms queued, then instant
         contract                               ##   a lock: 200ms queued, then instant

        Before the first step, these return no rows:

          no negative versions
                SELECT id FROM orders WHERE version < 0;

        EXPAND adds beside what is there; nothing that the application uses is taken away

          01-widen_column-build  build index orders_new_idx
              lock       SHARE UPDATE EXCLUSIVE on public.orders: blocks nothing
              timeouts   lock none, statement 6h
              estimate   seconds, 1,000,000 rows, reads 100 MB, needs 30 MB of disk
              hazard     waits_for_old_snapshots: building waits for every transaction that began
                         before it; a transaction that stays open for hours keeps it from finishing
              undo       drop index orders_new_idx
              runs       outside a transaction
                CREATE INDEX CONCURRENTLY orders_new_idx ON public.orders (version);

        BACKFILL fills what was added, in short batches

          01-widen_column-fill  copy version to new
              lock       ROW EXCLUSIVE on public.orders: blocks nothing
              timeouts   lock 200ms, statement 30s
              estimate   seconds, 1,000,000 rows, reads 100 MB
              undo       not needed: the column goes
                -- in batches of pages, some rows of each at a time
                UPDATE public.orders SET new = version WHERE (new IS DISTINCT FROM version);
        ");
    }

    #[test]
    fn from_validate_on() {
        insta::assert_snapshot!(rendered().1, @r"
         proves what was added; what blocks does so for an instant

          01-widen_column-compare  compare all rows
              lock       ACCESS SHARE on public.orders: blocks nothing
              timeouts   lock none, statement 6h
              estimate   seconds, 1,000,000 rows, reads 100 MB
              undo       not needed: it changes nothing
                -- must return no rows
                SELECT id FROM public.orders WHERE new <> version;

        CUTOVER makes it what the application uses

          01-widen_column-swap  swap the columns
              lock       ACCESS EXCLUSIVE on public.orders: blocks reads and writes
              timeouts   lock 200ms, statement 30s
              estimate   instant
              undo       swap them back
                ALTER TABLE public.orders RENAME COLUMN version TO old;
                ALTER TABLE public.orders RENAME COLUMN new TO version;

        CONTRACT removes what is no longer used; runs only when asked for: --through contract

          POINT OF NO RETURN: from here on nothing can be rolled back
                         01-widen_column-drop: the values of the old column are gone

          01-widen_column-drop  drop the old column
              lock       ACCESS EXCLUSIVE on public.orders: blocks reads and writes
              timeouts   lock 200ms, statement 30s
              estimate   instant
              undo       impossible: the values of the old column are gone
                ALTER TABLE public.orders DROP COLUMN old;

        Afterwards, `pgmorph verify` asks whether these return no rows:

          still none
                SELECT id FROM orders WHERE version < 0;

        Total: 5 steps, 2 of them with a lock that blocks the application; disk needed: 30 MB
        Getting one lock is tried again and again, for at most 10m.
        Point of no return: 01-widen_column-drop (contract)
        `apply` stops before contract, unless it is told --through contract.
        Digest: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
        What a hazard means, and what to do: pgmorph explain NAME
        ");
    }
}
