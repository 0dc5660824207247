//! A plan as a script for psql: what runs, in order and bounded, without what the executor adds (the ledger, retries,
//! resuming, throttling).

use super::{plan_view, units};
use crate::plan::{Action, Backfill, Check, ExecutionPlan, Phase, Step, Transaction, Work};
use crate::sql::literal;
use std::fmt::Write;

/// Pages per transaction of a backfill in the script; the executor adapts them.
const PAGES: u32 = 256;

pub fn plan(plan: &ExecutionPlan) -> String {
    let mut text = String::new();
    comment(&mut text, &format!("Plan {} for {}", plan.name, plan_view::server(plan)));
    comment(&mut text, &plan.description);
    comment(&mut text, &format!("Digest: {}", plan.digest));
    comment(
        &mut text,
        "Run it with psql. It stops at the first error and cannot be resumed: `pgmorph apply` can, it retries locks, \
         and it keeps a ledger.",
    );
    text.push_str("\n\\set ON_ERROR_STOP on\n");
    for check in &plan.preconditions {
        question(&mut text, "Precondition", check);
    }
    for (phase, steps) in plan.phases() {
        let _ = writeln!(text, "\n-- {}: {}", phase.name().to_uppercase(), plan_view::purpose(phase));
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

fn comment(text: &mut String, content: &str) {
    for line in units::wrap(content, 105) {
        let _ = writeln!(text, "-- {line}");
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
        comment(text, &format!("lock: {} on {}: blocks {}", lock.mode, lock.relation, lock.mode.blocks()));
    }
    comment(text, &format!("estimate: {}", plan_view::estimate(&step.estimate)));
    for hazard in &step.hazards {
        comment(text, &format!("hazard: {}: {}", hazard.code, hazard.message));
    }
    comment(text, &format!("undo: {}", plan_view::undo(&step.undo)));
    work(text, &step.work);
}

fn work(text: &mut String, work: &Work) {
    let lock = work.timeouts.lock_ms.unwrap_or(0);
    let statement = work.timeouts.statement_ms;
    // A DO block that commits may not stand in a transaction.
    let single = work.transaction == Transaction::Single && !matches!(work.action, Action::Backfill(_));
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
                let _ = writeln!(text, "{}", plan_view::terminated(statement));
            }
        }
        Action::Backfill(action) => backfill(text, action),
        Action::Check(check) => raise_on_rows(text, check),
    }
    text.push_str(close);
}

fn question(text: &mut String, kind: &str, check: &Check) {
    let _ = writeln!(text, "\n-- {kind}: {}", check.name.replace('\n', " "));
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
    let table = literal(&backfill.table.to_string());
    let range = format!(
        "ctid >= format('(%s,0)', page)::tid AND ctid < format('(%s,0)', page + {PAGES})::tid"
    );
    let update = plan_view::batch(backfill, &range);
    let body = format!(
        "DECLARE\n  page bigint := 0;\n  pages bigint := pg_relation_size({table}) / current_setting('block_size')::bigint;\n\
         BEGIN\n  WHILE page < pages LOOP\n    {update}\n    COMMIT;\n    page := page + {PAGES};\n  END LOOP;\nEND"
    );
    do_block(text, &body);
    if backfill.suppress_triggers {
        text.push_str("RESET session_replication_role;\n");
    }
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
