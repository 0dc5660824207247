//! What the renderings of a plan have in common: sums over steps, and words for their parts.

use super::safe;
use crate::plan::{
    Action, Backfill, DurationClass, Estimate, ExecutionPlan, Lock, NotBefore, Phase, Step, Timeouts, Undo,
};
use crate::units;

/// What a phase is for, in a sentence.
pub fn purpose(phase: Phase) -> &'static str {
    match phase {
        Phase::Expand => "adds beside what is there; nothing that the application uses is taken away",
        Phase::Backfill => "fills what was added, in short batches",
        Phase::Validate => "proves what was added; what blocks does so for an instant",
        Phase::Cutover => "makes it what the application uses",
        Phase::Contract => "removes what is no longer used; runs only when asked for: --through contract",
    }
}

/// In front of the changes that are left out.
pub const WAITING: &str = "Waiting for their conditions, and left out:";

/// Why a plan has no steps.
pub fn nothing_to_do(plan: &ExecutionPlan) -> &'static str {
    if plan.waiting().is_empty() {
        "\nNothing to do: the database is as the plan wants it.\n"
    } else {
        "\nNothing to do now.\n"
    }
}

/// The strongest lock of all these steps.
pub fn strongest<'a>(steps: &[&'a Step]) -> Option<&'a Lock> {
    let locks = steps.iter().flat_map(|step| &step.work.locks);
    // The first of equals, so that the text does not depend on how many there are.
    locks.reduce(|best, lock| if lock.mode > best.mode { lock } else { best })
}

pub fn longest(steps: &[&Step]) -> DurationClass {
    let durations = steps.iter().map(|step| step.estimate.duration);
    durations.max().unwrap_or(DurationClass::Instant)
}

/// How wide a step is drawn: nobody knows seconds beforehand, but an hour is not an instant.
pub fn width(duration: DurationClass) -> usize {
    match duration {
        DurationClass::Instant => 6,
        DurationClass::Seconds => 24,
        DurationClass::Minutes => 72,
        DurationClass::Hours => 160,
    }
}

/// Between two steps that are drawn one after the other.
pub const GAP: usize = 2;

/// Of all these steps in a row.
pub fn length(steps: &[&Step]) -> usize {
    steps.iter().map(|step| width(step.estimate.duration) + GAP).sum()
}

/// How long those who use a table may be kept waiting by one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// `lock_timeout`: queueing for so long makes others queue behind.
    pub queue_ms: u64,
    /// How long the lock is held then, and the bound of that.
    pub class: DurationClass,
    pub hold_ms: u64,
}

impl Block {
    /// `200ms in the queue, then instant (30s at most)`.
    pub fn words(self) -> String {
        format!(
            "{} in the queue, then {} ({} at most)",
            units::millis(self.queue_ms),
            self.class.name(),
            units::millis(self.hold_ms)
        )
    }
}

/// The worst of these steps; `None` where none of them blocks reads or writes.
pub fn longest_block(steps: &[&Step]) -> Option<Block> {
    let blocking = steps
        .iter()
        .filter(|step| step.work.locks.iter().any(|lock| lock.mode.blocks_writes()));
    blocking
        .map(|step| Block {
            queue_ms: step.work.timeouts.lock_ms.unwrap_or(0),
            class: step.estimate.duration,
            hold_ms: step.work.timeouts.statement_ms,
        })
        .reduce(|one, other| Block {
            queue_ms: one.queue_ms.max(other.queue_ms),
            class: one.class.max(other.class),
            hold_ms: one.hold_ms.max(other.hold_ms),
        })
}

/// Of the step that goes over most of them.
pub fn rows(steps: &[&Step]) -> Option<u64> {
    let rows = steps.iter().filter_map(|step| step.estimate.rows).max();
    rows.and_then(|rows| u64::try_from(rows).ok())
}

pub fn disk_of(steps: &[&Step]) -> i64 {
    let bytes = steps.iter().map(|step| step.estimate.disk_bytes);
    bytes.fold(0, i64::saturating_add)
}

pub fn disk_bytes(plan: &ExecutionPlan) -> i64 {
    disk_of(&plan.steps.iter().collect::<Vec<_>>())
}

/// `PostgreSQL 15.18`.
pub fn server(plan: &ExecutionPlan) -> String {
    let number = plan.server_version_num;
    format!("PostgreSQL {}.{}", number / 10_000, number % 10_000)
}

pub fn timeouts(timeouts: Timeouts) -> String {
    let lock = match timeouts.lock_ms {
        Some(ms) => units::millis(ms),
        None => "none".into(),
    };
    format!("lock {lock}, statement {}", units::millis(timeouts.statement_ms))
}

pub fn estimate(estimate: &Estimate) -> String {
    let mut parts = vec![estimate.duration.name().to_owned()];
    if let Some(rows) = estimate.rows.and_then(|rows| u64::try_from(rows).ok()) {
        parts.push(format!("{} rows", units::count(rows)));
    }
    if estimate.bytes > 0 {
        parts.push(format!("reads {}", units::signed_size(estimate.bytes)));
    }
    if estimate.disk_bytes > 0 {
        parts.push(format!(
            "needs {} of disk",
            units::signed_size(estimate.disk_bytes)
        ));
    }
    parts.join(", ")
}

/// The statements of an action, each with its semicolon; what is no statement as a comment and what it amounts to.
pub fn sql(action: &Action) -> Vec<String> {
    match action {
        Action::Sql(statements) => statements.iter().map(|statement| terminated(statement)).collect(),
        Action::Copy(copying) => vec![format!(
            "-- in batches of pages of {}{}\n{};",
            safe::one_line(&copying.from.to_string()),
            workers(copying.workers),
            copying.whole()
        )],
        Action::Backfill(backfill) => vec![format!(
            "-- in batches of pages, some rows of each at a time{}\n{}",
            workers(backfill.workers),
            batch(backfill, "")
        )],
        Action::Check(check) => vec![format!("-- must return no rows\n{}", terminated(&check.query))],
        Action::Match(it) => vec![format!(
            "-- must be the same rows, compared by ranges of ({})\n{}\n-- and\n{}",
            safe::one_line(&it.key_list()),
            terminated(&it.left),
            terminated(&it.right)
        )],
        Action::Compare(comparison) => vec![format!(
            "-- must return no rows; where it does, they are filled again, and it is asked once more\n{}",
            terminated(&comparison.check.query)
        )],
    }
}

fn workers(workers: u32) -> String {
    match workers {
        1 => String::new(),
        several => format!(", by {several} sessions"),
    }
}

/// The update of a backfill, with a further condition in front of its own.
pub fn batch(backfill: &Backfill, range: &str) -> String {
    let Backfill {
        table, set, needs, ..
    } = backfill;
    let range = if range.is_empty() {
        String::new()
    } else {
        format!("{range} AND ")
    };
    format!("UPDATE {table} SET {set} WHERE {range}({needs});")
}

/// With its semicolon, on a line of its own when the text may end in a comment.
pub fn terminated(statement: &str) -> String {
    let statement = statement.trim_end();
    let last = statement.lines().last().unwrap_or_default();
    if last.contains("--") {
        format!("{statement}\n;")
    } else {
        format!("{statement};")
    }
}

/// How long after which step it is refused.
pub fn not_before(gate: &NotBefore) -> String {
    format!("refused until {} after {}", units::millis(gate.ms), gate.step)
}

/// How a step is undone, in a line.
pub fn undo(undo: &Undo) -> String {
    match undo {
        Undo::Work(works) => {
            let summaries: Vec<_> = works.iter().map(|work| work.summary.as_str()).collect();
            summaries.join("; ")
        }
        Undo::NotNeeded { reason } => format!("not needed: {reason}"),
        Undo::Irreversible { reason } => format!("impossible: {reason}"),
    }
}

/// Why the plan has a point of no return there.
pub fn irreversible(step: &Step) -> Option<&str> {
    match &step.undo {
        Undo::Irreversible { reason } => Some(reason),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Limits;

    #[test]
    fn a_trailing_comment_does_not_swallow_the_semicolon() {
        assert_eq!(terminated("SELECT 1\n"), "SELECT 1;");
        assert_eq!(terminated("SELECT 1 -- one"), "SELECT 1 -- one\n;");
    }

    #[test]
    fn a_backfill_says_how_many_sessions_fill() {
        let backfill = |workers| {
            Action::Backfill(Backfill {
                table: crate::sql::QualifiedName::new("public", "orders"),
                set: "new = old".into(),
                needs: "new IS NULL".into(),
                suppress_triggers: true,
                columns: vec!["new".into()],
                workers,
                limits: Limits::default(),
            })
        };
        let first_line = |workers| {
            sql(&backfill(workers))[0]
                .lines()
                .next()
                .map(str::to_owned)
                .unwrap()
        };
        assert_eq!(
            first_line(1),
            "-- in batches of pages, some rows of each at a time"
        );
        assert_eq!(
            first_line(3),
            "-- in batches of pages, some rows of each at a time, by 3 sessions"
        );
    }
}
