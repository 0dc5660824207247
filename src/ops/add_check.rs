//! `add_check`: every row fulfils a condition.

use super::parts::constraint::{self, NewConstraint, Reach};
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Constraint, ConstraintKind, Probe, Table};
use crate::diagnostic::{Diagnostic, Located, Span};
use crate::document::Fields;
use crate::plan::{Settings, hex};
use crate::sql::{QualifiedName, ident};
use sha2::{Digest, Sha256};

const MANUAL: &str = "\
Adds a CHECK constraint. It holds for new rows at once, without looking at those that are there; a second step reads
them while reads and writes go on. Rows that violate it are shown by their keys and the constraint stays for new
rows: correct them and run again. Without a name it gets the one that PostgreSQL would make up. On a partitioned
table, or one that others inherit from, it reaches all of them, unless `no_inherit` says otherwise.

From PostgreSQL 18, `enforced: false` adds it as documentation: nobody checks it, neither now nor for new rows, so
there is nothing to validate.

```yaml
- add_check:
    table: orders
    name: orders_quantity_positive
    expression: quantity > 0
```

Locks: ACCESS EXCLUSIVE on the table and all below it, for an instant (catalog only); then SHARE UPDATE EXCLUSIVE
while the rows are read, which blocks neither reads nor writes.
Undo: the constraint is dropped.
";

#[derive(Debug, Clone)]
pub struct AddCheck {
    table: Located<QualifiedName>,
    name: Option<Located<String>>,
    expression: Located<String>,
    no_inherit: bool,
    /// Where it says that nobody checks it.
    unenforced: Option<Span>,
}

pub struct Target {
    new: NewConstraint,
}

impl AddCheck {
    fn sql(&self) -> String {
        format!("CHECK ({}){}", self.expression.value, self.attributes())
    }

    /// As the server prints them.
    fn attributes(&self) -> String {
        let no_inherit = if self.no_inherit { " NO INHERIT" } else { "" };
        let enforced = self.unenforced.map_or("", |_| Constraint::NOT_ENFORCED);
        format!("{no_inherit}{enforced}")
    }

    /// The name on the clone: one of its own, so that a name that is taken is complained about once and by us.
    fn probe_name(&self) -> String {
        let name = self.name.as_ref().map_or("", |name| name.value.as_str());
        let digest = hex(&Sha256::digest(format!("{name}\0{}", self.sql())));
        format!("pgmorph_{}", &digest[..16])
    }

    fn probe(&self) -> Probe {
        Probe {
            table: self.table.value.clone(),
            before: "ALTER TABLE ".into(),
            after: format!(" ADD CONSTRAINT {} {}", ident(&self.probe_name()), self.sql()),
        }
    }

    /// The constraint as the server will print it, and whether the server said so.
    fn predicted(&self, context: &Context<'_>, table: &Table) -> Result<(Constraint, bool), Diagnostic> {
        let outcome = context.accepted(&self.probe(), self.expression.span)?;
        let answered = outcome.and_then(|outcome| outcome.table.constraints.get(&self.probe_name()));
        if let Some(answered) = answered {
            return Ok((answered.clone(), true));
        }
        let columns = table.column_names();
        let mentioned = columns
            .iter()
            .filter(|name| constraint::mentions(&self.expression.value, name));
        let guess = Constraint {
            kind: ConstraintKind::Check,
            definition: format!("CHECK (({})){}", self.expression.value, self.attributes()),
            columns: mentioned.map(|name| (*name).to_owned()).collect(),
            validated: self.unenforced.is_none(),
            deferrable: false,
            initially_deferred: false,
            no_inherit: self.no_inherit,
            inherited: false,
            index: None,
            references: None,
            comment: None,
        };
        Ok((guess, false))
    }

    fn complaints(&self, context: &Context<'_>, table: &Table) -> Vec<Diagnostic> {
        let mut complaints: Vec<Diagnostic> = constraint::ordinary(&self.table, table).into_iter().collect();
        complaints.extend(constraint::unenforced(context, self.unenforced));
        let reach = Reach::tree(context.catalog, &self.table.value);
        if let Some(name) = &self.name {
            complaints.extend(constraint::name_complaints(context, &reach.tables, name));
        }
        if self.no_inherit && table.partition_key.is_some() {
            let message = format!(
                "{} is partitioned; its partitions must have its checks",
                self.table.value
            );
            complaints.push(
                Diagnostic::new("no_inherit_on_partitioned", message)
                    .at(self.expression.span)
                    .help("leave `no_inherit` out, or name a partition as the table"),
            );
        }
        complaints
    }
}

impl Operation for AddCheck {
    type Target = Target;
    const NAME: &'static str = "add_check";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        let table = fields.qualified("table");
        let name = fields.optional_identifier("name");
        let expression = fields.text("expression");
        let no_inherit = fields.flag("no_inherit", false);
        Some(Self {
            table: table?,
            name,
            expression: expression?,
            no_inherit,
            unenforced: constraint::read_unenforced(fields),
        })
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::relation(&self.table)]
    }

    fn probes(&self, now: &CatalogSnapshot) -> Vec<Probe> {
        // An older server knows only that the syntax is wrong.
        let known = self.unenforced.is_none() || now.server.major() >= constraint::UNENFORCED_FROM;
        known.then(|| self.probe()).into_iter().collect()
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Target, Vec<Diagnostic>> {
        let table_name = &self.table.value;
        let table = context.table(&self.table).map_err(|complaint| vec![complaint])?;
        let mut complaints = self.complaints(context, table);
        let predicted = match self.predicted(context, table) {
            Ok(predicted) if complaints.is_empty() => predicted,
            Ok(_) => return Err(complaints),
            Err(complaint) => {
                complaints.push(complaint);
                return Err(complaints);
            }
        };
        let name = match &self.name {
            Some(name) => name.value.clone(),
            None => {
                let mut parts = vec![table_name.name.as_str()];
                if let [column] = predicted.0.columns.as_slice() {
                    parts.push(column);
                }
                let tree = context.catalog.tree(table_name);
                constraint::free_name(context, &tree, &parts, "check")
            }
        };
        let definition = (self.sql(), self.expression.value.as_str());
        let new = constraint::check(context, table_name, table, &name, definition, predicted);
        Ok(Target { new })
    }

    fn steps(target: &Target, settings: &Settings) -> Vec<StepDraft> {
        target.new.steps(settings)
    }

    fn apply_to(target: &Target, catalog: &mut CatalogSnapshot) {
        let new = &target.new;
        constraint::insert(catalog, &new.referencing.tables, &new.name, &new.constraint);
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::model::TableKind;
    use crate::ops::testing::{catalog, compile, plan_text, table};
    use crate::sql::QualifiedName;

    #[test]
    fn holds_for_new_rows_first_and_shows_the_offending_ones() {
        let catalog = catalog().with(
            "orders",
            table(&["id bigint not null", "quantity integer"]).with_primary_key("orders_pkey", &["id"]),
        );
        let changes = "- add_check: {table: orders, expression: quantity > 0}";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"
        01-add_check-add [expand] add check orders_quantity_check to public.orders for new rows
          ALTER TABLE public.orders ADD CONSTRAINT orders_quantity_check CHECK (quantity > 0) NOT VALID;
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders DROP CONSTRAINT orders_quantity_check;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard updates_are_checked: until the existing rows are repaired, an UPDATE of a row that violates it fails (SQLSTATE 23514)
        01-add_check-validate [validate] validate check orders_quantity_check on the rows of public.orders
          ALTER TABLE public.orders VALIDATE CONSTRAINT orders_quantity_check;
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -)
          undo not needed: undoing the step before removes the constraint
        ");
        let plan = compile(&catalog, changes).unwrap();
        let violation = plan.steps[1].work.on_violation.as_ref().unwrap();
        assert_eq!(
            violation.query,
            "SELECT orders.id FROM public.orders WHERE NOT (quantity > 0) LIMIT 20"
        );
        let after = &plan.after.tables[&QualifiedName::new("public", "orders")];
        let constraint = &after.constraints["orders_quantity_check"];
        assert_eq!(constraint.definition, "CHECK ((quantity > 0))");
        assert!(constraint.validated);
    }

    #[test]
    fn what_nobody_checks_has_nothing_to_validate() {
        let mut catalog = catalog().with("orders", table(&["id bigint not null", "quantity integer"]));
        let changes = "- add_check: {table: orders, expression: quantity > 0, enforced: false}";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"3:66 server_too_old: constraints that are not enforced need PostgreSQL 18; the server has 15 (leave `enforced: false` out: the constraint is proven while reads and writes go on)");
        catalog.server.version_num = 180_000;
        insta::assert_snapshot!(plan_text(&catalog, changes), @"
        01-add_check-add [expand] add check orders_quantity_check to public.orders, not enforced
          ALTER TABLE public.orders ADD CONSTRAINT orders_quantity_check CHECK (quantity > 0) NOT ENFORCED;
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders DROP CONSTRAINT orders_quantity_check;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
        ");
        let plan = compile(&catalog, changes).unwrap();
        let after = &plan.after.tables[&QualifiedName::new("public", "orders")];
        let constraint = &after.constraints["orders_quantity_check"];
        assert_eq!(constraint.definition, "CHECK ((quantity > 0)) NOT ENFORCED");
        assert!(!constraint.validated);
        let enforced = plan_text(&catalog, &changes.replace("false", "true"));
        assert!(enforced.contains("VALIDATE CONSTRAINT"), "{enforced}");
    }

    #[test]
    fn reaches_all_partitions() {
        let mut parent = table(&["Id bigint not null"]);
        parent.kind = TableKind::Partitioned;
        parent.partition_key = Some("RANGE (\"Id\")".into());
        parent.children = vec![QualifiedName::new("public", "part 1")];
        let mut part = table(&["Id bigint not null"]);
        part.partition_of = Some(QualifiedName::new("public", "Parted"));
        let catalog = catalog().with("Parted", parent).with("part 1", part);
        let plan = plan_text(
            &catalog,
            "- add_check: {table: Parted, name: positive, expression: '\"Id\" > 0'}\n\
             - add_check: {table: part 1, name: positive, expression: '\"Id\" > 0'}",
        );
        assert!(plan.contains("4:"), "the partition has it already: {plan}");
        insta::assert_snapshot!(plan_text(
            &catalog,
            "- add_check: {table: Parted, name: positive, expression: '\"Id\" > 0'}"
        ), @r#"
        01-add_check-add [expand] add check positive to public."Parted" for new rows
          LOCK TABLE public."Parted" IN ACCESS EXCLUSIVE MODE;
          ALTER TABLE public."Parted" ADD CONSTRAINT positive CHECK ("Id" > 0) NOT VALID;
            locks: public."Parted" ACCESS EXCLUSIVE, public."part 1" ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public."Parted" IN ACCESS EXCLUSIVE MODE;
          undo ALTER TABLE public."Parted" DROP CONSTRAINT positive;
          undo   locks: public."Parted" ACCESS EXCLUSIVE, public."part 1" ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard updates_are_checked: until the existing rows are repaired, an UPDATE of a row that violates it fails (SQLSTATE 23514)
        01-add_check-validate [validate] validate check positive on the rows of public."Parted"
          ALTER TABLE public."Parted" VALIDATE CONSTRAINT positive;
            locks: public."Parted" SHARE UPDATE EXCLUSIVE, public."part 1" SHARE UPDATE EXCLUSIVE (lock_timeout -)
          undo not needed: undoing the step before removes the constraint
        "#);
        insta::assert_snapshot!(plan_text(
            &catalog,
            "- add_check: {table: Parted, name: positive, expression: '\"Id\" > 0', no_inherit: true}"
        ), @r#"3:58 no_inherit_on_partitioned: public."Parted" is partitioned; its partitions must have its checks (leave `no_inherit` out, or name a partition as the table)"#);
    }
}
