//! An application that locks two tables in the other order.

use super::{Busy, Scene, roles};
use crate::harness::TestServer;
use std::time::{Duration, Instant};

/// From the first statement on one of the tables is held, and the other one wanted.
const TRAFFIC: &[&str] = &[
    "BEGIN; UPDATE orders SET note = note WHERE id = :id; SELECT pg_sleep(0.03); \
     UPDATE customers SET note = note WHERE id = :id; SELECT pg_sleep(0.01); COMMIT",
];

#[tokio::test(flavor = "multi_thread")]
async fn both_tables_are_got_whatever_the_application_takes_first() {
    let server = TestServer::start(&[]);
    roles(&server).await;
    let scene = Scene::set(&server, "marshal").await;
    scene.write(
        "stall_budget: 10s, stall_budget_per_run: 10min",
        "  - add_foreign_key: {table: orders, columns: [id], references: {table: customers}}\n",
    );
    let busy = Busy::start(&scene, 12, TRAFFIC).await;
    busy.go_on(50).await;
    let began = Instant::now();
    let ended = scene.apply(&["--format", "json"]).await.expect(0);
    println!("took {:?}: {}", began.elapsed(), ended.json()["locks"]);
    let valid =
        "SELECT convalidated FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype = 'f'";
    assert!(scene.ask(valid).await);
    busy.stop().await.is_fine(Duration::from_millis(200));
    // The server has not resolved one deadlock.
    assert!(!server.log().contains("deadlock detected"));
}
