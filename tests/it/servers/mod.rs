//! What depends on the server's release: which are let in, and what the planner makes of what they offer.

mod disguise;

use crate::harness::{Database, TestServer, pgmorph};
use disguise::Disguise;
use pgmorph::plan::Phase;
use pgmorph::release;

const ORDERS: &str = "CREATE TABLE customers (id integer PRIMARY KEY); \
                      CREATE TABLE orders (id bigint PRIMARY KEY, customer_id integer, amount integer); \
                      INSERT INTO customers SELECT generate_series(1, 10); \
                      INSERT INTO orders SELECT i, 1 + i % 10, i FROM generate_series(1, 100) AS i";

const CHECK: &str = "name: checked\nchanges:\n  - add_check: {table: orders, expression: amount > 0}\n";

fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.yaml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_server_is_refused_with_what_to_do() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let old = Disguise::of(&server, release::OLDEST - 1).await;
    let (url, (_folder, plan)) = (old.url(&database.name), file(CHECK));
    let called = format!("{}.{}", release::OLDEST - 1, server.version().minor);
    let commands: [&[&str]; 6] = [
        &["plan", &plan],
        &["apply", &plan, "--yes", "--untested-server"],
        &["verify", &plan],
        &["status"],
        &["rollback", &plan, "--yes"],
        &["snapshot"],
    ];
    for command in commands {
        let ended = pgmorph(&url, command).await.expect(3);
        for said in [
            &format!("it is PostgreSQL {called}"),
            "works with 14 to 18",
            "upgrade the server",
        ] {
            assert!(
                ended.stderr.contains(said),
                "{said}: {command:?}: {}",
                ended.stderr
            );
        }
    }
    let told = pgmorph(&url, &["plan", &plan, "--format", "json"])
        .await
        .expect(3)
        .json();
    assert_eq!(told["error"]["kind"], "precondition", "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_server_may_be_looked_at_and_has_to_be_asked_for() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let new = Disguise::of(&server, release::NEWEST + 1).await;
    let (url, (folder, plan)) = (new.url(&database.name), file(CHECK));
    let run = async |arguments: &[&str], code: i32| pgmorph(&url, arguments).await.expect(code);
    let warning = "this pgmorph was tested with 14 to 18";
    if server.major() < release::NEWEST {
        // What the newest has is not in the catalogs of this one, as it may be with one that is newer still.
        let told = run(&["plan", &plan], 3).await.stderr;
        for said in [warning, "newer than PostgreSQL 18", "take a newer pgmorph"] {
            assert!(told.contains(said), "{said}: {told}");
        }
        return;
    }
    for command in [&["plan", &plan] as &[&str], &["status"], &["snapshot"]] {
        let ended = run(command, 0).await;
        assert_eq!(
            ended.stderr.matches(warning).count(),
            1,
            "{command:?}: {}",
            ended.stderr
        );
    }
    let directory = folder.path().to_str().unwrap();
    for refused in [plan.as_str(), directory] {
        let ended = run(&["apply", refused, "--yes"], 3).await;
        assert!(ended.stderr.contains("--untested-server"), "{}", ended.stderr);
    }
    let ledger = "SELECT to_regnamespace('pgmorph') IS NOT NULL";
    let ledger: bool = database.admin.query_one(ledger, &[]).await.unwrap().get(0);
    assert!(!ledger, "something was begun");
    // What is begun goes on, and back, whatever became of the server meanwhile.
    run(
        &[
            "apply",
            &plan,
            "--yes",
            "--untested-server",
            "--through",
            "expand",
        ],
        0,
    )
    .await;
    run(&["apply", &plan, "--yes"], 0).await;
    run(&["verify", &plan], 0).await;
    run(&["rollback", &plan, "--yes"], 0).await;
}

/// Each is either refused where it is asked for, or done.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_in_18_is_refused_before_by_place() {
    let server = TestServer::start(&[]);
    let database = Database::create(&server, ORDERS).await;
    let source = "name: new_in_18\nchanges:\n\
                  \x20 - add_column: {table: orders, column: twice, type: integer, generated: amount * 2, virtual: true}\n\
                  \x20 - add_check: {table: orders, expression: amount > 50, enforced: false}\n\
                  \x20 - add_foreign_key: {table: orders, columns: [amount], references: customers, enforced: false}\n";
    let planned = database.plan(source).await;
    if server.major() >= 18 {
        database.apply(&planned.unwrap(), Phase::Contract).await.unwrap();
        return;
    }
    let found = planned.unwrap_err();
    assert_eq!(found.len(), 3, "{found:#?}");
    let words = ["true", "false", "false"];
    for (position, (complaint, word)) in found.iter().zip(words).enumerate() {
        assert_eq!(complaint.code, "server_too_old");
        assert!(
            complaint.message.contains("need PostgreSQL 18"),
            "{}",
            complaint.message
        );
        let line = source.lines().nth(2 + position).unwrap();
        let told = pgmorph::diagnostic::render(&found[position..=position], "plan.yaml", source, false);
        let place = format!("plan.yaml:{}:{}", 3 + position, line.rfind(word).unwrap() + 1);
        assert!(told.contains(&place), "{place}: {told}");
    }
    let (_folder, path) = file(source);
    pgmorph(&server.url(&database.name, "postgres"), &["plan", &path])
        .await
        .expect(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_enforced_is_told() {
    let server = TestServer::start(&[]);
    if server.major() < 18 {
        // There is no such thing.
        return;
    }
    let database = Database::create(&server, ORDERS).await;
    let (_folder, path) = file(
        "name: guarded\nchanges:\n  - add_foreign_key: {table: orders, name: to_customer, columns: [customer_id], references: customers}\n",
    );
    let url = server.url(&database.name, "postgres");
    pgmorph(&url, &["apply", &path, "--yes"]).await.expect(0);
    pgmorph(&url, &["verify", &path]).await.expect(0);
    let sql = "ALTER TABLE orders ALTER CONSTRAINT to_customer NOT ENFORCED";
    database.admin.batch_execute(sql).await.unwrap();
    let told = pgmorph(&url, &["verify", &path]).await.expect(1);
    for said in ["to_customer", "NOT ENFORCED"] {
        assert!(told.stdout.contains(said), "{}", told.stdout);
    }
}
