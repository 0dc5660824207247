//! `drop_constraint`: rows need no longer fulfil a condition.

use super::parts::constraint::{self, NewConstraint, Reach};
use super::parts::index_build::Build;
use super::parts::{brief, dependents, locks};
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Constraint, ConstraintKind, ReplicaIdentity, Table, TableKind};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::plan::{Estimate, Expectation, Hazard, Lock, LockMode, Phase, Settings, Undo, Work};
use crate::sql::{QualifiedName, ident, literal};

const MANUAL: &str = "\
Removes a constraint: CHECK, foreign key, UNIQUE, PRIMARY KEY or EXCLUDE. The index of a key goes with it. A key that
foreign keys refer to, or that identifies rows for logical replication, is refused.

```yaml
- drop_constraint: {table: orders, name: orders_quantity_positive}
```

Locks: ACCESS EXCLUSIVE on the table, its partitions and the index, for an instant (catalog only); for a foreign key
on the referenced table too, which is locked first.
Undo: the constraint is added again, NOT VALID and validated, or on an index that is built concurrently. EXCLUDE and
the keys of partitioned tables cannot be brought back without blocking writes: they are gone for good.
";

#[derive(Debug, Clone)]
pub struct DropConstraint {
    table: Located<QualifiedName>,
    name: Located<String>,
}

pub enum Target {
    /// A CHECK or foreign key.
    Rule(Box<NewConstraint>),
    Key(Box<Key>),
}

/// A constraint with an index.
pub struct Key {
    table: QualifiedName,
    name: String,
    constraint: Constraint,
    reach: Reach,
    /// The index of each table of the reach.
    indexes: Vec<QualifiedName>,
    build: Build,
    /// Why it cannot be brought back.
    irreversible: Option<&'static str>,
}

impl DropConstraint {
    fn key_complaints(
        &self,
        context: &Context<'_>,
        table: &Table,
        constraint: &Constraint,
    ) -> Vec<Diagnostic> {
        let name = &self.table.value;
        let quoted = ident(&self.name.value);
        let mut complaints = Vec::new();
        let mut complain = |code, message: String, help: String| {
            complaints.push(Diagnostic::new(code, message).at(self.name.span).help(help));
        };
        for (from, key, incoming) in context.catalog.incoming_foreign_keys(name) {
            // Those of partitions follow the one of their table.
            if incoming.index == constraint.index && !incoming.inherited {
                complain(
                    "referenced",
                    format!("the foreign key {} of {from} refers to {quoted}", ident(key)),
                    format!("drop_constraint {{table: {from}, name: {key}}} first"),
                );
            }
        }
        let index = constraint.index.as_deref().unwrap_or_default();
        let marked = table
            .indexes
            .get(index)
            .is_some_and(|index| index.replica_identity);
        if marked || matches!(&table.replica_identity, ReplicaIdentity::Index(name) if name == index) {
            complain(
                "replica_identity",
                format!(
                    "{quoted} is the replica identity of {name}; updates and deletes would not be replicated"
                ),
                format!("first ALTER TABLE {name} REPLICA IDENTITY to another one"),
            );
        }
        let publication = dependents::publications(context.catalog, name).into_iter().next();
        if let Some(publication) = publication
            && constraint.kind == ConstraintKind::PrimaryKey
            && table.replica_identity == ReplicaIdentity::Default
        {
            complain(
                "replica_identity",
                format!(
                    "{quoted} identifies rows of {name} in publication {}; updates and deletes would fail",
                    ident(publication)
                ),
                format!("first ALTER TABLE {name} REPLICA IDENTITY to another one"),
            );
        }
        complaints
    }

    fn key(&self, context: &Context<'_>, table: &Table, constraint: &Constraint) -> Key {
        let name = &self.table.value;
        let reach = Reach::partitions(context.catalog, name);
        let index = constraint
            .index
            .clone()
            .unwrap_or_else(|| self.name.value.clone());
        let build = Build::of_existing(context.catalog, name, &index);
        let irreversible = if table.kind == TableKind::Partitioned {
            Some(
                "the key of a partitioned table cannot be added again without blocking writes on all partitions",
            )
        } else if constraint.kind == ConstraintKind::Exclusion {
            Some("an EXCLUDE constraint cannot be added again without blocking writes")
        } else if constraint.definition.contains("WITHOUT OVERLAPS") {
            Some("a key without overlaps cannot be added again without blocking writes")
        } else {
            None
        };
        Key {
            table: name.clone(),
            name: self.name.value.clone(),
            constraint: constraint.clone(),
            indexes: index_tree(context.catalog, name, &index)
                .into_iter()
                .map(|(_, index)| index)
                .collect(),
            reach,
            build,
            irreversible,
        }
    }
}

/// The index and those of the partitions that are attached to it, each with its table.
fn index_tree(
    catalog: &CatalogSnapshot,
    table: &QualifiedName,
    index: &str,
) -> Vec<(QualifiedName, QualifiedName)> {
    let qualified = table.sibling(index);
    let mut found = vec![(table.clone(), qualified.clone())];
    let children = catalog
        .tables
        .get(table)
        .into_iter()
        .flat_map(|table| &table.children);
    for child in children {
        let indexes = catalog
            .tables
            .get(child)
            .into_iter()
            .flat_map(|child| &child.indexes);
        for (name, index) in indexes {
            if index.parent.as_ref() == Some(&qualified) {
                found.extend(index_tree(catalog, child, name));
            }
        }
    }
    found
}

impl Key {
    fn kind(&self) -> &'static str {
        match self.constraint.kind {
            ConstraintKind::PrimaryKey => "PRIMARY KEY",
            ConstraintKind::Exclusion => "EXCLUDE",
            _ => "UNIQUE",
        }
    }

    fn removal(&self, settings: &Settings) -> Work {
        let mut taken = self.reach.locks(LockMode::AccessExclusive);
        taken.extend(locks(&self.indexes, LockMode::AccessExclusive));
        let indexes = self
            .indexes
            .iter()
            .map(|index| Expectation::IndexAbsent { index: index.clone() });
        let mut expect = vec![Expectation::ConstraintAbsent {
            table: self.table.clone(),
            name: self.name.clone(),
        }];
        expect.extend(indexes);
        brief(
            settings,
            format!(
                "drop {} {} of {} with its index",
                self.kind(),
                ident(&self.name),
                self.table
            ),
            vec![format!(
                "ALTER TABLE {} DROP CONSTRAINT {}",
                self.table,
                ident(&self.name)
            )],
            taken,
            expect,
        )
    }

    fn undo(&self, settings: &Settings) -> Undo {
        if let Some(reason) = self.irreversible {
            return Undo::Irreversible {
                reason: reason.into(),
            };
        }
        let mut works = self.build.works(settings);
        let Key {
            table,
            name,
            constraint,
            ..
        } = self;
        let index = table.sibling(constraint.index.as_deref().unwrap_or(name));
        let deferral = match (constraint.deferrable, constraint.initially_deferred) {
            (_, true) => " DEFERRABLE INITIALLY DEFERRED",
            (true, false) => " DEFERRABLE",
            (false, false) => "",
        };
        let quoted = ident(name);
        // Only an index that has to be renamed is locked more than for reading.
        let index_mode = match index.name == *name {
            true => LockMode::AccessShare,
            false => LockMode::ShareUpdateExclusive,
        };
        let mut statements = vec![format!(
            "ALTER TABLE {table} ADD CONSTRAINT {quoted} {} USING INDEX {}{deferral}",
            self.kind(),
            ident(&index.name)
        )];
        statements.extend(constraint.comment.as_ref().map(|comment| {
            format!(
                "COMMENT ON CONSTRAINT {quoted} ON {table} IS {}",
                literal(comment)
            )
        }));
        works.push(brief(
            settings,
            format!(
                "make {index} the {} constraint {quoted} of {table} again",
                self.kind()
            ),
            statements,
            vec![
                Lock::new(table, LockMode::AccessExclusive),
                Lock::new(&index, index_mode),
            ],
            vec![Expectation::Constraint {
                table: table.clone(),
                name: name.clone(),
                exact: true,
                constraint: Box::new(constraint.clone()),
            }],
        ));
        Undo::Work(works)
    }

    fn hazards(&self) -> Vec<Hazard> {
        let mut hazards = vec![Hazard::new(
            "index_goes_too",
            format!(
                "the index of {} goes with it; pg_stat_user_indexes tells how often queries use it",
                ident(&self.name)
            ),
        )];
        if self.constraint.kind == ConstraintKind::PrimaryKey {
            hazards.push(Hazard::new(
                "no_primary_key",
                format!(
                    "{} is left without a primary key; INSERT … ON CONFLICT on it fails",
                    self.table
                ),
            ));
        } else if self.constraint.kind == ConstraintKind::Unique {
            hazards.push(Hazard::new(
                "on_conflict",
                format!("INSERT … ON CONFLICT that relies on {} fails", ident(&self.name)),
            ));
        }
        hazards
    }

    fn apply(&self, catalog: &mut CatalogSnapshot) {
        let index = self.constraint.index.clone().unwrap_or_else(|| self.name.clone());
        for (table, index) in index_tree(catalog, &self.table, &index) {
            let Some(table) = catalog.tables.get_mut(&table) else {
                continue;
            };
            table.constraints.retain(|_, constraint| {
                !(constraint.index.as_deref() == Some(&index.name)
                    && constraint.kind != ConstraintKind::ForeignKey)
            });
            table.indexes.remove(&index.name);
        }
    }
}

impl Operation for DropConstraint {
    type Target = Target;
    const NAME: &'static str = "drop_constraint";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let table = fields.qualified("table");
        let name = fields.identifier("name");
        Some(Self {
            table: table?,
            name: name?,
        })
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::relation(&self.table)]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let table_name = &self.table.value;
        let table = context.table(&self.table).map_err(|complaint| vec![complaint])?;
        let name = &self.name.value;
        let Some(constraint) = table.constraints.get(name) else {
            let complaint = Diagnostic::new(
                "unknown_constraint",
                format!("{table_name} has no constraint `{name}`"),
            )
            .at(self.name.span);
            let not_null = table.columns.iter().find(|column| {
                column
                    .not_null_constraint
                    .as_ref()
                    .is_some_and(|constraint| &constraint.name == name)
            });
            return Err(vec![match not_null {
                Some(column) => complaint.help(format!(
                    "it is the NOT NULL of `{}`: use drop_not_null",
                    column.name
                )),
                None => complaint.suggest(name, table.constraints.keys().map(String::as_str)),
            }]);
        };
        let mut complaints: Vec<Diagnostic> =
            constraint::inherited(context.catalog, table, name, self.name.span)
                .into_iter()
                .collect();
        let has_index = !matches!(
            constraint.kind,
            ConstraintKind::Check | ConstraintKind::ForeignKey
        );
        if has_index {
            complaints.extend(self.key_complaints(context, table, constraint));
        }
        if !complaints.is_empty() {
            return Err(complaints);
        }
        if has_index {
            return Ok(Target::Key(Box::new(self.key(context, table, constraint))));
        }
        let rule = if constraint.kind == ConstraintKind::ForeignKey {
            constraint::foreign_key(context, table_name, table, name, constraint.clone())
        } else {
            let condition = constraint.definition.trim_start_matches("CHECK ");
            let condition = condition
                .trim_end_matches(Constraint::NOT_ENFORCED)
                .trim_end_matches(" NO INHERIT");
            let definition = (constraint.definition.clone(), condition);
            constraint::check(
                context,
                table_name,
                table,
                name,
                definition,
                (constraint.clone(), true),
            )
        };
        Ok(Target::Rule(Box::new(rule)))
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        let (work, hazards, undo) = match target {
            Target::Rule(rule) => (
                rule.removal(settings),
                Vec::new(),
                Undo::Work(rule.works(settings)),
            ),
            Target::Key(key) => (key.removal(settings), key.hazards(), key.undo(settings)),
        };
        vec![StepDraft {
            id: "drop".into(),
            phase: Phase::Contract,
            work,
            hazards,
            undo,
            estimate: Estimate::INSTANT,
        }]
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        match target {
            Target::Rule(rule) => constraint::remove(catalog, &rule.referencing.tables, &rule.name),
            Target::Key(key) => key.apply(catalog),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::model::{ConstraintKind, Publication};
    use crate::ops::testing::{catalog, compile, constraint, index, plan_text, table};
    use crate::sql::QualifiedName;

    #[test]
    fn drops_a_check_and_brings_it_back() {
        let mut orders = table(&["id bigint not null"]).with_primary_key("orders_pkey", &["id"]);
        let mut check = constraint(ConstraintKind::Check, "CHECK ((id > 0))", &["id"]);
        check.comment = Some("it's positive".into());
        orders.constraints.insert("Positive".into(), check);
        let catalog = catalog().with("orders", orders);
        insta::assert_snapshot!(
            plan_text(&catalog, "- drop_constraint: {table: orders, name: Positive}"), @r#"
        01-drop_constraint-drop [contract] drop check "Positive" of public.orders
          ALTER TABLE public.orders DROP CONSTRAINT "Positive";
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders ADD CONSTRAINT "Positive" CHECK ((id > 0)) NOT VALID;
          undo COMMENT ON CONSTRAINT "Positive" ON public.orders IS 'it''s positive';
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders VALIDATE CONSTRAINT "Positive";
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -)
        "#);
    }

    #[test]
    fn drops_a_foreign_key_and_brings_it_back() {
        let orders = table(&["id bigint not null", "customer_id bigint"])
            .with_primary_key("orders_pkey", &["id"])
            .with_foreign_key("orders_customer_id_fkey", &["customer_id"], "customers", &["id"]);
        let customers = table(&["id bigint not null"]).with_primary_key("customers_pkey", &["id"]);
        let catalog = catalog().with("orders", orders).with("customers", customers);
        insta::assert_snapshot!(
            plan_text(&catalog, "- drop_constraint: {table: orders, name: orders_customer_id_fkey}"), @"
        01-drop_constraint-drop [contract] drop foreign key orders_customer_id_fkey of public.orders
          LOCK TABLE public.customers, public.orders IN ACCESS EXCLUSIVE MODE;
          ALTER TABLE public.orders DROP CONSTRAINT orders_customer_id_fkey;
            locks: public.customers ACCESS EXCLUSIVE, public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.customers, public.orders IN SHARE ROW EXCLUSIVE MODE;
          undo ALTER TABLE public.orders ADD CONSTRAINT orders_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES public.customers(id) NOT VALID;
          undo   locks: public.customers SHARE ROW EXCLUSIVE, public.orders SHARE ROW EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders VALIDATE CONSTRAINT orders_customer_id_fkey;
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE, public.customers ROW SHARE (lock_timeout -)
        ");
    }

    #[test]
    fn drops_a_key_and_builds_it_again() {
        let mut orders = table(&["id bigint not null", "code text"]);
        let mut unique = constraint(ConstraintKind::Unique, "UNIQUE (code)", &["code"]);
        unique.index = Some("orders_code_key".into());
        unique.deferrable = true;
        let mut key = index(&["code"], true);
        key.constraint = Some("orders_code_key".into());
        orders.constraints.insert("orders_code_key".into(), unique);
        orders.indexes.insert("orders_code_key".into(), key);
        let catalog = catalog().with("orders", orders);
        let changes = "- drop_constraint: {table: orders, name: orders_code_key}";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"
        01-drop_constraint-drop [contract] drop UNIQUE orders_code_key of public.orders with its index
          ALTER TABLE public.orders DROP CONSTRAINT orders_code_key;
            locks: public.orders ACCESS EXCLUSIVE, public.orders_code_key ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo check keys that stand in more than one row of public.orders: SELECT code, count(*) AS rows FROM public.orders WHERE code IS NOT NULL GROUP BY 1 HAVING count(*) > 1 ORDER BY count(*) DESC LIMIT 20
          undo   locks: public.orders ACCESS SHARE (lock_timeout -)
          undo CREATE UNIQUE INDEX CONCURRENTLY orders_code_key ON public.orders USING btree (code);
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo ALTER TABLE public.orders ADD CONSTRAINT orders_code_key UNIQUE USING INDEX orders_code_key DEFERRABLE;
          undo   locks: public.orders ACCESS EXCLUSIVE, public.orders_code_key ACCESS SHARE (lock_timeout 200ms)
          hazard index_goes_too: the index of orders_code_key goes with it; pg_stat_user_indexes tells how often queries use it
          hazard on_conflict: INSERT … ON CONFLICT that relies on orders_code_key fails
        ");
        let after = compile(&catalog, changes).unwrap().after;
        let orders = &after.tables[&QualifiedName::new("public", "orders")];
        assert!(orders.constraints.is_empty() && orders.indexes.is_empty());
    }

    #[test]
    fn refuses_what_others_rely_on() {
        let orders = table(&["id bigint not null"]).with_primary_key("orders_pkey", &["id"]);
        let mut lines =
            table(&["order_id bigint"]).with_foreign_key("lines_fkey", &["order_id"], "orders", &["id"]);
        if let Some(key) = lines.constraints.get_mut("lines_fkey") {
            key.index = Some("orders_pkey".into());
        }
        let mut catalog = catalog().with("orders", orders).with("lines", lines);
        let all = Publication {
            owner: "postgres".into(),
            all_tables: true,
            schemas: Vec::new(),
            updates: true,
            generated: false,
        };
        catalog.publications.insert("everything".into(), all);
        insta::assert_snapshot!(
            plan_text(
                &catalog,
                "- drop_constraint: {table: orders, name: orders_pkey}\n\
                 - drop_constraint: {table: orders, name: order_pkey}\n\
                 - drop_constraint: {table: lines, name: lines_fkey}\n\
                 - drop_constraint: {table: lines, name: lines_fkey}",
            ), @"
        3:42 referenced: the foreign key lines_fkey of public.lines refers to orders_pkey (drop_constraint {table: public.lines, name: lines_fkey} first)
        3:42 replica_identity: orders_pkey identifies rows of public.orders in publication everything; updates and deletes would fail (first ALTER TABLE public.orders REPLICA IDENTITY to another one)
        4:42 unknown_constraint: public.orders has no constraint `order_pkey` (did you mean `orders_pkey`?)
        6:41 unknown_constraint: public.lines has no constraint `lines_fkey`
        ");
    }
}
