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
- catalog only, where PostgreSQL neither rewrites the table nor builds an index (as it does for those with an
  expression or a predicate): a CHECK, for which it would scan, is dropped and added NOT VALID in the same transaction,
  and proven behind it; foreign keys are kept without a look at the rows;
- in place, where the table is small (`small_table`, 8 MB by default): one rewrite under the lock;
- a shadow column otherwise: added with a trigger that keeps it equal, filled in short batches (by as many sessions
  as `workers` says, while standbys, slots and the archiver keep up as the settings bound it; `pgmorph tune`, `pause`
  and `resume` act on it while it runs), compared row by row (what was written past the triggers is filled again, and
  all are compared once more), proven, swapped in by one short transaction (cutover). Until contract the old column follows the new one, so that a rollback loses
  nothing. The column then stands last in the table.

Columns that refer to it by foreign keys, directly or through others, can get the type by the same cutover: those that
`also` lists, each as table.column, or with `cascade: true` all that do not hold every value of the new type yet, in
whichever schema:

```yaml
- widen_column: {table: customers, column: id, type: bigint, also: [customers.parent_id, sales.orders.customer_id]}
- widen_column: {table: accounts, column: id, type: bigint, cascade: true}
```

Each of them gets a shadow column of its own; the keys between them are built and proven between the shadows. One
transaction swaps all, under locks on all their tables, referenced tables first, and one swaps all back. Then even
small tables go by shadow columns. Without either, columns that refer to it keep their types, and the plan names those
that would overflow.

What hangs on the column comes over to the shadow: keys, unique constraints and indexes of all kinds, checks, foreign
keys of the table and to it, the sequence of a serial or identity column, views, materialized ones too, at any depth,
triggers, rules, policies, functions with SQL bodies, statistics objects, comments, grants, security labels, storage and
statistics settings. Indexes and constraints are built and proven beside the old ones before the cutover; foreign keys of other
tables move ahead of it, one by one. What comes to hang on the column after the plan was made, or changes on a view,
stops the swap, by name, instead of getting lost.

The new index of a deferrable unique constraint is built while the shadow is empty, and followed by the trigger, so that
it never refuses what the old one would let wait; the backfill then writes that index too. That of a deferrable primary
key cannot wait before it is the key: it is built right before the cutover, in the same phase, and the plan warns that
until then writes in which two rows have the same key for a moment fail.

Materialized views come over without anybody waiting for their data: replacements of them, and of the views between
and above, are built and filled beside the old ones, filled once more right before the cutover, and take the names over.
The old ones stay until contract; a rollback fills them again and gives them their names back.

On a partitioned table, or one that others inherit from, the change is made to the whole tree at once: every table is
filled and indexed by itself, one after the other, and one transaction swaps the column on all of them. Keys and indexes
of partitions become those of the table within that transaction, which looks at the catalog only; foreign keys that
refer to a partitioned table move within it, too, and are proven right after it. Partitions may be detached and dropped
while the plan runs, and made with PARTITION OF. The key of one that came after the plan is built by the swap, as long
as it is small (1 MB, or `small_table`); a larger one stops the swap, by name. A table that came to inherit does, too.
What each table has of its own (indexes, keys, defaults, checks, comments, grants) stays its own. From PostgreSQL 18 on a
key that a partition takes over from an index makes its NOT NULL constraints local ones as well.

Publications go on. A subscriber without a column that is published stops (\"is missing replicated column\"): so a
publication without a column list gets one together with the shadow, of the columns that were there before, and loses
it in contract; lists and row filters that name the column name the new one from the cutover on. A subscriber also stops
at the first value that its own column does not take, and under binary = true at any value of another type: widen the
column there before the cutover, in the latter case at the same time. It gets the updates of the backfill, too.

Virtual generated columns that read the column (PostgreSQL 18) read the new one from the cutover on, and keep their types.

Refused for now, by name: a shadow column
- in a table that is published without being named (FOR ALL TABLES, FOR TABLES IN SCHEMA), by a publication of another
  role, or without a column list before PostgreSQL 15, under REPLICA IDENTITY FULL or after changes of the same plan to
  its columns;
- for a column that is generated, in an exclusion constraint, or read by a stored generated column, or by a virtual one
  that is NOT NULL or in a table with CHECK constraints or publications;
- for a view on which functions, policies, statistics objects or rules of other tables depend, for a materialized view
  whose query groups by the key that moves, for a function with an SQL body that returns rows of the table;
- for a column of a partition key, and on a partitioned table (or one that others inherit from) for a deferrable key, a
  foreign key to itself, one that is NOT VALID, or a publication.

Prepared statements that return the column fail with 0A000 after the cutover, each time until their session prepares
them again or ends; those that return * also from expand on, and again after contract. All others go on. In a
transaction what follows fails, too. The cure is to recycle connection pools after these phases, or the driver's own:
- pgJDBC prepares again and repeats by itself outside transactions, within them with autosave=conservative;
- asyncpg and Active Record do so outside transactions, and raise an error of their own within them;
- psycopg 3 forgets its statements after a rollback, but in autocommit it fails on and on: set prepare_threshold=None.

Locks: ACCESS EXCLUSIVE on the table for an instant (add, checks, cutover, contract; in place: while it is rewritten),
with a foreign key also on the other table; at the cutover on the tables of all columns; SHARE UPDATE EXCLUSIVE while
indexes are built and constraints proven, which blocks neither reads nor writes.
Undo: the old columns come back; refused, with the keys, when rows hold values that they cannot, unless the rollback is
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
    use crate::catalog::model::{Dependent, SecurityLabel, Trigger};
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
    fn security_labels_come_over() {
        let mut orders = table(&["version integer"]);
        orders.columns[0].security_labels.push(SecurityLabel {
            provider: "Se Linux".into(),
            label: "it's:s0".into(),
        });
        let text = plan_text(&catalog().with("orders", orders), CHANGE);
        let statement = "SECURITY LABEL FOR \"Se Linux\" ON COLUMN public.orders.version IS 'it''s:s0'";
        assert!(text.contains(statement), "{text}");
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
    fn columns_that_refer_come_along_or_are_named() {
        let customers = table(&["id integer not null", "parent_id integer"])
            .with_primary_key("customers_pkey", &["id"])
            .with_foreign_key("above", &["parent_id"], "customers", &["id"]);
        let orders = table(&["customer_id integer", "wide bigint"])
            .with_foreign_key("of", &["customer_id"], "customers", &["id"])
            .with_foreign_key("wide", &["wide"], "customers", &["id"]);
        let catalog = catalog().with("customers", customers).with("orders", orders);
        let with = |keys: &str| {
            let change = format!("  - widen_column: {{table: customers, column: id, type: bigint{keys}}}\n");
            plan_text(&catalog, &change)
        };
        let alone = with("");
        assert!(
            alone.contains("write `also: [customers.parent_id, orders.customer_id]`"),
            "{alone}"
        );
        let some = with(", also: [orders.customer_id]");
        assert!(
            some.contains("values that only bigint holds: customers.parent_id."),
            "{some}"
        );
        let all = with(", cascade: true");
        assert!(!all.contains("references_stay"), "{all}");
        // What holds them already stays, but its key moves.
        assert!(all.contains("01-widen_column-incoming_switch"), "{all}");
        let lock = "LOCK TABLE public.customers, public.orders IN ACCESS EXCLUSIVE MODE";
        assert!(all.contains(lock), "{all}");
    }

    #[test]
    fn keys_may_lead_in_a_circle() {
        let one = |other: &str| {
            table(&["id integer not null"])
                .with_primary_key("key", &["id"])
                .with_foreign_key("to_the_other", &["id"], other, &["id"])
        };
        let catalog = catalog().with("a", one("b")).with("b", one("a"));
        let change = "  - widen_column: {table: a, column: id, type: bigint, cascade: true}\n";
        let text = plan_text(&catalog, change);
        for wanted in [
            "01-widen_column-b.id-key_add",
            "01-widen_column-key_add",
            "LOCK TABLE public.a, public.b IN ACCESS EXCLUSIVE MODE",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
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
            cloned: false,
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
