//! A server that is far away. `PGMORPH_FAR_MS` is the time that each way takes.

use super::proxy::Proxy;
use crate::backfill::{database, number};
use crate::harness::{TestServer, pgmorph};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn way() -> Duration {
    let given = std::env::var("PGMORPH_FAR_MS").ok();
    Duration::from_millis(given.map_or(20, |text| text.parse().unwrap()))
}

/// The time that a batch may keep rows locked is counted at the server.
#[tokio::test(flavor = "multi_thread")]
async fn batches_are_as_large_as_nearby() {
    let server = TestServer::start(&[]);
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("plan.yaml").display().to_string();
    let source = "name: p\nsettings: {small_table: 0}\nchanges:\n  \
                  - widen_column: {table: orders, column: version, type: bigint}\n";
    std::fs::write(&path, source).unwrap();
    let mut batches = Vec::new();
    for far in [false, true] {
        let database = database(&server, 40_000).await;
        let proxy = Proxy::start(server.socket_dir(), way()).await;
        let url = match far {
            true => proxy.url(&database.name),
            false => server.url(&database.name, "postgres"),
        };
        pgmorph(&url, &["apply", &path, "--through", "expand", "--yes"])
            .await
            .expect(0);
        let (began, turns) = (Instant::now(), proxy.turns());
        pgmorph(&url, &["apply", &path, "--through", "backfill", "--yes"])
            .await
            .expect(0);
        let sent = number(&database, "SELECT sum(batches)::bigint FROM pgmorph.backfills").await;
        println!(
            "far: {far}: {sent} batches in {:?}, {} turns",
            began.elapsed(),
            proxy.turns() - turns
        );
        batches.push(sent);
        database.drop().await;
    }
    // Each size is found out in the same steps; a busy machine makes some batches smaller.
    assert!(batches[1] <= 2 * batches[0] + 40, "{batches:?}");
}

/// Sessions are prepared by one text, and what belongs together is sent together.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_takes_few_turns() {
    let server = TestServer::start(&[]);
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("plan.yaml").display().to_string();
    let change = |n: u32| format!("  - set_default: {{table: orders, column: note, default: \"'{n}'\"}}\n");
    let mut turns = Vec::new();
    for changes in [1, 5] {
        let database = database(&server, 10).await;
        // Otherwise the server may answer the first of several texts before the last is sent.
        let proxy = Proxy::start(server.socket_dir(), Duration::from_millis(5)).await;
        let source: String = (0..changes).map(change).collect();
        std::fs::write(&path, format!("name: p\nchanges:\n{source}")).unwrap();
        pgmorph(&proxy.url(&database.name), &["apply", &path, "--yes"])
            .await
            .expect(0);
        turns.push(proxy.turns());
        database.drop().await;
    }
    let each = (turns[1] - turns[0]) / 4;
    println!("{} turns for one step, {each} for each further one", turns[0]);
    assert!(each <= 32, "{each}");
    assert!(turns[0] <= 130, "{}", turns[0]);
}
