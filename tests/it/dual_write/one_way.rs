//! What a single session may do to a source, and what is true of the target then.

use crate::harness::{Database, TestServer};
use pgmorph::plan::Phase;

const TABLES: &str = "
CREATE TABLE old (id integer PRIMARY KEY, label text NOT NULL, note varchar(10), doc json);
CREATE TABLE new (key integer PRIMARY KEY, own integer GENERATED ALWAYS AS IDENTITY, title varchar(20) NOT NULL, note text, doc json);
INSERT INTO old SELECT i, 'row ' || i FROM generate_series(1, 20) AS i;
";

pub(super) const PLAN: &str = "
name: p
changes:
  - sync:
      name: forth
      from: old
      into: new
      key: {key: id}
      where: old.label <> 'none'
      columns: {title: old.label, note: 'upper(old.note)', doc: old.doc}
";

const UNEQUAL: &str = "SELECT count(*) FROM (SELECT id, label, upper(note) AS note, doc::text FROM old WHERE label <> 'none') AS o \
    FULL JOIN (SELECT key, title, note, doc::text FROM new) AS n ON n.key = o.id WHERE ROW(o.*)::text IS DISTINCT FROM ROW(n.*)::text";

pub(super) async fn synced<'s>(server: &'s TestServer, setup: &str, plan: &str) -> Database<'s> {
    let database = Database::create(server, &format!("{TABLES}{setup}")).await;
    let plan = database.planned(plan).await;
    database.apply(&plan, Phase::Cutover).await.unwrap();
    database
}

async fn number(database: &Database<'_>, sql: &str) -> i64 {
    database.admin.query_one(sql, &[]).await.unwrap().get(0)
}

async fn run(database: &Database<'_>, sql: &str) {
    if let Err(error) = database.admin.batch_execute(sql).await {
        panic!("{error:?}: {sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_write_is_repeated() {
    let server = TestServer::start(&[]);
    let database = synced(&server, "", PLAN).await;
    let merge = "MERGE INTO old USING (VALUES (1, 'merged'), (300, 'came')) AS v (id, label) ON v.id = old.id \
                 WHEN MATCHED THEN UPDATE SET label = v.label WHEN NOT MATCHED THEN INSERT (id, label) VALUES (v.id, v.label)";
    let writes = [
        (
            "INSERT INTO old VALUES (100, 'a', 'x', '{\"a\": 1}'), (101, 'b', NULL, NULL)",
            22,
        ),
        ("UPDATE old SET doc = '{\"a\":  1}' WHERE id = 100", 22),
        (
            "UPDATE old SET label = label || '!', note = 'y' WHERE id % 2 = 0",
            22,
        ),
        (
            "INSERT INTO old VALUES (100, 'c') ON CONFLICT (id) DO UPDATE SET label = excluded.label",
            22,
        ),
        ("UPDATE old SET label = 'none' WHERE id = 3", 21),
        ("UPDATE old SET label = 'some' WHERE id = 3", 22),
        ("UPDATE old SET id = 200 WHERE id = 100", 22),
        ("UPDATE old SET id = -id", 22),
        ("UPDATE old SET id = -id, label = label || '?'", 22),
        ("DELETE FROM old WHERE id = 101", 21),
        (
            "SET session_replication_role = replica; DELETE FROM old WHERE id = 200; RESET session_replication_role",
            20,
        ),
        (
            "COPY old (id, label) FROM PROGRAM 'seq -f \"%g,copied\" 400 410' (FORMAT csv)",
            31,
        ),
        (merge, 32),
        (
            "BEGIN; SAVEPOINT s; DELETE FROM old; ROLLBACK TO s; UPDATE old SET note = 'z'; COMMIT",
            32,
        ),
        ("TRUNCATE old", 0),
        ("INSERT INTO old VALUES (1, 'again')", 1),
    ];
    for (write, rows) in writes {
        if write.starts_with("MERGE") && server.major() < 15 {
            continue;
        }
        run(&database, write).await;
        assert_eq!(number(&database, UNEQUAL).await, 0, "{write}");
        let found = number(&database, "SELECT count(*) FROM new").await;
        assert_eq!(found, rows, "{write}");
    }
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_key_keeps_the_row_and_handed_round_keys_their_values() {
    let server = TestServer::start(&[]);
    let database = synced(&server, "", PLAN).await;
    let own = "SELECT own::bigint FROM new WHERE title = 'row 7'";
    let before = number(&database, own).await;
    run(&database, "UPDATE old SET id = 700 WHERE id = 7").await;
    assert_eq!(
        number(&database, own).await,
        before,
        "what was given on insert stays"
    );
    // No key is free at any moment.
    run(
        &database,
        "ALTER TABLE old DROP CONSTRAINT old_pkey, ADD PRIMARY KEY (id) DEFERRABLE; UPDATE old SET id = id + 1",
    )
    .await;
    assert_eq!(number(&database, UNEQUAL).await, 0);
    database.drop().await;
}

/// The writer has no rights on the target nor on our schema, and tries to have its own functions called.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_needs_no_rights_and_gets_none() {
    let server = TestServer::start(&[]);
    let role = "
        DROP ROLE IF EXISTS clerk;
        CREATE ROLE clerk LOGIN;
        GRANT SELECT, INSERT, UPDATE, DELETE ON old TO clerk;
        CREATE SCHEMA trap AUTHORIZATION clerk;
        CREATE TABLE trapped (who text);
        GRANT INSERT ON trapped TO clerk;
        CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := upper(NEW.note); RETURN NEW; END';
        CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON new FOR EACH ROW EXECUTE FUNCTION stamp();";
    let database = synced(&server, role, PLAN).await;
    let clerk = server.connect_as(&database.name, "clerk").await;
    let trap = "
        CREATE FUNCTION trap.upper(text) RETURNS text LANGUAGE plpgsql AS
            'BEGIN INSERT INTO public.trapped VALUES (current_user); RETURN ''trapped''; END';
        CREATE FUNCTION trap.upper(character varying) RETURNS text LANGUAGE sql AS 'SELECT trap.upper($1::text)';
        CREATE FUNCTION trap.same(integer, integer) RETURNS boolean LANGUAGE plpgsql AS
            'BEGIN INSERT INTO public.trapped VALUES (current_user); RETURN true; END';
        CREATE OPERATOR trap.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = trap.same);
        SET search_path = trap, pg_catalog, public";
    clerk.batch_execute(trap).await.unwrap();
    let write = "INSERT INTO public.old VALUES (50, 'fifty', 'abc'); UPDATE public.old SET label = 'none' WHERE label = 'row 1'; \
                 DELETE FROM public.old WHERE label = 'row 2'";
    clerk.batch_execute(write).await.unwrap();
    assert_eq!(number(&database, UNEQUAL).await, 0);
    assert_eq!(number(&database, "SELECT count(*) FROM trapped").await, 0);
    for forbidden in [
        "SELECT * FROM public.new",
        "SELECT * FROM pgmorph.sync_forth_from",
        "SELECT pgmorph.sync_forth_row(1)",
        "CREATE TABLE trap.mine (id integer); CREATE TRIGGER mine AFTER DELETE ON trap.mine FOR EACH ROW EXECUTE FUNCTION pgmorph.sync_forth_write()",
    ] {
        let refused = clerk.batch_execute(forbidden).await.unwrap_err();
        assert_eq!(
            refused.code().map(|code| code.code()),
            Some("42501"),
            "{forbidden}"
        );
    }
    database.drop().await;
}

/// Triggers of the application's own write to the tables on either side, in answer to a mirrored write too.
#[tokio::test(flavor = "multi_thread")]
async fn what_triggers_of_the_application_write_is_repeated_too() {
    let server = TestServer::start(&[]);
    let nested = "
        CREATE TABLE log (title text);
        CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO log VALUES (NEW.title);
             UPDATE old SET note = ''seen'' WHERE id = NEW.key AND note IS NULL; RETURN NULL; END';
        CREATE TRIGGER follow AFTER INSERT OR UPDATE ON new FOR EACH ROW EXECUTE FUNCTION follow();
        CREATE FUNCTION bear() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO old VALUES (NEW.id + 1000, ''child of '' || NEW.label); RETURN NULL; END';
        CREATE TRIGGER bear AFTER INSERT ON old FOR EACH ROW WHEN (NEW.id < 1000) EXECUTE FUNCTION bear();";
    let plan = format!("{PLAN}      search_path: [public]\n");
    let database = synced(&server, nested, &plan).await;
    let copied = number(&database, "SELECT count(*) FROM log").await;
    assert_eq!(
        copied, 40,
        "each copied row is logged, and so is each one repeated"
    );
    run(&database, "INSERT INTO old VALUES (50, 'fifty')").await;
    assert_eq!(number(&database, UNEQUAL).await, 0);
    let both = "SELECT count(*) FROM new WHERE key IN (50, 1050) AND note = 'SEEN'";
    assert_eq!(number(&database, both).await, 2);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_columns_may_be_renamed_meanwhile() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, TABLES).await;
    let plan = database.planned(PLAN).await;
    database.apply(&plan, Phase::Cutover).await.unwrap();
    let open = database.session().await;
    open.batch_execute("UPDATE old SET note = 'a' WHERE id = 1")
        .await
        .unwrap();
    let rename = "CREATE SCHEMA aside; BEGIN; ALTER TABLE old SET SCHEMA aside; ALTER TABLE aside.old RENAME TO _deprecated_old; \
                  ALTER TABLE aside._deprecated_old RENAME label TO was; CREATE VIEW old AS SELECT id, was AS label, note, doc FROM \
                  aside._deprecated_old; COMMIT; BEGIN; ALTER TABLE new RENAME TO newer; ALTER TABLE newer RENAME title TO name; \
                  CREATE VIEW new AS SELECT key, own, name AS title, note, doc FROM newer; COMMIT";
    run(&database, rename).await;
    for session in [&open, &database.admin] {
        let write = "UPDATE old SET note = 'b', label = label || '!'; DELETE FROM old WHERE id IN (SELECT min(id) FROM old)";
        session.batch_execute(write).await.unwrap();
        assert_eq!(number(&database, UNEQUAL).await, 0);
    }
    database.apply(&plan, Phase::Contract).await.unwrap();
    assert_eq!(database.leftovers().await, Vec::<String>::new());
    database.drop().await;
}

/// A row that the target refuses is refused at the source, and a mapping that cannot be run is found out before any
/// trigger is made.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_repeated_is_not_written() {
    let server = TestServer::start(&[]);
    let database = synced(&server, "", PLAN).await;
    let long = "INSERT INTO old VALUES (60, 'a label of more than twenty characters')";
    let error = database.admin.batch_execute(long).await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("22001"));
    assert_eq!(
        number(&database, "SELECT count(*) FROM old WHERE id = 60").await,
        0
    );
    database.drop().await;

    let lost = "CREATE FUNCTION lost(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT max(label) FROM old); END';";
    let database = Database::create(&server, &format!("{TABLES}{lost}")).await;
    let plan = database.planned(&PLAN.replace("upper(", "lost(")).await;
    let error = database.apply(&plan, Phase::Expand).await.unwrap_err();
    assert_eq!(error.sqlstate.as_deref(), Some("42P01"), "{error:?}");
    assert_eq!(database.leftovers().await, Vec::<String>::new());
    run(&database, "INSERT INTO old VALUES (60, 'sixty')").await;
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_rows_are_no_difference() {
    let server = TestServer::start(&[]);
    let plan = format!("{PLAN}      on_delete: keep\n");
    let kept = "INSERT INTO new (key, title) VALUES (900, 'kept');";
    let database = synced(&server, kept, &plan).await;
    run(
        &database,
        "DELETE FROM old WHERE id < 5; UPDATE old SET label = 'none' WHERE id = 5",
    )
    .await;
    assert_eq!(number(&database, "SELECT count(*) FROM new").await, 21);
    run(&database, "TRUNCATE old").await;
    assert_eq!(number(&database, "SELECT count(*) FROM new").await, 21);
    database.drop().await;
}
