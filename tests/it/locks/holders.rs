//! Whoever holds the table: named, waited for beside the queue, and outlasted or given up at the deadline.

use super::scene::{CHANGE, pid_of};
use super::{Busy, Scene, roles};
use crate::harness::TestServer;
use std::time::Duration;

const TRAFFIC: &[&str] = &[
    "SELECT * FROM orders WHERE id = :id",
    "UPDATE orders SET note = note WHERE id = :id",
    "BEGIN; UPDATE orders SET total = total + 1 WHERE id = :id; SELECT count(*) FROM orders; COMMIT",
];

/// What holds the table, how its session is shown, and what ends it.
struct Culprit {
    name: &'static str,
    holds: &'static str,
    shown: &'static str,
    ends: &'static str,
}

const CULPRITS: &[Culprit] = &[
    Culprit {
        name: "an old transaction that only reads",
        holds: "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM orders",
        shown: "pid :pid of app (culprit), idle in transaction for ",
        ends: "COMMIT",
    },
    Culprit {
        name: "one that has written and idles",
        holds: "BEGIN; UPDATE orders SET note = 'held' WHERE id = 0",
        shown: "pid :pid of app (culprit), idle in transaction for ",
        ends: "COMMIT",
    },
    Culprit {
        name: "a competing change of the schema",
        holds: "BEGIN; ALTER TABLE orders ALTER note SET STATISTICS 50",
        shown: "pid :pid of deploy (culprit), idle in transaction for ",
        ends: "COMMIT",
    },
    Culprit {
        name: "a prepared transaction",
        holds: "BEGIN; UPDATE orders SET note = 'held' WHERE id = 0; PREPARE TRANSACTION 'left'",
        shown: "a prepared transaction of app, prepared transaction for ",
        ends: "COMMIT PREPARED 'left'",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn a_culprit_is_named_and_outlasted() {
    let server = TestServer::start(&[("max_prepared_transactions", "5")]);
    roles(&server).await;
    for culprit in CULPRITS {
        println!("{}", culprit.name);
        let scene = Scene::set(&server, "marshal").await;
        scene.write("", CHANGE);
        let owner = culprit.holds.contains("ALTER");
        let role = if owner { "deploy" } else { "app" };
        let holder = scene.session(role, "culprit").await;
        let pid = pid_of(&holder).await;
        holder.batch_execute(culprit.holds).await.unwrap();
        let busy = Busy::start(&scene, 4, TRAFFIC).await;
        busy.go_on(50).await;
        let apply = scene.start("apply", &[]);
        apply.says(&culprit.shown.replace(":pid", &pid.to_string())).await;
        // As long as it is there the application goes on, and nothing is done.
        busy.go_on(200).await;
        assert!(!scene.is_done().await);
        holder.batch_execute(culprit.ends).await.unwrap();
        apply.end().await.expect(0);
        assert!(scene.is_done().await);
        busy.stop().await.is_fine(Duration::from_millis(200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_never_ends_is_given_up_at_the_deadline() {
    let server = TestServer::start(&[]);
    roles(&server).await;
    let scene = Scene::set(&server, "marshal").await;
    scene.write("lock_deadline: 2s", CHANGE);
    let reader = scene.session("app", "culprit").await;
    let pid = pid_of(&reader).await;
    let stop = reader.cancel_token();
    let reading = tokio::spawn(async move {
        let sql = "SELECT count(*) FROM orders, pg_sleep(600)";
        assert!(reader.batch_execute(sql).await.is_err());
    });
    let active =
        format!("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = {pid} AND relation = 'orders'::regclass)");
    crate::harness::until("it reads", async || scene.ask(&active).await).await;
    let busy = Busy::start(&scene, 4, TRAFFIC).await;
    let ended = scene.apply(&[]).await.expect(4);
    for text in [
        &format!("blocked by pid {pid} of app (culprit), active, for "),
        "nothing is held and the state is saved",
    ] {
        assert!(ended.stderr.contains(text), "no {text:?} in {}", ended.stderr);
    }
    scene.nothing_is_held().await;
    busy.go_on(50).await;
    stop.cancel_query(tokio_postgres::NoTls).await.unwrap();
    reading.await.unwrap();
    scene.apply(&[]).await.expect(0);
    assert!(scene.is_done().await);
    busy.stop().await.is_fine(Duration::from_millis(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_row_is_put_aside_and_filled_in_the_end() {
    let server = TestServer::start(&[]);
    roles(&server).await;
    let scene = Scene::set(&server, "marshal").await;
    scene.write(
        "small_table: 0",
        "  - change_type: {table: orders, column: total, type: text, using: total::text, reverse_using: total::integer}\n",
    );
    let busy = Busy::start(
        &scene,
        4,
        &[
            "SELECT * FROM orders WHERE id = :id",
            "UPDATE orders SET note = note WHERE id = :id",
        ],
    )
    .await;
    let apply = scene.start("apply", &["--through", "expand"]);
    apply.end().await.expect(0);
    let holder = scene.session("app", "culprit").await;
    let pid = pid_of(&holder).await;
    let sql = "BEGIN; SELECT FROM orders WHERE id = 0 FOR UPDATE";
    holder.batch_execute(sql).await.unwrap();
    let apply = scene.start("apply", &["--through", "backfill"]);
    apply.says(&format!("pid {pid} of app (culprit)")).await;
    busy.go_on(100).await;
    holder.batch_execute("COMMIT").await.unwrap();
    apply.end().await.expect(0);
    let filled = "SELECT count(*) = 0 FROM orders WHERE \"~pgmorph_total_new\" IS DISTINCT FROM total::text";
    assert!(scene.ask(filled).await);
    busy.stop().await.is_fine(Duration::from_millis(200));
}
