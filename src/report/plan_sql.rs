//! A plan as a script for psql: what runs, in order and bounded, without what the executor adds (the ledger, retries,
//! resuming, throttling).

use super::{plan_view, safe};
use crate::plan::{
    Action, Backfill, Check, Comparison, Copying, ExecutionPlan, Phase, Step, Transaction, Work,
};
use crate::sql::{QualifiedName, ident, literal};
use crate::units;
use std::fmt::Write;

/// Pages per transaction of a backfill in the script; the executor adapts them.
const PAGES: u32 = 256;

pub fn plan(plan: &ExecutionPlan) -> String {
    let mut text = String::new();
    comment(
        &mut text,
        &format!("Plan {} for {}", plan.name, plan_view::server(plan)),
    );
    comment(&mut text, &plan.description);
    comment(&mut text, &format!("Digest: {}", plan.digest));
    comment(
        &mut text,
        "Run it with psql. It stops at the first error and cannot be resumed: `pgmorph apply` can, it retries locks, \
         and it keeps a ledger.",
    );
    let waiting = plan.waiting();
    if !waiting.is_empty() {
        comment(&mut text, plan_view::WAITING);
    }
    for waiting in waiting {
        comment(&mut text, &waiting.to_string());
    }
    text.push_str("\n\\set ON_ERROR_STOP on\n");
    if mentions_our_schema(plan) {
        comment(
            &mut text,
            "Where the functions of its triggers stand; `pgmorph apply` has its ledger there.",
        );
        text.push_str("CREATE SCHEMA IF NOT EXISTS pgmorph;\n");
    }
    for check in &plan.preconditions {
        question(&mut text, "Precondition", check);
    }
    for (phase, steps) in plan.phases() {
        let _ = writeln!(
            text,
            "\n-- {}: {}",
            phase.name().to_uppercase(),
            plan_view::purpose(phase)
        );
        if phase == Phase::Contract {
            text.push_str("-- psql -v contract=1 runs it.\n\\if :{?contract}\n");
        }
        for step in steps {
            one_step(&mut text, step, plan);
        }
        if phase == Phase::Contract {
            text.push_str("\n\\endif\n");
        }
    }
    for check in &plan.postconditions {
        question(&mut text, "Postcondition", check);
    }
    text
}

fn mentions_our_schema(plan: &ExecutionPlan) -> bool {
    plan.steps.iter().any(|step| match &step.work.action {
        Action::Sql(statements) => statements.iter().any(|statement| statement.contains(" pgmorph.")),
        _ => false,
    })
}

fn comment(text: &mut String, content: &str) {
    for line in units::wrap(content, 105) {
        // Whatever ends a line in SQL was white space to the wrapping; nothing else may type into a terminal.
        let _ = writeln!(text, "-- {}", safe::one_line(&line));
    }
}

fn one_step(text: &mut String, step: &Step, plan: &ExecutionPlan) {
    text.push('\n');
    if plan.point_of_no_return().is_some_and(|point| point.id == step.id) {
        let reason = plan_view::irreversible(step).unwrap_or_default();
        comment(text, &format!("POINT OF NO RETURN: {reason}"));
    }
    comment(text, &format!("{}: {}", step.id, step.work.summary));
    for lock in &step.work.locks {
        comment(
            text,
            &format!(
                "lock: {} on {}: blocks {}",
                lock.mode,
                lock.relation,
                lock.mode.blocks()
            ),
        );
    }
    comment(
        text,
        &format!("estimate: {}", plan_view::estimate(&step.estimate)),
    );
    for hazard in &step.hazards {
        comment(text, &format!("hazard: {}: {}", hazard.code, hazard.message));
    }
    if let Some(gate) = &step.work.not_before {
        comment(text, &plan_view::not_before(gate));
    }
    comment(text, &format!("undo: {}", plan_view::undo(&step.undo)));
    work(text, &step.work);
}

fn work(text: &mut String, work: &Work) {
    let lock = work.timeouts.lock_ms.unwrap_or(0);
    // Of a DO block the server bounds the whole, and nobody knows how long that is; its locks stay bounded.
    let statement = match work.action {
        Action::Backfill(_) | Action::Copy(_) => 0,
        _ => work.timeouts.statement_ms,
    };
    // A DO block that commits may not stand in a transaction.
    let walks = matches!(work.action, Action::Backfill(_) | Action::Copy(_));
    let single = work.transaction == Transaction::Single && !walks;
    let (open, set, close) = if single {
        ("BEGIN;\n", "SET LOCAL", "COMMIT;\n")
    } else {
        ("", "SET", "RESET lock_timeout;\nRESET statement_timeout;\n")
    };
    let _ = write!(
        text,
        "{open}{set} lock_timeout = '{lock}ms';\n{set} statement_timeout = '{statement}ms';\n"
    );
    match &work.action {
        Action::Sql(statements) => {
            for statement in statements {
                let statement = if single {
                    &work.text_of(statement)
                } else {
                    statement
                };
                let _ = writeln!(text, "{}", plan_view::terminated(statement));
            }
        }
        Action::Backfill(action) => backfill(text, action),
        Action::Copy(action) => copy(text, action),
        Action::Match(it) => {
            let check = Check {
                name: it.name.clone(),
                query: it.difference(),
                help: String::new(),
            };
            raise_on_rows(text, &check);
        }
        Action::Check(check) | Action::Compare(Comparison { check, .. }) => raise_on_rows(text, check),
    }
    text.push_str(close);
}

fn question(text: &mut String, kind: &str, check: &Check) {
    text.push('\n');
    comment(text, &format!("{kind}: {}", check.name));
    raise_on_rows(text, check);
}

fn raise_on_rows(text: &mut String, check: &Check) {
    let message = literal(&format!("there are rows: {}", check.name));
    let body = format!(
        "BEGIN\n  IF EXISTS (\n{}\n  ) THEN\n    RAISE EXCEPTION USING MESSAGE = {message};\n  END IF;\nEND",
        check.query
    );
    do_block(text, &body);
}

fn backfill(text: &mut String, backfill: &Backfill) {
    if backfill.suppress_triggers {
        text.push_str("SET session_replication_role = replica;\n");
    }
    by_pages(
        text,
        &backfill.table,
        &plan_view::batch(backfill, &page_range("ctid")),
    );
    if backfill.suppress_triggers {
        text.push_str("RESET session_replication_role;\n");
    }
}

fn copy(text: &mut String, copying: &Copying) {
    text.push_str("SET pgmorph.sync = 'on';\n");
    let range = page_range(&format!("{}.ctid", ident(&copying.alias)));
    let mut statements = copying.statements(Some(&range));
    if let [lock, _] = statements.as_mut_slice()
        && let Some(list) = lock.strip_prefix("SELECT ")
    {
        // Of a SELECT in a DO block somebody would have to take the answer.
        *lock = format!("PERFORM {list}");
    }
    by_pages(text, &copying.from, &format!("{};", statements.join(";\n    ")));
    text.push_str("RESET pgmorph.sync;\n");
}

fn page_range(ctid: &str) -> String {
    format!("{ctid} >= format('(%s,0)', page)::tid AND {ctid} < format('(%s,0)', page + {PAGES})::tid")
}

fn by_pages(text: &mut String, table: &QualifiedName, statement: &str) {
    let table = literal(&table.to_string());
    let body = format!(
        "DECLARE\n  page bigint := 0;\n  pages bigint := pg_relation_size({table}) / current_setting('block_size')::bigint;\n\
         BEGIN\n  WHILE page < pages LOOP\n    {statement}\n    COMMIT;\n    page := page + {PAGES};\n  END LOOP;\nEND"
    );
    do_block(text, &body);
}

fn do_block(text: &mut String, body: &str) {
    let mut tag = "$pgmorph$".to_owned();
    let mut number = 0;
    while body.contains(&tag) {
        number += 1;
        tag = format!("$pgmorph_{number}$");
    }
    let _ = writeln!(text, "DO {tag}\n{body}\n{tag};");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    /// One of everything, in two parts.
    fn rendered() -> (String, String) {
        let text = plan(&sample::plan());
        let (first, second) = text.split_once("\n-- VALIDATE").unwrap();
        (first.to_owned(), second.to_owned())
    }

    #[test]
    fn through_backfill() {
        insta::assert_snapshot!(rendered().0, @r"
        -- Plan widen for PostgreSQL 15.18
        -- Room for more versions
        -- Digest: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
        -- Run it with psql. It stops at the first error and cannot be resumed: `pgmorph apply` can, it retries
        -- locks, and it keeps a ledger.

        \set ON_ERROR_STOP on

        -- Precondition: no negative versions
        DO $pgmorph$
        BEGIN
          IF EXISTS (
        SELECT id FROM orders WHERE version < 0
          ) THEN
            RAISE EXCEPTION USING MESSAGE = 'there are rows: no negative versions';
          END IF;
        END
        $pgmorph$;

        -- EXPAND: adds beside what is there; nothing that the application uses is taken away

        -- 01-widen_column-build: build index orders_new_idx
        -- lock: SHARE UPDATE EXCLUSIVE on public.orders: blocks nothing
        -- estimate: seconds, 1,000,000 rows, reads 100 MB, needs 30 MB of disk
        -- hazard: waits_for_old_snapshots: building waits for every transaction that began before it; a transaction
        -- that stays open for hours keeps it from finishing
        -- undo: drop index orders_new_idx
        SET lock_timeout = '0ms';
        SET statement_timeout = '21600000ms';
        CREATE INDEX CONCURRENTLY orders_new_idx ON public.orders (version);
        RESET lock_timeout;
        RESET statement_timeout;

        -- BACKFILL: fills what was added, in short batches

        -- 01-widen_column-fill: copy version to new
        -- lock: ROW EXCLUSIVE on public.orders: blocks nothing
        -- estimate: seconds, 1,000,000 rows, reads 100 MB
        -- undo: not needed: the column goes
        SET lock_timeout = '200ms';
        SET statement_timeout = '0ms';
        SET session_replication_role = replica;
        DO $pgmorph$
        DECLARE
          page bigint := 0;
          pages bigint := pg_relation_size('public.orders') / current_setting('block_size')::bigint;
        BEGIN
          WHILE page < pages LOOP
            UPDATE public.orders SET new = version WHERE ctid >= format('(%s,0)', page)::tid AND ctid < format('(%s,0)', page + 256)::tid AND (new IS DISTINCT FROM version);
            COMMIT;
            page := page + 256;
          END LOOP;
        END
        $pgmorph$;
        RESET session_replication_role;
        RESET lock_timeout;
        RESET statement_timeout;
        ");
    }

    #[test]
    fn from_validate_on() {
        insta::assert_snapshot!(rendered().1, @r"
        : proves what was added; what blocks does so for an instant

        -- 01-widen_column-compare: compare all rows
        -- lock: ACCESS SHARE on public.orders: blocks nothing
        -- estimate: seconds, 1,000,000 rows, reads 100 MB
        -- undo: not needed: it changes nothing
        BEGIN;
        SET LOCAL lock_timeout = '0ms';
        SET LOCAL statement_timeout = '21600000ms';
        DO $pgmorph$
        BEGIN
          IF EXISTS (
        SELECT id FROM public.orders WHERE new <> version
          ) THEN
            RAISE EXCEPTION USING MESSAGE = 'there are rows: copies equal';
          END IF;
        END
        $pgmorph$;
        COMMIT;

        -- CUTOVER: makes it what the application uses

        -- 01-widen_column-swap: swap the columns
        -- lock: ACCESS EXCLUSIVE on public.orders: blocks reads and writes
        -- estimate: instant
        -- undo: swap them back
        BEGIN;
        SET LOCAL lock_timeout = '200ms';
        SET LOCAL statement_timeout = '30000ms';
        ALTER TABLE public.orders RENAME COLUMN version TO old;
        ALTER TABLE public.orders RENAME COLUMN new TO version;
        COMMIT;

        -- CONTRACT: removes what is no longer used; runs only when asked for: --through contract
        -- psql -v contract=1 runs it.
        \if :{?contract}

        -- POINT OF NO RETURN: the values of the old column are gone
        -- 01-widen_column-drop: drop the old column
        -- lock: ACCESS EXCLUSIVE on public.orders: blocks reads and writes
        -- estimate: instant
        -- undo: impossible: the values of the old column are gone
        BEGIN;
        SET LOCAL lock_timeout = '200ms';
        SET LOCAL statement_timeout = '30000ms';
        ALTER TABLE public.orders DROP COLUMN old;
        COMMIT;

        \endif

        -- Postcondition: still none
        DO $pgmorph$
        BEGIN
          IF EXISTS (
        SELECT id FROM orders WHERE version < 0
          ) THEN
            RAISE EXCEPTION USING MESSAGE = 'there are rows: still none';
          END IF;
        END
        $pgmorph$;
        ");
    }
}
