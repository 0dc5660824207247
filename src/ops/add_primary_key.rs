//! `add_primary_key`: a primary key, on an index built before.

use super::parts::key::{KeySpec, KeyTarget};
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, ConstraintKind, Probe};
use crate::diagnostic::Diagnostic;
use crate::document::Fields;
use crate::plan::Settings;

const MANUAL: &str = "\
Adds a primary key to a table that has none. Columns that may be null get the proof of set_not_null first; the index
is built concurrently and becomes the primary key at cutover, without a scan. Instead of `columns`, `index` may name
a unique index that is there already; it takes the name of the constraint.

```yaml
- add_primary_key: {table: orders, columns: [id]}
```

Further keys: `name`, `include`, `deferrable`, `initially_deferred`.

Locks: SHARE UPDATE EXCLUSIVE on the table, as long as the build and the proof take; ACCESS EXCLUSIVE for an instant to
begin the proof, to end it and to add the key.
Undo: the key is dropped with its index; columns that became NOT NULL by it may be null again.
";

#[derive(Debug, Clone)]
pub struct AddPrimaryKey {
    key: KeySpec,
}

impl Operation for AddPrimaryKey {
    type Target = KeyTarget;
    const NAME: &'static str = "add_primary_key";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        KeySpec::read(fields, ConstraintKind::PrimaryKey).map(|key| Self { key })
    }

    fn needs(&self) -> Vec<Named> {
        vec![self.key.table()]
    }

    fn probes(&self, _now: &CatalogSnapshot) -> Vec<Probe> {
        self.key.probes()
    }

    fn preflight(&self, context: &Context<'_>) -> Result<KeyTarget, Vec<Diagnostic>> {
        self.key.preflight(context)
    }

    fn steps(target: &KeyTarget, settings: &Settings) -> Vec<StepDraft> {
        target.steps(settings)
    }

    fn apply_to(target: &KeyTarget, catalog: &mut CatalogSnapshot) {
        target.apply(catalog);
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::testing::{catalog, compile, plan_text, table};

    #[test]
    fn proves_nullable_columns_first() {
        let catalog = catalog().with("orders", table(&["id bigint", "shop integer not null"]));
        let changes = "  - add_primary_key: {table: orders, columns: [shop, id]}\n";
        insta::assert_snapshot!(plan_text(&catalog, changes), @"
        01-add_primary_key-not-null-add [expand] refuse new rows without a value for public.orders.id
          ALTER TABLE public.orders ADD CONSTRAINT orders_id_pgmorph_not_null CHECK (id IS NOT NULL) NOT VALID;
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders DROP CONSTRAINT IF EXISTS orders_id_pgmorph_not_null;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard writes_are_checked: from this step on, rows without a value for id are refused
          hazard updates_are_checked: until the existing rows are repaired, an UPDATE of a row that violates it fails (SQLSTATE 23514)
        01-add_primary_key-build [expand] build public.orders_pkey concurrently
          CREATE UNIQUE INDEX CONCURRENTLY orders_pkey ON public.orders USING btree (shop, id);
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo DROP INDEX CONCURRENTLY IF EXISTS public.orders_pkey;
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          hazard waits_for_old_transactions: a concurrent build ends only when every transaction older than it has ended, on other tables too
          hazard hot_updates: updates that change id, shop can no longer be HOT: no index mentioned it before
        01-add_primary_key-not-null-validate [validate] check that no row of public.orders.id is null
          ALTER TABLE public.orders VALIDATE CONSTRAINT orders_id_pgmorph_not_null;
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -)
          undo not needed: a validated constraint asks no more than an unvalidated one
        01-add_primary_key-not-null-set [cutover] mark public.orders.id NOT NULL: a constraint proves it, no scan
          ALTER TABLE public.orders ALTER COLUMN id SET NOT NULL;
          ALTER TABLE public.orders DROP CONSTRAINT orders_id_pgmorph_not_null;
            locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders ALTER COLUMN id DROP NOT NULL;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
        01-add_primary_key-attach [cutover] make public.orders_pkey the PRIMARY KEY constraint orders_pkey of public.orders
          ALTER TABLE public.orders ADD CONSTRAINT orders_pkey PRIMARY KEY USING INDEX orders_pkey;
            locks: public.orders ACCESS EXCLUSIVE, public.orders_pkey SHARE UPDATE EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders DROP CONSTRAINT IF EXISTS orders_pkey;
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
        ");
        let plan = compile(&catalog, changes).unwrap();
        let orders = plan.after.tables.values().next().unwrap();
        assert_eq!(
            orders.primary_key().unwrap().1.definition,
            "PRIMARY KEY (shop, id)"
        );
        assert!(orders.column("id").unwrap().not_null);
    }

    #[test]
    fn one_is_enough() {
        let orders = table(&["id bigint not null"]).with_primary_key("orders_pkey", &["id"]);
        let changes = "  - add_primary_key: {table: orders, columns: [id]}\n";
        insta::assert_snapshot!(plan_text(&catalog().with("orders", orders), changes), @"
        3:30 has_primary_key: public.orders has the primary key orders_pkey PRIMARY KEY (id) (a table has one primary key; add_unique adds further keys)
        ");
    }
}
