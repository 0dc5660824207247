//! `report`: what the ledger keeps of a run, as text, JSON and page.

use super::pages;
use crate::backfill::number;
use crate::harness::{Running, TestServer, pgmorph, until};
use crate::monitor::Stage;

const ROWS: u32 = 40_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_report_knows_waits_throttling_batches_and_the_verification() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, ROWS).await;
    let database = &stage.database;
    let none = pgmorph(&stage.url, &["report"]).await.expect(3);
    assert!(
        none.stderr.contains("no plan was ever applied"),
        "{}",
        none.stderr
    );
    // Somebody is in the way of the first lock, and lets it go once that was noticed.
    // Two take turns: behind a transaction that is old nobody queues, so on a busy machine there might be no attempt.
    let holders = [database.session().await, database.session().await];
    let hold = "BEGIN; LOCK TABLE orders IN ACCESS SHARE MODE";
    holders[0].batch_execute(hold).await.unwrap();
    let mut turn = 0;
    let apply = [
        "apply",
        &stage.plan,
        "--yes",
        "--through",
        "contract",
        "--throttle",
        "5%",
    ];
    let running = Running::start(&stage.url, &apply);
    until("an attempt was given up", || {
        let last = &holders[turn];
        turn = 1 - turn;
        let next = &holders[turn];
        async move {
            next.batch_execute(hold).await.unwrap();
            last.batch_execute("COMMIT").await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
            let known = number(
                database,
                "SELECT count(*) FROM pg_class WHERE oid = to_regclass('pgmorph.attempts')",
            )
            .await;
            known == 1 && number(database, "SELECT count(*) FROM pgmorph.attempts").await > 0
        }
    })
    .await;
    holders[turn].batch_execute("COMMIT").await.unwrap();
    let fills = "SELECT count(*) FROM pgmorph.backfills WHERE rows_done > 0";
    until("it fills", async || number(database, fills).await == 1).await;
    pgmorph(&stage.url, &["pause", "p"]).await.expect(0);
    // Written while it stands still, not only afterwards: a crash would lose it.
    let aside = "SELECT count(*) FROM pgmorph.step_stats WHERE stats::json -> 'now' ->> 'reason' LIKE 'paused since%'";
    until("the pause is recorded", async || {
        number(database, aside).await == 1
    })
    .await;
    let meanwhile = pgmorph(&stage.url, &["report", "p", "--no-verify", "--format", "json"])
        .await
        .expect(0)
        .json();
    assert_eq!(meanwhile["state"], "started");
    pgmorph(&stage.url, &["resume", "p"]).await.expect(0);
    pgmorph(&stage.url, &["tune", "p", "--throttle", "off"])
        .await
        .expect(0);
    running.end().await.expect(0);

    let report = pgmorph(&stage.url, &["report", &stage.plan, "--format", "json"])
        .await
        .expect(0)
        .json();
    assert_eq!(
        (&report["plan"], &report["run"], &report["state"]),
        (&"p".into(), &1.into(), &"completed".into())
    );
    let totals = &report["totals"];
    assert!(
        totals["locks"]["gave_up"].as_u64() >= Some(1) && totals["locks"]["waited_ms"].as_u64() > Some(0),
        "{totals}"
    );
    assert_eq!(totals["rows"], ROWS);
    let steps = report["steps"].as_array().unwrap();
    assert_eq!(report["steps_done"], steps.len());
    for step in steps {
        assert_eq!(step["state"], "done");
        assert!(
            step["elapsed_ms"].is_u64() && step["summary"].is_string() && step["locks"].is_array(),
            "{step}"
        );
    }
    let fill = steps
        .iter()
        .find(|step| step["id"] == "01-widen_column-fill")
        .unwrap();
    let stats = &fill["stats"];
    assert_eq!(stats["aside"][0]["cause"], "paused");
    assert!(stats["aside"][0]["ms"].as_u64() >= Some(1_000), "{stats}");
    assert!(stats["now"].is_null(), "it waits for nothing any more");
    assert!(
        stats["batches"]["number"].as_u64() > Some(0) && stats["batches"]["pages_max"].as_u64() > Some(0),
        "{stats}"
    );
    assert!(stats["batches"]["held_max_us"].as_u64() > Some(0), "{stats}");
    let samples = stats["samples"].as_array().unwrap();
    let last = samples.last().unwrap();
    assert_eq!((&last["done"], &last["rows"]), (&last["total"], &ROWS.into()));
    let waited = steps
        .iter()
        .find(|step| step["attempts_given_up"].as_u64() > Some(0))
        .unwrap();
    assert!(
        waited["stats"]["locks"]["waited_ms"].as_u64() > Some(0),
        "{waited}"
    );
    let attempt = &report["attempts"][0];
    // Given up by the server, or by us for the sake of those who would wait behind it.
    assert!(
        ["55P03", "57014"].contains(&attempt["sqlstate"].as_str().unwrap()),
        "{attempt}"
    );
    assert!(attempt["blockers"][0]["pid"].is_i64(), "{attempt}");
    assert_eq!(report["verification"]["verdict"], "matches");

    let text = pgmorph(&stage.url, &["report", "1"]).await.expect(0).stdout;
    for part in [
        "p (run 1): completed",
        "01-widen_column-fill",
        "stood aside once",
        "paused since",
        "Verified now: p: matches",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let file = stage.path("report.html");
    let written = pgmorph(&stage.url, &["report", "-o", &file]).await.expect(0);
    assert_eq!(written.stdout, "");
    let page = std::fs::read_to_string(&file).unwrap();
    pages::assert_sound(&page);
    pages::keep("report", &page);
    for part in [
        "Run 1 of p",
        "Timeline of the steps",
        "Attempts that did not succeed",
        "For whom it stood aside",
        "Verification",
    ] {
        assert!(page.contains(part), "{part}");
    }
    let stored = "SELECT max(octet_length(stats))::bigint FROM pgmorph.step_stats";
    assert!(number(database, stored).await < 40_000);
    for (wanted, why) in [
        ("7", "there is no run 7"),
        ("nobody", "plan nobody was never applied"),
    ] {
        let refused = pgmorph(&stage.url, &["report", wanted]).await.expect(3);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
    pgmorph(&stage.url, &["status", "--format", "html"])
        .await
        .expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_several_calls_did_adds_up_and_a_rollback_is_told() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, ROWS).await;
    let slowly = ["apply", &stage.plan, "--yes", "--throttle", "5%"];
    let running = Running::start(&stage.url, &slowly);
    let begun = "SELECT count(*) FROM pg_class WHERE oid = to_regclass('pgmorph.backfills')";
    let fills = "SELECT count(*) FROM pgmorph.backfills WHERE rows_done > 0";
    until("it fills", async || {
        number(&stage.database, begun).await == 1 && number(&stage.database, fills).await == 1
    })
    .await;
    running.signal("INT").await;
    running.end().await.expect(130);
    let json = async || {
        pgmorph(&stage.url, &["report", "p", "--format", "json"])
            .await
            .expect(0)
            .json()
    };
    let fill = |report: &serde_json::Value| {
        let steps = report["steps"].as_array().unwrap();
        steps
            .iter()
            .find(|step| step["id"] == "01-widen_column-fill")
            .unwrap()
            .clone()
    };
    let first = fill(&json().await)["stats"]["worked_ms"].as_u64().unwrap();
    assert!(first > 0);
    pgmorph(&stage.url, &["apply", &stage.plan, "--yes", "--throttle", "off"])
        .await
        .expect(0);
    let report = json().await;
    assert!(fill(&report)["stats"]["worked_ms"].as_u64() > Some(first));
    assert_eq!(report["verification"]["verdict"], "contract_pending");
    pgmorph(&stage.url, &["rollback", "p", "--yes"]).await.expect(0);
    let report = json().await;
    assert_eq!(
        (&report["state"], &report["steps_done"]),
        (&"rolled_back".into(), &0.into())
    );
    let page = pgmorph(&stage.url, &["report", "p", "--format", "html"])
        .await
        .expect(0)
        .stdout;
    pages::assert_sound(&page);
    assert!(page.contains("rolled back"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_of_an_earlier_version_is_reported_and_completed() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, 100).await;
    let expand = ["apply", &stage.plan, "--yes", "--through", "expand"];
    pgmorph(&stage.url, &expand).await.expect(0);
    let older = "DROP TABLE pgmorph.step_stats; UPDATE pgmorph.ledger SET version = 3";
    stage.database.admin.batch_execute(older).await.unwrap();
    let report = pgmorph(&stage.url, &["report", "--format", "json"])
        .await
        .expect(0)
        .json();
    assert!(report["steps"][0]["stats"].is_null());
    pgmorph(&stage.url, &["status", "p", "--watch", "0.1"])
        .await
        .expect(0);
    pgmorph(&stage.url, &["apply", &stage.plan, "--yes"])
        .await
        .expect(0);
    assert_eq!(
        number(&stage.database, "SELECT version::bigint FROM pgmorph.ledger").await,
        4
    );
    assert!(number(&stage.database, "SELECT count(*) FROM pgmorph.step_stats").await > 0);
}
