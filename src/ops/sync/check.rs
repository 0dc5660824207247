//! What `sync` asks of the tables before it begins, and what it makes of the answers.

use super::{JoinedTable, Source, Sync};
use crate::catalog::model::{CatalogSnapshot, Constraint, Probe, Table, TableKind};
use crate::catalog::types;
use crate::diagnostic::{Diagnostic, Located};
use crate::ops::parts::mapping::Mapping;
use crate::ops::parts::mirror::{DEPTH_MAX, Joined, Mirror};
use crate::ops::{Context, compare};
use crate::plan::Hazard;
use crate::sql::{QualifiedName, ident};
use std::collections::BTreeSet;

/// Whether a value of one type may stand where the other is expected, and is found by an index there.
fn comparable(one: &str, other: &str) -> bool {
    const INTEGERS: [&str; 3] = ["smallint", "integer", "bigint"];
    let is_text = |name: &str| name == "text" || name.starts_with("character varying");
    let width = |name: &str| INTEGERS.iter().position(|integer| *integer == name);
    let widened = matches!((width(one), width(other)), (Some(one), Some(other)) if one <= other);
    one == other || widened || is_text(one) && is_text(other) || types::differ_in_modifiers(one, other)
}

/// Whether every value stays as it is when it is stored as the other type: what is rounded or cut is not found again.
/// Text that is too long is refused by the server.
fn keeps(one: &str, other: &str) -> bool {
    let modified = one != other && types::differ_in_modifiers(one, other);
    let text = |name: &str| name.starts_with("character varying");
    let lossy = || types::widening(one, other) == Some(types::TypeChange::Lossy);
    comparable(one, other) && !(modified && !text(one) && lossy())
}

impl Sync {
    /// Whether the target's columns take what the expressions give.
    pub(super) fn insertion(&self) -> Probe {
        const HERE: &str = "\u{1}";
        let select = self.mapping.select_from(HERE, true, None);
        let (before, after) = select.split_once(HERE).unwrap_or((&select, ""));
        let columns = list(self.mapping.given().map(|(column, _)| ident(&column.value)));
        Probe {
            table: self.mapping.from.value.clone(),
            before: format!(
                "EXPLAIN INSERT INTO {} ({columns}) {before}",
                self.mapping.into.value
            ),
            after: after.to_owned(),
        }
    }

    /// Everything else that the server may say to it is said to one of the texts, or about tables that are yet to be
    /// made.
    pub(super) fn check_types(&self, context: &Context<'_>) -> Option<Diagnostic> {
        const DATATYPE_MISMATCH: &str = "42804";
        let probe = self.insertion();
        let error = context.answer(&probe)?.err()?;
        let answer = context.accepted(&probe, self.mapping.into.span);
        answer.err().filter(|_| error.sqlstate == DATATYPE_MISMATCH)
    }

    pub(super) fn comparison(&self, context: &Context<'_>) -> Option<compare::Target> {
        let Mapping { from, into, key, .. } = &self.mapping;
        let table = |name: &QualifiedName| context.catalog.tables.get(name);
        // Rows that are kept have no source.
        let made = || {
            let same = key.iter().map(|(column, _)| {
                let column = ident(&column.value);
                format!("s.{column} = {}.{column}", ident(&into.value.name))
            });
            let same: Vec<String> = same.collect();
            format!(
                "EXISTS (SELECT FROM ({}) AS s WHERE {})",
                self.mapping.select(false),
                same.join(" AND ")
            )
        };
        let where_right = (!self.deletes).then(made);
        let sides = (table(&from.value)?, table(&into.value)?);
        self.compare
            .then(|| compare::Target::of_mapping(&self.mapping, where_right.as_deref(), sides.0, sides.1))
    }

    pub(super) fn check_joined(&self, context: &Context<'_>) -> Vec<Diagnostic> {
        let mut complaints = Vec::new();
        if let (Some(join), None) = (&self.mapping.join, &self.joined) {
            let message = "`joined` is missing: writes to what is joined would not be repeated";
            complaints.push(Diagnostic::new("missing_key", message).at(join.span).help(
                "joined: {lines: {order_id: id}}: its column, the column of the key of `from`; `joined: {}` where what is \
                 joined never changes",
            ));
        }
        if let (None, Some([first, ..])) = (&self.mapping.join, self.joined.as_deref()) {
            let message = "there is no `join`";
            complaints.push(Diagnostic::new("missing_key", message).at(first.table.span));
        }
        for joined in self.joined.iter().flatten() {
            complaints.extend(self.check_one(context, joined));
        }
        complaints
    }

    fn check_one(&self, context: &Context<'_>, joined: &JoinedTable) -> Vec<Diagnostic> {
        let name = &joined.table;
        if [&self.mapping.from.value, &self.mapping.into.value].contains(&&name.value) {
            let message = format!("{} is `from` or `into` already", name.value);
            return vec![Diagnostic::new("same_table", message).at(name.span)];
        }
        let table = match context.table(name) {
            Ok(table) => table,
            Err(complaint) => return vec![complaint],
        };
        let mut complaints = unsuitable(context, name, table);
        let source = context.catalog.tables.get(&self.mapping.from.value);
        for (column, key) in &joined.columns {
            match context.column(&name.value, table, column) {
                Err(complaint) => complaints.push(complaint),
                Ok(found) => {
                    let wanted = source.and_then(|source| source.column(&key.value));
                    complaints.extend(
                        wanted
                            .filter(|it| !comparable(&found.data_type, &it.data_type))
                            .map(|it| {
                                let message = format!(
                                    "{}.{} is {}, and the key is {}",
                                    name.value,
                                    ident(&column.value),
                                    found.data_type,
                                    it.data_type
                                );
                                Diagnostic::new("type_mismatch", message).at(column.span)
                            }),
                    );
                }
            }
        }
        let keys: Vec<&str> = self
            .mapping
            .key
            .iter()
            .map(|(_, key)| key.value.as_str())
            .collect();
        let mut given: Vec<&str> = joined.columns.iter().map(|(_, key)| key.value.as_str()).collect();
        let mut wanted = keys.clone();
        given.sort_unstable();
        wanted.sort_unstable();
        if given != wanted {
            let message = format!(
                "`joined` must give each key column of `from` once: {}",
                keys.join(", ")
            );
            complaints.push(Diagnostic::new("invalid_value", message).at(name.span));
        }
        complaints
    }

    /// What the triggers need of the tables beyond what a mapping does.
    pub(super) fn check_tables(&self, context: &Context<'_>) -> Vec<Diagnostic> {
        let Mapping { from, into, key, .. } = &self.mapping;
        let mut complaints = Vec::new();
        for name in [from, into] {
            // Whether there is one at all is told by the mapping.
            let Some(table) = context.catalog.tables.get(&name.value) else {
                continue;
            };
            complaints.extend(context.table(name).err());
            complaints.extend(unsuitable(context, name, table));
        }
        let column = |name: &Located<QualifiedName>, column: &Located<String>| {
            context.catalog.tables.get(&name.value)?.column(&column.value)
        };
        for (target, source) in key {
            let (Some(to), Some(of)) = (column(into, target), column(from, source)) else {
                continue;
            };
            if !keeps(&of.data_type, &to.data_type) {
                let message = format!(
                    "{}.{} is {}, and {}.{} is {}",
                    into.value,
                    ident(&target.value),
                    to.data_type,
                    from.value,
                    ident(&source.value),
                    of.data_type
                );
                complaints.push(Diagnostic::new("type_mismatch", message).at(source.span));
            }
            complaints.extend(foreign_type(context, &of.data_type, source));
        }
        for (target, _) in &self.mapping.columns {
            let identity = column(into, target).and_then(|column| column.identity.as_ref());
            if identity.is_some_and(|identity| identity.always) {
                let message = format!("`{}` is always generated and cannot be updated", target.value);
                let complaint = Diagnostic::new("cannot_be_updated", message).at(target.span);
                complaints.push(complaint.help("give it in `insert_only`"));
            }
        }
        complaints
    }

    pub(super) fn mirror(&self, context: &Context<'_>) -> Mirror {
        let Mapping { from, into, key, .. } = &self.mapping;
        let source = context.catalog.tables.get(&from.value);
        let type_of = |column: &Located<String>| {
            let column = source.and_then(|source| source.column(&column.value));
            column.map(|column| column.data_type.clone()).unwrap_or_default()
        };
        let target = context.catalog.tables.get(&into.value);
        let fixed = |column: &Located<String>| {
            let column = target.and_then(|target| target.column(&column.value));
            column.is_some_and(|it| it.identity.as_ref().is_some_and(|identity| identity.always))
        };
        let joined = self.joined.iter().flatten().map(|joined| {
            let column = |key: &Located<String>| {
                let mut pairs = joined.columns.iter();
                let found = pairs.find(|(_, wanted)| wanted.value == key.value);
                found.map(|(column, _)| column.value.clone()).unwrap_or_default()
            };
            let columns: Vec<String> = key.iter().map(|(_, key)| column(key)).collect();
            Joined {
                guarded: self.is_guarded(context, &joined.table.value, &columns),
                table: joined.table.value.clone(),
                columns,
            }
        });
        Mirror {
            name: self.name.value.clone(),
            key_types: key.iter().map(|(_, column)| type_of(column)).collect(),
            joined: joined.collect(),
            deletes: self.deletes,
            movable: !key.iter().any(|(column, _)| fixed(column)),
            depth: depth(context.catalog, &into.value, DEPTH_MAX),
            overriding: self.mapping.overriding(context.catalog),
            search_path: self
                .search_path
                .iter()
                .map(|schema| schema.value.clone())
                .collect(),
            mapping: self.mapping.clone(),
        }
    }

    /// Whether a foreign key that is checked at once leads from the columns to the key.
    fn is_guarded(&self, context: &Context<'_>, table: &QualifiedName, columns: &[String]) -> bool {
        let wanted = columns
            .iter()
            .zip(self.mapping.key.iter().map(|(_, key)| &key.value));
        let guards = |constraint: &Constraint| {
            let Some(reference) = &constraint.references else {
                return false;
            };
            let pairs: Vec<_> = constraint.columns.iter().zip(&reference.columns).collect();
            reference.table == self.mapping.from.value
                && !constraint.deferrable
                && constraint.enforced()
                && pairs.len() == columns.len()
                && wanted.clone().all(|pair| pairs.contains(&pair))
        };
        let table = context.catalog.tables.get(table);
        table.is_some_and(|table| table.constraints.values().any(guards))
    }

    /// Referenced tables first, else by name.
    pub(super) fn sources(&self, context: &Context<'_>, mirror: &Mirror) -> Vec<Source> {
        let mut sources: Vec<Source> = Vec::new();
        let mut waiting: Vec<_> = mirror.sources();
        waiting.sort();
        while !waiting.is_empty() {
            let refers = |name: &QualifiedName, to: &QualifiedName| {
                let table = context.catalog.tables.get(name);
                let keys = table.into_iter().flat_map(|table| table.constraints.values());
                let mut references = keys.filter_map(|key| key.references.as_ref());
                name != to && references.any(|reference| &reference.table == to)
            };
            let free = waiting
                .iter()
                .position(|(name, _)| !waiting.iter().any(|(other, _)| refers(name, other)));
            let (table, number) = waiting.remove(free.unwrap_or_default());
            sources.push(Source {
                table: table.clone(),
                tree: context.catalog.tree(table),
                number,
            });
        }
        sources
    }

    pub(super) fn hazards(&self, context: &Context<'_>, mirror: &Mirror) -> Vec<Hazard> {
        let into = &self.mapping.into.value;
        let mut hazards = vec![Hazard::new(
            "writes_are_repeated",
            format!(
                "every write to {} also writes {into} in the same transaction, takes as much longer, and fails if {into} \
                 refuses it",
                list(mirror.sources().into_iter().map(|(table, _)| table.to_string()))
            ),
        )];
        if !mirror.joined.is_empty() {
            hazards.push(Hazard::new(
                "rows_are_locked",
                format!(
                    "a write to a joined table locks the row of {} that it belongs to, until the transaction ends; \
                     transactions that write both in opposite orders can meet in a deadlock (SQLSTATE 40P01)",
                    self.mapping.from.value
                ),
            ));
        }
        let target = context.catalog.tables.get(into);
        let own = |table: &Table| -> Vec<String> {
            let enabled = table.triggers.iter().filter(|(_, it)| it.enabled != "disabled");
            enabled.map(|(name, _)| ident(name)).collect()
        };
        let triggers = target.map(own).unwrap_or_default();
        if !triggers.is_empty() {
            let path = match self.search_path.is_empty() {
                true => {
                    "pg_catalog, pg_temp; schemas that they need besides stand in `search_path`".to_owned()
                }
                false => format!(
                    "pg_catalog, {}",
                    list(mirror.search_path.iter().map(|it| ident(it)))
                ),
            };
            hazards.push(Hazard::new(
                "triggers_fire",
                format!(
                    "repeated writes fire {} of {into}, with the rights of {} and search_path {path}",
                    list(triggers),
                    context.now.role.name
                ),
            ));
        }
        hazards.extend(self.before_insert(context));
        hazards.extend(emptied_unseen(context, mirror));
        for joined in mirror.joined.iter().filter(|joined| !is_unique(context, joined)) {
            let columns: Vec<String> = joined.columns.iter().map(|column| ident(column)).collect();
            hazards.push(Hazard::new(
                "join_may_repeat",
                format!(
                    "{} has no unique index on ({}): where it has several rows for one key, any one of them counts",
                    joined.table,
                    columns.join(", ")
                ),
            ));
        }
        hazards
    }

    /// The target's triggers that have a say in which row is inserted.
    fn before_insert(&self, context: &Context<'_>) -> Option<Hazard> {
        let into = &self.mapping.into.value;
        let below = context.catalog.tree(into).into_iter();
        let tables = below.filter_map(|name| context.catalog.tables.get(&name));
        let before = tables.flat_map(|table| &table.triggers).filter(|(_, it)| {
            let event = it.definition.split(" ON ").next().unwrap_or_default();
            it.before_row_write && it.enabled != "disabled" && event.contains("INSERT")
        });
        let names: BTreeSet<String> = before.map(|(name, _)| ident(name)).collect();
        let message = format!(
            "{} can leave out a row that goes into {into}, or change its key: where that is done, the write to {} fails \
             (SQLSTATE 27000), at once or when the row is written again",
            list(names.clone()),
            self.mapping.from.value
        );
        (!names.is_empty()).then(|| Hazard::new("rows_may_be_left_out", message))
    }
}

/// Triggers for TRUNCATE are no partition's own, and none fires when a partition goes.
fn emptied_unseen(context: &Context<'_>, mirror: &Mirror) -> Option<Hazard> {
    let partitioned = |name: &&QualifiedName| {
        let table = context.catalog.tables.get(*name);
        table.is_some_and(|table| table.kind == TableKind::Partitioned)
    };
    let sources = mirror.sources().into_iter().map(|(table, _)| table);
    let tables: Vec<String> = sources.filter(partitioned).map(ToString::to_string).collect();
    let message = format!(
        "TRUNCATE, DETACH, ATTACH or DROP of a single partition of {} is not repeated in {}: delete the rows instead, or \
         truncate the whole table",
        list(tables.clone()),
        mirror.mapping.into.value
    );
    (!tables.is_empty()).then(|| Hazard::new("partitions_are_emptied_unseen", message))
}

/// How many foreign keys lead on from a table, one after the other.
fn depth(catalog: &CatalogSnapshot, name: &QualifiedName, most: u8) -> u8 {
    let table = catalog.tables.get(name).filter(|_| most > 0);
    let constraints = table.into_iter().flat_map(|table| table.constraints.values());
    let references = constraints.filter_map(|it| it.references.as_ref());
    let others: BTreeSet<&QualifiedName> = references.map(|it| &it.table).filter(|it| *it != name).collect();
    let depths = others
        .into_iter()
        .map(|other| depth(catalog, other, most - 1) + 1);
    depths.max().unwrap_or_default()
}

fn is_unique(context: &Context<'_>, joined: &Joined) -> bool {
    let Some(table) = context.catalog.tables.get(&joined.table) else {
        return false;
    };
    let covers = |key: &Option<String>| key.as_ref().is_some_and(|column| joined.columns.contains(column));
    table.indexes.values().any(|index| {
        let whole = index.unique && index.valid && index.predicate.is_none();
        whole && index.keys.iter().all(|key| covers(&key.column))
    })
}

fn list(names: impl IntoIterator<Item = String>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// Kinds of tables whose writes no trigger on them sees, or whose rows the triggers may not see.
fn unsuitable(context: &Context<'_>, name: &Located<QualifiedName>, table: &Table) -> Vec<Diagnostic> {
    let mut complaints = Vec::new();
    let mut complain = |code: &'static str, what: &str, help: &str| {
        let message = format!("{} {what}", name.value);
        complaints.push(Diagnostic::new(code, message).at(name.span).help(help));
    };
    let of_kind = |name: &QualifiedName| context.catalog.tables.get(name).map(|table| table.kind);
    let tree = context.catalog.tree(&name.value);
    if tree.iter().any(|name| of_kind(name) == Some(TableKind::Foreign)) {
        complain(
            "foreign_table",
            "is a foreign table, or has one as a partition",
            "writes made on the other server are not seen here; `sync` is for tables of this one",
        );
    }
    if table.kind == TableKind::Table && !table.children.is_empty() {
        complain(
            "inheritance",
            "has tables that inherit from it",
            "writes to those are not seen by triggers of this one",
        );
    }
    if table.force_row_security && !context.now.role.superuser {
        complain(
            "row_security",
            "hides rows from its owner too (FORCE ROW LEVEL SECURITY)",
            "apply the plan as a superuser, or without FORCE: the triggers must see all rows",
        );
    }
    complaints
}

/// Types of extensions have operators of their own, which the functions could not name.
fn foreign_type(context: &Context<'_>, data_type: &str, column: &Located<String>) -> Option<Diagnostic> {
    if types::canonical(data_type).is_some() {
        return None;
    }
    let known = data_type.parse::<QualifiedName>().ok();
    let kind = known.and_then(|name| context.catalog.types.get(&name));
    if kind.is_some_and(|it| it.kind == "enum" || it.kind == "domain") {
        return None;
    }
    let message = format!("a key of type {data_type} is not supported");
    let help = "use a key of a built-in type, an enum or a domain";
    Some(Diagnostic::new("key_type", message).at(column.span).help(help))
}
