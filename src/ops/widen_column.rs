//! `widen_column`: another type that holds every value of the present one.

use super::parts::retype::{By, Retyping, Room};
use crate::document::Fields;

const MANUAL: &str = "\
Gives a column a type that holds every value of the present one: integer → bigint, varchar(20) → text,
numeric(10,2) → numeric(12,2), real → double precision…. The default may change with it.

```yaml
- widen_column: {table: orders, column: version, type: bigint, default: \"0\"}
```

The lightest safe way is taken:
- catalog only, where PostgreSQL neither rewrites the table nor rebuilds an index nor scans for a CHECK;
- in place, where the table is small (`small_table`, 8 MB by default): one rewrite under the lock;
- a shadow column otherwise: added with a trigger that keeps it equal, filled in short batches (by as many sessions
  as `workers` says, while standbys, slots and the archiver keep up as the settings bound it; `pgmorph tune`, `pause`
  and `resume` act on it while it runs), proven, compared row by row, swapped in
  by one short transaction (cutover). Until contract the old column follows the new one, so that a rollback loses
  nothing. The column then stands last in the table.

What hangs on the column comes over to the shadow: keys, unique constraints and indexes of all kinds, checks, foreign
keys of the table and to it, the sequence of a serial or identity column, views, materialized ones too, at any depth,
triggers, rules, policies, functions with SQL bodies, statistics objects, comments, grants, storage and statistics
settings. Indexes and constraints are built and proven beside the old ones before the cutover; foreign keys of other
tables move ahead of it, one by one. What comes to hang on the column after the plan was made, or changes on a view,
stops the swap, by name, instead of getting lost.

The new index of a deferrable unique constraint is built while the shadow is empty, and followed by the trigger, so that
it never refuses what the old one would let wait; the backfill then writes that index too.

Materialized views come over without anybody waiting for their data: replacements of them, and of the views between
and above, are built and filled beside the old ones, filled once more right before the cutover, and take the names over.
The old ones stay until contract; a rollback fills them again and gives them their names back.

Refused for now, by name: a shadow column for a column in a publication, a generated column, a deferrable primary key
or an exclusion constraint, for a view on which functions, policies, statistics objects or rules of other tables depend,
for a materialized view whose query groups by the key that moves, for a function with an SQL body that returns rows of
the table, and for partitioned or inherited tables.

Prepared statements that return the column fail with 0A000 after the cutover, each time until their session prepares
them again or ends; those that return * also from expand on, and again after contract. All others go on. In a
transaction what follows fails, too. The cure is to recycle connection pools after these phases, or the driver's own:
- pgJDBC prepares again and repeats by itself outside transactions, within them with autosave=conservative;
- asyncpg and Active Record do so outside transactions, and raise an error of their own within them;
- psycopg 3 forgets its statements after a rollback, but in autocommit it fails on and on: set prepare_threshold=None.

Locks: ACCESS EXCLUSIVE on the table for an instant (add, checks, cutover, contract; in place: while it is rewritten),
with a foreign key also on the other table; SHARE UPDATE EXCLUSIVE while indexes are built and constraints proven,
which blocks neither reads nor writes.
Undo: the old column comes back; refused, with the keys, when rows hold values that it cannot, unless the rollback is
given --accept-loss. Where going back would
rewrite a table that is not small, a catalog-only change cannot be undone and therefore runs in contract.
";

pub type WidenColumn = Retyping<Widening>;

#[derive(Debug, Clone)]
pub struct Widening;

impl Room for Widening {
    const NAME: &'static str = "widen_column";
    const MANUAL: &'static str = MANUAL;

    fn by(_fields: &Fields<'_>) -> By {
        By::Widening
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::model::{Dependent, Trigger};
    use crate::ops::testing::{catalog, index, plan_text, table};

    const CHANGE: &str = "  - widen_column: {table: orders, column: version, type: bigint, default: 0}\n";

    #[test]
    fn a_large_table_gets_a_shadow_column() {
        let mut orders = table(&["id bigint not null", "version integer not null"])
            .with_primary_key("orders_pkey", &["id"]);
        orders.columns[1].default = Some("1".into());
        orders.columns[1].comment = Some("it's counted".into());
        insta::assert_snapshot!(plan_text(&catalog().with("orders", orders), CHANGE));
    }

    #[test]
    fn a_small_table_is_rewritten_in_place() {
        let mut orders = table(&["version integer not null"]);
        orders.size.heap_bytes = 8_192;
        orders.size.index_bytes = 0;
        let text = plan_text(&catalog().with("orders", orders), CHANGE);
        assert!(
            text.starts_with("01-widen_column-alter [cutover]")
                && text.contains("TYPE bigint USING version::bigint"),
            "{text}"
        );
    }

    #[test]
    fn a_longer_varchar_is_catalog_only_unless_an_index_would_be_rebuilt() {
        let change = "  - widen_column: {table: orders, column: code, type: varchar(40)}\n";
        let mut orders = table(&["code character varying(20)"]);
        orders.indexes.insert("plain".into(), index(&["code"], false));
        let text = plan_text(&catalog().with("orders", orders.clone()), change);
        assert!(
            text.contains("[contract]") && text.contains("(catalog only)"),
            "{text}"
        );
        assert!(text.contains("irreversible: going back to"), "{text}");
        let mut small = orders.clone();
        (small.size.heap_bytes, small.size.index_bytes) = (8_192, 8_192);
        let text = plan_text(&catalog().with("orders", small), change);
        assert!(text.contains("[cutover]") && text.contains("''23514''"), "{text}");
        assert!(text.contains("TYPE character varying(20);"), "{text}");
        let mut partial = index(&["code"], false);
        partial.predicate = Some("(code IS NOT NULL)".into());
        orders.indexes.insert("partial".into(), partial);
        let text = plan_text(&catalog().with("orders", orders), change);
        // Offline nobody tells how its predicate is spelled for the shadow column.
        assert!(text.contains("cannot carry index partial"), "{text}");
    }

    #[test]
    fn what_a_shadow_column_cannot_carry_is_refused_by_name() {
        let mut orders = table(&["version integer not null"]).with_primary_key("orders_pkey", &["version"]);
        orders.indexes.insert("v".into(), index(&["version"], false));
        let text = plan_text(&catalog().with("orders", orders.clone()), CHANGE);
        assert!(
            text.contains("ADD CONSTRAINT orders_pkey PRIMARY KEY USING INDEX"),
            "{text}"
        );
        assert!(text.contains("RENAME TO v;"), "{text}");
        orders.dependents.push(Dependent {
            column: Some("version".into()),
            kind: "view".into(),
            name: "view public.totals".into(),
        });
        let text = plan_text(&catalog().with("orders", orders), CHANGE);
        assert!(text.contains("cannot carry view public.totals"), "{text}");
    }

    #[test]
    fn only_lossless_changes_are_widenings() {
        let orders = table(&["version integer not null"]);
        let catalog = catalog().with("orders", orders);
        let to = |data_type: &str| {
            plan_text(
                &catalog,
                &format!("  - widen_column: {{table: orders, column: version, type: {data_type}}}\n"),
            )
        };
        assert!(to("smallint").contains("not_a_widening"), "{}", to("smallint"));
        assert!(to("int4").contains("no_change"), "{}", to("int4"));
        assert!(to("nonsense").contains("unknown_type"), "{}", to("nonsense"));
    }

    #[test]
    fn offline_nobody_tells_how_arrays_are_converted() {
        let orders = table(&["version integer[]"]);
        let change = "  - widen_column: {table: orders, column: version, type: 'bigint[]'}\n";
        let text = plan_text(&catalog().with("orders", orders), change);
        assert!(text.contains("cannot_convert"), "{text}");
    }

    #[test]
    fn trigger_functions_of_others_are_refused() {
        let mut orders = table(&["version integer"]);
        let trigger = Trigger {
            definition: "CREATE TRIGGER touch BEFORE INSERT".into(),
            enabled: "origin".into(),
            before_row_write: true,
            columns: Vec::new(),
            function: "public.touch".into(),
            function_owned: false,
            comment: None,
        };
        orders.triggers.insert("touch".into(), trigger);
        let text = plan_text(&catalog().with("orders", orders), CHANGE);
        assert!(text.contains("function public.touch()"), "{text}");
    }

    #[test]
    fn later_changes_keep_off_a_swapped_column() {
        let orders = table(&["id bigint not null", "version integer not null"]);
        let changes = format!("{CHANGE}  - set_default: {{table: orders, column: version, default: 5}}\n");
        let text = plan_text(&catalog().with("orders", orders), &changes);
        assert!(text.contains("column_is_swapped"), "{text}");
    }
}
