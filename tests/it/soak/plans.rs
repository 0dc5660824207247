//! Random plans for the tables of `crash/orders.sql`.

use crate::crash::{MORE, ORDERS, Play};
use crate::harness::Chance;
use std::borrow::Cow;
use std::fmt::Write;

/// A change, and what it touches: of changes that touch the same, a plan has one.
struct Candidate {
    touches: &'static [&'static str],
    yaml: &'static str,
}

const fn of(touches: &'static [&'static str], yaml: &'static str) -> Candidate {
    Candidate { touches, yaml }
}

const CANDIDATES: &[Candidate] = &[
    of(
        &["hints"],
        "create_index: {name: hints_name_idx, table: hints, columns: [name], where: order_id IS NOT NULL}",
    ),
    of(
        &["orders"],
        "create_index: {name: orders_name_idx, table: orders, columns: [name, version]}",
    ),
    of(
        &["lines"],
        "replace_index: {name: lines_order_idx, table: lines, columns: [order_id, name]}",
    ),
    of(
        &["orders.index"],
        "drop_index: {name: orders_even_idx, table: orders}",
    ),
    of(
        &["hints.check"],
        "add_check: {table: hints, name: hints_named, expression: length(name) > 0}",
    ),
    of(
        &["orders.check"],
        "drop_constraint: {table: orders, name: not_too_many}",
    ),
    of(
        &["lines.unique"],
        "add_unique: {table: lines, name: lines_told_by, columns: [name]}",
    ),
    of(
        &["hints.column"],
        "add_column: {table: hints, column: token, type: uuid, default: gen_random_uuid(), not_null: true}",
    ),
    of(
        &["lines.column"],
        "add_column: {table: lines, column: seen_at, type: timestamptz, default: clock_timestamp()}",
    ),
    of(
        &["orders.column"],
        "add_column: {table: orders, column: rank, type: integer, default: 7, not_null: true}",
    ),
    of(&["hints.spare"], "drop_column: {table: hints, column: spare}"),
    of(&["orders.state"], "drop_not_null: {table: orders, column: state}"),
    of(
        &["orders.state"],
        "set_default: {table: orders, column: state, default: \"'open'\"}",
    ),
    of(
        &[
            "orders",
            "lines",
            "hints",
            "orders.index",
            "orders.check",
            "orders.id",
            "hints.id",
        ],
        "widen_column: {table: orders, column: id, type: bigint, cascade: true}",
    ),
    of(
        &["orders", "orders.index", "orders.check", "orders.id"],
        "widen_column: {table: orders, column: id, type: bigint}",
    ),
    of(
        &["hints.version"],
        "widen_column: {table: hints, column: version, type: numeric}",
    ),
    of(
        &["lines.version"],
        "change_type: {table: lines, column: version, type: numeric, using: version, reverse_using: version}",
    ),
    of(
        &["orders.id"],
        "create_view: {name: open_orders, select: \"SELECT id, name FROM orders WHERE state = 'new'\"}",
    ),
    of(
        &["hints.id"],
        "create_materialized_view: {name: hints_by_order, select: \"SELECT order_id, count(*) AS n FROM hints GROUP BY order_id\"}",
    ),
    of(
        &["lines.copy"],
        "snapshot_table: {name: lines_then, from: lines, columns: [id, name], check: false}",
    ),
    of(
        &["hints.sync", "hints.id", "hints.version"],
        "create_table: {name: notes, columns: {id: bigint NOT NULL, title: text NOT NULL, version: bigint NOT NULL}, primary_key: [id]}\n  \
         - sync: {name: notes, from: hints, into: notes, key: [id], columns: {title: hints.name, version: hints.version}}",
    ),
    of(
        &["lines.sync", "lines.version"],
        "create_table: {name: posts, columns: {id: bigint NOT NULL, label: text, version: bigint}, primary_key: [id]}\n  \
         - sync: {name: posts, from: lines, into: posts, key: [id], where: lines.version < 5, columns: {label: lines.name, version: lines.version}}",
    ),
    of(
        &["trigger"],
        "create_function: {name: quietly, returns: trigger, language: plpgsql, body: BEGIN RETURN new; END}\n  \
         - create_trigger: {name: quietly, table: lines, timing: before, events: [update], function: quietly}",
    ),
    of(
        &[
            "orders",
            "orders.index",
            "orders.check",
            "orders.column",
            "orders.state",
            "orders.id",
            "orders.note",
            "lines",
            "hints",
            "hints.id",
        ],
        "rename_column: {table: orders, column: note, to: remark}",
    ),
    of(&["things"], "drop_table: {table: older_things}"),
    of(
        &["old_things"],
        "retire_table: {table: old_things, keep: 0s, view: SELECT id FROM _deprecated_old_things}",
    ),
    of(
        &["old_things"],
        "rename_table: {table: old_things, to: former_things}",
    ),
    of(
        &["grant"],
        "grant: {privileges: select, tables: [orders], to: public}",
    ),
];

/// One to five changes for some thousand rows.
pub fn random(chance: &mut Chance) -> Play {
    let mut touched: Vec<&str> = Vec::new();
    let mut plan = format!(
        "name: random\nsettings: {{small_table: {}, workers: {}}}\nchanges:\n",
        chance.choose(&["0", "0", "8MB"]),
        1 + chance.below(3)
    );
    let wanted = 1 + chance.below(5);
    let mut chosen = 0;
    while chosen < wanted {
        let number = usize::try_from(chance.below(CANDIDATES.len() as u64)).unwrap();
        let Candidate { touches, yaml } = &CANDIDATES[number];
        chosen += 1;
        if !touches.iter().any(|one| touched.contains(one)) {
            touched.extend(*touches);
            writeln!(plan, "  - {yaml}").unwrap();
        }
    }
    Play {
        setup: MORE,
        rows: 500 + u32::try_from(chance.below(4_500)).unwrap(),
        plan: Cow::Owned(plan),
        tables: ORDERS,
        dangling: 10,
    }
}
