//! What is computed from trades moves into tables of its own, in versions, while trades come in.

use super::{Actor, STATEMENTS, Stage, Work};
use crate::harness::{Chance, TestServer};
use serde_json::Value;
use tokio_postgres::Client;

const SYSTEM: &str = "fifo_allocations";
const TABLES: &str = "001_fifo_allocations.yaml";
const FIRST: &str = "002_allocations_version_1.yaml";
const SECOND: &str = "003_allocations_version_2.yaml";

/// The bot: it records trades, and computes profits into them as the old system does.
struct Bot {
    client: Client,
    trades: i64,
    profits: i64,
}

impl Actor for Bot {
    async fn act(&mut self, chance: &mut Chance) -> Result<(), tokio_postgres::Error> {
        let symbol = format!("SYM-{}", chance.below(100));
        if chance.below(3) > 0 {
            let side = if chance.below(2) == 0 { "buy" } else { "sell" };
            let sql = "INSERT INTO trade_records (symbol, side, size, price, order_time) \
                       VALUES ($1, $2, 1 + $3 % 5, 100 + $3 % 40, clock_timestamp())";
            let number = i32::try_from(chance.below(1_000)).unwrap();
            self.client.execute(sql, &[&symbol, &side, &number]).await?;
            self.trades += 1;
            return Ok(());
        }
        let sql = "UPDATE trade_records AS s SET parent_id = b.id, pnl_usd = (s.price - b.price) * s.size \
                   FROM (SELECT * FROM trade_records WHERE symbol = $1 AND side = 'buy' ORDER BY id DESC LIMIT 1) AS b \
                   WHERE s.id = (SELECT max(id) FROM trade_records WHERE symbol = $1 AND side = 'sell' AND parent_id IS NULL \
                    AND order_time > '2026-01-01')";
        let changed = self.client.execute(sql, &[&symbol]).await?;
        self.profits += i64::try_from(changed).unwrap();
        Ok(())
    }
}

/// The reports: they read whatever is there.
struct Reports {
    client: Client,
}

impl Actor for Reports {
    async fn act(&mut self, chance: &mut Chance) -> Result<(), tokio_postgres::Error> {
        let there = "SELECT to_regclass('v_pnl_by_symbol') IS NOT NULL";
        let sql = match self.client.query_one(there, &[]).await?.get(0) {
            true if chance.below(2) == 0 => "SELECT count(*) FROM v_pnl_by_symbol WHERE symbol = 'SYM-3'",
            _ => "SELECT count(*) FROM trade_records WHERE symbol = 'SYM-3' AND pnl_usd > 0",
        };
        match self.client.query_one(sql, &[]).await {
            // It went with the rollback, between the two statements.
            Err(error) if error.code().is_some_and(|code| code.code() == "42P01") => Ok(()),
            answer => answer.map(drop),
        }
    }
}

fn answers<'v>(verification: &'v Value, name: &str) -> &'v Vec<Value> {
    let monitors = verification["monitors"].as_array().unwrap();
    let found = monitors.iter().find(|monitor| monitor["name"] == name);
    found
        .and_then(|monitor| monitor["rows"].as_array())
        .unwrap_or_else(|| panic!("{verification:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn allocations_stand_beside_the_old_values_in_versions() {
    let server = TestServer::start(&[]);
    let stage = Stage::set(&server, SYSTEM, 6_000).await;
    let mut bot = Work::start(
        Bot {
            client: stage.database.session().await,
            trades: 0,
            profits: 0,
        },
        3,
    );
    let mut reports = Work::start(
        Reports {
            client: stage.database.session().await,
        },
        4,
    );
    for phase in ["expand", "backfill", "contract"] {
        stage.apply(TABLES, &["--through", phase]).await.expect(0);
        bot.go_on(STATEMENTS).await;
        reports.go_on(STATEMENTS).await;
    }
    let snapshot = "SELECT count(*) FROM historical_pnl_snapshot_20251120";
    let kept = stage.number(snapshot).await;
    assert_eq!(
        kept,
        stage
            .number("SELECT count(*) FROM trade_records WHERE side = 'sell' AND parent_id IS NOT NULL AND order_time < '2025-11-20 00:00 UTC'")
            .await
    );
    assert!(kept > 500, "{kept}");

    stage.apply(FIRST, &["--through", "contract"]).await.expect(0);
    bot.go_on(STATEMENTS).await;
    stage.apply(SECOND, &["--through", "contract"]).await.expect(0);
    for plan in [TABLES, FIRST, SECOND] {
        let found = stage.verify(plan, &[]).await;
        Stage::holds(&found, "matches");
        if plan == TABLES {
            assert_eq!(answers(&found.1, "allocations by version").len(), 2);
            assert_eq!(
                answers(&found.1, "health of the latest version")[0]["allocation_version"],
                2
            );
            assert_eq!(
                answers(&found.1, "profits of the old system and of the new one").len(),
                3
            );
            // Symbol 97 has sold more than it ever bought.
            assert!(
                answers(&found.1, "unmatched sells")
                    .iter()
                    .all(|row| row["size"].is_number())
            );
            assert!(!answers(&found.1, "unmatched sells").is_empty());
        }
    }
    a_wrong_allocation_is_found(&stage).await;
    back(&stage, kept).await;
    bot.go_on(STATEMENTS).await;
    reports.go_on(STATEMENTS).await;

    // The snapshot is there already, and is taken as it is.
    stage.apply(TABLES, &["--through", "contract"]).await.expect(0);
    assert_eq!(stage.number(snapshot).await, kept);
    stage.apply(FIRST, &["--through", "contract"]).await.expect(0);
    reports.stop().await;
    let bot = bot.stop().await;
    assert_eq!(
        stage.number("SELECT count(*) FROM trade_records").await,
        6_000 + bot.trades
    );
    let profits =
        "SELECT count(*) FROM trade_records WHERE parent_id IS NOT NULL AND order_time > '2026-01-01'";
    assert_eq!(stage.number(profits).await, bot.profits);
}

async fn a_wrong_allocation_is_found(stage: &Stage<'_>) {
    stage
        .sql("UPDATE fifo_allocations SET allocated_size = allocated_size * 2 WHERE id = (SELECT min(id) FROM fifo_allocations)")
        .await;
    let (code, found) = stage.verify(TABLES, &[]).await;
    assert_eq!(
        (code, found["verdict"].as_str()),
        (1, Some("drifted")),
        "{found:#}"
    );
    assert!(found["findings"].to_string().contains("allocated"), "{found:#}");
    stage
        .sql("UPDATE fifo_allocations SET allocated_size = allocated_size / 2 WHERE id = (SELECT min(id) FROM fifo_allocations)")
        .await;
}

/// The plan wants YES to be typed; the snapshot stays.
async fn back(stage: &Stage<'_>, kept: i64) {
    for plan in [SECOND, FIRST] {
        stage.pgmorph(&["rollback", plan, "--yes"]).await.expect(0);
    }
    for arguments in [&["--yes"][..], &["--confirm", "yes"]] {
        let refused = stage
            .pgmorph(&[&["rollback", TABLES], arguments].concat())
            .await
            .expect(1);
        assert!(refused.stderr.contains("--confirm YES"), "{}", refused.stderr);
    }
    stage
        .pgmorph(&["rollback", TABLES, "--confirm", "YES"])
        .await
        .expect(0);
    assert_eq!(
        stage
            .number("SELECT count(*) FROM historical_pnl_snapshot_20251120")
            .await,
        kept
    );
    let rest = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace \
                AND (relname LIKE 'fifo%' OR relname LIKE 'v\\_%' OR relname = 'manual_review_queue')";
    assert_eq!(stage.number(rest).await, 0);
    assert_eq!(stage.database.leftovers().await, [""; 0]);
}
