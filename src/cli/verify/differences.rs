//! Differences between catalogs, and what is left over, as findings with their remedies.

use crate::catalog::model::{CatalogSnapshot, Index, Table, TableKind};
use crate::report::verification::{Finding, FindingKind};
use crate::sql::{QualifiedName, ident};
use crate::verifier::{Mismatch, Tables};
use serde_json::Value;
use std::collections::BTreeSet;

/// Names of what is ours begin so.
const PREFIXES: [&str; 2] = ["~pgmorph", "pgmorph_"];
/// …or hold this, behind the name of what they stand in for.
const INFIX: &str = "_pgmorph_";
/// Definitions longer than this say nothing to a reader.
const SHOWN_CHARS: usize = 300;

fn is_ours(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || name.contains(INFIX)
}

/// Objects of ours that the wanted catalog does not have, and indexes that no query can use.
pub(super) fn leftovers(
    wanted: &CatalogSnapshot,
    actual: &Tables,
    busy: &BTreeSet<QualifiedName>,
    objects: &[String],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, table) in actual.iter().filter(|(name, _)| !busy.contains(*name)) {
        on_table(&mut findings, name, table, wanted.tables.get(name));
    }
    for object in objects {
        let (kind, name) = object.split_once(' ').unwrap_or(("", object));
        findings.push(leftover(
            object.clone(),
            &format!("a {kind} of ours"),
            format!("DROP {} {name};", kind.to_uppercase()),
        ));
    }
    findings
}

fn on_table(findings: &mut Vec<Finding>, name: &QualifiedName, table: &Table, wanted: Option<&Table>) {
    let is_wanted = |has: &dyn Fn(&Table) -> bool| wanted.is_some_and(has);
    let mut found = Vec::new();
    for trigger in table.triggers.keys().filter(|trigger| is_ours(trigger)) {
        if !is_wanted(&|table| table.triggers.contains_key(trigger)) {
            found.push((
                "trigger",
                trigger.as_str(),
                format!("DROP TRIGGER {} ON {name};", ident(trigger)),
            ));
        }
    }
    for constraint in table.constraints.keys().filter(|constraint| is_ours(constraint)) {
        if !is_wanted(&|table| table.constraints.contains_key(constraint)) {
            let remedy = format!("ALTER TABLE {name} DROP CONSTRAINT {};", ident(constraint));
            found.push(("constraint", constraint, remedy));
        }
    }
    for column in table.column_names().into_iter().filter(|column| is_ours(column)) {
        if !is_wanted(&|table| table.column(column).is_some()) {
            found.push((
                "column",
                column,
                format!("ALTER TABLE {name} DROP COLUMN {};", ident(column)),
            ));
        }
    }
    for (index, value) in &table.indexes {
        let known = wanted.and_then(|table| table.indexes.get(index));
        if is_ours(index) && known.is_none() && value.constraint.is_none() {
            found.push((
                "index",
                index,
                format!("DROP INDEX CONCURRENTLY {};", name.sibling(index)),
            ));
        } else if !value.valid && known.is_none_or(|known| known.valid) {
            findings.push(invalid(name, index, known.is_some()));
        }
    }
    findings.extend(found.into_iter().map(|(kind, object, remedy)| {
        leftover(
            format!("table {name}: {kind} {}", ident(object)),
            "an object of ours",
            remedy,
        )
    }));
}

fn leftover(object: String, what: &str, remedy: String) -> Finding {
    Finding {
        kind: FindingKind::Leftover,
        object,
        expected: None,
        found: Some(format!("{what}, left behind")),
        remedy,
        details: Vec::new(),
    }
}

fn invalid(table: &QualifiedName, index: &str, wanted: bool) -> Finding {
    let name = table.sibling(index);
    Finding {
        kind: FindingKind::Leftover,
        object: format!("table {table}: index {}", ident(index)),
        expected: wanted.then(|| "valid".into()),
        found: Some("invalid: a build that did not finish; it costs writes and serves no query".into()),
        remedy: if wanted {
            format!("REINDEX INDEX CONCURRENTLY {name};")
        } else {
            format!("DROP INDEX CONCURRENTLY {name};")
        },
        details: Vec::new(),
    }
}

/// Another order of columns, only because there are other columns: they are findings of their own.
pub(super) fn is_implied(mismatch: &Mismatch) -> bool {
    let names =
        |text: &Option<String>| -> Option<BTreeSet<String>> { serde_json::from_str(text.as_deref()?).ok() };
    mismatch.object.ends_with(": column order") && names(&mismatch.expected) != names(&mismatch.found)
}

/// Partitions come and go in the ordinary course of things, beside a plan and after it.
pub(super) fn is_ordinary(wanted: &CatalogSnapshot, actual: &Tables, mismatch: &Mismatch) -> bool {
    wanted.tables.iter().any(|(name, table)| {
        let object = format!("table {name}");
        let about = mismatch.object == object || mismatch.object.starts_with(&format!("{object}: "));
        let children = mismatch.object == format!("{object}: children");
        about && (children && table.kind == TableKind::Partitioned || is_gone(table, name, actual))
    })
}

/// Whether it is no partition any more.
pub(super) fn is_gone(wanted: &Table, name: &QualifiedName, actual: &Tables) -> bool {
    wanted.partition_of.is_some() && actual.get(name).is_none_or(|table| table.partition_of.is_none())
}

/// A difference with its texts shortened to what says something, and the way out.
pub(super) fn describe_difference(mismatch: &Mismatch) -> Finding {
    let remedy = match (&mismatch.expected, &mismatch.found) {
        (Some(_), None) => "it was removed since: create it again, or make a new plan from what is there",
        (None, _) => "it was added since: remove it, or make a new plan from what is there",
        _ => "it was changed since: change it back, or make a new plan from what is there",
    };
    Finding {
        kind: FindingKind::Difference,
        object: mismatch.object.clone(),
        expected: mismatch.expected.as_deref().map(shortened),
        found: mismatch.found.as_deref().map(shortened),
        remedy: remedy.into(),
        details: Vec::new(),
    }
}

/// A whole object arrives as JSON; its definition is what a reader knows it by.
fn shortened(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let field = |name: &str| value.get(name).and_then(Value::as_str);
    if let Some(definition) = field("definition") {
        return definition.to_owned();
    }
    if let Ok(index) = serde_json::from_value::<Index>(value.clone()) {
        return index_text(&index);
    }
    if let Some(data_type) = field("data_type") {
        let not_null = value.get("not_null").and_then(Value::as_bool).unwrap_or(false);
        return format!("{data_type}{}", if not_null { " not null" } else { "" });
    }
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn index_text(index: &Index) -> String {
    let key = |key: &crate::catalog::model::IndexKey| {
        let column = key.column.as_deref().map(ident);
        column.or_else(|| key.expression.clone()).unwrap_or_default()
    };
    let keys: Vec<_> = index.keys.iter().map(key).collect();
    let unique = if index.unique { "unique " } else { "" };
    let mut text = format!("{unique}{} ({})", index.method, keys.join(", "));
    if !index.include.is_empty() {
        text.push_str(&format!(" include ({})", crate::sql::idents(&index.include)));
    }
    if let Some(predicate) = &index.predicate {
        text.push_str(&format!(" where {predicate}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{catalog, index, table};

    fn texts(findings: &[Finding]) -> Vec<String> {
        findings
            .iter()
            .map(|finding| format!("{} | {}", finding.object, finding.remedy))
            .collect()
    }

    #[test]
    fn finds_what_is_ours_and_what_is_invalid_unless_wanted() {
        let wanted = catalog().with("t", table(&["id bigint"]));
        let mut changed = table(&["id bigint", "~pgmorph_x bigint", "pgmorph_y text"]);
        changed.indexes.insert("t_idx".into(), index(&["id"], false));
        changed.indexes.get_mut("t_idx").unwrap().valid = false;
        let actual = catalog().with("t", changed).tables;
        let found = leftovers(
            &wanted,
            &actual,
            &BTreeSet::new(),
            &["function pgmorph.f()".into()],
        );
        insta::assert_snapshot!(texts(&found).join("\n"), @r#"
        table public.t: index t_idx | DROP INDEX CONCURRENTLY public.t_idx;
        table public.t: column "~pgmorph_x" | ALTER TABLE public.t DROP COLUMN "~pgmorph_x";
        table public.t: column pgmorph_y | ALTER TABLE public.t DROP COLUMN pgmorph_y;
        function pgmorph.f() | DROP FUNCTION pgmorph.f();
        "#);
        let busy = actual.keys().cloned().collect();
        assert!(leftovers(&wanted, &actual, &busy, &[]).is_empty());
    }

    #[test]
    fn whole_objects_are_shown_by_their_definitions() {
        let text = serde_json::to_string(&index(&["Id", "at"], true)).unwrap();
        assert_eq!(shortened(&text), r#"unique btree ("Id", at)"#);
        let column = serde_json::to_string(&table(&["id bigint not null"]).columns[0]).unwrap();
        assert_eq!(shortened(&column), "bigint not null");
        assert_eq!(shortened("bigint"), "bigint");
    }
}
