//! What names the column in its definition and has no twin beside it: triggers, rules, policies, extended statistics,
//! functions with parsed bodies.
//!
//! The server binds them to the column itself, so the same text has to be read again once the columns have changed
//! their names. That takes no scan, and nobody sees the table in between.

use super::Subject;
use super::spelling::{SPELL_AS_BEFORE, SPELL_AS_LOADED, SPELLING_VARIABLES};
use super::views::Views;
use crate::catalog::model::{CatalogSnapshot, Dependent, ParsedFunction, Policy, Rule, Table, Trigger};
use crate::diagnostic::Diagnostic;
use crate::sql::{QualifiedName, ident, literal};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Statements that let go of the one column and take hold of the other, in whichever direction.
#[derive(Debug, Clone, Default)]
pub struct Attached {
    leave: Vec<String>,
    arrive: Vec<String>,
    has_statistics: bool,
    /// Asked on the way there: whether what is made again is still what it was.
    unchanged: Vec<String>,
    addresses: Vec<Value>,
}

impl Attached {
    pub fn of(
        catalog: &CatalogSnapshot,
        subject: &Subject<'_>,
        views: &Views,
        complaints: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut attached = Self::default();
        // A trigger may depend on the column twice: by its list of columns and by its condition.
        let dependents: BTreeSet<&Dependent> = of_column(subject.table, &subject.column.name).collect();
        for dependent in dependents {
            let elsewhere = ["publication", "generated column"].contains(&dependent.kind.as_str());
            if elsewhere || views.has(&dependent.name) {
                continue;
            }
            if let Some((name, trigger)) = cloned(subject, dependent) {
                attached.copy(subject.table_name, name, trigger);
                continue;
            }
            let obstacle = match catalog.functions.get(&dependent.name) {
                Some(function) if dependent.kind == "function" => {
                    let obstacle = obstacle(catalog, subject, function);
                    if obstacle.is_none() {
                        attached.function(&dependent.name, function);
                    }
                    obstacle
                }
                _ if attached.take(subject, dependent) => None,
                _ => Some(String::new()),
            };
            if let Some(why) = obstacle {
                let message = format!("a shadow column cannot carry {}{why}", dependent.name);
                complaints.push(Diagnostic::new("cannot_widen_yet", message).at(subject.span));
            }
        }
        attached.statistics(catalog, subject, complaints);
        attached
    }

    pub fn leave(&self) -> impl Iterator<Item = String> {
        self.leave.iter().cloned()
    }

    /// Before anything else, forwards.
    pub fn unchanged(&self) -> impl Iterator<Item = String> {
        self.unchanged.iter().cloned()
    }

    /// Of functions, as `pg_identify_object_as_address` has them.
    pub fn addresses(&self) -> &[Value] {
        &self.addresses
    }

    pub fn arrive(&self) -> impl Iterator<Item = String> {
        self.arrive.iter().cloned()
    }

    /// Whether something has to be gathered again afterwards.
    pub fn has_statistics(&self) -> bool {
        self.has_statistics
    }

    fn take(&mut self, subject: &Subject<'_>, dependent: &Dependent) -> bool {
        let (table_name, table) = (subject.table_name, subject.table);
        match dependent.kind.as_str() {
            "trigger" => named(&table.triggers, table_name, dependent)
                .map(|(name, trigger)| self.trigger(table_name, name, trigger)),
            "rule" => named(&table.rules, table_name, dependent).map(|(_, rule)| self.rule(rule)),
            "policy" => named(&table.policies, table_name, dependent)
                .map(|(name, policy)| self.policy(table_name, name, policy)),
            _ => None,
        }
        .is_some()
    }

    fn trigger(&mut self, table: &QualifiedName, name: &str, trigger: &Trigger) {
        let name = ident(name);
        self.leave.push(format!("DROP TRIGGER {name} ON {table}"));
        self.arrive.push(trigger.definition.clone());
        if trigger.enabled != "origin" {
            self.arrive.push(format!(
                "ALTER TABLE {table} {} TRIGGER {name}",
                enabling(trigger)
            ));
        }
        self.comment_on_trigger(table, &name, trigger);
    }

    /// It comes and goes with its parent's, but may be enabled otherwise.
    fn copy(&mut self, table: &QualifiedName, name: &str, trigger: &Trigger) {
        let name = ident(name);
        self.arrive.push(format!(
            "ALTER TABLE {table} {} TRIGGER {name}",
            enabling(trigger)
        ));
        self.comment_on_trigger(table, &name, trigger);
    }

    fn comment_on_trigger(&mut self, table: &QualifiedName, name: &str, trigger: &Trigger) {
        let comment = trigger.comment.as_ref();
        self.arrive
            .extend(comment.map(|text| format!("COMMENT ON TRIGGER {name} ON {table} IS {}", literal(text))));
    }

    /// Replacing a rule keeps its state and its comment.
    fn rule(&mut self, rule: &Rule) {
        let definition = rule.definition.trim_end_matches(';');
        self.arrive
            .push(definition.replacen("CREATE RULE", "CREATE OR REPLACE RULE", 1));
    }

    fn policy(&mut self, table: &QualifiedName, name: &str, policy: &Policy) {
        let mut statement = format!("ALTER POLICY {} ON {table}", ident(name));
        if let Some(using) = &policy.using {
            statement += &format!(" USING ({using})");
        }
        if let Some(check) = &policy.with_check {
            statement += &format!(" WITH CHECK ({check})");
        }
        self.arrive.push(statement);
    }

    /// Replacing a function keeps its owner, its grants, its comment and all that depends on it.
    fn function(&mut self, description: &str, function: &ParsedFunction) {
        let signature = description.split_once(' ').map_or(description, |(_, it)| it);
        let body = format!(
            "DECLARE {SPELLING_VARIABLES}; BEGIN {SPELL_AS_LOADED}; \
             IF pg_get_functiondef(to_regprocedure({})) IS DISTINCT FROM {} THEN RAISE EXCEPTION USING ERRCODE = '55000', \
             MESSAGE = {}, HINT = 'roll back and plan again'; END IF; {SPELL_AS_BEFORE}; END",
            literal(signature),
            literal(&function.definition),
            literal(&format!(
                "{description} is not what it was when the plan was made"
            )),
        );
        self.unchanged.push(format!("DO {}", literal(&body)));
        self.arrive.push(function.definition.trim_end().to_owned());
        self.addresses.push(json!(function.address));
    }

    fn statistics(
        &mut self,
        catalog: &CatalogSnapshot,
        subject: &Subject<'_>,
        complaints: &mut Vec<Diagnostic>,
    ) {
        let column = &subject.column.name;
        let hanging = subject
            .table
            .statistics
            .iter()
            .filter(|(_, it)| it.columns.contains(column));
        for (name, statistics) in hanging {
            if !catalog.role.acts_as(&statistics.owner) {
                let message = format!(
                    "a shadow column cannot carry the statistics object {name}: it belongs to {}",
                    ident(&statistics.owner)
                );
                complaints.push(Diagnostic::new("cannot_widen_yet", message).at(subject.span));
                continue;
            }
            self.has_statistics = true;
            self.leave.push(format!("DROP STATISTICS {name}"));
            self.arrive.push(statistics.definition.clone());
            if statistics.owner != catalog.role.name {
                let owner = ident(&statistics.owner);
                self.arrive
                    .push(format!("ALTER STATISTICS {name} OWNER TO {owner}"));
            }
            if let Some(target) = statistics.statistics_target {
                self.arrive
                    .push(format!("ALTER STATISTICS {name} SET STATISTICS {target}"));
            }
            if let Some(comment) = &statistics.comment {
                self.arrive
                    .push(format!("COMMENT ON STATISTICS {name} IS {}", literal(comment)));
            }
        }
    }
}

/// The server lists the columns of a statistics object in the order of the table, of which the new one is the last.
pub fn reorder_statistics(table: &mut Table, column: &str) {
    for statistics in table
        .statistics
        .values_mut()
        .filter(|it| it.columns.iter().any(|it| it == column))
    {
        if let Some(definition) = reordered(&statistics.definition, &statistics.columns, column) {
            statistics.definition = definition;
        }
        statistics.columns.sort_by_key(|it| it == column);
    }
}

fn reordered(definition: &str, columns: &[String], column: &str) -> Option<String> {
    let (head, list) = definition.split_once(" ON ")?;
    let (list, from) = list.rsplit_once(" FROM ")?;
    let mut rest = list;
    let mut keys = Vec::new();
    for name in columns {
        let Some(after) = rest.strip_prefix(&ident(name)) else {
            continue;
        };
        if after.is_empty() || after.starts_with(", ") {
            keys.push(name);
            rest = after.strip_prefix(", ").unwrap_or(after);
        }
    }
    keys.sort_by_key(|name| *name == column);
    let mut items: Vec<String> = keys.into_iter().map(|name| ident(name)).collect();
    if !rest.is_empty() {
        items.push(rest.to_owned());
    }
    Some(format!("{head} ON {} FROM {from}", items.join(", ")))
}

/// Why a function cannot be replaced by itself.
fn obstacle(catalog: &CatalogSnapshot, subject: &Subject<'_>, function: &ParsedFunction) -> Option<String> {
    if !catalog.role.acts_as(&function.owner) {
        return Some(format!(": it belongs to {}", ident(&function.owner)));
    }
    let schema = function.address.get(1).and_then(|name| catalog.schemas.get(name));
    if schema.is_some_and(|schema| !schema.may_create) {
        return Some(": the role may not create in its schema".into());
    }
    if function.of_extension {
        return Some(": it is tied to an extension".into());
    }
    // Its list of columns was fixed when it was made, and any new column makes it fail.
    let rows = function.returns.as_ref() == Some(subject.table_name);
    rows.then(|| ": it returns rows of the table, and fails once the table has one column more".into())
}

fn enabling(trigger: &Trigger) -> &'static str {
    match trigger.enabled.as_str() {
        "disabled" => "DISABLE",
        "replica" => "ENABLE REPLICA",
        "always" => "ENABLE ALWAYS",
        _ => "ENABLE",
    }
}

/// A partition's copy of a trigger.
fn cloned<'a>(subject: &Subject<'a>, dependent: &Dependent) -> Option<(&'a str, &'a Trigger)> {
    let found = match dependent.kind.as_str() {
        "trigger" => named(&subject.table.triggers, subject.table_name, dependent),
        _ => None,
    };
    found.filter(|(_, trigger)| trigger.cloned)
}

fn of_column<'a>(table: &'a Table, column: &'a str) -> impl Iterator<Item = &'a Dependent> {
    table
        .dependents
        .iter()
        .filter(move |it| it.column.as_deref() == Some(column))
}

/// The object of the table's own that a description as by `pg_describe_object` means.
fn named<'a, T>(
    objects: &'a BTreeMap<String, T>,
    table: &QualifiedName,
    dependent: &Dependent,
) -> Option<(&'a str, &'a T)> {
    let description = |name: &String| format!("{} {name} on table {table}", dependent.kind);
    let object = objects
        .iter()
        .find(|(name, _)| dependent.name == description(name));
    object.map(|(name, object)| (name.as_str(), object))
}

#[cfg(test)]
mod tests {
    use super::reordered;

    #[test]
    fn the_column_becomes_the_last_of_the_plain_ones() {
        let columns = ["a".to_owned(), "B".to_owned(), "c".to_owned()];
        let moved = |text: &str| reordered(text, &columns, "a").unwrap();
        let text = "CREATE STATISTICS s.x (mcv) ON a, \"B\", (c + 1) FROM s.t";
        assert_eq!(
            moved(text),
            "CREATE STATISTICS s.x (mcv) ON \"B\", a, (c + 1) FROM s.t"
        );
        let text = "CREATE STATISTICS s.x ON (a / 2), length(c) FROM s.t";
        assert_eq!(moved(text), text);
    }
}
