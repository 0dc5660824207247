//! `create_index`: an index, built while everybody reads and writes.

use super::parts::index::IndexSpec;
use super::parts::index_build::Build;
use super::{Context, Named, Operation, StepDraft};
use crate::catalog::model::{CatalogSnapshot, Probe};
use crate::diagnostic::Diagnostic;
use crate::document::Fields;
use crate::plan::{Phase, Settings};

const MANUAL: &str = "\
Creates an index concurrently. A build that fails half-way leaves an INVALID index, which is dropped and built
again. On a partitioned table every partition is indexed concurrently, and the parts are put together at the end;
a table may be partitioned to any depth.

```yaml
- create_index:
    table: orders
    columns: [customer_id, created_at desc nulls last]
    where: status <> 'done'
```

`columns` holds plain columns, columns with their order, or maps with one of `column` and `expression` and any of
`order` (asc, desc), `nulls` (first, last), `collation`, `opclass`. Further keys: `name` (else PostgreSQL's own
choice), `unique`, `nulls_not_distinct` (PostgreSQL 15), `include`, `where`, `method`, `with`, `tablespace`.

Locks: SHARE UPDATE EXCLUSIVE on the table, as long as the build takes; reads and writes go on. On a partitioned
table also SHARE on each partitioned table and ACCESS EXCLUSIVE on each new index of a partition, for an instant.
Undo: the index is dropped concurrently; once attached to a partitioned one, all of it goes under ACCESS EXCLUSIVE,
for an instant.
";

#[derive(Debug, Clone)]
pub struct CreateIndex {
    spec: IndexSpec,
}

impl Operation for CreateIndex {
    type Target = Build;
    const NAME: &'static str = "create_index";
    const MANUAL: &'static str = MANUAL;

    fn read(fields: &Fields<'_>) -> Option<Self> {
        IndexSpec::read(fields).map(|spec| Self { spec })
    }

    fn needs(&self) -> Vec<Named> {
        vec![Named::relation(&self.spec.table)]
    }

    fn probes(&self, _now: &CatalogSnapshot) -> Vec<Probe> {
        vec![self.spec.probe(&self.spec.name_or("idx"))]
    }

    fn preflight(&self, context: &Context<'_>) -> Result<Build, Vec<Diagnostic>> {
        let table = context
            .table(&self.spec.table)
            .map_err(|complaint| vec![complaint])?;
        let name = self.spec.name_or("idx");
        let resolved = self.spec.resolve(context, table, &name)?;
        Build::plan(context, &self.spec, &name, &resolved)
    }

    fn steps(target: &Build, settings: &Settings) -> Vec<StepDraft> {
        target.steps(Phase::Expand, "", settings)
    }

    fn apply_to(target: &Build, catalog: &mut CatalogSnapshot) {
        target.apply(catalog);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::catalog::model::{
        CatalogSnapshot, ProbeAnswer, ProbeError, ProbeOutcome, Question, TableKind,
    };
    use crate::ops::testing::{catalog, compile, index, plan_text, table};
    use crate::plan::Expectation;
    use crate::sql::QualifiedName;
    use crate::{change_plan, planner};

    fn orders() -> CatalogSnapshot {
        let mut orders = table(&[
            "id bigint not null",
            "customer_id bigint",
            "state text",
            "created_at date",
        ]);
        orders = orders.with_primary_key("orders_pkey", &["id"]);
        orders
            .indexes
            .insert("orders_state_idx".into(), index(&["state"], false));
        catalog().with("orders", orders)
    }

    /// A tree of two levels whose names need quotes.
    pub(crate) fn tree() -> CatalogSnapshot {
        let columns = ["Region id integer not null", "day date not null", "note text"];
        let columns = columns.map(|column| column.replace("Region id", "Region_id"));
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let name = |text: &str| QualifiedName::new("public", text);
        let mut root = table(&columns);
        root.kind = TableKind::Partitioned;
        root.partition_key = Some("LIST (\"Region_id\")".into());
        root.partition_key_columns = vec!["Region_id".into()];
        root.children = vec![name("Ev 1"), name("ev_2")];
        let mut sub = table(&columns);
        sub.kind = TableKind::Partitioned;
        sub.partition_of = Some(name("events"));
        sub.partition_key = Some("RANGE (day)".into());
        sub.partition_key_columns = vec!["day".into()];
        sub.children = vec![name("ev_2_a"), name("ev_2_b")];
        let leaf = |parent: &str| {
            let mut leaf = table(&columns);
            leaf.partition_of = Some(name(parent));
            leaf
        };
        catalog()
            .with("events", root)
            .with("\"Ev 1\"", leaf("events"))
            .with("ev_2", sub)
            .with("ev_2_a", leaf("ev_2"))
            .with("ev_2_b", leaf("ev_2"))
    }

    #[test]
    fn builds_concurrently() {
        let changes = "  - create_index: {table: orders, columns: [customer_id, created_at desc nulls last], where: state <> 'done', with: {fillfactor: 70}}\n";
        insta::assert_snapshot!(plan_text(&orders(), changes), @"
        01-create_index-build [expand] build public.orders_customer_id_created_at_idx concurrently
          CREATE INDEX CONCURRENTLY orders_customer_id_created_at_idx ON public.orders USING btree (customer_id, created_at DESC NULLS LAST) WITH (fillfactor = '70') WHERE state <> 'done';
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo DROP INDEX CONCURRENTLY IF EXISTS public.orders_customer_id_created_at_idx;
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          hazard waits_for_old_transactions: a concurrent build ends only when every transaction older than it has ended, on other tables too
          hazard hot_updates: updates that change customer_id, created_at can no longer be HOT: no index mentioned it before
        ");
    }

    #[test]
    fn shows_duplicates_of_a_unique_build() {
        let changes = "  - create_index:\n      name: Odd Name\n      table: orders\n      unique: true\n      include: [id]\n      where: created_at IS NOT NULL\n      columns: [id, {expression: lower(state), order: desc, collation: C, opclass: text_pattern_ops}]\n";
        let plan = compile(&orders(), changes).unwrap();
        let work = &plan.steps[0].work;
        insta::assert_snapshot!(plan_text(&orders(), changes), @r#"
        01-create_index-build [expand] build public."Odd Name" concurrently
          CREATE UNIQUE INDEX CONCURRENTLY "Odd Name" ON public.orders USING btree (id, (lower(state)) COLLATE "C" text_pattern_ops DESC) INCLUDE (id) WHERE created_at IS NOT NULL;
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo DROP INDEX CONCURRENTLY IF EXISTS public."Odd Name";
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          hazard waits_for_old_transactions: a concurrent build ends only when every transaction older than it has ended, on other tables too
          hazard hot_updates: updates that change created_at can no longer be HOT: no index mentioned it before
        "#);
        insta::assert_snapshot!(work.on_violation.as_ref().unwrap().query, @r#"SELECT id, (lower(state)) COLLATE "C", count(*) AS rows FROM public.orders WHERE (created_at IS NOT NULL) AND (lower(state)) COLLATE "C" IS NOT NULL GROUP BY 1, 2 HAVING count(*) > 1 ORDER BY count(*) DESC LIMIT 20"#);
    }

    #[test]
    fn goes_through_a_tree_of_partitions() {
        let changes = "  - create_index: {table: events, columns: [day, Region_id], unique: true}\n";
        insta::assert_snapshot!(plan_text(&tree(), changes), @r#"
        01-create_index-parent-1 [expand] create the index public."events_day_Region_id_idx" of the partitioned table alone, still empty
          CREATE UNIQUE INDEX "events_day_Region_id_idx" ON ONLY public.events USING btree (day, "Region_id");
            locks: public.events SHARE (lock_timeout 200ms)
          undo LOCK TABLE public.events IN ACCESS EXCLUSIVE MODE;
          undo DROP INDEX IF EXISTS public."events_day_Region_id_idx";
          undo   locks: public.events ACCESS EXCLUSIVE, public."Ev 1" ACCESS EXCLUSIVE, public.ev_2 ACCESS EXCLUSIVE, public.ev_2_a ACCESS EXCLUSIVE, public.ev_2_b ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard waits_for_old_transactions: a concurrent build ends only when every transaction older than it has ended, on other tables too
          hazard hot_updates: updates that change Region_id, day can no longer be HOT: no index mentioned it before
        01-create_index-parent-2 [expand] create the index public."ev_2_day_Region_id_idx" of the partitioned table alone, still empty
          CREATE UNIQUE INDEX "ev_2_day_Region_id_idx" ON ONLY public.ev_2 USING btree (day, "Region_id");
            locks: public.ev_2 SHARE (lock_timeout 200ms)
          undo LOCK TABLE public.ev_2 IN ACCESS EXCLUSIVE MODE;
          undo DROP INDEX IF EXISTS public."ev_2_day_Region_id_idx";
          undo   locks: public.ev_2 ACCESS EXCLUSIVE, public.ev_2_a ACCESS EXCLUSIVE, public.ev_2_b ACCESS EXCLUSIVE (lock_timeout 200ms)
        01-create_index-build-1 [expand] build public."Ev 1_day_Region_id_idx" concurrently
          CREATE UNIQUE INDEX CONCURRENTLY "Ev 1_day_Region_id_idx" ON public."Ev 1" USING btree (day, "Region_id");
            locks: public."Ev 1" SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo DROP INDEX CONCURRENTLY IF EXISTS public."Ev 1_day_Region_id_idx";
          undo   locks: public."Ev 1" SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
        01-create_index-build-2 [expand] build public."ev_2_a_day_Region_id_idx" concurrently
          CREATE UNIQUE INDEX CONCURRENTLY "ev_2_a_day_Region_id_idx" ON public.ev_2_a USING btree (day, "Region_id");
            locks: public.ev_2_a SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo DROP INDEX CONCURRENTLY IF EXISTS public."ev_2_a_day_Region_id_idx";
          undo   locks: public.ev_2_a SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
        01-create_index-build-3 [expand] build public."ev_2_b_day_Region_id_idx" concurrently
          CREATE UNIQUE INDEX CONCURRENTLY "ev_2_b_day_Region_id_idx" ON public.ev_2_b USING btree (day, "Region_id");
            locks: public.ev_2_b SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo DROP INDEX CONCURRENTLY IF EXISTS public."ev_2_b_day_Region_id_idx";
          undo   locks: public.ev_2_b SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
        01-create_index-attach-1 [expand] attach public."ev_2_a_day_Region_id_idx" to public."ev_2_day_Region_id_idx"
          ALTER INDEX public."ev_2_day_Region_id_idx" ATTACH PARTITION public."ev_2_a_day_Region_id_idx";
            locks: public."ev_2_day_Region_id_idx" SHARE UPDATE EXCLUSIVE, public.ev_2 ACCESS SHARE, public.ev_2_a ACCESS SHARE, public."ev_2_a_day_Region_id_idx" ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.ev_2 IN ACCESS EXCLUSIVE MODE;
          undo DROP INDEX IF EXISTS public."ev_2_day_Region_id_idx";
          undo   locks: public.ev_2 ACCESS EXCLUSIVE, public.ev_2_a ACCESS EXCLUSIVE, public.ev_2_b ACCESS EXCLUSIVE (lock_timeout 200ms)
        01-create_index-attach-2 [expand] attach public."ev_2_b_day_Region_id_idx" to public."ev_2_day_Region_id_idx"
          ALTER INDEX public."ev_2_day_Region_id_idx" ATTACH PARTITION public."ev_2_b_day_Region_id_idx";
            locks: public."ev_2_day_Region_id_idx" SHARE UPDATE EXCLUSIVE, public.ev_2 ACCESS SHARE, public.ev_2_b ACCESS SHARE, public."ev_2_b_day_Region_id_idx" ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.ev_2 IN ACCESS EXCLUSIVE MODE;
          undo DROP INDEX IF EXISTS public."ev_2_day_Region_id_idx";
          undo   locks: public.ev_2 ACCESS EXCLUSIVE, public.ev_2_a ACCESS EXCLUSIVE, public.ev_2_b ACCESS EXCLUSIVE (lock_timeout 200ms)
        01-create_index-attach-3 [expand] attach public."Ev 1_day_Region_id_idx" to public."events_day_Region_id_idx"
          ALTER INDEX public."events_day_Region_id_idx" ATTACH PARTITION public."Ev 1_day_Region_id_idx";
            locks: public."events_day_Region_id_idx" SHARE UPDATE EXCLUSIVE, public.events ACCESS SHARE, public."Ev 1" ACCESS SHARE, public."Ev 1_day_Region_id_idx" ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.events IN ACCESS EXCLUSIVE MODE;
          undo DROP INDEX IF EXISTS public."events_day_Region_id_idx";
          undo   locks: public.events ACCESS EXCLUSIVE, public."Ev 1" ACCESS EXCLUSIVE, public.ev_2 ACCESS EXCLUSIVE, public.ev_2_a ACCESS EXCLUSIVE, public.ev_2_b ACCESS EXCLUSIVE (lock_timeout 200ms)
        01-create_index-attach-4 [expand] attach public."ev_2_day_Region_id_idx" to public."events_day_Region_id_idx"
          ALTER INDEX public."events_day_Region_id_idx" ATTACH PARTITION public."ev_2_day_Region_id_idx";
            locks: public."events_day_Region_id_idx" SHARE UPDATE EXCLUSIVE, public.events ACCESS SHARE, public.ev_2 ACCESS SHARE, public."ev_2_day_Region_id_idx" ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo LOCK TABLE public.events IN ACCESS EXCLUSIVE MODE;
          undo DROP INDEX IF EXISTS public."events_day_Region_id_idx";
          undo   locks: public.events ACCESS EXCLUSIVE, public."Ev 1" ACCESS EXCLUSIVE, public.ev_2 ACCESS EXCLUSIVE, public.ev_2_a ACCESS EXCLUSIVE, public.ev_2_b ACCESS EXCLUSIVE (lock_timeout 200ms)
        "#);
        let plan = compile(&tree(), changes).unwrap();
        let leaf = &plan.after.tables[&QualifiedName::new("public", "ev_2_b")];
        let parent = leaf.indexes["ev_2_b_day_Region_id_idx"].parent.as_ref().unwrap();
        assert_eq!(parent.name, "ev_2_day_Region_id_idx");
    }

    #[test]
    fn expects_what_the_server_printed() {
        let mut orders = orders();
        let changes =
            "  - create_index: {name: i, table: orders, columns: [state], where: created_at is null}\n";
        let source = format!("name: test\nchanges:\n{changes}");
        let questions = planner::questions(&change_plan::parse(&source).unwrap(), &catalog());
        let [Question::Probe(probe)] = questions.as_slice() else {
            panic!("{questions:?}");
        };
        let probe = probe.clone();
        assert_eq!(probe.before, "CREATE INDEX i ON ");
        let mut printed = index(&["state"], false);
        printed.predicate = Some("(created_at IS NULL)".into());
        let mut clone = table(&["state text"]);
        clone.indexes.insert("i".into(), printed);
        let outcome = Ok(ProbeOutcome {
            table: clone,
            fast_defaults: Vec::new(),
            rewritten: false,
            mutable: std::collections::BTreeMap::new(),
        });
        orders.answers.push(ProbeAnswer {
            probe: probe.clone(),
            outcome,
        });
        let plan = compile(&orders, changes).unwrap();
        let after = &plan.after.tables[&QualifiedName::new("public", "orders")];
        assert_eq!(
            after.indexes["i"].predicate.as_deref(),
            Some("(created_at IS NULL)")
        );
        assert!(matches!(
            plan.steps[0].work.expect[0],
            Expectation::Index { exact: true, .. }
        ));
        orders.answers[0].outcome = Err(ProbeError {
            sqlstate: "42883".into(),
            message: "no such function".into(),
            hint: None,
        });
        insta::assert_snapshot!(plan_text(&orders, changes), @"3:19 refused_by_server: PostgreSQL does not accept this: no such function (SQLSTATE 42883)");
    }

    #[test]
    fn says_everything_that_is_wrong() {
        let mut catalog = orders();
        let orders = catalog
            .tables
            .get_mut(&QualifiedName::new("public", "orders"))
            .unwrap();
        let mut failed = index(&["customer_id"], false);
        failed.valid = false;
        orders.indexes.insert("orders_customer_id_idx".into(), failed);
        let changes = "  - create_index: {table: orders, columns: [customer_id]}
  - create_index: {name: orders_state_idx, table: orders, columns: [state]}
  - create_index: {table: orders, columns: [custmer_id, lower(state)], nulls_not_distinct: true}
  - create_index: {table: orders, columns: [{column: state, order: desc}], method: gin, unique: true}
";
        insta::assert_snapshot!(plan_text(&catalog, changes), @r#"
        3:19 invalid_index: public.orders_customer_id_idx is there and INVALID: an earlier build of it on public.orders failed (DROP INDEX CONCURRENTLY public.orders_customer_id_idx; then plan again)
        4:26 name_taken: public.orders_state_idx exists already
        5:45 unknown_column: public.orders has no column `custmer_id` (did you mean `customer_id`?)
        5:57 unknown_column: public.orders has no column `lower(state)` (write an expression as `{expression: "lower(state)"}`)
        5:19 not_unique: `nulls_not_distinct` has a meaning for unique indexes only
        6:19 unique_needs_btree: an index of method gin cannot be unique
        6:45 unordered_method: an index of method gin has no order (leave out `order` and `nulls`)
        "#);
        let changes = "  - create_index: {table: orders, columns: [id, {column: id, expression: x}]}
  - create_index: {table: orders, columns: [{column: state, order: up, colation: C}]}
  - create_index: {table: orders, unique: maybe, columns: [{column: state, collation: a.b.c}]}
";
        insta::assert_snapshot!(plan_text(&catalog, changes), @r#"
        3:49 column_or_expression: an item of `columns` has either `column` or `expression`
        4:68 invalid_value: `order` is one of asc, desc, not "up"
        4:72 unknown_key: unknown key `colation` (did you mean `collation`?)
        5:43 invalid_value: `unique` is true or false, not "maybe"
        5:87 invalid_value: "a.b.c" has more than a schema and a name; put a part with dots in double quotes
        "#);
        let changes = "  - create_index: {table: events, columns: [note], unique: true}\n";
        insta::assert_snapshot!(plan_text(&tree(), changes), @"
        3:27 partition_key_missing: a unique index of public.events must have the partition key `Region_id` among its columns (add `Region_id` to `columns`)
        3:27 partition_key_missing: a unique index of public.ev_2 must have the partition key `day` among its columns (add `day` to `columns`)
        ");
        let mut foreign = tree();
        foreign
            .tables
            .get_mut(&QualifiedName::new("public", "ev_2_a"))
            .unwrap()
            .kind = TableKind::Foreign;
        let changes = "  - create_index: {table: events, columns: [note]}\n";
        insta::assert_snapshot!(plan_text(&foreign, changes), @"3:27 foreign_table: public.ev_2_a is a foreign table; it cannot have indexes (create the index on the server where the table lives)");
    }
}
