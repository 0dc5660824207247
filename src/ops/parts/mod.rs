//! What several operations are built from.

pub mod carry;
pub mod column;
pub mod compatible;
pub mod constraint;
pub mod conversion;
pub mod copy;
pub mod dependents;
pub mod fill;
pub mod index;
pub mod index_build;
pub mod key;
pub mod mapping;
pub mod mirror;
pub mod not_null;
pub mod object;
pub mod renamed;
pub mod retype;
pub mod shadow;
pub mod statement;
pub mod storage;
pub mod unused;

use crate::plan::{Action, Expectation, Hazard, Lock, LockMode, Settings, Transaction, Work};
use crate::sql::{QualifiedName, idents};

/// Rows of a sample that shows what stands in the way.
pub const SAMPLE_ROWS: usize = 20;

/// What names a row: its key, or its physical address where it has none.
pub fn key_list(key: &[String]) -> String {
    if key.is_empty() {
        "ctid::text AS ctid".to_owned()
    } else {
        idents(key)
    }
}

/// Catalog-only statements in one transaction, under a short `lock_timeout`.
pub fn brief(
    settings: &Settings,
    summary: impl Into<String>,
    statements: Vec<String>,
    locks: Vec<Lock>,
    expect: Vec<Expectation>,
) -> Work {
    Work {
        summary: summary.into(),
        action: Action::Sql(statements),
        transaction: Transaction::Single,
        locks,
        timeouts: settings.brief(),
        expect,
        on_violation: None,
        guards_values: false,
        part: None,
        not_before: None,
    }
}

/// One long statement outside a transaction block, whose lock lets reads and writes through.
pub fn concurrent(
    settings: &Settings,
    summary: impl Into<String>,
    statement: String,
    table: &QualifiedName,
    expect: Vec<Expectation>,
) -> Work {
    Work {
        summary: summary.into(),
        action: Action::Sql(vec![statement]),
        transaction: Transaction::None,
        locks: vec![Lock::new(table, LockMode::ShareUpdateExclusive)],
        timeouts: settings.patient(),
        expect,
        on_violation: None,
        guards_values: false,
        part: None,
        not_before: None,
    }
}

/// The same lock on each of the tables, in their order.
pub fn locks<'a>(tables: impl IntoIterator<Item = &'a QualifiedName>, mode: LockMode) -> Vec<Lock> {
    tables.into_iter().map(|table| Lock::new(table, mode)).collect()
}

/// All of them by one statement, whose own time is bounded.
pub fn lock_statement(tables: &[QualifiedName]) -> String {
    lock_some_alone(tables, |_| false)
}

/// As [`lock_statement`]; some of them without what inherits from them.
pub fn lock_some_alone(tables: &[QualifiedName], is_alone: impl Fn(&QualifiedName) -> bool) -> String {
    let name = |table: &QualifiedName| match is_alone(table) {
        true => format!("ONLY {table}"),
        false => table.to_string(),
    };
    let names: Vec<String> = tables.iter().map(name).collect();
    format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", names.join(", "))
}

/// A constraint that is not validated is asked about every new version of a row.
pub fn updates_fail(sqlstate: &str) -> Hazard {
    let message = format!(
        "until the existing rows are repaired, an UPDATE of a row that violates it fails (SQLSTATE {sqlstate})"
    );
    Hazard::new("updates_are_checked", message)
}
