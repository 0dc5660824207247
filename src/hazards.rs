//! What the hazards of a plan mean: `explain CODE`. The plan itself names the objects; here stands what to do.

/// Code and manual of every hazard, in alphabetical order.
pub const HAZARDS: &[(&str, &str)] = &[
    (
        "both_names",
        "A statement writes a renamed column under both of its names, which the view between cutover and contract cannot \
         allow. Only programs that build INSERT or UPDATE lists from `SELECT *` do so: let them leave the old name out.",
    ),
    (
        "column_gone",
        "From contract on the column is not there. Before you run contract, deploy the version of the application that does \
         not name it, let old processes end, and look at pg_stat_statements or the logs for statements that still do. `SELECT *` \
         that was prepared before must be prepared again (SQLSTATE 0A000).",
    ),
    (
        "column_list",
        "The list of columns changes for who does not write it down: `SELECT *`, INSERT without a column list, COPY without \
         one, and publications. Write the columns down, or deploy readers that do not mind one more.",
    ),
    (
        "column_order",
        "PostgreSQL appends columns: after a shadow column took its place, the column is the last one. INSERT without a column \
         list and programs that read `SELECT *` by position see another order. Name the columns before the cutover.",
    ),
    (
        "constraint_dropped",
        "A constraint names a column that is dropped and goes with it. What it guaranteed nobody guarantees afterwards; add \
         one that does without the column, if it is still needed.",
    ),
    (
        "different_moments",
        "The copy is made by batches, so rows that are written meanwhile are copied as they are at different moments. Where \
         that matters, stop the writers, or compare afterwards by `compare`.",
    ),
    (
        "disk_space",
        "The step needs about so much more disk while it runs, and writes as much WAL, which slots, standbys and the archive \
         keep, too. Look for room on the tablespace and where the WAL is, before you begin: a full disk stops the server.",
    ),
    (
        "duplicate_foreign_key",
        "The table has the same foreign key under another name. Both would be checked by every write. Drop one of them.",
    ),
    (
        "extra_column",
        "Until contract the table has one more column, the one that is not in use: the new one before the cutover, the old \
         one after it. `SELECT *`, COPY and INSERT without a column list see it.",
    ),
    (
        "generated_columns",
        "Virtual generated columns are computed when they are read, by types that they keep. Values that only the new type \
         of their source holds make reading them fail (SQLSTATE 22003). Change their types as well, by `change_type`.",
    ),
    (
        "hot_updates",
        "A heap-only tuple (HOT) update writes no index. It takes that no index mentions a column that it changes. With the new \
         index, updates of these columns write all indexes of the table, and leave more to VACUUM. Where they are frequent, \
         weigh that against the queries that the index helps; a lower fillfactor does not help here.",
    ),
    (
        "index_goes_too",
        "The index belongs to the constraint and goes with it, and queries that used it find another way. Create an index \
         of your own first, by `create_index`, where pg_stat_user_indexes shows that it is used.",
    ),
    (
        "inserts_need_value",
        "Without the default, inserts that leave the column out fail with SQLSTATE 23502. Deploy the version of the application \
         that gives a value first.",
    ),
    (
        "join_may_repeat",
        "Nothing guarantees that the join finds one row for each key: any one of several counts, and not always the same one. \
         Add a unique index on the columns, or make the query choose.",
    ),
    (
        "key_cannot_wait",
        "While a concurrent index stands in for a deferrable key, uniqueness is checked row by row: statements that swap two \
         keys, or shift them by one, fail with 23505 between these steps. Hold such statements back, or do them by a detour.",
    ),
    (
        "ledger_published",
        "A publication of all tables, or of the schema pgmorph, also publishes the ledger, and a subscriber stops at the first row for a \
         table that it does not have. Make the tables there before the run begins: `pg_dump --schema-only --schema pgmorph` writes them.",
    ),
    (
        "long_swap",
        "The cutover locks every partition, and with very many of them it takes longer than an instant. Raise \
         `lock_timeout` only if the application can wait so long, or choose a quiet time.",
    ),
    (
        "materialized_views",
        "Materialized views that read the column are built anew beside the old ones and swapped in. They hold the data of the \
         refresh in the cutover phase: repeat refreshes of your own since then.",
    ),
    (
        "new_partitions",
        "Partitions that are attached after the plan was made are not part of it. Attach none until it is done, or plan again.",
    ),
    (
        "new_tables",
        "Tables that inherit from this one after the plan was made are not part of it. Create none until it is done, or plan again.",
    ),
    (
        "no_index",
        "Every DELETE and every UPDATE of the key in the referenced table looks for rows that refer to it; without an index on the \
         referring columns it reads the whole table each time. Put a `create_index` before it.",
    ),
    (
        "no_primary_key",
        "Without a primary key, logical replication cannot tell rows apart (set REPLICA IDENTITY), tools that work row by row \
         find none, and `INSERT … ON CONFLICT` on the key fails with SQLSTATE 42P10.",
    ),
    (
        "not_replicated",
        "Logical replication carries rows, not DDL. Change the subscriber by hand, in the order that the message gives: what is added \
         or made wider first there and then here, what is taken away first here and then there. Else the subscriber stops.",
    ),
    (
        "old_name_gone",
        "From that phase on nothing answers to the old name. Deploy what uses the new name before, and look at \
         pg_stat_statements for what still uses the old one. Functions keep names as text: search their bodies, too.",
    ),
    (
        "old_name_is_a_view",
        "Until contract the old name is an updatable view, so that versions of the application from before and after work side \
         by side. A view takes no COPY FROM, TRUNCATE, ON CONFLICT ON CONSTRAINT, ALTER TABLE, and has no system columns.",
    ),
    (
        "old_snapshot",
        "One long transaction keeps a snapshot: VACUUM removes nothing that died since, on all tables of the database. Do not run it \
         while a backfill of a busy table runs.",
    ),
    (
        "on_conflict",
        "INSERT … ON CONFLICT (columns) needs a unique index or constraint on exactly these columns; without it the statement fails \
         with SQLSTATE 42P10. Deploy a version that does without before contract.",
    ),
    (
        "one_column_more",
        "Until contract the table shows the renamed column under both names. `SELECT *` has one column more, at the end, and \
         prepared ones have to be prepared again (SQLSTATE 0A000) at cutover and contract.",
    ),
    (
        "open_search_path",
        "A SECURITY DEFINER function runs with its owner's rights, and finds names by the caller's search_path. Whoever may create \
         objects in a schema of that path can make it run his own. Pin it: `set: {search_path: pg_catalog, your_schema}`.",
    ),
    (
        "own_sql",
        "pgmorph recognises many statements, and takes your word for the rest: lock, phase, undo and expectation are as \
         you declare them. Try the plan on a copy before.",
    ),
    (
        "owners_rights",
        "Before PostgreSQL 15 a view reads and writes with its owner's rights, not with those of who asks. Row-level security of \
         the table is checked for the owner, too. Until contract who may use the view may do with the table what the view allows.",
    ),
    (
        "partitions_are_emptied_unseen",
        "TRUNCATE, DETACH and DROP of a partition fire no row trigger: the rows on the other side stay. Delete them by a statement, \
         or compare afterwards.",
    ),
    (
        "partitions_dropped",
        "All partitions and their rows go with the table.",
    ),
    (
        "pinned_settings",
        "The conversion depends on settings such as DateStyle. They are pinned to what they are now, whoever writes, so that each \
         value has one form.",
    ),
    (
        "prepared_statements",
        "PostgreSQL plans a prepared statement anew when a table changes, but refuses to return other columns than before: \
         SQLSTATE 0A000, \"cached plan must not change result type\". pgJDBC, Npgsql and Rails prepare again by themselves outside of \
         transactions; inside of one it fails once. Others need new connections: reconnect pools after the step.",
    ),
    (
        "public_may_execute",
        "EXECUTE on a new function is granted to PUBLIC. One that runs with its owner's rights should not be callable by everybody: \
         `execute: [role]`.",
    ),
    (
        "published",
        "The table is part of a publication. Schema changes are not replicated: make the change on the subscriber as well, \
         first there if it adds, last there if it removes; else the subscription stops with an error until it fits.",
    ),
    (
        "readers_see_nulls",
        "As soon as the column takes nulls somebody may write one. Deploy readers that are ready for it before.",
    ),
    (
        "references_hold",
        "A retired table keeps its foreign keys until it is dropped: rows that it refers to cannot be deleted meanwhile. \
         Drop the foreign keys in a plan of their own if that hurts.",
    ),
    (
        "references_stay",
        "Columns that refer to the changed one keep their types. As long as values fit both nothing happens; the first one that \
         does not makes writes of the referring column fail. Take them along by `also` or `cascade`.",
    ),
    (
        "rewrite",
        "The table is below `small_table`, and read or rewritten under ACCESS EXCLUSIVE at once, which takes \
         less than the detour. Set `small_table: 0` if even that is too long.",
    ),
    (
        "rollback_drops_rows",
        "What was created goes by the rollback, with all rows that were written into it since. Copy what you need before.",
    ),
    (
        "rollback_refuses",
        "The way back needs values that the old type holds. While it is under way, writes of others fail with 23514; rows that \
         have them already are shown before anything is changed.",
    ),
    (
        "row_type",
        "The row type of the table has the new name from cutover on. Functions that take or return rows follow; rows of the view \
         under the old name are of the view's type.",
    ),
    (
        "rows_are_locked",
        "Keeping two tables alike takes a lock on the row that both belong to, until the transaction ends. Transactions that write \
         both in opposite orders may meet in a deadlock, one of which fails with 40P01: let all write in one order, and retry.",
    ),
    (
        "rows_are_written",
        "Every row that is filled or copied goes to the WAL, to standbys, to the archive and to logical subscribers. The backfill stands \
         aside for them as `settings` bound it; plan room for the WAL.",
    ),
    (
        "rows_may_be_left_out",
        "The join or condition may leave rows out, and a row may come to match, or cease to, by a write to a table whose changes are \
         not followed. Look at the plan's text for which ones.",
    ),
    (
        "same_index_exists",
        "An index with the same definition is there already. A second one costs every write and helps nobody.",
    ),
    (
        "sequence_dropped",
        "The sequence is owned by what is dropped and goes with it. If others use it: ALTER SEQUENCE … OWNED BY NONE before.",
    ),
    (
        "serial_sequence",
        "pg_get_serial_sequence looks at tables; under the old name there is a view until contract. ORMs that ask for the sequence \
         by name fail: let them use RETURNING, or the new name.",
    ),
    (
        "slower_queries",
        "Queries that used the index are planned without it. pg_stat_user_indexes.idx_scan tells how often it was used, on each standby \
         for itself.",
    ),
    (
        "standbys_unseen",
        "The role may not see how far standbys have replayed, so backfills cannot wait for them, and they may fall behind. Grant it \
         pg_read_all_stats (pg_monitor has that too), or say `replicas: none` where that is meant.",
    ),
    (
        "statistics_dropped",
        "Extended statistics that mention the column go with it; plans of queries that relied on them may change.",
    ),
    (
        "stays",
        "PostgreSQL cannot remove a label from an enum. A rollback leaves it, unused.",
    ),
    (
        "still_used",
        "Something still depends on the table that contract would drop. Contract is refused while it does, nothing is cascaded.",
    ),
    (
        "subscribers",
        "Logical subscribers keep their own types. Values that only the new type holds stop the subscription: change the type there \
         first, which holds every value of both.",
    ),
    (
        "table_gone",
        "The table and its rows are lost in contract, and only a backup brings them back. `retire_table` keeps them for a safety period.",
    ),
    (
        "triggers_fire",
        "The role may not set session_replication_role, so triggers of the application fire for rows that the backfill writes: audit \
         rows, notifications, timestamps of changes. Grant it (from PostgreSQL 15: GRANT SET ON PARAMETER session_replication_role \
         TO role), or make the triggers return early for application_name 'pgmorph'.",
    ),
    (
        "types_differ",
        "Columns of a foreign key have different types: each check converts, indexes may not help, and values of the wider type \
         find no partner. Widen one of them.",
    ),
    (
        "undo_rewrites",
        "Forwards the change is one of the catalog only; backwards PostgreSQL rewrites the table while everybody waits. It is done \
         while the table is small.",
    ),
    (
        "updates_are_checked",
        "Updates of old rows are checked as well as new ones: rows that do not fit refuse any update until they are \
         repaired (SQLSTATE 23514).",
    ),
    (
        "waits_for_old_snapshots",
        "A concurrent build waits for every transaction that could still need what it replaces. It blocks nobody meanwhile, but a \
         forgotten session idle in transaction holds it up for ever: it is named in the progress; end it.",
    ),
    (
        "waits_for_old_transactions",
        "A concurrent build waits for all transactions that are older than it, on whatever table of the database, twice. It blocks \
         nobody meanwhile; long reports and sessions idle in transaction hold it up, and are named in the progress.",
    ),
    (
        "wal",
        "REPLICA IDENTITY FULL logs the old row with every update: a backfill writes about twice the WAL. Give the table a \
         replica identity by a unique index if a subscriber does not need the whole row.",
    ),
    (
        "writes_are_checked",
        "From this step on every write is checked, while old rows are looked at later. Rows that do not fit refuse any update \
         until they are repaired (SQLSTATE 23514, 23502 or 23503).",
    ),
    (
        "writes_are_repeated",
        "Every write to the source writes the other side in the same transaction, by a trigger: it takes longer, and fails where the \
         other side refuses. Bulk loads double.",
    ),
    (
        "writes_refused",
        "Values without a form in the new type are refused from the moment when both columns are kept alike, not only after the \
         cutover (SQLSTATE 23514 or that of the conversion). Deploy writers that do not write them before.",
    ),
];

#[cfg(test)]
mod tests {
    use super::HAZARDS;
    use std::path::Path;

    fn sources(path: &Path, found: &mut String) {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    #[test]
    fn every_hazard_has_a_manual_and_no_other() {
        let mut text = String::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
        let marker = ["Hazard", "::new("].concat();
        let mut used: Vec<&str> = text
            .split(&marker)
            .skip(1)
            .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
            .collect();
        used.sort_unstable();
        used.dedup();
        let known: Vec<&str> = HAZARDS.iter().map(|(code, _)| *code).collect();
        assert_eq!(known, used);
    }
}
