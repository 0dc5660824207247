//! Partitions that are made, attached and detached, and new tables in general.

use super::Judge;
use super::alter_table::Altered;
use crate::catalog::model::{Constraint, ConstraintKind, Index, Table};
use crate::plan::LockMode::{AccessExclusive, AccessShare, ShareRowExclusive, ShareUpdateExclusive};
use crate::sql::QualifiedName;
use crate::sql_lint::statement::{Bound, ConstraintRule, CreateTable, Name, TableConstraint};

impl Judge<'_> {
    pub(super) fn default_partition(&self, parent: &QualifiedName) -> Option<QualifiedName> {
        let children = self.table(parent)?.children.iter();
        let mut defaults = children.filter(|child| {
            let bound = self
                .table(child)
                .and_then(|table| table.partition_bound.as_deref());
            bound == Some("DEFAULT")
        });
        defaults.next().cloned()
    }

    pub(super) fn create_table(&mut self, create: &CreateTable) {
        if create.if_not_exists && self.world.has_relation(&self.resolve(&create.name)) {
            return;
        }
        for like in &create.likes {
            let like = self.resolve(like);
            self.lock(&like, AccessShare);
        }
        for parent in &create.inherits {
            let parent = self.resolve(parent);
            self.lock(&parent, ShareUpdateExclusive);
        }
        let of_columns = create.columns.iter().flat_map(|column| &column.constraints);
        for constraint in create.constraints.iter().chain(of_columns) {
            self.reference(constraint);
        }
        if let Some((parent, bound)) = &create.partition_of {
            self.create_partition(parent, bound);
        }
    }

    fn reference(&mut self, constraint: &TableConstraint) {
        if let ConstraintRule::ForeignKey { table, .. } = &constraint.rule {
            let target = self.resolve(table);
            let family = self.family(&target);
            self.lock_all(&family, ShareRowExclusive);
        }
    }

    fn create_partition(&mut self, parent: &Name, bound: &Bound) {
        let parent = self.resolve(parent);
        self.lock(&parent, AccessExclusive);
        if let Some(default) = self.default_partition(&parent) {
            self.lock(&default, AccessExclusive);
            if !self.excludes(&parent, &default, bound) {
                self.scan(&default);
            }
        }
        for index in self.index_names(&parent) {
            self.lock(&index, ShareUpdateExclusive);
        }
        for (_, key) in self.constraints(&parent, ConstraintKind::ForeignKey) {
            if let Some(to) = key.references {
                self.lock(&to.table, ShareRowExclusive);
            }
        }
        self.new_part_of_referenced(&parent);
    }

    /// A foreign key on the parent gets a part for the new partition.
    fn new_part_of_referenced(&mut self, parent: &QualifiedName) {
        let mode = if self.version() >= 15 {
            ShareRowExclusive
        } else {
            AccessShare
        };
        for (from, _) in self.incoming(parent) {
            self.lock(&from, mode);
        }
    }

    pub(super) fn attach(&mut self, altered: &Altered, partition: &Name, bound: &Bound) {
        let parent = &altered.table;
        let part = self.resolve(partition);
        self.lock(&part, AccessExclusive);
        let family = self.family(&part);
        self.lock_all(&family, AccessExclusive);
        if let Some(default) = self.default_partition(parent) {
            self.lock(&default, AccessExclusive);
            if !self.excludes(parent, &default, bound) {
                self.scan(&default);
            }
        }
        if let (Some(one), Some(other)) = (self.table(parent).cloned(), self.table(&part).cloned()) {
            self.refuse_part(&one, &other, &part);
        }
        if !self.proves(parent, &part, bound) {
            if self.table(parent).is_none() || self.table(&part).is_none() {
                self.depends(format!("whether a validated CHECK of {part} proves the bounds"));
            }
            self.scan_family(&part);
        }
        self.attach_indexes(parent, &part);
        self.attach_keys(parent, &part);
        self.new_part_of_referenced(parent);
    }

    fn refuse_part(&mut self, parent: &Table, part: &Table, name: &QualifiedName) {
        for column in &part.columns {
            if !parent.columns.iter().any(|found| found.name == column.name) {
                return self.fail(
                    "42804",
                    format!("{name} has the column {}, its parent does not", column.name),
                );
            }
        }
        for column in &parent.columns {
            let Some(found) = part.columns.iter().find(|found| found.name == column.name) else {
                return self.fail("42804", format!("{name} lacks the column {}", column.name));
            };
            if found.data_type != column.data_type {
                return self.fail(
                    "42804",
                    format!("the column {} of {name} has another type", column.name),
                );
            }
            if column.not_null && !found.not_null {
                return self.fail(
                    "42804",
                    format!("the column {} of {name} is not NOT NULL", column.name),
                );
            }
        }
    }

    fn attach_indexes(&mut self, parent: &QualifiedName, part: &QualifiedName) {
        for (name, index) in self.indexes(parent) {
            self.lock(&name, ShareUpdateExclusive);
            let fits = |found: &Index| is_part_of(found, &index);
            if self.matching_index(part, &fits).is_none() {
                self.scan(part);
                self.effects.builds_on.insert(part.clone());
            }
        }
    }

    fn attach_keys(&mut self, parent: &QualifiedName, part: &QualifiedName) {
        let own = self.constraints(part, ConstraintKind::ForeignKey);
        for (_, key) in self.constraints(parent, ConstraintKind::ForeignKey) {
            let Some(to) = &key.references else {
                continue;
            };
            let same =
                |found: &Constraint| found.columns == key.columns && found.references == key.references;
            if own.iter().any(|(_, found)| same(found) && found.validated) {
                self.lock(&to.table, AccessExclusive);
            } else {
                self.lock(&to.table, ShareRowExclusive);
                self.scan(part);
                self.scan_family(&to.table);
            }
        }
    }

    pub(super) fn detach(&mut self, altered: &Altered, partition: &Name, concurrently: bool) {
        let parent = &altered.table;
        let part = self.resolve(partition);
        let default = self.default_partition(parent);
        self.lock(&part, AccessExclusive);
        if concurrently {
            self.effects.transaction = false;
            if default.is_some() {
                self.fail("55000", format!("{parent} has a default partition"));
            }
            return;
        }
        if let Some(default) = default {
            self.lock(&default, AccessExclusive);
        }
        let keys = self.constraints(parent, ConstraintKind::ForeignKey);
        for to in keys.into_iter().filter_map(|(_, key)| key.references) {
            self.lock(&to.table, ShareRowExclusive);
        }
        for (from, key) in self.incoming(parent) {
            self.lock(&from, AccessExclusive);
            self.scan(&from);
            self.scan(&part);
            let index = key.index.as_ref().map(|index| parent.sibling(index));
            for (name, found) in self.indexes(&part) {
                if found.parent == index {
                    self.lock(&name, AccessExclusive);
                }
            }
        }
    }

    /// Whether a validated CHECK of the table says that its rows are within the bounds.
    fn proves(&self, parent: &QualifiedName, part: &QualifiedName, bound: &Bound) -> bool {
        let Some(facts) = self.facts(parent, part) else {
            return false;
        };
        match bound {
            Bound::From(from, to) => {
                let [from, to] = [from.first(), to.first()];
                facts.not_null
                    && facts.implies(from, |fact, value| fact.at_least(value))
                    && facts.implies(to, |fact, value| fact.below(value))
            }
            Bound::In(values) => {
                facts.not_null
                    && !facts.one_of.is_empty()
                    && facts
                        .one_of
                        .iter()
                        .all(|known| values.iter().any(|value| same(known, value)))
            }
            Bound::Default | Bound::Hash => false,
        }
    }

    /// Whether no row of the default partition can be within the bounds.
    fn excludes(&self, parent: &QualifiedName, default: &QualifiedName, bound: &Bound) -> bool {
        let Some(facts) = self.facts(parent, default) else {
            return false;
        };
        let Bound::From(from, to) = bound else {
            return false;
        };
        let above = to
            .first()
            .is_some_and(|to| facts.list.iter().any(|fact| fact.at_least(to)));
        let below = from
            .first()
            .is_some_and(|from| facts.list.iter().any(|fact| fact.below(from)));
        facts.not_null && (above || below)
    }

    fn facts(&self, parent: &QualifiedName, part: &QualifiedName) -> Option<Facts> {
        let [key] = self.table(parent)?.partition_key_columns.as_slice() else {
            return None;
        };
        let table = self.table(part)?;
        let column = table.columns.iter().find(|column| column.name == *key)?;
        let mut facts = Facts {
            not_null: column.not_null,
            list: Vec::new(),
            one_of: Vec::new(),
        };
        for check in table.constraints.values() {
            if check.kind == ConstraintKind::Check && check.validated && !check.definition.contains(" OR ") {
                facts.read(&check.definition, key);
            }
        }
        Some(facts)
    }
}

/// What is known of the partition key's values.
struct Facts {
    not_null: bool,
    list: Vec<Fact>,
    one_of: Vec<String>,
}

/// `key >= value`, `key < value` and so on.
struct Fact {
    operator: String,
    value: String,
}

impl Facts {
    fn read(&mut self, definition: &str, key: &str) {
        let quoted = crate::sql::ident(key).to_string();
        let inner = definition.trim_start_matches("CHECK ");
        for part in inner.split(" AND ") {
            let part = part.trim_matches(|c| matches!(c, '(' | ')' | ' '));
            let Some(rest) = part.strip_prefix(&quoted).map(str::trim) else {
                continue;
            };
            if rest == "IS NOT NULL" {
                self.not_null = true;
            } else if let Some(list) = rest.strip_prefix("= ANY (ARRAY[") {
                let list = list.split(']').next().unwrap_or_default();
                self.one_of = list.split(", ").map(constant).collect();
            } else if let Some((operator, value)) = rest.split_once(' ') {
                match operator {
                    "=" => self.one_of = vec![constant(value)],
                    _ => self.list.push(Fact {
                        operator: operator.to_owned(),
                        value: constant(value),
                    }),
                }
            }
        }
    }

    /// No bound on that side, or a fact that is as strong.
    fn implies(&self, bound: Option<&String>, holds: impl Fn(&Fact, &str) -> bool) -> bool {
        bound.is_none_or(|bound| {
            matches!(bound.as_str(), "minvalue" | "maxvalue")
                || self.list.iter().any(|fact| holds(fact, bound))
        })
    }
}

impl Fact {
    fn at_least(&self, value: &str) -> bool {
        let ordered = compare(&self.value, value);
        matches!(self.operator.as_str(), ">=" | ">") && ordered.is_some_and(std::cmp::Ordering::is_ge)
    }

    fn below(&self, value: &str) -> bool {
        let ordered = compare(&self.value, value);
        match self.operator.as_str() {
            "<" => ordered.is_some_and(std::cmp::Ordering::is_le),
            "<=" => ordered.is_some_and(std::cmp::Ordering::is_lt),
            _ => false,
        }
    }
}

/// `'2024-01-01 00:00:00+00'::timestamp with time zone` without its type; midnight in UTC without its time.
fn constant(text: &str) -> String {
    let bare = text.trim_matches(|c| matches!(c, '(' | ')' | ' '));
    let bare = bare.split("::").next().unwrap_or(bare).trim_matches('\'');
    bare.trim_end_matches("+00")
        .trim_end_matches(" 00:00:00")
        .to_owned()
}

fn same(one: &str, other: &str) -> bool {
    compare(one, other) == Some(std::cmp::Ordering::Equal)
}

/// Numbers by value; texts only where their order is that of the bytes, as in dates.
fn compare(one: &str, other: &str) -> Option<std::cmp::Ordering> {
    let other = constant(other);
    match (one.parse::<f64>(), other.parse::<f64>()) {
        (Ok(one), Ok(other)) => one.partial_cmp(&other),
        _ if one == other => Some(std::cmp::Ordering::Equal),
        _ => {
            let is_date = |text: &str| text.starts_with(|c: char| c.is_ascii_digit()) && text.contains('-');
            (is_date(one) && is_date(&other)).then(|| one.cmp(&other))
        }
    }
}

/// An index of the partition that the parent's takes over.
fn is_part_of(found: &Index, parent: &Index) -> bool {
    let keys = |index: &Index| -> Vec<(Option<String>, Option<String>)> {
        index
            .keys
            .iter()
            .map(|key| (key.column.clone(), key.expression.clone()))
            .collect()
    };
    keys(found) == keys(parent)
        && found.unique == parent.unique
        && found.method == parent.method
        && found.predicate == parent.predicate
        && (parent.constraint.is_none() || found.constraint.is_some())
}
