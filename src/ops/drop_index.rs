//! `drop_index`: an index goes, at the very end.

use super::parts::index_build::{Build, referencing_key};
use super::{Context, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Index};
use crate::diagnostic::{Diagnostic, Located, Span};
use crate::document::Fields;
use crate::plan::{Estimate, Hazard, Phase, Settings, Undo};
use crate::sql::{QualifiedName, ident};

const MANUAL: &str = "\
Drops an index concurrently, in the contract phase. The index of a constraint goes with its constraint instead; one
that a foreign key rests on, or that is the replica identity of its table, is refused. `table` is optional and only
makes sure that the right index is meant.

```yaml
- drop_index: {name: orders_status_idx, table: orders}
```

Locks: SHARE UPDATE EXCLUSIVE on the table; it waits for the transactions that use the index, while reads and writes
go on. PostgreSQL cannot drop the index of a partitioned table concurrently: ACCESS EXCLUSIVE on the table and all its
partitions, for an instant.
Undo: it is built again as it was, with its comment; a unique one after a look for duplicates.
";

#[derive(Debug, Clone)]
pub struct DropIndex {
    name: Located<QualifiedName>,
    table: Option<Located<QualifiedName>>,
}

pub struct Target {
    build: Build,
    valid: bool,
}

impl Operation for DropIndex {
    type Target = Target;
    const NAME: &'static str = "drop_index";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let name = fields.qualified("name");
        let table = fields.optional_qualified("table");
        Some(Self { name: name?, table })
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let (table_name, index) =
            find(context, &self.name, self.table.as_ref()).map_err(|complaint| vec![complaint])?;
        let complaints = obstacles(context, table_name, &self.name.value.name, index, self.name.span);
        if !complaints.is_empty() {
            return Err(complaints);
        }
        Ok(Target {
            build: Build::of_existing(context.catalog, table_name, &self.name.value.name),
            valid: index.valid,
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let undo = if target.valid {
            Undo::Work(target.build.works(settings))
        } else {
            Undo::NotNeeded {
                reason: "the index was INVALID, left by a build that failed".into(),
            }
        };
        let step = |work| StepDraft {
            id: "drop".into(),
            phase: Phase::Contract,
            work,
            hazards: vec![Hazard::new(
                "slower_queries",
                "queries that used the index find another way; pg_stat_user_indexes tells how often it is used",
            )],
            undo,
            estimate: Estimate::INSTANT,
        };
        target.build.drop_work(settings).map(step).into_iter().collect()
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        target.build.remove(catalog);
    }
}

/// The index of that name with its table.
pub fn find<'a>(
    context: &Context<'a>,
    name: &Located<QualifiedName>,
    table: Option<&Located<QualifiedName>>,
) -> Result<(&'a QualifiedName, &'a Index), Diagnostic> {
    let Some((table_name, index)) = context.catalog.index(&name.value) else {
        let diagnostic =
            Diagnostic::new("unknown_index", format!("there is no index {}", name.value)).at(name.span);
        let of_view = context.catalog.views.iter().any(|(view, value)| {
            view.schema == name.value.schema && value.indexes.contains_key(&name.value.name)
        });
        if of_view {
            return Err(diagnostic.help("it is the index of a materialized view; changes are made to tables"));
        }
        let known: Vec<&str> = context
            .catalog
            .tables
            .iter()
            .filter(|(table, _)| table.schema == name.value.schema)
            .flat_map(|(_, table)| table.indexes.keys().map(String::as_str))
            .collect();
        return Err(diagnostic.suggest(&name.value.name, known));
    };
    if let Some(wanted) = table {
        context.table(wanted)?;
        if &wanted.value != table_name {
            let message = format!(
                "the index {} belongs to {table_name}, not to {}",
                name.value, wanted.value
            );
            return Err(Diagnostic::new("other_table", message).at(wanted.span));
        }
    } else {
        context.table(&Located {
            value: table_name.clone(),
            span: name.span,
        })?;
    }
    Ok((table_name, index))
}

/// Why the index cannot go.
pub fn obstacles(
    context: &Context<'_>,
    table: &QualifiedName,
    name: &str,
    index: &Index,
    span: Span,
) -> Vec<Diagnostic> {
    let mut complaints = Vec::new();
    let shown = ident(name);
    let mut complain = |code, message: String, help: String| {
        complaints.push(Diagnostic::new(code, message).at(span).help(help));
    };
    if let Some(constraint) = &index.constraint {
        complain(
            "index_of_constraint",
            format!(
                "{shown} belongs to the constraint {} of {table}",
                ident(constraint)
            ),
            "drop_constraint drops both".into(),
        );
    } else if let Some((referencing, key)) = referencing_key(context.catalog, table, name) {
        complain(
            "index_of_foreign_key",
            format!("the foreign key {} of {referencing} rests on {shown}", ident(key)),
            "drop that foreign key first, with drop_constraint".into(),
        );
    }
    if index.replica_identity {
        complain(
            "index_is_replica_identity",
            format!(
                "{shown} is the replica identity of {table}; without it, replicated updates and deletes fail"
            ),
            format!("first ALTER TABLE {table} REPLICA IDENTITY to another one"),
        );
    }
    if let Some(parent) = &index.parent {
        complain(
            "index_of_partition",
            format!("{shown} is part of the partitioned index {parent}"),
            format!("drop {parent}, which takes its parts along"),
        );
    }
    complaints
}
