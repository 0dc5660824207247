//! `set_not_null`: a column refuses nulls, and no scan stands in anybody's way.

use super::parts::column::ColumnName;
use super::parts::not_null::{NotNull, needs_proof};
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::CatalogSnapshot;
use crate::diagnostic::Diagnostic;
use crate::document::Fields;
use crate::plan::Settings;
use crate::sql::ident;

const MANUAL: &str = "\
Makes a column NOT NULL. New rows are checked from the expand phase on; the rows that are there are read under a lock
that lets everybody through. Rows without a value stop the plan before the cutover, with their keys; set_default and
backfill give them one first.

```yaml
- set_not_null: {table: orders, column: status}
```

Locks: ACCESS EXCLUSIVE on the table, for an instant, to add the check and to turn it into NOT NULL; SHARE UPDATE
EXCLUSIVE as long as the rows are read. Partitions and inheriting tables are locked alike. From PostgreSQL 18 the
constraint itself is added and validated, and the second instant is not needed.
Undo: nulls are allowed again.
";

#[derive(Debug, Clone)]
pub struct SetNotNull {
    subject: ColumnName,
}

impl Operation for SetNotNull {
    type Target = NotNull;
    const NAME: &'static str = "set_not_null";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        ColumnName::read(fields).map(|subject| Self { subject })
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::relation(&self.subject.table)]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<NotNull, Vec<Diagnostic>> {
        let name = &self.subject.table.value;
        let (_, column) = self.subject.find(context).map_err(|complaint| vec![complaint])?;
        if !needs_proof(column) {
            let message = format!("{name}.{} is NOT NULL already", ident(&column.name));
            return Err(vec![
                Diagnostic::new("already_not_null", message)
                    .at(self.subject.column.span)
                    .help("leave this change out"),
            ]);
        }
        Ok(NotNull::plan(context.catalog, name, &column.name))
    }

    fn steps(target: &NotNull, settings: &Settings) -> Vec<StepDraft> {
        target.steps("", settings)
    }

    fn apply_to(target: &NotNull, catalog: &mut CatalogSnapshot) {
        target.apply(catalog);
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::model::ConstraintKind;
    use crate::ops::testing::{catalog, compile, constraint, plan_text, table};

    #[test]
    fn proves_with_a_check() {
        let catalog = catalog().with("orders", table(&["id bigint not null", "State text"]));
        let changes = "  - set_not_null: {table: orders, column: State}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @r#"
        01-set_not_null-add [expand] refuse new rows without a value for public.orders."State"
          ALTER TABLE public.orders ADD CONSTRAINT "orders_State_pgmorph_not_null" CHECK ("State" IS NOT NULL) NOT VALID;
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders DROP CONSTRAINT IF EXISTS "orders_State_pgmorph_not_null";
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard writes_are_checked: from this step on, rows without a value for "State" are refused
          hazard updates_are_checked: until the existing rows are repaired, an UPDATE of a row that violates it fails (SQLSTATE 23514)
        01-set_not_null-validate [validate] check that no row of public.orders."State" is null
          ALTER TABLE public.orders VALIDATE CONSTRAINT "orders_State_pgmorph_not_null";
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -)
          undo not needed: a validated constraint asks no more than an unvalidated one
        01-set_not_null-set [cutover] mark public.orders."State" NOT NULL: a constraint proves it, no scan
          ALTER TABLE public.orders ALTER COLUMN "State" SET NOT NULL;
          ALTER TABLE public.orders DROP CONSTRAINT "orders_State_pgmorph_not_null";
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders ALTER COLUMN "State" DROP NOT NULL;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
        "#);
        let plan = compile(&catalog, changes).unwrap();
        let column = plan
            .after
            .tables
            .values()
            .next()
            .unwrap()
            .column("State")
            .unwrap();
        assert!(column.not_null && column.not_null_constraint.is_none());
    }

    #[test]
    fn has_its_own_constraint_since_18() {
        let mut catalog = catalog().with("orders", table(&["id bigint not null", "state text"]));
        catalog.server.version_num = 180_000;
        let changes = "  - set_not_null: {table: orders, column: state}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"
        01-set_not_null-add [expand] refuse new rows without a value for public.orders.state
          ALTER TABLE public.orders ADD CONSTRAINT orders_state_not_null NOT NULL state NOT VALID;
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders DROP CONSTRAINT IF EXISTS orders_state_not_null;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard writes_are_checked: from this step on, rows without a value for state are refused
          hazard updates_are_checked: until the existing rows are repaired, an UPDATE of a row that violates it fails (SQLSTATE 23502)
        01-set_not_null-validate [validate] check that no row of public.orders.state is null
          ALTER TABLE public.orders VALIDATE CONSTRAINT orders_state_not_null;
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -)
          undo not needed: a validated constraint asks no more than an unvalidated one
        ");
        let plan = compile(&catalog, changes).unwrap();
        let column = plan
            .after
            .tables
            .values()
            .next()
            .unwrap()
            .column("state")
            .unwrap();
        assert_eq!(
            column.not_null_constraint.as_ref().unwrap().name,
            "orders_state_not_null"
        );
    }

    #[test]
    fn a_validated_check_is_proof_enough() {
        let mut orders = table(&["state text"]);
        let proof = constraint(
            ConstraintKind::Check,
            "CHECK (((state IS NOT NULL) AND (state <> ''::text)))",
            &["state"],
        );
        orders.constraints.insert("c".into(), proof);
        let changes = "  - set_not_null: {table: orders, column: state}\n";
        insta::assert_snapshot!(plan_text(&catalog().with("orders", orders), changes), @"
        01-set_not_null-set [cutover] mark public.orders.state NOT NULL: a constraint proves it, no scan
          ALTER TABLE public.orders ALTER COLUMN state SET NOT NULL;
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders ALTER COLUMN state DROP NOT NULL;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
        ");
    }

    #[test]
    fn locks_all_partitions() {
        let changes = "  - set_not_null: {table: events, column: note}\n";
        insta::assert_snapshot!(plan_text(&crate::ops::create_index::tests::tree(), changes), @r#"
        01-set_not_null-add [expand] refuse new rows without a value for public.events.note
          LOCK TABLE public.events IN ACCESS EXCLUSIVE MODE;
          ALTER TABLE public.events ADD CONSTRAINT events_note_pgmorph_not_null CHECK (note IS NOT NULL) NOT VALID;
            locks: public.events ACCESS EXCLUSIVE, public."Ev 1" ACCESS EXCLUSIVE, public.ev_2 ACCESS EXCLUSIVE, public.ev_2_a ACCESS EXCLUSIVE, public.ev_2_b ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.events IN ACCESS EXCLUSIVE MODE;
          undo ALTER TABLE public.events DROP CONSTRAINT IF EXISTS events_note_pgmorph_not_null;
          undo   locks: public.events ACCESS EXCLUSIVE, public."Ev 1" ACCESS EXCLUSIVE, public.ev_2 ACCESS EXCLUSIVE, public.ev_2_a ACCESS EXCLUSIVE, public.ev_2_b ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard writes_are_checked: from this step on, rows without a value for note are refused
          hazard updates_are_checked: until the existing rows are repaired, an UPDATE of a row that violates it fails (SQLSTATE 23514)
        01-set_not_null-validate [validate] check that no row of public.events.note is null
          ALTER TABLE public.events VALIDATE CONSTRAINT events_note_pgmorph_not_null;
            locks: public.events SHARE UPDATE EXCLUSIVE, public."Ev 1" SHARE UPDATE EXCLUSIVE, public.ev_2 SHARE UPDATE EXCLUSIVE, public.ev_2_a SHARE UPDATE EXCLUSIVE, public.ev_2_b SHARE UPDATE EXCLUSIVE (lock_timeout -)
          undo not needed: a validated constraint asks no more than an unvalidated one
        01-set_not_null-set [cutover] mark public.events.note NOT NULL: a constraint proves it, no scan
          LOCK TABLE public.events IN ACCESS EXCLUSIVE MODE;
          ALTER TABLE public.events ALTER COLUMN note SET NOT NULL;
          ALTER TABLE public.events DROP CONSTRAINT events_note_pgmorph_not_null;
            locks: public.events ACCESS EXCLUSIVE, public."Ev 1" ACCESS EXCLUSIVE, public.ev_2 ACCESS EXCLUSIVE, public.ev_2_a ACCESS EXCLUSIVE, public.ev_2_b ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.events IN ACCESS EXCLUSIVE MODE;
          undo ALTER TABLE public.events ALTER COLUMN note DROP NOT NULL;
          undo   locks: public.events ACCESS EXCLUSIVE, public."Ev 1" ACCESS EXCLUSIVE, public.ev_2 ACCESS EXCLUSIVE, public.ev_2_a ACCESS EXCLUSIVE, public.ev_2_b ACCESS EXCLUSIVE (lock_timeout 200ms)
        "#);
    }

    #[test]
    fn once_is_enough() {
        let catalog = catalog().with("orders", table(&["id bigint not null"]));
        let changes = "  - set_not_null: {table: orders, column: id}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"3:43 already_not_null: public.orders.id is NOT NULL already (leave this change out)");
    }
}
