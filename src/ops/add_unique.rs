//! `add_unique`: a unique constraint, on an index built before.

use super::parts::key::{KeySpec, KeyTarget};
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, ConstraintKind, Probe};
use crate::diagnostic::Diagnostic;
use crate::document::Fields;
use crate::plan::Settings;

const MANUAL: &str = "\
Adds a UNIQUE constraint. Its index is built concurrently and becomes the constraint at cutover, without a scan.
Instead of `columns`, `index` may name a unique index that is there already; it takes the name of the constraint.

```yaml
- add_unique: {table: orders, columns: [shop_id, number]}
```

Further keys: `name`, `include`, `nulls_not_distinct` (PostgreSQL 15), `deferrable`, `initially_deferred`. Partitioned
tables are refused: create_index with `unique` does the same for them.

Locks: SHARE UPDATE EXCLUSIVE on the table, as long as the build takes; ACCESS EXCLUSIVE for an instant at cutover.
Undo: the constraint is dropped with its index; an index that was there before is given back.
";

#[derive(Debug, Clone)]
pub struct AddUnique {
    key: KeySpec,
}

impl Operation for AddUnique {
    type Target = KeyTarget;
    const NAME: &'static str = "add_unique";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        KeySpec::read(fields, ConstraintKind::Unique).map(|key| Self { key })
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
    use crate::catalog::model::CatalogSnapshot;
    use crate::ops::testing::{catalog, compile, index, plan_text, table};

    fn orders() -> CatalogSnapshot {
        let mut orders =
            table(&["id bigint not null", "Number text"]).with_primary_key("orders_pkey", &["id"]);
        orders.indexes.insert("plain".into(), index(&["Number"], false));
        orders
            .indexes
            .insert("numbers".into(), index(&["Number", "id"], true));
        catalog().with("orders", orders)
    }

    #[test]
    fn builds_then_attaches() {
        let changes = "  - add_unique: {table: orders, columns: [Number], include: [id], nulls_not_distinct: true, initially_deferred: true}\n";
        insta::assert_snapshot!(plan_text(&orders(), changes), @r#"
        01-add_unique-build [expand] build public."orders_Number_id_key" concurrently
          CREATE UNIQUE INDEX CONCURRENTLY "orders_Number_id_key" ON public.orders USING btree ("Number") INCLUDE (id) NULLS NOT DISTINCT;
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo DROP INDEX CONCURRENTLY IF EXISTS public."orders_Number_id_key";
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          hazard waits_for_old_transactions: a concurrent build ends only when every transaction older than it has ended, on other tables too
        01-add_unique-attach [cutover] make public."orders_Number_id_key" the UNIQUE constraint "orders_Number_id_key" of public.orders
          ALTER TABLE public.orders ADD CONSTRAINT "orders_Number_id_key" UNIQUE USING INDEX "orders_Number_id_key" DEFERRABLE INITIALLY DEFERRED;
            locks: public.orders ACCESS EXCLUSIVE, public."orders_Number_id_key" SHARE UPDATE EXCLUSIVE (lock_timeout 200ms)
          undo ALTER TABLE public.orders DROP CONSTRAINT IF EXISTS "orders_Number_id_key";
          undo   locks: public.orders ACCESS EXCLUSIVE (lock_timeout 200ms)
        "#);
        let plan = compile(&orders(), changes).unwrap();
        let orders = plan.after.tables.values().next().unwrap();
        assert_eq!(
            orders.constraints["orders_Number_id_key"].definition,
            "UNIQUE NULLS NOT DISTINCT (\"Number\") INCLUDE (id) DEFERRABLE INITIALLY DEFERRED"
        );
        assert_eq!(
            orders.indexes["orders_Number_id_key"].constraint.as_deref(),
            Some("orders_Number_id_key")
        );
    }

    #[test]
    fn takes_an_index_and_gives_it_back() {
        let changes = "  - add_unique: {table: orders, name: orders_number_key, index: numbers}\n";
        insta::assert_snapshot!(plan_text(&orders(), changes), @r#"
        01-add_unique-attach [cutover] make public.numbers the UNIQUE constraint orders_number_key of public.orders
          ALTER TABLE public.orders ADD CONSTRAINT orders_number_key UNIQUE USING INDEX numbers;
            locks: public.orders ACCESS EXCLUSIVE, public.numbers SHARE UPDATE EXCLUSIVE (lock_timeout 200ms)
          undo CREATE UNIQUE INDEX CONCURRENTLY numbers_pgmorph_twin ON public.orders USING btree ("Number", id);
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo ALTER TABLE public.orders DROP CONSTRAINT IF EXISTS orders_number_key;
          undo ALTER INDEX public.numbers_pgmorph_twin RENAME TO numbers;
          undo   locks: public.orders ACCESS EXCLUSIVE, public.numbers_pgmorph_twin SHARE UPDATE EXCLUSIVE (lock_timeout 200ms)
          undo DROP INDEX CONCURRENTLY IF EXISTS public.numbers_pgmorph_twin;
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
        "#);
        let plan = compile(&orders(), changes).unwrap();
        let orders = plan.after.tables.values().next().unwrap();
        assert!(!orders.indexes.contains_key("numbers") && orders.indexes.contains_key("orders_number_key"));
    }

    #[test]
    fn refuses_unfit_indexes_and_partitioned_tables() {
        let changes = "  - add_unique: {table: orders, index: plain}
  - add_unique: {table: orders, index: orders_pkey}
  - add_unique: {table: orders, index: number}
  - add_unique: {table: orders, columns: [id], name: plain}
";
        insta::assert_snapshot!(plan_text(&orders(), changes), @"
        3:40 index_not_fit: the index plain is not unique (give `columns` instead, and a fitting index is built)
        4:17 name_taken: public.orders has a constraint `orders_pkey` already (choose another name; a constraint that this plan drops keeps its name until contract)
        4:40 index_not_fit: the index orders_pkey belongs to a constraint already (give `columns` instead, and a fitting index is built)
        5:40 unknown_index: public.orders has no index `number` (did you mean `numbers`?)
        6:54 name_taken: public.plain exists already
        ");
        let tree = crate::ops::create_index::tests::tree();
        let changes = "  - add_unique: {table: events, columns: [day, Region_id]}\n";
        insta::assert_snapshot!(plan_text(&tree, changes), @"3:25 partitioned_table: public.events is partitioned; PostgreSQL cannot base its constraints on an index built before (create_index with `unique: true` keeps the rows as distinct, without a lock)");
    }
}
