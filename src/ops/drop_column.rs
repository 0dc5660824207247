//! `drop_column`: a column that nobody uses any more goes.

use super::parts::column::ColumnName;
use super::parts::constraint::{Reach, mentions};
use super::parts::index_build::Build;
use super::parts::not_null::NotNull;
use super::parts::{brief, locks};
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Column, ConstraintKind, ReplicaIdentity, Table, TableKind};
use crate::diagnostic::Diagnostic;
use crate::document::Fields;
use crate::plan::{ColumnFacts, Estimate, Expectation, Hazard, Lock, LockMode, Phase, Settings, Undo};
use crate::sql::{QualifiedName, ident, idents};

const MANUAL: &str = "\
Removes a column for good, in contract and so only when that is asked for. Before, in cutover, a column that is never
null and has no default stops to insist on a value, so that applications which no longer write it can insert. In
contract its indexes are dropped concurrently, one by one, then the column with its own CHECK, UNIQUE and foreign key.
Constraints and extended objects that it shares with others (views, functions, policies, triggers, generated columns,
publications, foreign keys from elsewhere) are named and have to go first.

```yaml
- drop_column: {table: orders, column: legacy_code}
```

Locks: ACCESS EXCLUSIVE on the table and all below it, for an instant (catalog only), and on a table that the column
refers to, which is locked first; SHARE UPDATE EXCLUSIVE while indexes are dropped.
Undo: NOT NULL is proven and set again, indexes are built again; the column itself is gone.
";

#[derive(Debug, Clone)]
pub struct DropColumn {
    subject: ColumnName,
}

pub struct Target {
    table: QualifiedName,
    column: String,
    tree: Vec<QualifiedName>,
    /// The proof that brings NOT NULL back, where it is taken off first.
    not_null: Option<NotNull>,
    indexes: Vec<Build>,
    /// Far ends of the column's own foreign keys.
    referenced: Vec<Reach>,
    /// What is locked along with the column: its sequence, the indexes of its constraints.
    also_locked: Vec<QualifiedName>,
    sequences: Vec<QualifiedName>,
    hazards: Vec<Hazard>,
}

/// Things that stand in the way, with what to do about them.
struct Obstacles<'a> {
    context: &'a Context<'a>,
    name: &'a QualifiedName,
    table: &'a Table,
    column: &'a Column,
    found: Vec<(&'static str, String, String)>,
}

impl Obstacles<'_> {
    fn add(&mut self, code: &'static str, message: String, help: impl Into<String>) {
        self.found.push((code, message, help.into()));
    }

    fn shown(&self) -> String {
        format!("{}.{}", self.name, ident(&self.column.name))
    }

    fn of_parents(&mut self) {
        let parent = self.table.partition_of.as_ref().or_else(|| {
            let mut parents = self.table.inherits.iter();
            parents.find(|parent| {
                let parent = self.context.catalog.tables.get(*parent);
                parent.is_some_and(|parent| parent.column(&self.column.name).is_some())
            })
        });
        match parent {
            Some(parent) => {
                let message = format!("{} comes from {parent}", self.shown());
                self.add(
                    "inherited_column",
                    message,
                    format!("drop the column of {parent}"),
                );
            }
            None if self.column.inherited => {
                let message = format!("{} comes from a parent table", self.shown());
                self.add("inherited_column", message, "drop the column of that table");
            }
            None => {}
        }
        if let Some(of_type) = &self.table.of_type {
            let message = format!("{} is a table of the type {of_type}", self.name);
            self.add(
                "typed_table",
                message,
                format!("ALTER TYPE {of_type} DROP ATTRIBUTE … CASCADE"),
            );
        }
        if self.table.kind == TableKind::Foreign {
            let message = format!("{} is a foreign table", self.name);
            self.add("foreign_table", message, "change the table on its own server");
        }
    }

    fn of_partition_key(&mut self) {
        let mut partitioned = self.context.catalog.tree(self.name);
        partitioned.retain(|name| {
            let table = self.context.catalog.tables.get(name);
            let key = table.and_then(|table| table.partition_key.as_ref());
            key.is_some_and(|key| mentions(key, &self.column.name))
        });
        for name in partitioned {
            let message = format!("{} is in the partition key of {name}", self.shown());
            self.add(
                "in_partition_key",
                message,
                "a partition key cannot be changed; make a new table",
            );
        }
    }

    fn of_constraints(&mut self) {
        for (constraint_name, constraint) in &self.table.constraints {
            if !constraint.columns.contains(&self.column.name) {
                continue;
            }
            let help = format!(
                "drop_constraint {{table: {}, name: {constraint_name}}} first",
                self.name
            );
            let quoted = ident(constraint_name);
            if constraint.kind == ConstraintKind::PrimaryKey {
                let message = format!("{} is in the primary key {quoted}", self.shown());
                self.add("in_primary_key", message, help);
            } else if constraint.columns.len() > 1 {
                let message = format!(
                    "{} shares the constraint {quoted} with others ({})",
                    self.shown(),
                    idents(&constraint.columns)
                );
                self.add("shared_constraint", message, help);
            }
        }
        for (from, key, constraint) in self.context.catalog.incoming_foreign_keys(self.name) {
            let refers = constraint
                .references
                .as_ref()
                .is_some_and(|reference| reference.columns.contains(&self.column.name));
            if refers
                && !constraint.inherited
                && !(from == self.name && constraint.columns == [self.column.name.clone()])
            {
                let message = format!(
                    "the foreign key {} of {from} refers to {}",
                    ident(key),
                    self.shown()
                );
                self.add(
                    "referenced",
                    message,
                    format!("drop_constraint {{table: {from}, name: {key}}} first"),
                );
            }
        }
    }

    fn of_replication(&mut self) {
        for (index_name, index) in &self.table.indexes {
            let marked = index.replica_identity
                || matches!(&self.table.replica_identity, ReplicaIdentity::Index(name) if name == index_name);
            if marked && index.mentions(&self.column.name) {
                let message = format!(
                    "{} is in {}, the replica identity of {}",
                    self.shown(),
                    ident(index_name),
                    self.name
                );
                let help = format!("first ALTER TABLE {} REPLICA IDENTITY to another one", self.name);
                self.add("replica_identity", message, help);
            }
        }
        for (publication_name, published) in &self.table.publications {
            if published.columns.contains(&self.column.name) {
                let message = format!("publication {} names {}", ident(publication_name), self.shown());
                self.add(
                    "depended_on",
                    message,
                    format!(
                        "ALTER PUBLICATION {} SET TABLE … without it first",
                        ident(publication_name)
                    ),
                );
            }
        }
    }

    fn of_dependents(&mut self) {
        for name in self.context.catalog.tree(self.name) {
            let table = self.context.catalog.tables.get(&name);
            for dependent in table.into_iter().flat_map(|table| &table.dependents) {
                if dependent.column.as_deref() == Some(self.column.name.as_str()) {
                    let message = format!(
                        "{} depends on {name}.{}",
                        dependent.name,
                        ident(&self.column.name)
                    );
                    self.add("depended_on", message, "change or drop it first");
                }
            }
        }
        let told = |text: &str| {
            let of_column = self
                .table
                .dependents
                .iter()
                .filter(|dependent| dependent.column.as_deref() == Some(self.column.name.as_str()));
            of_column
                .into_iter()
                .any(|dependent| mentions(&dependent.name, text))
        };
        let mut untold = Vec::new();
        for (trigger_name, trigger) in &self.table.triggers {
            if trigger.columns.contains(&self.column.name) && !told(trigger_name) {
                untold.push(format!("trigger {}", ident(trigger_name)));
            }
        }
        // Before PostgreSQL 15 it would be dropped along without a word.
        for other in &self.table.columns {
            let generated = other.generated.as_ref();
            if generated.is_some_and(|generated| mentions(&generated.expression, &self.column.name))
                && !told(&other.name)
            {
                untold.push(format!("generated column {}", ident(&other.name)));
            }
        }
        for what in untold {
            let message = format!("{what} depends on {}", self.shown());
            self.add("depended_on", message, "change or drop it first");
        }
    }
}

impl DropColumn {
    fn hazards(&self, table: &Table, column: &Column, sequences: &[QualifiedName]) -> Vec<Hazard> {
        let name = &self.subject.table.value;
        let shown = format!("{name}.{}", ident(&column.name));
        let mut hazards = vec![Hazard::new(
            "column_gone",
            format!(
                "application versions that read or write {shown}, and prepared `SELECT *`, fail from contract on"
            ),
        )];
        for sequence in sequences {
            hazards.push(Hazard::new(
                "sequence_dropped",
                format!("the sequence {sequence} belongs to {shown} and goes with it"),
            ));
        }
        for (statistics, value) in &table.statistics {
            if value.columns.contains(&column.name) {
                hazards.push(Hazard::new(
                    "statistics_dropped",
                    format!("the extended statistics {statistics} go with {shown}"),
                ));
            }
        }
        for (constraint, value) in &table.constraints {
            if value.columns == [column.name.clone()] {
                hazards.push(Hazard::new(
                    "constraint_dropped",
                    format!("the constraint {} goes with {shown}", ident(constraint)),
                ));
            }
        }
        hazards
    }
}

/// Sequences that go with the column: of `OWNED BY` and of an identity.
fn owned_sequences(context: &Context<'_>, table: &QualifiedName, column: &Column) -> Vec<QualifiedName> {
    let owned = context.catalog.sequences.iter().filter(|(_, sequence)| {
        sequence
            .owned_by
            .as_ref()
            .is_some_and(|(owner, name)| owner == table && name == &column.name)
    });
    let mut names: Vec<QualifiedName> = owned.map(|(name, _)| name.clone()).collect();
    if let Some(identity) = &column.identity
        && !names.contains(&identity.sequence)
    {
        names.push(identity.sequence.clone());
    }
    names
}

impl Target {
    fn full_name(&self) -> String {
        format!("{}.{}", self.table, ident(&self.column))
    }

    fn drop_not_null(&self, proof: &NotNull, settings: &Settings) -> StepDraft {
        let statement = format!(
            "ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL",
            self.table,
            ident(&self.column)
        );
        let work = brief(
            settings,
            format!("let inserts leave out {}", self.full_name()),
            vec![statement],
            locks(&self.tree, LockMode::AccessExclusive),
            vec![Expectation::Column {
                table: self.table.clone(),
                column: self.column.clone(),
                facts: ColumnFacts {
                    not_null: Some(false),
                    ..ColumnFacts::default()
                },
            }],
        );
        StepDraft {
            id: "allow-null".into(),
            phase: Phase::Cutover,
            work,
            hazards: Vec::new(),
            undo: Undo::Work(proof.works(settings)),
            estimate: Estimate::INSTANT,
        }
    }

    fn drop_column(&self, settings: &Settings) -> StepDraft {
        let mode = LockMode::AccessExclusive;
        let mut statements = Vec::new();
        let mut taken: Vec<Lock> = Vec::new();
        if !self.referenced.is_empty() {
            for referenced in &self.referenced {
                statements.push(referenced.lock_statement(mode));
                taken.extend(referenced.locks(mode));
            }
            statements.push(format!("LOCK TABLE {} IN {mode} MODE", self.table));
        }
        statements.push(format!(
            "ALTER TABLE {} DROP COLUMN {}",
            self.table,
            ident(&self.column)
        ));
        taken.extend(locks(&self.tree, mode));
        taken.extend(locks(&self.also_locked, mode));
        StepDraft {
            id: "drop".into(),
            phase: Phase::Contract,
            work: brief(
                settings,
                format!("drop {}", self.full_name()),
                statements,
                taken,
                vec![Expectation::ColumnAbsent {
                    table: self.table.clone(),
                    column: self.column.clone(),
                }],
            ),
            hazards: self.hazards.clone(),
            undo: Undo::Irreversible {
                reason: "the values are gone".into(),
            },
            estimate: Estimate::INSTANT,
        }
    }
}

impl Operation for DropColumn {
    type Target = Target;
    const NAME: &'static str = "drop_column";
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
        let mut obstacles = Obstacles {
            context,
            name,
            table,
            column,
            found: Vec::new(),
        };
        obstacles.of_parents();
        obstacles.of_partition_key();
        obstacles.of_constraints();
        obstacles.of_replication();
        obstacles.of_dependents();
        if !obstacles.found.is_empty() {
            let complaint = |(code, message, help)| self.subject.complaint(code, message).help(help);
            return Err(obstacles.found.into_iter().map(complaint).collect());
        }
        let sequences = owned_sequences(context, name, column);
        let mentioned = || {
            table
                .indexes
                .iter()
                .filter(|(_, index)| index.mentions(&column.name))
        };
        // The indexes of a partitioned table cannot be dropped concurrently; they go with the column, in an instant.
        let concurrently =
            |constraint: &Option<String>| constraint.is_none() && table.kind == TableKind::Table;
        let fills_itself =
            column.default.is_some() || column.identity.is_some() || column.generated.is_some();
        let far_ends = table
            .constraints
            .values()
            .filter(|constraint| constraint.columns == [column.name.clone()]);
        let far_ends = far_ends.filter_map(|constraint| Some(&constraint.references.as_ref()?.table));
        let mut also_locked = sequences.clone();
        also_locked.extend(
            mentioned()
                .filter(|(_, index)| !concurrently(&index.constraint))
                .map(|(index, _)| name.sibling(index.clone())),
        );
        Ok(Target {
            table: name.clone(),
            column: column.name.clone(),
            tree: context.catalog.tree(name),
            not_null: (column.not_null && !fills_itself)
                .then(|| NotNull::plan(context.catalog, name, &column.name)),
            indexes: mentioned()
                .filter(|(_, index)| concurrently(&index.constraint))
                .map(|(index, _)| Build::of_existing(context.catalog, name, index))
                .collect(),
            referenced: far_ends
                .filter(|far| *far != name)
                .map(|far| Reach::partitions(context.catalog, far))
                .collect(),
            also_locked,
            hazards: self.hazards(table, column, &sequences),
            sequences,
        })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let mut steps: Vec<StepDraft> = target
            .not_null
            .iter()
            .map(|proof| target.drop_not_null(proof, settings))
            .collect();
        let many = target.indexes.len() > 1;
        for (position, build) in target.indexes.iter().enumerate() {
            steps.extend(build.drop_work(settings).map(|work| StepDraft {
                id: if many {
                    format!("drop-index-{}", position + 1)
                } else {
                    "drop-index".into()
                },
                phase: Phase::Contract,
                work,
                hazards: Vec::new(),
                undo: Undo::Work(build.works(settings)),
                estimate: Estimate::INSTANT,
            }));
        }
        steps.push(target.drop_column(settings));
        steps
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        let column = &target.column;
        for (position, name) in target.tree.iter().enumerate() {
            let Some(table) = catalog.tables.get_mut(name) else {
                continue;
            };
            // Below the table, a column that was declared there too stays.
            if position > 0 && !table.column(column).is_some_and(|column| column.inherited) {
                continue;
            }
            table.columns.retain(|other| &other.name != column);
            table.indexes.retain(|_, index| !index.mentions(column));
            table
                .constraints
                .retain(|_, constraint| !constraint.columns.contains(column));
            table
                .statistics
                .retain(|_, statistics| !statistics.columns.contains(column));
        }
        for sequence in &target.sequences {
            catalog.sequences.remove(sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::model::{ConstraintKind, Dependent, Table};
    use crate::ops::testing::{catalog, compile, constraint, index, plan_text, table};
    use crate::sql::QualifiedName;

    fn orders() -> Table {
        let mut orders = table(&["id bigint not null", "Code text not null", "note text"])
            .with_primary_key("orders_pkey", &["id"])
            .with_foreign_key("orders_code_fkey", &["Code"], "codes", &["code"]);
        orders
            .indexes
            .insert("orders code".into(), index(&["Code", "id"], false));
        orders
    }

    #[test]
    fn frees_the_application_first_and_takes_indexes_along_one_by_one() {
        let codes = table(&["code text not null"]).with_primary_key("codes_pkey", &["code"]);
        let catalog = catalog().with("orders", orders()).with("codes", codes);
        let changes = "- drop_column: {table: orders, column: Code}";
        insta::assert_snapshot!(plan_text(&catalog, changes), @r#"
        01-drop_column-allow-null [cutover] let inserts leave out public.orders."Code"
          ALTER TABLE public.orders ALTER COLUMN "Code" DROP NOT NULL;
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders ADD CONSTRAINT "orders_Code_pgmorph_not_null" CHECK ("Code" IS NOT NULL) NOT VALID;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders VALIDATE CONSTRAINT "orders_Code_pgmorph_not_null";
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -)
          undo ALTER TABLE public.orders ALTER COLUMN "Code" SET NOT NULL;
          undo ALTER TABLE public.orders DROP CONSTRAINT "orders_Code_pgmorph_not_null";
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
        01-drop_column-drop-index [contract] drop public."orders code" concurrently
          DROP INDEX CONCURRENTLY IF EXISTS public."orders code";
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo CREATE INDEX CONCURRENTLY "orders code" ON public.orders USING btree ("Code", id);
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
        01-drop_column-drop [contract] drop public.orders."Code"
          LOCK TABLE public.codes, public.orders IN ACCESS EXCLUSIVE MODE;
          ALTER TABLE public.orders DROP COLUMN "Code";
            locks: public.codes ACCESS EXCLUSIVE, public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          irreversible: the values are gone
          hazard column_gone: application versions that read or write public.orders."Code", and prepared `SELECT *`, fail from contract on
          hazard constraint_dropped: the constraint orders_code_fkey goes with public.orders."Code"
        "#);
        let after = compile(&catalog, changes).unwrap().after;
        let orders = &after.tables[&QualifiedName::new("public", "orders")];
        assert_eq!(orders.column_names(), ["id", "note"]);
        assert_eq!(orders.indexes.len(), 1);
        assert_eq!(orders.constraints.len(), 1);
    }

    #[test]
    fn names_everything_in_the_way() {
        let mut orders = orders();
        orders.constraints.insert(
            "orders_check".into(),
            constraint(
                ConstraintKind::Check,
                "CHECK (id > length(note))",
                &["id", "note"],
            ),
        );
        orders.dependents.push(Dependent {
            column: Some("id".into()),
            kind: "view".into(),
            name: "view open_orders".into(),
        });
        let lines =
            table(&["order_id bigint"]).with_foreign_key("lines_fkey", &["order_id"], "orders", &["id"]);
        let catalog = catalog().with("orders", orders).with("lines", lines);
        insta::assert_snapshot!(plan_text(&catalog, "- drop_column: {table: orders, column: id}"), @"
        3:40 shared_constraint: public.orders.id shares the constraint orders_check with others (id, note) (drop_constraint {table: public.orders, name: orders_check} first)
        3:40 in_primary_key: public.orders.id is in the primary key orders_pkey (drop_constraint {table: public.orders, name: orders_pkey} first)
        3:40 referenced: the foreign key lines_fkey of public.lines refers to public.orders.id (drop_constraint {table: public.lines, name: lines_fkey} first)
        3:40 depended_on: view open_orders depends on public.orders.id (change or drop it first)
        ");
    }
}
