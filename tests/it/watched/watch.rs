//! `status --watch`, beside a run that goes on.

use crate::backfill::number;
use crate::harness::{Running, TestServer, pgmorph, until};
use crate::monitor::Stage;
use serde_json::Value;

fn looks(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_looks_on_sees_pace_pause_and_blockers_until_the_end() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, 60_000).await;
    let database = &stage.database;
    let none = pgmorph(&stage.url, &["status", "--watch"]).await.expect(0);
    assert!(
        none.stdout.contains("no plan was ever applied"),
        "{}",
        none.stdout
    );
    let running = Running::start(&stage.url, &["apply", &stage.plan, "--yes", "--throttle", "5%"]);
    let fills = "SELECT count(*) FROM pgmorph.backfills WHERE rows_done > 0";
    let begun = "SELECT count(*) FROM pg_class WHERE oid = to_regclass('pgmorph.backfills')";
    until("it fills", async || {
        number(database, begun).await == 1 && number(database, fills).await == 1
    })
    .await;
    let watcher = Running::start(&stage.url, &["status", "p", "--watch", "0.2", "--format", "json"]);
    let reader = Running::start(&stage.url, &["status", "--watch", "0.2"]);
    watcher.prints("\"over\"").await;
    let pages = "SELECT sum(next_page)::bigint FROM pgmorph.backfills";
    let before = number(database, pages).await;
    until("it goes on", async || number(database, pages).await > before).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    pgmorph(&stage.url, &["pause", "p"]).await.expect(0);
    let paused = "SELECT count(*) FROM pgmorph.step_stats WHERE stats::json -> 'now' ->> 'reason' LIKE 'paused since%'";
    until("the pause is recorded", async || {
        number(database, paused).await == 1
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    // Somebody who will be in the way of the cutover.
    let holder = database.session().await;
    holder
        .batch_execute("SET application_name = 'reporting'; BEGIN; LOCK TABLE orders IN ACCESS SHARE MODE")
        .await
        .unwrap();
    pgmorph(&stage.url, &["tune", "p", "--throttle", "off"])
        .await
        .expect(0);
    pgmorph(&stage.url, &["resume", "p"]).await.expect(0);
    let blocked =
        "SELECT count(*) FROM pgmorph.step_stats WHERE stats::json -> 'now' ->> 'reason' LIKE '%reporting%'";
    until("who blocks is recorded", async || {
        number(database, blocked).await == 1
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    holder.batch_execute("COMMIT").await.unwrap();
    running.end().await.expect(0);
    // The run stops before contract: nobody runs it any more, and nobody looks on.
    let looks = looks(&watcher.end().await.expect(0).stdout);
    let any = |wanted: &dyn Fn(&Value) -> bool| looks.iter().any(wanted);
    assert!(
        any(&|look| look["rows_per_second"].as_f64() > Some(0.0) && look["phase"] == "backfill"),
        "{looks:#?}"
    );
    assert!(any(&|look| look["left_ms"].is_u64()));
    let waits = |look: &Value, text: &str| {
        look["waits"]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains(text))
    };
    assert!(any(&|look| waits(look, "paused since") && look["running"] == true));
    assert!(
        any(&|look| waits(look, "in the way") && waits(look, "reporting")),
        "{looks:#?}"
    );
    let (last, others) = looks.split_last().unwrap();
    assert!(last["over"] == true && last["running"] == false, "{last}");
    assert!(
        others
            .iter()
            .all(|look| look["over"] == false && look["version"] == 1)
    );
    let lines = reader.end().await.expect(0).stdout;
    for part in [
        "p (run 1) running",
        "rows/s",
        " pages (",
        "paused since",
        "stopped, not finished",
    ] {
        assert!(lines.contains(part), "{part}: {lines}");
    }
    assert!(
        !lines.contains('\u{1b}'),
        "nothing moves the cursor where nobody is at a terminal"
    );
    for wrong in ["0", "-1", "plan.yaml", "2h"] {
        pgmorph(&stage.url, &["status", "--watch", wrong]).await.expect(2);
    }
}
