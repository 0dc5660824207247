//! The rules, and their pages in the manual.

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Warning,
    Error,
}

impl Level {
    pub fn word(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Id, level, and the page that `explain` prints.
pub struct Rule {
    pub id: &'static str,
    pub level: Level,
    pub manual: &'static str,
}

macro_rules! rules {
    ($($level:ident $id:literal $manual:literal)*) => {
        pub const RULES: &[Rule] = &[$(Rule { id: $id, level: Level::$level, manual: $manual }),*];
    };
}

rules! {
    Error "missing-lock-timeout" "A statement that keeps reads or writes out waits for its lock without a limit. While it
waits, everybody who comes after it waits as well, however short its own work is. Set lock_timeout before it, some
hundred milliseconds to a few seconds, and run the migration again when it was reached; or let pgmorph retry."
    Error "create-index-blocks" "CREATE INDEX without CONCURRENTLY keeps writes out as long as the build takes (SHARE).
Build it CONCURRENTLY, outside a transaction; on a partitioned table on each partition first. The operation create_index
does that."
    Error "drop-index-blocks" "DROP INDEX without CONCURRENTLY locks the table ACCESS EXCLUSIVE: it waits for everybody who
uses the table, and everybody waits for it. The operation drop_index drops it concurrently."
    Error "not-in-transaction" "PostgreSQL refuses the statement in a transaction block: CREATE INDEX CONCURRENTLY, VACUUM,
DETACH PARTITION CONCURRENTLY and others. Take it out of BEGIN and COMMIT, and tell a tool that runs each file in a
transaction not to."
    Error "add-column-rewrites" "Adding the column writes every row anew under ACCESS EXCLUSIVE: its default is volatile
(random, gen_random_uuid, nextval), or it is serial, an identity, a stored generated column or of a domain with
constraints. Add it without a default, set the default for new rows, and fill the old ones in batches; the operation
add_column does that."
    Error "set-not-null-scans" "SET NOT NULL reads the whole table under ACCESS EXCLUSIVE, unless a validated CHECK says
that the column is never NULL. Add CHECK (column IS NOT NULL) NOT VALID, validate it in another transaction, then set
NOT NULL and drop the check. The operation set_not_null does that; from PostgreSQL 18 it adds NOT NULL NOT VALID."
    Error "type-change-rewrites" "The change of type writes every row and all indexes anew, builds indexes on the column
again, or reads the table to check constraints, under ACCESS EXCLUSIVE. varchar(10) to varchar(20) or text costs
nothing, int to bigint a whole new table. The operations widen_column and change_type fill a second column in batches
and swap them."
    Error "constraint-validates" "Adding the constraint reads the whole table while writes are kept out. Add it NOT VALID,
which is instant, and validate it in another transaction under SHARE UPDATE EXCLUSIVE. The operations add_check and
add_foreign_key do that."
    Error "validate-with-add" "The constraint is validated while the lock that added it is still held, so that NOT VALID
wins nothing. Commit between the two."
    Error "key-builds-index" "A UNIQUE, PRIMARY KEY or EXCLUDE constraint builds its index under ACCESS EXCLUSIVE. Build a
unique index CONCURRENTLY, then ADD CONSTRAINT … USING INDEX; the operations add_unique and add_primary_key do that.
EXCLUDE has no other way: add it while the table is small."
    Error "rename-breaks-clients" "From the moment of the rename on, statements with the old name fail, and those with the
new one did before: no deployment is both at once. The operations rename_table and rename_column keep a view under the
old name, or a second column in step, until all clients know the new one."
    Error "drop-column" "Statements that name the column fail from then on, and the data is gone. Deploy code that does not
know it first; then drop it, under a lock_timeout. The operation drop_column leaves that to the phase contract, and puts
dependent indexes out of the way before. Where that is done, ignore the finding with the reason."
    Error "drop-table" "The table and its rows are gone, and what names it fails. Rename it away first and see that nobody
misses it: the operation retire_table keeps it for as long as you say."
    Error "truncate" "TRUNCATE locks the table ACCESS EXCLUSIVE, with CASCADE also those that reference it, and all rows are
gone at once. Delete in batches, or put an empty table in its place."
    Error "table-rewrite" "The statement writes the table or its indexes anew under ACCESS EXCLUSIVE: VACUUM FULL, CLUSTER,
SET LOGGED, SET UNLOGGED, SET TABLESPACE, SET ACCESS METHOD, SET EXPRESSION. Use pg_repack or a copy that is swapped
in, in a time without traffic; see the operation snapshot_table."
    Error "reindex-blocks" "REINDEX keeps writes out, and reads that would use the index. REINDEX CONCURRENTLY does neither,
and cannot run in a transaction; the operation replace_index builds a new one beside the old."
    Error "enum-value-in-transaction" "A label that ALTER TYPE … ADD VALUE made cannot be used before it is committed: the
statement fails with 55P04. Put ALTER TYPE in a migration of its own, before; the operation add_enum_value does."
    Warning "trigger-locks" "CREATE TRIGGER, ENABLE TRIGGER and DISABLE TRIGGER keep writes out (SHARE ROW EXCLUSIVE), DROP
TRIGGER everybody. Each is instant, but waits for all writers: commit at once, and lock one table per transaction. The
operation create_trigger does that."
    Error "disable-trigger" "While a trigger is disabled, what it guards is not guarded; DISABLE TRIGGER ALL includes foreign
keys, whose broken rows nobody finds later. Use session_replication_role in the session that needs it."
    Error "attach-scans" "ATTACH PARTITION reads the whole new partition under ACCESS EXCLUSIVE, unless a validated CHECK
proves its bounds; the default partition is read too, unless a CHECK excludes them. Add the CHECK NOT VALID, validate
it, attach, drop it."
    Error "detach-blocks" "DETACH PARTITION locks the parent, the partition and the default one ACCESS EXCLUSIVE. DETACH
PARTITION … CONCURRENTLY does not; it cannot run in a transaction, and not where there is a default partition."
    Warning "partition-of-locks-parent" "CREATE TABLE … PARTITION OF locks the parent ACCESS EXCLUSIVE. Create the table by
itself (LIKE … INCLUDING ALL) with a CHECK of its bounds, then attach it: SHARE UPDATE EXCLUSIVE on the parent."
    Error "locks-pile-up" "The transaction holds a lock that keeps reads or writes out of one table while it works on
another: locks are held until COMMIT, and two such transactions deadlock when they come in another order. One table per
transaction; long work in a transaction without such locks."
    Error "whole-table-write" "UPDATE or DELETE of all rows is one long transaction: it locks every row until its end, doubles
the table and holds back vacuum and replicas. Write in batches by key, outside the migration's transaction; the
operation backfill does that and watches the replicas."
    Error "refresh-blocks" "REFRESH MATERIALIZED VIEW keeps readers out as long as the query runs. CONCURRENTLY does not; it
needs a unique index on all rows."
    Error "lock-table" "LOCK TABLE in a mode that keeps reads or writes out, held until COMMIT. Take the weakest mode that
does, or none: most statements lock what they need themselves."
    Error "domain-validates" "The constraint of the domain reads every table that has a column of it, under SHARE, which
keeps writes out. Add it NOT VALID and validate it in another transaction."
    Warning "exclusive-lock-while-scanning" "The statement reads or builds while it holds a lock that keeps reads or writes
out. See its locks and what it scans."
    Error "statement-fails" "PostgreSQL will refuse the statement, by what is known of the catalog. The SQLSTATE says why."
    Error "syntax" "The text is not SQL as PostgreSQL reads it."
    Error "ignore-without-reason" "An ignore says why: `-- pgmorph:ignore rule-id: reason`, on the line before the statement
or behind it. Without a reason it does not count."
    Warning "ignore-unused" "The statement has no finding of that rule: the ignore can go."
    Error "ignore-unknown-rule" "There is no rule of that name; `pgmorph explain` lists them."
}

pub fn rule(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id)
}
