//! `drop_not_null`: a column may be null.

use super::parts::column::ColumnName;
use super::parts::not_null::NotNull;
use super::parts::{brief, locks};
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Column, Table};
use crate::diagnostic::Diagnostic;
use crate::document::Fields;
use crate::plan::{ColumnFacts, Estimate, Expectation, Hazard, LockMode, Phase, Settings, Undo};
use crate::sql::{QualifiedName, ident};

const MANUAL: &str = "\
Allows nulls in a column. It is done in the expand phase, because it breaks nobody who writes; readers must be ready
for nulls before somebody writes the first one.

```yaml
- drop_not_null: {table: orders, column: status}
```

Locks: ACCESS EXCLUSIVE on the table, its partitions and inheriting tables, for an instant (catalog only).
Undo: the proof of set_not_null, which fails with the keys of the rows that have no value by then.
";

#[derive(Debug, Clone)]
pub struct DropNotNull {
    subject: ColumnName,
}

pub struct Target {
    table: QualifiedName,
    column: String,
    /// Partitions and inheriting tables follow.
    tree: Vec<QualifiedName>,
    back: NotNull,
}

impl DropNotNull {
    fn obstacles(&self, context: &Context<'_>, table: &Table, column: &Column) -> Vec<Diagnostic> {
        let name = &self.subject.table.value;
        let shown = ident(&column.name);
        let mut complaints = Vec::new();
        let mut complain = |code, message: String, help: String| {
            complaints.push(self.subject.complaint(code, message).help(help));
        };
        if !column.not_null {
            complain(
                "already_nullable",
                format!("{name}.{shown} may be null already"),
                "leave this change out".into(),
            );
        }
        if let Some((key, primary_key)) = table.primary_key()
            && primary_key.columns.contains(&column.name)
        {
            complain(
                "in_primary_key",
                format!("{shown} is in the primary key {} of {name}", ident(key)),
                "drop the primary key first".into(),
            );
        }
        if column.identity.is_some() {
            complain(
                "identity_column",
                format!("{shown} is an identity column, which is never null"),
                "drop the identity first".into(),
            );
        }
        let identifies = table.indexes.iter().find(|(_, index)| {
            index.replica_identity
                && index
                    .keys
                    .iter()
                    .any(|key| key.column.as_deref() == Some(column.name.as_str()))
        });
        if let Some((index, _)) = identifies {
            complain(
                "in_replica_identity",
                format!("{shown} is in {}, the replica identity of {name}", ident(index)),
                format!("first ALTER TABLE {name} REPLICA IDENTITY to another one"),
            );
        }
        let parents = table.partition_of.iter().chain(&table.inherits);
        for parent in parents {
            let above = context.catalog.tables.get(parent);
            if above
                .and_then(|parent| parent.column(&column.name))
                .is_some_and(|column| column.not_null)
            {
                complain(
                    "not_null_in_parent",
                    format!("{shown} is NOT NULL in {parent}, which {name} belongs to"),
                    format!("make the change on {parent}"),
                );
            }
        }
        complaints
    }
}

impl Operation for DropNotNull {
    type Target = Target;
    const NAME: &'static str = "drop_not_null";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        ColumnName::read(fields).map(|subject| Self { subject })
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::relation(&self.subject.table)]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let name = &self.subject.table.value;
        let (table, column) = self.subject.find(context).map_err(|complaint| vec![complaint])?;
        let complaints = self.obstacles(context, table, column);
        if !complaints.is_empty() {
            return Err(complaints);
        }
        Ok(Target {
            table: name.clone(),
            column: column.name.clone(),
            tree: context.catalog.tree(name),
            back: NotNull::plan(context.catalog, name, &column.name),
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let Target { table, column, .. } = target;
        let column = ident(column);
        let work = brief(
            settings,
            format!("allow nulls in {table}.{column}"),
            vec![format!("ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL")],
            locks(&target.tree, LockMode::AccessExclusive),
            vec![Expectation::Column {
                table: table.clone(),
                column: target.column.clone(),
                facts: ColumnFacts {
                    not_null: Some(false),
                    ..ColumnFacts::default()
                },
            }],
        );
        vec![StepDraft {
            id: "drop".into(),
            phase: Phase::Expand,
            work,
            hazards: vec![Hazard::new(
                "readers_see_nulls",
                format!("readers must be ready for nulls in {column} before somebody writes one"),
            )],
            undo: Undo::Work(target.back.works(settings)),
            estimate: Estimate::INSTANT,
        }]
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        for name in &target.tree {
            let table = catalog.tables.get_mut(name);
            if let Some(column) = table.and_then(|table| table.column_mut(&target.column)) {
                column.not_null = false;
                column.not_null_constraint = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::model::Identity;
    use crate::ops::testing::{catalog, plan_text, table};
    use crate::sql::QualifiedName;

    #[test]
    fn allows_nulls_and_proves_on_the_way_back() {
        let catalog = catalog().with("orders", table(&["state text not null"]));
        let changes = "  - drop_not_null: {table: orders, column: state}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"
        01-drop_not_null-drop [expand] allow nulls in public.orders.state
          ALTER TABLE public.orders ALTER COLUMN state DROP NOT NULL;
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders ADD CONSTRAINT orders_state_pgmorph_not_null CHECK (state IS NOT NULL) NOT VALID;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders VALIDATE CONSTRAINT orders_state_pgmorph_not_null;
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -)
          undo ALTER TABLE public.orders ALTER COLUMN state SET NOT NULL;
          undo ALTER TABLE public.orders DROP CONSTRAINT orders_state_pgmorph_not_null;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard readers_see_nulls: readers must be ready for nulls in state before somebody writes one
        ");
    }

    #[test]
    fn refuses_keys_identities_and_what_is_inherited() {
        let mut orders = table(&["id bigint not null", "n bigint not null", "state text"]);
        orders = orders.with_primary_key("orders_pkey", &["id"]);
        orders.column_mut("n").unwrap().identity = Some(Identity {
            always: true,
            sequence: QualifiedName::new("public", "orders_n_seq"),
        });
        let catalog = catalog().with("orders", orders);
        let changes = "  - drop_not_null: {table: orders, column: id}
  - drop_not_null: {table: orders, column: n}
  - drop_not_null: {table: orders, column: state}
";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"
        3:44 in_primary_key: id is in the primary key orders_pkey of public.orders (drop the primary key first)
        4:44 identity_column: n is an identity column, which is never null (drop the identity first)
        5:44 already_nullable: public.orders.state may be null already (leave this change out)
        ");
        let tree = crate::ops::create_index::tests::tree();
        let changes = "  - drop_not_null: {table: ev_2_a, column: day}\n";
        insta::assert_snapshot!(plan_text(&tree, changes), @"3:44 not_null_in_parent: day is NOT NULL in public.ev_2, which public.ev_2_a belongs to (make the change on public.ev_2)");
    }
}
