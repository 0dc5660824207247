//! Copying rows from one table to another, and comparing the two, while both are written.

use crate::harness::{Chance, Database, TestServer, pgmorph, until};
use pgmorph::error::ErrorKind;
use pgmorph::event::Event;
use pgmorph::executor::Interrupt;
use pgmorph::plan::Phase;
use std::collections::BTreeSet;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const SETUP: &str = "
    CREATE TABLE customers (id integer PRIMARY KEY, name text NOT NULL);
    INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(1, 100) AS i;
    CREATE TABLE old (id integer PRIMARY KEY, customer_id integer NOT NULL, amount numeric NOT NULL, note text);
    CREATE TABLE new (id bigint PRIMARY KEY, customer text, cents bigint NOT NULL, note text, created timestamptz);
";

const MAPPING: &str = "{from: old, as: o, into: new, key: [id], join: LEFT JOIN customers c ON c.id = o.customer_id,
      where: o.id % 10 > 0, columns: {customer: c.name, cents: o.amount * 100, note: o.note}, insert_only: {created: now()}}";

async fn database(server: &TestServer, rows: u32) -> Database<'_> {
    let database = Database::create(server, SETUP).await;
    let fill = format!(
        "INSERT INTO old SELECT i, i % 110 + 1, i / 4.0, CASE WHEN i % 3 > 0 THEN repeat(md5(i::text), 2) END \
         FROM generate_series(1, {rows}) AS i; ANALYZE old; ANALYZE customers"
    );
    database.admin.batch_execute(&fill).await.unwrap();
    database
}

fn source(operations: &[&str], settings: &str) -> String {
    let changes = operations.iter().map(|name| format!("  - {name}: {MAPPING}\n"));
    format!(
        "name: p\nsettings: {{{settings}}}\nchanges:\n{}",
        changes.collect::<String>()
    )
}

async fn ids(database: &Database<'_>, sql: &str) -> BTreeSet<i64> {
    let rows = database.admin.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

const IDS: &str = "SELECT id::bigint FROM old WHERE id % 10 > 0";

/// Writes until it is told to stop; gives how many statements it was acknowledged.
fn writer(
    client: tokio_postgres::Client,
    rows: u64,
    stopped: watch::Receiver<bool>,
    statement: fn(&mut Chance, u64, u64) -> String,
) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let mut chance = Chance(7);
        let mut count = 0;
        while !*stopped.borrow() {
            let sql = statement(&mut chance, rows, count);
            client.batch_execute(&sql).await.unwrap();
            count += 1;
        }
        count
    })
}

/// Rows move all over the table, some go and some come.
fn churn(chance: &mut Chance, rows: u64, count: u64) -> String {
    let id = chance.below(rows) + 1;
    match count % 10 {
        0 => format!("DELETE FROM old WHERE id = {id}"),
        1 => format!("INSERT INTO old VALUES ({}, 1, 1, 'late')", 10_000_000 + count),
        _ => format!(
            "UPDATE old SET note = repeat('x', {}) WHERE id = {id}",
            chance.below(90)
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_that_is_there_throughout_is_copied() {
    let server = TestServer::start(&[]);
    for workers in [1, 3] {
        let database = database(&server, 60_000).await;
        let plan = database
            .planned(&source(&["backfill"], &format!("workers: {workers}")))
            .await;
        let before = ids(&database, IDS).await;
        let (stop, stopped) = watch::channel(false);
        let writer = writer(database.session().await, 60_000, stopped, churn);
        database.apply(&plan, Phase::Contract).await.unwrap();
        stop.send_replace(true);
        let writes = writer.await.unwrap();
        assert!(writes > 100, "only {writes} writes came in between");
        let after = ids(&database, IDS).await;
        let copied = ids(&database, "SELECT id FROM new").await;
        let missing: Vec<_> = before
            .intersection(&after)
            .filter(|id| !copied.contains(id))
            .collect();
        assert!(
            missing.is_empty(),
            "{workers}: {} of {}: {missing:?}",
            missing.len(),
            before.len()
        );
        let strange = "SELECT count(*) FROM new WHERE id % 10 = 0 OR cents < 0 OR created IS NULL";
        assert_eq!(crate::backfill::number(&database, strange).await, 0);
        database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_where_it_was_struck() {
    let server = TestServer::start(&[]);
    let database = database(&server, 150_000).await;
    let plan = database
        .planned(&source(&["backfill", "compare"], "workers: 2"))
        .await;
    let strike = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                  WHERE datname = current_database() AND application_name LIKE 'pgmorph%'";
    let mut struck = 0;
    loop {
        let some = async {
            let reached = crate::backfill::number(&database, "SELECT count(*) FROM new").await;
            until("more rows are copied", async || {
                crate::backfill::number(&database, "SELECT count(*) FROM new").await > reached + 5_000
            })
            .await;
            database.admin.query_one(strike, &[]).await.unwrap();
        };
        let ended = tokio::select! {
            ended = database.apply(&plan, Phase::Contract) => Some(ended),
            () = some, if struck < 4 => None,
        };
        match ended {
            Some(Ok(_)) => break,
            Some(Err(error)) => assert_eq!(error.kind, ErrorKind::Connection, "{error:?}"),
            None => struck += 1,
        }
    }
    assert!(struck >= 3, "it was struck {struck} times only");
    let expected = ids(&database, IDS).await;
    assert_eq!(ids(&database, "SELECT id FROM new").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_copy_keeps_its_place() {
    let server = TestServer::start(&[]);
    let database = database(&server, 150_000).await;
    let plan = database.planned(&source(&["backfill"], "workers: 1")).await;
    let (interrupt, interrupts) = watch::channel(Interrupt::None);
    let copied = || crate::backfill::number(&database, "SELECT count(*) FROM new");
    let applied = database.apply_until(&plan, Phase::Contract, interrupts);
    let interrupting = async {
        // More than the first stretch of pages.
        until("some rows are copied", async || copied().await > 100_000).await;
        interrupt.send_replace(Interrupt::Gracefully);
    };
    let (ended, ()) = tokio::join!(applied, interrupting);
    assert_eq!(ended.unwrap_err().kind, ErrorKind::Interrupted);
    let sql = "SELECT next_page FROM pgmorph.backfills";
    let page = crate::backfill::number(&database, sql).await;
    assert!(page > 0, "nothing is recorded");
    // What is deleted there now must not come again: those pages are behind.
    let gone = format!(
        "DELETE FROM new WHERE id IN (SELECT id FROM old WHERE ctid < '({},0)'::tid)",
        page.min(10)
    );
    let gone = database.admin.execute(&gone, &[]).await.unwrap();
    assert!(gone > 0);
    let before = copied().await;
    database.apply(&plan, Phase::Backfill).await.unwrap();
    // The walk leaves them out; catching up, which looks everywhere, brings them back.
    let walked = database
        .recorder
        .events()
        .iter()
        .rev()
        .find_map(|event| match event {
            Event::Progress { stage, rows, .. } if stage.starts_with("copying") => Some(*rows),
            _ => None,
        });
    assert!(before > 0 && walked.unwrap() <= 135_000, "{walked:?}");
    assert_eq!(copied().await, 135_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_are_found_among_many_rows_by_few_questions() {
    let server = TestServer::start(&[("log_statement", "all"), ("log_line_prefix", "%a|")]);
    let database = database(&server, 100_000).await;
    let plan = database.planned(&source(&["backfill", "compare"], "")).await;
    database.apply(&plan, Phase::Backfill).await.unwrap();
    let spoil = "DELETE FROM new WHERE id = 41; DELETE FROM old WHERE id = 70001;
                 UPDATE new SET note = '' WHERE id = 99999; UPDATE new SET cents = cents + 1, customer = NULL WHERE id = 512;
                 INSERT INTO new VALUES (-5, 'nobody', 0), (900000, 'nobody', 0)";
    database.admin.batch_execute(spoil).await.unwrap();
    let before = server.log().len();
    let error = database.apply(&plan, Phase::Contract).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::StepFailed);
    assert_eq!(
        error.message,
        "public.new has what public.old makes: 1 row missing in public.new, 3 rows missing in public.old, 2 rows different"
    );
    let mut details = error.details.clone();
    details.sort();
    assert_eq!(
        details,
        [
            r#"{"id": -5} is missing in public.old"#,
            r#"{"id": 41} is missing in public.new"#,
            r#"{"id": 512} differs in customer, cents"#,
            r#"{"id": 70001} is missing in public.old"#,
            r#"{"id": 900000} is missing in public.old"#,
            r#"{"id": 99999} differs in note"#,
        ]
    );
    let log = server.log();
    let questions = log[before..].matches("BEGIN READ ONLY; SET LOCAL").count();
    assert!(questions > 10 && questions < 250, "{questions} questions");
    let mend = "INSERT INTO new SELECT 41, customer, 1025, NULL FROM new WHERE id = 151;
                UPDATE new SET customer = (SELECT name FROM customers c JOIN old o ON o.customer_id = c.id WHERE o.id = new.id),
                 note = (SELECT note FROM old o WHERE o.id = new.id), cents = (SELECT amount * 100 FROM old o WHERE o.id = new.id)
                 WHERE id IN (41, 512, 99999);
                DELETE FROM new WHERE id IN (-5, 70001, 900000)";
    database.admin.batch_execute(mend).await.unwrap();
    database.apply(&plan, Phase::Contract).await.unwrap();
}

/// What the narrower column has no room for is named, and does not end the comparison.
#[tokio::test(flavor = "multi_thread")]
async fn integers_of_unlike_width_are_compared() {
    let server = TestServer::start(&[]);
    for (narrow, wide) in [
        ("integer", "bigint"),
        ("smallint", "integer"),
        ("smallint", "bigint"),
    ] {
        for (from, into) in [(wide, narrow), (narrow, wide)] {
            let setup = format!(
                "CREATE TABLE f (id {from} PRIMARY KEY, note text); CREATE TABLE i (id {into} PRIMARY KEY, note text);
                 INSERT INTO f SELECT n, 'x' FROM generate_series(1, 500) AS n; INSERT INTO i TABLE f;"
            );
            let beyond = format!(
                "INSERT INTO {} SELECT {} + n, 'x' FROM generate_series(1, 450) AS n",
                if from == wide { "f" } else { "i" },
                if wide == "bigint" { "3000000000" } else { "100000" },
            );
            let database = Database::create(&server, &format!("{setup}{beyond}")).await;
            let source = "name: p\nchanges:\n  - compare: {from: f, into: i, key: [id], columns: [note]}\n";
            let plan = database.planned(source).await;
            let error = database.apply(&plan, Phase::Contract).await.unwrap_err();
            let missing = if from == wide { "public.i" } else { "public.f" };
            let expected = format!("public.i has what public.f makes: 450 rows missing in {missing}");
            assert_eq!(error.message, expected, "{from} and {into}: {error:?}");
            database.drop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_differences_are_not_counted_to_the_end() {
    let server = TestServer::start(&[]);
    let database = database(&server, 30_000).await;
    let plan = database.planned(&source(&["compare"], "")).await;
    let error = database.apply(&plan, Phase::Contract).await.unwrap_err();
    assert!(
        error
            .message
            .ends_with("more than these: 1,000 rows missing in public.new"),
        "{}",
        error.message
    );
    assert_eq!(error.details.len(), 20);
}

/// Both sides in one transaction, as triggers do it.
fn both(chance: &mut Chance, rows: u64, count: u64) -> String {
    let id = chance.below(rows) + 1;
    let copy = "SELECT o.id, c.name, o.amount * 100, o.note FROM old o LEFT JOIN customers c ON c.id = o.customer_id";
    match count % 10 {
        0 => format!("BEGIN; DELETE FROM old WHERE id = {id}; DELETE FROM new WHERE id = {id}; COMMIT"),
        1 => {
            let id = 10_000_000 + count * 10 + 1;
            format!(
                "BEGIN; INSERT INTO old VALUES ({id}, 1, 1, 'late'); INSERT INTO new {copy} WHERE o.id = {id}; COMMIT"
            )
        }
        _ => format!(
            "BEGIN; UPDATE old SET amount = amount + 1 WHERE id = {id}; \
             UPDATE new SET cents = cents + 100 WHERE id = {id}; COMMIT"
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_writes_both_sides_at_once_is_no_difference() {
    let server = TestServer::start(&[]);
    let database = database(&server, 60_000).await;
    let fill = database.planned(&source(&["backfill"], "")).await;
    database.apply(&fill, Phase::Contract).await.unwrap();
    let compare = source(&["compare"; 5], "").replace("name: p", "name: q");
    let plan = database.planned(&compare).await;
    let (stop, stopped) = watch::channel(false);
    let writers = [
        writer(database.session().await, 60_000, stopped.clone(), both),
        writer(
            database.session().await,
            60_000,
            stopped,
            |chance, rows, count| both(chance, rows, count + 1_000_000),
        ),
    ];
    let compared = database.apply(&plan, Phase::Contract).await;
    stop.send_replace(true);
    for writer in writers {
        assert!(writer.await.unwrap() > 100);
    }
    compared.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_what_was_spoiled_behind_the_triggers() {
    let server = TestServer::start(&[]);
    let database = database(&server, 3_000).await;
    let url = server.url(&database.name, "postgres");
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("plan.yaml");
    std::fs::write(&file, source(&["backfill", "compare"], "")).unwrap();
    let file = file.to_str().unwrap();
    let applied = pgmorph(&url, &["apply", file, "--yes", "--through", "contract"]).await;
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let fine = pgmorph(&url, &["verify", file]).await;
    assert_eq!(fine.code, Some(0), "{fine:?}");
    let arguments = ["verify", file, "--watch", "100ms"];
    let watching = pgmorph(&url, &arguments);
    let spoiling = async {
        let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle' \
                    AND application_name = 'pgmorph' AND query LIKE '%pg_get_function_identity_arguments%'";
        until("it has looked once", async || {
            crate::backfill::number(&database, idle).await > 0
        })
        .await;
        let spoil = "UPDATE new SET note = 'secret' WHERE id = 1234";
        database.admin.batch_execute(spoil).await.unwrap();
    };
    let (found, ()) = tokio::join!(watching, spoiling);
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(
        found.stdout.contains(r#"{"id": 1234} differs in note"#),
        "{found:?}"
    );
    assert!(!found.stdout.contains("secret"), "{found:?}");
}
