//! A plan for the review of a pull request.

use super::plan_view;
use crate::plan::{Check, ExecutionPlan, Step, Transaction};
use crate::units;
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
    text.push('\n');
    if plan.steps.is_empty() {
        text.push_str(plan_view::nothing_to_do(plan));
        left_out(&mut text, plan);
        return text;
    }
    text.push('\n');
    phases(&mut text, plan);
    match plan.point_of_no_return() {
        Some(step) => {
            let reason = inline(plan_view::irreversible(step).unwrap_or_default());
            let _ = writeln!(
                text,
                "\n> **Point of no return:** `{}` ({}): {reason}.",
                step.id, step.phase
            );
        }
        None => text.push_str("\nEvery step can be rolled back.\n"),
    }
    left_out(&mut text, plan);
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
    inline(text).replace('|', "\\|")
}

/// Within a line: no name makes a new one, a tag, a link or an image.
pub(super) fn inline(text: &str) -> String {
    let text = text.replace('\n', " ").replace('<', "&lt;");
    text.replace("](", "]\\(").replace('`', "\\`")
}

fn phases(text: &mut String, plan: &ExecutionPlan) {
    text.push_str("| phase | steps | strongest lock | blocks | for how long | longest step | rows | disk |\n|---|---:|---|---|---|---|---:|---:|\n");
    for (phase, steps) in plan.phases() {
        let lock = plan_view::strongest(&steps);
        let _ = writeln!(
            text,
            "| {phase} | {} | {} | {} | {} | {} | {} | {} |",
            steps.len(),
            lock.map_or("none".into(), |lock| cell(&format!(
                "{} on {}",
                lock.mode, lock.relation
            ))),
            lock.map_or("nothing", |lock| lock.mode.blocks()),
            plan_view::longest_block(&steps).map_or(String::new(), plan_view::Block::words),
            plan_view::longest(&steps).name(),
            plan_view::rows(&steps).map_or(String::new(), units::count),
            match plan_view::disk_of(&steps) {
                disk @ 1.. => units::signed_size(disk),
                _ => String::new(),
            },
        );
    }
}

fn left_out(text: &mut String, plan: &ExecutionPlan) {
    let waiting = plan.waiting();
    if !waiting.is_empty() {
        let _ = writeln!(text, "\n{}\n", plan_view::WAITING);
    }
    for waiting in waiting {
        let _ = writeln!(
            text,
            "- change {} (`{}`): {}",
            waiting.change,
            waiting.operation,
            inline(&waiting.reason)
        );
    }
}

fn hazards(text: &mut String, plan: &ExecutionPlan) {
    let mut title = "\n## Hazards\n\n";
    for step in &plan.steps {
        for hazard in &step.hazards {
            let _ = writeln!(
                text,
                "{title}- **{}** (`{}`): {}",
                hazard.code,
                step.id,
                inline(&hazard.message)
            );
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
        let _ = writeln!(text, "\n{}:\n", inline(&check.name));
        fenced(text, &[plan_view::terminated(&check.query)]);
    }
}

fn steps_table(text: &mut String, steps: &[&Step]) {
    text.push_str("\n| step | does | lock | blocks | estimate | undo |\n|---|---|---|---|---|---|\n");
    for step in steps {
        let lock = plan_view::strongest(&[step]);
        let gate = step.work.not_before.as_ref();
        let gate = gate.map_or(String::new(), |gate| format!("; {}", plan_view::not_before(gate)));
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} |",
            step.id,
            cell(&format!("{}{gate}", step.work.summary)),
            lock.map_or("none".into(), |lock| cell(&format!(
                "{} on {}",
                lock.mode, lock.relation
            ))),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    /// One of everything, in two parts.
    fn rendered() -> (String, String) {
        let text = plan(&sample::plan());
        let (first, second) = text.split_once("\n## validate").unwrap();
        (first.to_owned(), second.to_owned())
    }

    #[test]
    fn through_backfill() {
        insta::assert_snapshot!(rendered().0, @r"
        # Plan `widen`

        1 change in 5 steps for PostgreSQL 15.18. Room for more versions

        | phase | steps | strongest lock | blocks | for how long | longest step | rows | disk |
        |---|---:|---|---|---|---|---:|---:|
        | expand | 1 | SHARE UPDATE EXCLUSIVE on public.orders | nothing |  | seconds | 1,000,000 | 30 MB |
        | backfill | 1 | ROW EXCLUSIVE on public.orders | nothing |  | seconds | 1,000,000 |  |
        | validate | 1 | ACCESS SHARE on public.orders | nothing |  | seconds | 1,000,000 |  |
        | cutover | 1 | ACCESS EXCLUSIVE on public.orders | reads and writes | 200ms in the queue, then instant (30s at most) | instant |  |  |
        | contract | 1 | ACCESS EXCLUSIVE on public.orders | reads and writes | 200ms in the queue, then instant (30s at most) | instant |  |  |

        > **Point of no return:** `01-widen_column-drop` (contract): the values of the old column are gone.

        ## Hazards

        - **waits_for_old_snapshots** (`01-widen_column-build`): building waits for every transaction that began before it; a transaction that stays open for hours keeps it from finishing

        ## Preconditions

        These must return no rows.

        no negative versions:

        ```sql
        SELECT id FROM orders WHERE version < 0;
        ```

        ## expand

        This phase adds beside what is there; nothing that the application uses is taken away.

        | step | does | lock | blocks | estimate | undo |
        |---|---|---|---|---|---|
        | `01-widen_column-build` | build index orders_new_idx | SHARE UPDATE EXCLUSIVE on public.orders | nothing | seconds, 1,000,000 rows, reads 100 MB, needs 30 MB of disk | drop index orders_new_idx |

        <details><summary>SQL of <code>01-widen_column-build</code> (timeouts: lock none, statement 6h, outside a transaction)</summary>

        ```sql
        CREATE INDEX CONCURRENTLY orders_new_idx ON public.orders (version);
        ```

        </details>

        ## backfill

        This phase fills what was added, in short batches.

        | step | does | lock | blocks | estimate | undo |
        |---|---|---|---|---|---|
        | `01-widen_column-fill` | copy version to new | ROW EXCLUSIVE on public.orders | nothing | seconds, 1,000,000 rows, reads 100 MB | not needed: the column goes |

        <details><summary>SQL of <code>01-widen_column-fill</code> (timeouts: lock 200ms, statement 30s)</summary>

        ```sql
        -- in batches of pages, some rows of each at a time
        UPDATE public.orders SET new = version WHERE (new IS DISTINCT FROM version);
        ```

        </details>
        ");
    }

    #[test]
    fn from_validate_on() {
        insta::assert_snapshot!(rendered().1, @r"
        This phase proves what was added; what blocks does so for an instant.

        | step | does | lock | blocks | estimate | undo |
        |---|---|---|---|---|---|
        | `01-widen_column-compare` | compare all rows | ACCESS SHARE on public.orders | nothing | seconds, 1,000,000 rows, reads 100 MB | not needed: it changes nothing |

        <details><summary>SQL of <code>01-widen_column-compare</code> (timeouts: lock none, statement 6h)</summary>

        ```sql
        -- must return no rows
        SELECT id FROM public.orders WHERE new <> version;
        ```

        </details>

        ## cutover

        This phase makes it what the application uses.

        | step | does | lock | blocks | estimate | undo |
        |---|---|---|---|---|---|
        | `01-widen_column-swap` | swap the columns | ACCESS EXCLUSIVE on public.orders | reads and writes | instant | swap them back |

        <details><summary>SQL of <code>01-widen_column-swap</code> (timeouts: lock 200ms, statement 30s)</summary>

        ```sql
        ALTER TABLE public.orders RENAME COLUMN version TO old;
        ALTER TABLE public.orders RENAME COLUMN new TO version;
        ```

        </details>

        ## contract

        This phase removes what is no longer used; runs only when asked for: --through contract.

        | step | does | lock | blocks | estimate | undo |
        |---|---|---|---|---|---|
        | `01-widen_column-drop` | drop the old column | ACCESS EXCLUSIVE on public.orders | reads and writes | instant | impossible: the values of the old column are gone |

        <details><summary>SQL of <code>01-widen_column-drop</code> (timeouts: lock 200ms, statement 30s)</summary>

        ```sql
        ALTER TABLE public.orders DROP COLUMN old;
        ```

        </details>

        ## Postconditions

        These must return no rows.

        still none:

        ```sql
        SELECT id FROM orders WHERE version < 0;
        ```

        Digest: `0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef`
        ");
    }
}
