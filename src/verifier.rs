//! Does a fact hold, and how does the catalog differ from what was predicted?

use crate::catalog::model::{CatalogSnapshot, Constraint, Index, Table};
use crate::plan::{ColumnFacts, Expectation};
use crate::sql::{QualifiedName, ident};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

pub type Tables = BTreeMap<QualifiedName, Table>;

/// How far the effect of a step is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Holds,
    Absent,
    /// Begun and not finished: an INVALID index, of which this is the name.
    HalfDone(QualifiedName),
    /// Something else is in its place.
    Conflicts(String),
}

/// The standing of one fact. [`Expectation::Query`] and [`Expectation::Text`] cannot be answered from a catalog and count as
/// holding here.
pub fn standing(expectation: &Expectation, tables: &Tables) -> Standing {
    match expectation {
        Expectation::Column { table, column, facts } => column_standing(tables.get(table), column, facts),
        Expectation::ColumnAbsent { table, column } => holds(
            tables
                .get(table)
                .is_none_or(|table| table.column(column).is_none()),
        ),
        Expectation::Index {
            table,
            name,
            exact,
            index,
        } => index_standing(tables, &table.sibling(name), *exact, index),
        Expectation::IndexAbsent { index } => holds(find_index(tables, index).is_none()),
        Expectation::Constraint {
            table,
            name,
            exact,
            constraint,
        } => constraint_standing(tables, table, name, *exact, constraint),
        Expectation::ConstraintAbsent { table, name } => holds(
            tables
                .get(table)
                .is_none_or(|table| !table.constraints.contains_key(name)),
        ),
        Expectation::Trigger { table, name, enabled } => {
            let found = tables.get(table).and_then(|table| table.triggers.get(name));
            holds(found.is_some_and(|trigger| trigger.enabled == *enabled))
        }
        Expectation::TriggerAbsent { table, name } => holds(
            tables
                .get(table)
                .is_none_or(|table| !table.triggers.contains_key(name)),
        ),
        Expectation::Table { table } => holds(tables.contains_key(table)),
        Expectation::TableAbsent { table } => holds(!tables.contains_key(table)),
        Expectation::Text { .. } | Expectation::Query { .. } => Standing::Holds,
    }
}

fn column_standing(table: Option<&Table>, column: &str, facts: &ColumnFacts) -> Standing {
    let Some(found) = table.and_then(|table| table.column(column)) else {
        return Standing::Absent;
    };
    holds(
        facts
            .data_type
            .as_ref()
            .is_none_or(|data_type| *data_type == found.data_type)
            && facts.not_null.is_none_or(|not_null| not_null == found.not_null)
            && facts.has_default.is_none_or(|has| has == found.default.is_some()),
    )
}

/// Index names are unique in a schema, whatever table they are on.
fn find_index<'a>(tables: &'a Tables, name: &QualifiedName) -> Option<&'a Index> {
    let beside = tables.iter().filter(|(table, _)| table.schema == name.schema);
    beside
        .into_iter()
        .find_map(|(_, table)| table.indexes.get(&name.name))
}

fn index_standing(tables: &Tables, name: &QualifiedName, exact: bool, index: &Index) -> Standing {
    // An index that is yet to be attached to its partitioned one counts as not there.
    let attached = |found: &&Index| index.parent.is_none() || found.parent == index.parent;
    let Some(found) = find_index(tables, name).filter(attached) else {
        return Standing::Absent;
    };
    // An index that is yet to be attached to its partitioned one counts as not there.
    if index.parent.is_some() && found.parent != index.parent {
        return Standing::Absent;
    }
    let alike = if exact {
        found.same_definition(index)
    } else {
        found.similar_definition(index)
    };
    match (alike, found.valid || !index.valid) {
        (true, true) => Standing::Holds,
        (true, false) => Standing::HalfDone(name.clone()),
        (false, _) => Standing::Conflicts(format!("{name} exists with another definition")),
    }
}

fn constraint_standing(
    tables: &Tables,
    table: &QualifiedName,
    name: &str,
    exact: bool,
    constraint: &Constraint,
) -> Standing {
    let Some(found) = tables.get(table).and_then(|table| table.constraints.get(name)) else {
        return Standing::Absent;
    };
    let alike = found.kind == constraint.kind && found.enforced() == constraint.enforced();
    if !alike || (exact && found.definition != constraint.definition) {
        return Standing::Conflicts(format!(
            "constraint {} on {table} exists with another definition: {}",
            ident(name),
            found.definition
        ));
    }
    holds(found.validated || !constraint.validated)
}

fn holds(fact: bool) -> Standing {
    if fact { Standing::Holds } else { Standing::Absent }
}

/// The standing of a step: the worst that any of its facts has.
pub fn standing_of(expectations: &[Expectation], tables: &Tables) -> Standing {
    let mut worst = Standing::Holds;
    for expectation in expectations {
        match standing(expectation, tables) {
            conflict @ Standing::Conflicts(_) => return conflict,
            half @ Standing::HalfDone(_) => worst = half,
            Standing::Absent if worst == Standing::Holds => worst = Standing::Absent,
            _ => {}
        }
    }
    worst
}

/// In words, for a report.
pub fn describe(expectation: &Expectation) -> String {
    match expectation {
        Expectation::Column { table, column, facts } => {
            let data_type = facts
                .data_type
                .as_ref()
                .map(|data_type| format!("is {data_type}"));
            let word = |fact: Option<bool>, yes: &str, no: &str| {
                fact.map(|fact| if fact { yes } else { no }.to_owned())
            };
            let facts: Vec<String> = [
                data_type,
                word(facts.not_null, "is never null", "may be null"),
                word(facts.has_default, "has a default", "has no default"),
            ]
            .into_iter()
            .flatten()
            .collect();
            let facts = match facts.is_empty() {
                true => "exists".to_owned(),
                false => facts.join(" and "),
            };
            format!("column {table}.{} {facts}", ident(column))
        }
        Expectation::ColumnAbsent { table, column } => format!("column {table}.{} is gone", ident(column)),
        Expectation::Index { table, name, .. } => format!("index {} is valid", table.sibling(name)),
        Expectation::IndexAbsent { index } => format!("index {index} is gone"),
        Expectation::Constraint {
            table,
            name,
            constraint,
            ..
        } => {
            let validated = match (constraint.validated, constraint.enforced()) {
                (true, _) => "is validated",
                (false, true) => "exists",
                (false, false) => "exists, not enforced",
            };
            format!("constraint {} on {table} {validated}", ident(name))
        }
        Expectation::ConstraintAbsent { table, name } => {
            format!("constraint {} on {table} is gone", ident(name))
        }
        Expectation::Trigger { table, name, enabled } => {
            format!("trigger {} on {table} is {enabled}", ident(name))
        }
        Expectation::TriggerAbsent { table, name } => format!("trigger {} on {table} is gone", ident(name)),
        Expectation::Text { object, expected, .. } => match expected {
            Some(text) => text.clone(),
            None => format!("{object} is gone"),
        },
        Expectation::Table { table } => format!("table {table} exists"),
        Expectation::TableAbsent { table } => format!("there is no table {table}"),
        Expectation::Query { query } => format!("the query answers true: {query}"),
    }
}

/// One difference between what must be and what is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// `table public.orders: column version: data_type`.
    pub object: String,
    /// `None`: it should not be there at all.
    pub expected: Option<String>,
    /// `None`: it is missing.
    pub found: Option<String>,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.expected, &self.found) {
            (Some(expected), Some(found)) => write!(f, "{}: expected {expected}, found {found}", self.object),
            (Some(_), None) => write!(f, "{} is missing", self.object),
            (None, _) => write!(f, "{} should not be there", self.object),
        }
    }
}

/// Everything in which the tables differ from the predicted ones; measured facts are left out.
pub fn differences(predicted: &CatalogSnapshot, actual: &Tables) -> Vec<Mismatch> {
    let mut found = Vec::new();
    let names: BTreeSet<_> = predicted.tables.keys().chain(actual.keys()).collect();
    let names = names
        .into_iter()
        .filter(|name| !predicted.unpredicted.contains(name));
    for name in names {
        let structure = |tables: &Tables| tables.get(name).map(structure).unwrap_or(Value::Null);
        compare(
            &format!("table {name}"),
            &structure(&predicted.tables),
            &structure(actual),
            &mut found,
        );
    }
    found
}

/// The table as JSON without what is measured.
pub fn structure(table: &Table) -> Value {
    let mut value = serde_json::to_value(table).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        fields.remove("size");
        // Views and functions of others come and go beside a plan; what they stop is found when planning.
        fields.remove("dependents");
        // What the role may do beside the table is found when planning, too.
        for trigger in fields
            .get_mut("triggers")
            .and_then(Value::as_object_mut)
            .into_iter()
            .flat_map(Map::values_mut)
        {
            if let Value::Object(trigger) = trigger {
                trigger.remove("function_owned");
            }
        }
        // They are told in the order of the table, whose columns move.
        for index in fields
            .get_mut("indexes")
            .and_then(Value::as_object_mut)
            .into_iter()
            .flat_map(Map::values_mut)
        {
            if let Some(Value::Array(columns)) = index.get_mut("expression_columns") {
                columns.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
            }
        }
        // Whose NOT NULL it is changes without anybody's doing, as when a partition gets its key from an index.
        for column in fields
            .get_mut("columns")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(Value::Object(constraint)) = column.get_mut("not_null_constraint") {
                constraint.remove("local");
            }
        }
        let by_name = fields.get("columns").and_then(Value::as_array).map(|columns| {
            let named = |column: &Value| {
                let name = column.get("name").and_then(Value::as_str)?.to_owned();
                Some((name, column.clone()))
            };
            columns.iter().filter_map(named).collect::<Map<_, _>>()
        });
        let order = fields.get("columns").and_then(Value::as_array).map(|columns| {
            columns
                .iter()
                .filter_map(|column| column.get("name").cloned())
                .collect::<Vec<_>>()
        });
        fields.insert("columns".into(), by_name.unwrap_or_default().into());
        fields.insert("column order".into(), order.unwrap_or_default().into());
    }
    value
}

fn compare(object: &str, expected: &Value, found: &Value, mismatches: &mut Vec<Mismatch>) {
    if expected == found {
        return;
    }
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    match (expected, found) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let label = label(object, key);
                let null = Value::Null;
                compare(
                    &label,
                    a.get(key).unwrap_or(&null),
                    b.get(key).unwrap_or(&null),
                    mismatches,
                );
            }
        }
        _ => mismatches.push(Mismatch {
            object: object.to_owned(),
            expected: text(expected),
            found: text(found),
        }),
    }
}

fn label(object: &str, key: &str) -> String {
    let collections = [
        ("columns", "column"),
        ("indexes", "index"),
        ("constraints", "constraint"),
        ("triggers", "trigger"),
        ("rules", "rule"),
        ("policies", "policy"),
        ("statistics", "statistics"),
        ("publications", "publication"),
    ];
    for (collection, singular) in collections {
        if let Some(owner) = object.strip_suffix(&format!(": {collection}")) {
            return format!("{owner}: {singular} {}", ident(key));
        }
    }
    format!("{object}: {key}")
}
