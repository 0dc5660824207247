//! Expressions that are STABLE, not IMMUTABLE, and still come out alike in every session, once the settings that they
//! depend on are pinned to the functions that evaluate them.
//!
//! What reads a table, the clock, the role or the time zone stays out. A few spellings of values read the clock all the
//! same (`now`, `today`): those come out otherwise when all rows are compared, which stops the plan.

use crate::catalog::model::{CatalogSnapshot, ProbeOutcome};
use std::collections::BTreeSet;

/// Functions of `pg_catalog` that depend on `DateStyle`, `IntervalStyle`, `lc_time` and `lc_numeric` at most, or on the
/// labels of an enum. The array functions are what their elements are.
const SETTLED: &[&str] = &[
    "array_in(cstring, oid, integer)",
    "array_out(anyarray)",
    "date_in(cstring)",
    "date_out(date)",
    "enum_in(cstring, oid)",
    "enum_out(anyenum)",
    "interval_in(cstring, oid, integer)",
    "interval_out(interval)",
    "time_in(cstring, oid, integer)",
    "timestamp_in(cstring, oid, integer)",
    "timestamp_out(timestamp without time zone)",
    "to_char(bigint, text)",
    "to_char(double precision, text)",
    "to_char(integer, text)",
    "to_char(interval, text)",
    "to_char(numeric, text)",
    "to_char(real, text)",
    "to_char(timestamp without time zone, text)",
    "to_date(text, text)",
    "to_number(text, text)",
];

/// What the settings would be in a session of whoever planned; texts of numbers and of months in English.
pub(super) fn settings(catalog: &CatalogSnapshot) -> Vec<(String, String)> {
    let pinned = [
        ("datestyle", catalog.server.date_style.as_str()),
        ("intervalstyle", "postgres"),
        ("lc_time", "C"),
        ("lc_numeric", "C"),
    ];
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    pinned.into_iter().map(owned).collect()
}

/// What of these checks of the clone no setting could settle; `None` where nothing is known that could be settled.
pub(super) fn unsettled<'a>(outcome: &'a ProbeOutcome, checks: [&str; 2]) -> Option<BTreeSet<&'a str>> {
    let found = checks.iter().filter_map(|it| outcome.mutable.get(*it));
    let mut found: BTreeSet<&str> = found.flatten().map(String::as_str).collect();
    if found.is_empty() {
        return None;
    }
    found.retain(|it| !SETTLED.contains(it));
    Some(found)
}

/// The expression of `CHECK ((… IS NOT NULL))`.
pub(super) fn expression<'a>(outcome: &'a ProbeOutcome, constraint: &str) -> Option<&'a str> {
    let definition = &outcome.table.constraints.get(constraint)?.definition;
    definition
        .strip_prefix("CHECK ((")?
        .strip_suffix(" IS NOT NULL))")
}
