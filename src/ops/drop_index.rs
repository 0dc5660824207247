//! `drop_index`: an index goes, at the very end.

use super::parts::index_build::{Build, referencing_key};
use super::{Context, Named, Operation, StepDraft};
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

    fn needs(&self) -> Vec<Named> {
        self.table.iter().map(Named::relation).collect()
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

#[cfg(test)]
mod tests {
    use crate::catalog::model::{CatalogSnapshot, IndexKey};
    use crate::ops::testing::{catalog, compile, index, plan_text, table};
    use crate::sql::QualifiedName;

    fn orders() -> CatalogSnapshot {
        let mut orders =
            table(&["id bigint not null", "state text"]).with_primary_key("orders_pkey", &["id"]);
        let mut odd = index(&["state"], true);
        odd.keys.push(IndexKey {
            column: None,
            expression: Some("lower(state)".into()),
            opclass: Some("text_pattern_ops".into()),
            collation: Some("\"C\"".into()),
            descending: true,
            nulls_first: false,
        });
        odd.predicate = Some("(id > 5)".into());
        odd.options = vec!["fillfactor=70".into()];
        odd.include = vec!["id".into()];
        odd.comment = Some("it's odd".into());
        orders.indexes.insert("Odd".into(), odd);
        let mut clustered = index(&["state"], false);
        clustered.clustered = true;
        orders.indexes.insert("clustered".into(), clustered);
        let mut identity = index(&["id"], true);
        identity.replica_identity = true;
        orders.indexes.insert("orders_identity".into(), identity);
        orders.indexes.insert("orders_key".into(), index(&["id"], true));
        let mut lines =
            table(&["order_id bigint"]).with_foreign_key("lines_fk", &["order_id"], "orders", &["id"]);
        lines.constraints.get_mut("lines_fk").unwrap().index = Some("orders_key".into());
        catalog().with("orders", orders).with("lines", lines)
    }

    #[test]
    fn drops_and_brings_back_exactly() {
        insta::assert_snapshot!(plan_text(&orders(), "  - drop_index: {name: Odd}\n"), @r#"
        01-drop_index-drop [contract] drop public."Odd" concurrently
          DROP INDEX CONCURRENTLY IF EXISTS public."Odd";
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo check keys that stand in more than one row of public.orders: SELECT state, (lower(state)) COLLATE "C", count(*) AS rows FROM public.orders WHERE ((id > 5)) AND state IS NOT NULL AND (lower(state)) COLLATE "C" IS NOT NULL GROUP BY 1, 2 HAVING count(*) > 1 ORDER BY count(*) DESC LIMIT 20
          undo   locks: public.orders ACCESS SHARE (lock_timeout -)
          undo CREATE UNIQUE INDEX CONCURRENTLY "Odd" ON public.orders USING btree (state, (lower(state)) COLLATE "C" text_pattern_ops DESC NULLS LAST) INCLUDE (id) WITH (fillfactor = '70') WHERE (id > 5);
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo COMMENT ON INDEX public."Odd" IS 'it''s odd';
          undo   locks: public."Odd" SHARE UPDATE EXCLUSIVE (lock_timeout 200ms)
          hazard slower_queries: queries that used the index find another way; pg_stat_user_indexes tells how often it is used
        "#);
    }

    #[test]
    fn the_mark_of_cluster_comes_back() {
        insta::assert_snapshot!(plan_text(&orders(), "  - drop_index: {name: clustered}\n"), @"
        01-drop_index-drop [contract] drop public.clustered concurrently
          DROP INDEX CONCURRENTLY IF EXISTS public.clustered;
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo CREATE INDEX CONCURRENTLY clustered ON public.orders USING btree (state);
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo ALTER TABLE public.orders CLUSTER ON clustered;
          undo   locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout 200ms)
          hazard slower_queries: queries that used the index find another way; pg_stat_user_indexes tells how often it is used
        ");
    }

    #[test]
    fn drops_a_partitioned_index_whole() {
        let changes = "  - create_index: {name: ev, table: events, columns: [note]}\n";
        let mut tree = crate::ops::create_index::tests::tree();
        tree.tables.extend(compile(&tree, changes).unwrap().after.tables);
        for table in tree.tables.values_mut() {
            table.size.rows = 10;
        }
        insta::assert_snapshot!(plan_text(&tree, "  - drop_index: {name: ev, table: events}\n"), @r#"
        01-drop_index-drop [contract] drop public.ev and what is attached to it
          LOCK TABLE public.events IN ACCESS EXCLUSIVE MODE;
          DROP INDEX IF EXISTS public.ev;
            locks: public.events ACCESS EXCLUSIVE, public."Ev 1" ACCESS EXCLUSIVE, public.ev_2 ACCESS EXCLUSIVE, public.ev_2_a ACCESS EXCLUSIVE, public.ev_2_b ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo CREATE INDEX ev ON ONLY public.events USING btree (note);
          undo   locks: public.events SHARE (lock_timeout 200ms)
          undo CREATE INDEX ev_2_note_idx ON ONLY public.ev_2 USING btree (note);
          undo   locks: public.ev_2 SHARE (lock_timeout 200ms)
          undo CREATE INDEX CONCURRENTLY "Ev 1_note_idx" ON public."Ev 1" USING btree (note);
          undo   locks: public."Ev 1" SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo CREATE INDEX CONCURRENTLY ev_2_a_note_idx ON public.ev_2_a USING btree (note);
          undo   locks: public.ev_2_a SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo CREATE INDEX CONCURRENTLY ev_2_b_note_idx ON public.ev_2_b USING btree (note);
          undo   locks: public.ev_2_b SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo ALTER INDEX public.ev_2_note_idx ATTACH PARTITION public.ev_2_a_note_idx;
          undo   locks: public.ev_2_note_idx SHARE UPDATE EXCLUSIVE, public.ev_2 ACCESS SHARE, public.ev_2_a ACCESS SHARE, public.ev_2_a_note_idx ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER INDEX public.ev_2_note_idx ATTACH PARTITION public.ev_2_b_note_idx;
          undo   locks: public.ev_2_note_idx SHARE UPDATE EXCLUSIVE, public.ev_2 ACCESS SHARE, public.ev_2_b ACCESS SHARE, public.ev_2_b_note_idx ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER INDEX public.ev ATTACH PARTITION public."Ev 1_note_idx";
          undo   locks: public.ev SHARE UPDATE EXCLUSIVE, public.events ACCESS SHARE, public."Ev 1" ACCESS SHARE, public."Ev 1_note_idx" ACCESS EXCLUSIVE (lock_timeout 200ms)
          undo ALTER INDEX public.ev ATTACH PARTITION public.ev_2_note_idx;
          undo   locks: public.ev SHARE UPDATE EXCLUSIVE, public.events ACCESS SHARE, public.ev_2 ACCESS SHARE, public.ev_2_note_idx ACCESS EXCLUSIVE (lock_timeout 200ms)
          hazard slower_queries: queries that used the index find another way; pg_stat_user_indexes tells how often it is used
        "#);
        let plan = compile(&tree, "  - drop_index: {name: ev}\n").unwrap();
        assert!(plan.after.tables.values().all(|table| table.indexes.is_empty()));
        insta::assert_snapshot!(plan_text(&tree, "  - drop_index: {name: ev_2_a_note_idx}\n"), @"3:24 index_of_partition: ev_2_a_note_idx is part of the partitioned index public.ev_2_note_idx (drop public.ev_2_note_idx, which takes its parts along)");
    }

    #[test]
    fn refuses_what_others_need() {
        let changes = "  - drop_index: {name: orders_pkey}
  - drop_index: {name: orders_identity}
  - drop_index: {name: orders_key}
  - drop_index: {name: odd}
  - drop_index: {name: Odd, table: lines}
";
        insta::assert_snapshot!(plan_text(&orders(), changes), @r#"
        3:24 index_of_constraint: orders_pkey belongs to the constraint orders_pkey of public.orders (drop_constraint drops both)
        4:24 index_is_replica_identity: orders_identity is the replica identity of public.orders; without it, replicated updates and deletes fail (first ALTER TABLE public.orders REPLICA IDENTITY to another one)
        5:24 index_of_foreign_key: the foreign key lines_fk of public.lines rests on orders_key (drop that foreign key first, with drop_constraint)
        6:24 unknown_index: there is no index public.odd (did you mean `Odd`?)
        7:36 other_table: the index public."Odd" belongs to public.orders, not to public.lines
        "#);
    }

    #[test]
    fn a_failed_build_needs_no_undo() {
        let mut catalog = orders();
        let orders = catalog
            .tables
            .get_mut(&QualifiedName::new("public", "orders"))
            .unwrap();
        orders.indexes.get_mut("Odd").unwrap().valid = false;
        insta::assert_snapshot!(plan_text(&catalog, "  - drop_index: {name: Odd}\n"), @r#"
        01-drop_index-drop [contract] drop public."Odd" concurrently
          DROP INDEX CONCURRENTLY IF EXISTS public."Odd";
            locks: public.orders SHARE UPDATE EXCLUSIVE (lock_timeout -, no transaction)
          undo not needed: the index was INVALID, left by a build that failed
          hazard slower_queries: queries that used the index find another way; pg_stat_user_indexes tells how often it is used
        "#);
    }
}
