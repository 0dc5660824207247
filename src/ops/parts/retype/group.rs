//! Columns that get the type together: the one that the change is about, and columns that refer to it.

use super::tree::{self, Top};
use super::{By, Retype};
use crate::catalog::model::{CatalogSnapshot, Column, Constraint, ProbeOutcome, Table, TableKind};
use crate::catalog::types::{self, TypeChange};
use crate::diagnostic::{Diagnostic, Located, Span};
use crate::document::Fields;
use crate::ops::parts::carry::Views;
use crate::ops::parts::shadow::{Group, Moves, Shadow, Spread};
use crate::ops::{Context, Named, Object};
use crate::plan::Hazard;
use crate::sql::{QualifiedName, ident, parse_column, spell_column};
use std::cmp::Reverse;
use std::collections::BTreeSet;

type ColumnOf = (QualifiedName, String);

/// Which other columns get the type, too.
#[derive(Debug, Clone)]
pub enum Together {
    Alone,
    Also(Vec<Located<ColumnOf>>),
    /// All whose foreign keys lead to the column.
    Cascade(Span),
}

impl Together {
    /// The tables that the plan file names.
    pub(super) fn needs(&self) -> Vec<Named> {
        let Self::Also(columns) = self else {
            return Vec::new();
        };
        let table =
            |column: &Located<ColumnOf>| Named::at(Object::Relation(column.value.0.clone()), column.span);
        columns.iter().map(table).collect()
    }
}

/// A column as the catalog has it and as it will be.
pub(super) struct Part<'a> {
    pub(super) retype: &'a Retype,
    pub(super) table: &'a Table,
    pub(super) column: &'a Column,
    pub(super) after: Column,
    pub(super) change: TypeChange,
}

/// Columns whose foreign keys lead to the column, directly or through others: those of the longest way first, then as
/// they stand in their tables. What a partition has comes with the table above it.
fn leading_to(catalog: &CatalogSnapshot, table: &QualifiedName, column: &str) -> Vec<ColumnOf> {
    let mut found: Vec<ColumnOf> = vec![(table.clone(), column.to_owned())];
    let mut ways = vec![0_usize];
    let mut next = 0;
    while let Some((table, column)) = found.get(next).cloned() {
        let way = ways[next] + 1;
        next += 1;
        for (from, _, key) in catalog.incoming_foreign_keys(&table) {
            let ends = key.references.iter().flat_map(|it| &it.columns);
            let begins = key.columns.iter().zip(ends).filter(|(_, end)| **end == column);
            for (begin, _) in begins {
                let facts = catalog.tables.get(from).and_then(|table| table.column(begin));
                let one = (from.clone(), begin.clone());
                if facts.is_some_and(|facts| !facts.inherited) && !found.contains(&one) {
                    found.push(one);
                    ways.push(way);
                }
            }
        }
    }
    let position = |(table, column): &ColumnOf| {
        let facts = catalog.tables.get(table);
        facts.and_then(|it| it.columns.iter().position(|it| it.name == *column))
    };
    let mut sorted: Vec<_> = ways.into_iter().zip(found).skip(1).collect();
    sorted.sort_by_cached_key(|(way, it)| (Reverse(*way), it.0.clone(), position(it)));
    sorted.into_iter().map(|(_, it)| it).collect()
}

/// What is referred to stands before what refers to it; else by name.
fn referenced_first(catalog: &CatalogSnapshot, mut tables: Vec<QualifiedName>) -> Vec<QualifiedName> {
    let refers = |from: &QualifiedName, to: &QualifiedName| {
        let keys = catalog.tables.get(from).map(|table| table.constraints.values());
        let goes = |key: &Constraint| key.references.as_ref().is_some_and(|it| it.table == *to);
        from != to && keys.into_iter().flatten().any(goes)
    };
    tables.sort();
    tables.dedup();
    let mut sorted = Vec::new();
    while !tables.is_empty() {
        let free = |table: &QualifiedName| !tables.iter().any(|other| refers(table, other));
        // Tables that refer to each other in a circle have no such order.
        let next = tables.iter().position(free).unwrap_or(0);
        sorted.push(tables.remove(next));
    }
    sorted
}

/// As it stands in a list of the plan file.
fn in_yaml(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    if name.chars().all(plain) {
        name.to_owned()
    } else {
        // As JSON, which is YAML.
        serde_json::Value::from(name).to_string()
    }
}

impl Together {
    pub(super) fn read(fields: &Fields<'_>, by: &By) -> Self {
        let cascade = fields.optional("cascade").map(|node| node.span);
        let cascade = cascade.filter(|_| fields.flag("cascade", false));
        let also = fields
            .optional("also")
            .map(|node| (node.span, Self::listed(fields)));
        let conflict = |span, message: &str| {
            fields.report(Diagnostic::new("conflicting_keys", message).at(span));
        };
        let together = match (also, cascade) {
            (None, None) => return Self::Alone,
            (Some((span, _)), Some(_)) => {
                conflict(
                    span,
                    "`cascade` takes all columns that refer to this one, so `also` says nothing",
                );
                return Self::Alone;
            }
            (Some((_, listed)), None) => Self::Also(listed),
            (None, Some(span)) => Self::Cascade(span),
        };
        if let By::Conversion { using, reverse_using } = by {
            for given in [using, reverse_using].into_iter().flatten() {
                let message =
                    "an expression speaks of one column, so it cannot stand beside `also` or `cascade`";
                conflict(given.span, message);
            }
        }
        together
    }

    fn listed(fields: &Fields<'_>) -> Vec<Located<ColumnOf>> {
        let mut found: Vec<Located<ColumnOf>> = Vec::new();
        for item in fields.optional_list("also").unwrap_or_default() {
            let Some(text) = fields.text_of(item, "also") else {
                continue;
            };
            let complaint = |code, message: String| Diagnostic::new(code, message).at(text.span);
            match parse_column(&text.value, fields.default_schema()) {
                Err(message) => fields.report(complaint("invalid_value", message)),
                Ok(value) if found.iter().any(|other| other.value == value) => {
                    let message = format!("`{}` stands twice in `also`", text.value);
                    fields.report(complaint("duplicate_name", message));
                }
                Ok(value) => found.push(Located {
                    value,
                    span: text.span,
                }),
            }
        }
        found
    }
}

impl Retype {
    /// The other columns, referencing ones first. A column of a type that holds every value of the new one stays out of
    /// a cascade.
    pub(super) fn others(&self, catalog: &CatalogSnapshot, data_type: &str) -> Vec<Self> {
        let leading = leading_to(catalog, &self.table.value, &self.column.value);
        match &self.together {
            Together::Alone => Vec::new(),
            Together::Also(listed) => {
                let span = |it: &ColumnOf| listed.iter().find(|other| other.value == *it).map(|it| it.span);
                let others = leading.into_iter().filter_map(|it| Some((span(&it)?, it)));
                others.map(|(span, it)| self.of(it, span)).collect()
            }
            Together::Cascade(span) => {
                let stays = |it: &ColumnOf| self.holds(catalog, it, data_type);
                let others = leading.into_iter().filter(|it| !stays(it));
                others.map(|it| self.of(it, *span)).collect()
            }
        }
    }

    fn of(&self, (table, column): ColumnOf, span: Span) -> Self {
        Self {
            table: Located { value: table, span },
            column: Located { value: column, span },
            data_type: self.data_type.clone(),
            default: None,
            by: match self.by {
                By::Widening => By::Widening,
                By::Conversion { .. } => By::Conversion {
                    using: None,
                    reverse_using: None,
                },
            },
            together: Together::Alone,
            default_schema: self.default_schema.clone(),
        }
    }

    fn holds(&self, catalog: &CatalogSnapshot, (table, name): &ColumnOf, data_type: &str) -> bool {
        let of = |table: &QualifiedName, name: &str| {
            let column = catalog.tables.get(table)?.column(name)?;
            Some(column.data_type.clone())
        };
        let Some(present) = of(table, name) else {
            return true;
        };
        let loses_nothing =
            |from: &str, to: &str| !matches!(types::widening(from, to), None | Some(TypeChange::Lossy));
        let own = of(&self.table.value, &self.column.value);
        let widens = own.is_some_and(|own| loses_nothing(&own, data_type));
        present == data_type || widens && loses_nothing(data_type, &present)
    }

    /// Columns of the list that have no business in it.
    pub(super) fn complain_listed(&self, context: &Context<'_>) -> Vec<Diagnostic> {
        let Together::Also(listed) = &self.together else {
            return Vec::new();
        };
        let leading = leading_to(context.catalog, &self.table.value, &self.column.value);
        let mut found = Vec::new();
        for it in listed.iter().filter(|it| !leading.contains(&it.value)) {
            let table = Located {
                value: it.value.0.clone(),
                span: it.span,
            };
            let column = Located {
                value: it.value.1.clone(),
                span: it.span,
            };
            let there = context
                .table(&table)
                .and_then(|facts| context.column(&table.value, facts, &column));
            let subject = self.spell(&self.table.value, &self.column.value);
            let name = self.spell(&table.value, &column.value);
            found.push(match there {
                Err(unknown) => unknown,
                Ok(_) if name == subject => {
                    let message = format!("`{name}` is the column that this change is about");
                    Diagnostic::new("duplicate_name", message).at(it.span)
                }
                Ok(_) => {
                    let message = format!("no foreign key leads from `{name}` to `{subject}`");
                    Diagnostic::new("not_related", message)
                        .at(it.span)
                        .help("make it a change of its own")
                }
            });
        }
        found
    }

    fn spell(&self, table: &QualifiedName, column: &str) -> String {
        spell_column(table, column, &self.default_schema)
    }

    pub(super) fn part<'a>(&'a self, context: &Context<'a>) -> Result<Part<'a>, Diagnostic> {
        let table = context.table(&self.table)?;
        let column = context.column(&self.table.value, table, &self.column)?;
        let printed_type = self.printed_type(context)?;
        let change = self.change(column, &printed_type)?;
        let after = self.printed_column(context, column, &printed_type)?;
        Ok(Part {
            retype: self,
            table,
            column,
            after,
            change,
        })
    }

    /// The shadow columns of all of them.
    pub(super) fn group<'a>(
        &'a self,
        context: &Context<'a>,
        main: Part<'a>,
        others: &'a [Self],
    ) -> Result<Group, Vec<Diagnostic>> {
        let mut complaints = Vec::new();
        let mut parts = Vec::new();
        for other in others {
            match other.part(context) {
                Ok(part) => {
                    let found = other.common_complaints(part.table, part.column, &part.after.data_type);
                    complaints.extend(found.into_iter().map(|it| self.of_other(other, it)));
                    parts.push(part);
                }
                Err(complaint) => complaints.push(self.of_other(other, complaint)),
            }
        }
        parts.push(main);
        let columns = parts.iter().map(|it| {
            let Self { table, column, .. } = it.retype;
            (table.value.clone(), column.value.clone())
        });
        let moves = Moves::new(columns).with_below(context.catalog);
        let tables = moves.tables().into_iter().cloned().collect();
        let tables = referenced_first(context.catalog, tables);
        let views = Views::of(context, &moves, tables, self.column.span, &mut complaints);
        let mut members: Vec<Shadow> = Vec::new();
        for part in &parts {
            match self.member(context, part, &parts, &moves, &views) {
                Ok(member) => members.push(member),
                Err(found) => complaints.extend(found.into_iter().map(|it| self.of_other(part.retype, it))),
            }
        }
        if !complaints.is_empty() {
            return Err(complaints);
        }
        self.only_once(context, &moves, &mut members);
        let tables = self.locked(context, &members);
        Ok(Group {
            alone: alone(context.catalog, &members, &tables),
            members,
            views,
            tables,
        })
    }

    fn member(
        &self,
        context: &Context<'_>,
        part: &Part<'_>,
        parts: &[Part<'_>],
        moves: &Moves,
        views: &Views,
    ) -> Result<Shadow, Vec<Diagnostic>> {
        let Part {
            retype,
            table,
            column,
            after,
            change,
        } = part;
        let mut complaints = Vec::new();
        if !table.inherits.is_empty() || table.partition_of.is_some() {
            complaints.extend(retype.refused(
                "a shadow column is not possible on a table that inherits other columns",
                vec![retype.table.value.to_string()],
            ));
        }
        if parts.len() > 1 && tree::spread(table) != Spread::Alone {
            complaints.extend(retype.refused(
                "columns of partitioned tables, and of those that others inherit from, change alone",
                vec![retype.table.value.to_string()],
            ));
        }
        complaints.extend(retype.refused(
            "publications and virtual columns of several columns, or tables, at once are not carried yet",
            several_at_once(context, retype, parts),
        ));
        let casts = *change != TypeChange::Lossy
            && types::fits_predicate(&column.data_type, &after.data_type, &column.name).is_some();
        let conversion = (!casts)
            .then(|| retype.only_conversion(context, table, column, moves, &mut complaints))
            .flatten();
        let top = Top {
            column,
            after,
            default: retype.default_text(after),
            retyped: retyped(context, retype, parts),
            moves,
            views,
        };
        match retype.members(context, &top) {
            Ok(members) if complaints.is_empty() => {
                Ok(retype.shadow(context, table, column, after, (members, conversion)))
            }
            members => {
                complaints.extend(members.err().into_iter().flatten());
                Err(complaints)
            }
        }
    }

    fn of_other(&self, other: &Self, mut complaint: Diagnostic) -> Diagnostic {
        let same = |it: &Self| (it.table.value.clone(), it.column.value.clone());
        if same(other) != same(self) {
            let name = self.spell(&other.table.value, &other.column.value);
            complaint.message = format!("{name}: {}", complaint.message);
            if complaint.code == "no_change" {
                complaint.help = Some("take it out of `also`".into());
            }
        }
        complaint
    }

    /// What tells the steps apart, and what is said or asked once.
    fn only_once(&self, context: &Context<'_>, moves: &Moves, members: &mut [Shadow]) {
        let left = self.left_behind(context, moves);
        let count = members.len();
        for position in 0..count {
            let (before, rest) = members.split_at_mut(position);
            let member = &mut rest[0];
            if before.iter().any(|it| it.table == member.table) {
                member.members.iter_mut().for_each(|it| it.unproven.clear());
            }
            if position + 1 == count {
                member.hazards.extend(left.clone());
            } else {
                let name = spell_column(&member.table, &member.column.name, &self.table.value.schema);
                member.word = format!("{name}-");
            }
        }
    }

    /// Columns that refer to the new values and cannot hold them.
    pub(super) fn left_behind(&self, context: &Context<'_>, moves: &Moves) -> Option<Hazard> {
        let catalog = context.catalog;
        let data_type = types::canonical(&self.data_type.value)?.to_string();
        let leading = leading_to(catalog, &self.table.value, &self.column.value);
        let stays = |(table, column): &&ColumnOf| {
            !moves.have(table, column) && !self.holds(catalog, &(table.clone(), column.clone()), &data_type)
        };
        let left: Vec<String> = leading
            .iter()
            .filter(stays)
            .map(|(table, column)| self.spell(table, column))
            .collect();
        if left.is_empty() {
            return None;
        }
        let moved = leading.iter().filter(|(table, column)| moves.have(table, column));
        let moved = moved.map(|(table, column)| self.spell(table, column));
        let all: Vec<String> = moved.chain(left.iter().cloned()).map(|it| in_yaml(&it)).collect();
        Some(Hazard::new(
            "references_stay",
            format!(
                "columns whose foreign keys lead here keep their types, and overflow with values that only {data_type} \
                 holds: {}. To change them by the same cutover, write `also: [{}]` or `cascade: true`",
                left.join(", "),
                all.join(", ")
            ),
        ))
    }

    /// One alone locks its own table first; several together what is referred to.
    fn locked(&self, context: &Context<'_>, members: &[Shadow]) -> Vec<QualifiedName> {
        let mut tables: Vec<QualifiedName> = Vec::new();
        for member in members {
            let others = member.other_locks().into_iter().map(|it| it.relation);
            for table in std::iter::once(member.table.clone()).chain(others) {
                if !tables.contains(&table) {
                    tables.push(table);
                }
            }
        }
        if members.len() > 1 {
            tables = referenced_first(context.catalog, tables);
        }
        tables
    }
}

/// A foreign key to a table has nothing to do with those that inherit from it; with its partitions it has.
fn alone(catalog: &CatalogSnapshot, members: &[Shadow], tables: &[QualifiedName]) -> BTreeSet<QualifiedName> {
    let is_alone = |name: &&QualifiedName| {
        let facts = catalog.tables.get(*name);
        let inherited = |it: &Table| it.kind != TableKind::Partitioned && !it.children.is_empty();
        facts.is_some_and(inherited) && members.iter().all(|member| member.table != **name)
    };
    tables.iter().filter(is_alone).cloned().collect()
}

/// What is carried for a column that changes alone in a table that has none below.
fn several_at_once(context: &Context<'_>, retype: &Retype, parts: &[Part<'_>]) -> Vec<String> {
    let name = &retype.table.value;
    let of_table = parts.iter().filter(|it| it.retype.table.value == *name).count();
    let tree = context.catalog.tree(name);
    if of_table == 1 && tree.len() == 1 {
        return Vec::new();
    }
    let tables = tree
        .iter()
        .filter_map(|name| Some((name, context.catalog.tables.get(name)?)));
    let mut found = Vec::new();
    for (name, table) in tables {
        let published = table.publications.keys();
        found.extend(published.map(|publication| format!("publication {} of {name}", ident(publication))));
        let is_virtual = |column: &&Column| column.generated.as_ref().is_some_and(|it| !it.stored);
        let columns = table.columns.iter().filter(is_virtual);
        found.extend(columns.map(|column| format!("virtual column {name}.{}", ident(&column.name))));
    }
    found
}

/// The clone once all columns of the table have their new types.
fn retyped<'a>(context: &Context<'a>, retype: &Retype, parts: &[Part<'_>]) -> Option<&'a ProbeOutcome> {
    let same_table = |it: &&Part<'_>| it.retype.table.value == retype.table.value;
    let last = parts.iter().rfind(same_table)?;
    let accepted = context.accepted(&last.retype.type_probe(), last.retype.data_type.span);
    accepted.ok().flatten()
}
