//! The tables below one that is partitioned or inherited from, each with what hangs on its own column.

use super::{By, Retype};
use crate::catalog::model::{CatalogSnapshot, Column, ConstraintKind, Probe, ProbeOutcome, Table, TableKind};
use crate::diagnostic::Diagnostic;
use crate::ops::Context;
use crate::ops::parts::carry::{self, Carry, Questions, Subject, Views};
use crate::ops::parts::dependents;
use crate::ops::parts::shadow::{Member, Moves, Spread};
use crate::ops::parts::storage;
use crate::sql::{QualifiedName, ident};

pub(super) fn spread(table: &Table) -> Spread {
    match (table.kind, table.children.is_empty()) {
        (TableKind::Partitioned, _) => Spread::Partitions,
        (_, false) => Spread::Inheritance,
        _ => Spread::Alone,
    }
}

/// The topmost table's column, before and after, and what is sent after DEFAULT.
pub(super) struct Top<'a> {
    pub column: &'a Column,
    pub after: &'a Column,
    pub default: Option<String>,
    /// The clone once its columns have their new types.
    pub retyped: Option<&'a ProbeOutcome>,
    pub moves: &'a Moves,
    pub views: &'a Views,
}

impl Retype {
    /// Questions about the tables below that have something of their own that only the server can spell.
    pub(super) fn probes_below(&self, now: &CatalogSnapshot, moves: &Moves) -> Vec<Probe> {
        let mut probes = Vec::new();
        for table_name in now.tree(&self.table.value).into_iter().skip(1) {
            let Some(table) = now.tables.get(&table_name) else {
                continue;
            };
            let own = carry::own(now, table);
            if carry::needs_spelling(&table_name, &own, moves) {
                let questions = Questions::new(&table_name, Some(&own), moves);
                probes.extend(questions.before);
                probes.push(self.type_probe_on(&table_name));
                probes.extend(questions.retyped);
                probes.extend(questions.as_shadow);
                probes.extend(questions.after);
            }
        }
        probes
    }

    /// The topmost table first.
    pub(super) fn members(
        &self,
        context: &Context<'_>,
        top: &Top<'_>,
    ) -> Result<Vec<Member>, Vec<Diagnostic>> {
        let mut complaints = Vec::new();
        let mut members: Vec<Member> = Vec::new();
        for table_name in context.catalog.tree(&self.table.value) {
            if members.iter().any(|member| member.table == table_name) {
                complaints.extend(self.refused("these inherit twice", vec![table_name.to_string()]));
                continue;
            }
            let Some(table) = context.catalog.tables.get(&table_name) else {
                continue;
            };
            match self.on_table(context, top, (&table_name, table)) {
                Ok(member) => members.push(member),
                Err(found) => complaints.extend(found),
            }
        }
        if complaints.is_empty() {
            Ok(members)
        } else {
            Err(complaints)
        }
    }

    fn on_table(
        &self,
        context: &Context<'_>,
        top: &Top<'_>,
        (table_name, table): (&QualifiedName, &Table),
    ) -> Result<Member, Vec<Diagnostic>> {
        let below = *table_name != self.table.value;
        let Some(column) = table.column(&self.column.value) else {
            return Err(self
                .refused("these lack the column", vec![table_name.to_string()])
                .into_iter()
                .collect());
        };
        let mut complaints = Vec::new();
        if below {
            complaints.extend(self.complaints_below(context, (table_name, table), column, top));
        }
        complaints.extend(self.shadow_complaints(context, table, column));
        let subject = Subject {
            table_name,
            table,
            column,
            new_type: &top.after.data_type,
            moves: top.moves,
            span: self.column.span,
            below,
        };
        let retyped = match below {
            true => context
                .accepted(&self.type_probe_on(table_name), self.data_type.span)
                .ok()
                .flatten(),
            false => top.retyped,
        };
        let carry = Carry::plan(context, &subject, retyped, top.views);
        let carry = match carry {
            Ok(carry) if complaints.is_empty() => carry,
            carry => {
                complaints.extend(carry.err().into_iter().flatten());
                return Err(complaints);
            }
        };
        let alike = column.default == top.column.default;
        let mut after = column.clone();
        after.data_type.clone_from(&top.after.data_type);
        after.collation.clone_from(&top.after.collation);
        top.after.storage.clone_into(&mut after.storage);
        storage::keep(column, &mut after);
        if alike {
            after.default.clone_from(&top.after.default);
        }
        let new_default = if alike {
            top.default.clone()
        } else {
            column.default.clone()
        };
        Ok(Member {
            table: table_name.clone(),
            column: column.clone(),
            after,
            new_default,
            carry,
            unproven: carry::unproven(&carry::own(context.catalog, table)),
            not_null_above: not_null_above(context.catalog, table, &column.name),
            stored: table.kind == TableKind::Table,
            rows: table.size.rows,
            bytes: table.size.heap_bytes,
            tree: context.catalog.tree(table_name),
        })
    }

    fn complaints_below(
        &self,
        context: &Context<'_>,
        (table_name, table): (&QualifiedName, &Table),
        column: &Column,
        top: &Top<'_>,
    ) -> Vec<Diagnostic> {
        let name = || vec![table_name.to_string()];
        let mut found = Vec::new();
        let mut refuse = |why: &str, hanging: Vec<String>| found.extend(self.refused(why, hanging));
        if table.kind == TableKind::Foreign {
            refuse("these are foreign tables", name());
        }
        if !context.now.role.acts_as(&table.owner) {
            refuse("these belong to another role", name());
        }
        if table.partition_key_columns.contains(&column.name) {
            refuse("the column is part of the partition key of these", name());
        }
        if column.generated.is_some() {
            refuse("the column is generated in these", name());
        }
        // From PostgreSQL 17 on partitions have the identity of the table.
        let of_the_table = context.major() >= 17 && table.partition_of.is_some();
        if column.identity.is_some() && !of_the_table {
            refuse("the column is an identity column of its own in these", name());
        }
        if !column.not_null && not_null_above(context.catalog, table, &column.name) {
            refuse("the column may be null in these, but not above them", name());
        }
        let parents = table.inherits.iter().chain(&table.partition_of);
        let parents = parents.filter(|parent| {
            let parent = context.catalog.tables.get(*parent);
            parent.is_some_and(|parent| parent.column(&column.name).is_some())
        });
        if parents.count() > 1 {
            refuse("these inherit the column from several tables", name());
        }
        let exclusions =
            dependents::constraints(table, &column.name, |kind| kind == ConstraintKind::Exclusion);
        refuse("these constraints hang on the column", exclusions);
        refuse(
            "these columns store rows of the table",
            table.row_type_used_by.clone(),
        );
        let own_default = column.default.is_some() && column.default != top.column.default;
        if own_default && matches!(self.by, By::Conversion { .. }) {
            let default = format!("{table_name}.{}", ident(&column.name));
            refuse("these have a default of their own", vec![default]);
        }
        found
    }
}

fn not_null_above(catalog: &CatalogSnapshot, table: &Table, column: &str) -> bool {
    let mut parents = table.inherits.iter().chain(&table.partition_of);
    parents.any(|parent| {
        let parent = catalog
            .tables
            .get(parent)
            .and_then(|parent| parent.column(column));
        parent.is_some_and(|column| column.not_null)
    })
}
