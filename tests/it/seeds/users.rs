//! Strategies come to belong to users; the trades follow once their table exists.

use super::{Actor, STATEMENTS, Stage, Work};
use crate::harness::{Chance, TestServer, schema_dump};
use std::collections::BTreeMap;
use tokio_postgres::Client;

const SYSTEM: &str = "multi_user_strategies";
const STRATEGIES: &str = "001_user_strategies.yaml";
const TRADES: &str = "002_trades_user_id.yaml";
const ROWS: i64 = 500;

/// The old version: it knows users and their credentials.
struct Users {
    client: Client,
    made: i64,
    left: i64,
}

impl Actor for Users {
    async fn act(&mut self, chance: &mut Chance) -> Result<(), tokio_postgres::Error> {
        self.made += 1;
        let email = format!("new{}@example.com", self.made);
        self.client
            .execute("INSERT INTO users (email) VALUES ($1)", &[&email])
            .await?;
        let sql = "INSERT INTO user_credentials (user_id, environment, secret) \
                   SELECT id, 'testnet', 'x' FROM users WHERE email = $1";
        self.client.execute(sql, &[&email]).await?;
        self.left += 1;
        if chance.below(4) == 0 {
            self.client
                .execute("DELETE FROM users WHERE email = $1", &[&email])
                .await?;
            self.left -= 1;
        }
        Ok(())
    }
}

/// The new version: it keeps the state of strategies.
struct Strategies {
    client: Client,
    account: BTreeMap<i64, &'static str>,
}

impl Actor for Strategies {
    async fn act(&mut self, chance: &mut Chance) -> Result<(), tokio_postgres::Error> {
        let user = 1 + i64::try_from(chance.below(40)).unwrap();
        let (sql, status) = match chance.below(4) {
            0 => (
                "INSERT INTO user_strategies (user_id, strategy_name, instrument, environment, config) \
                 VALUES (md5('user ' || $1::bigint)::uuid, 'Razor', 'BTC-PERPETUAL', 'live', '{\"size\": 1}') \
                 ON CONFLICT ON CONSTRAINT unique_user_strategy DO UPDATE SET status = 'stopped'",
                Some("stopped"),
            ),
            1 => (
                "UPDATE user_strategies SET status = 'active', connected_at = now() WHERE user_id = md5('user ' || $1::bigint)::uuid",
                Some("active"),
            ),
            2 => (
                "UPDATE user_strategies SET status = 'error', error_count = error_count + 1 \
                 WHERE user_id = md5('user ' || $1::bigint)::uuid",
                Some("error"),
            ),
            _ => (
                "DELETE FROM user_strategies WHERE user_id = md5('user ' || $1::bigint)::uuid",
                None,
            ),
        };
        let changed = self.client.execute(sql, &[&user]).await?;
        match (status, changed) {
            (Some(status), 1) => self.account.insert(user, status),
            (None, _) => self.account.remove(&user),
            _ => None,
        };
        Ok(())
    }
}

async fn states(stage: &Stage<'_>) -> String {
    let ended = stage.pgmorph(&["status", "--format", "json"]).await.expect(0);
    ended.json().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn strategies_at_once_and_trades_when_there_are_any() {
    let server = TestServer::start(&[]);
    let stage = Stage::set(&server, SYSTEM, u64::try_from(ROWS).unwrap()).await;
    let before = schema_dump(&stage.database).await;
    let client = stage.database.session().await;
    let mut users = Work::start(
        Users {
            client,
            made: 0,
            left: 0,
        },
        5,
    );
    let directory = stage.plans.display().to_string();
    let ended = stage
        .pgmorph(&["apply", &directory, "--yes", "--through", "contract"])
        .await
        .expect(0);
    assert!(ended.stdout.contains("waiting"), "{}", ended.stdout);
    Stage::holds(&stage.verify(STRATEGIES, &[]).await, "matches");
    assert!(
        states(&stage).await.contains("trades does not exist"),
        "{}",
        states(&stage).await
    );
    let client = stage.database.session().await;
    let mut strategies = Work::start(
        Strategies {
            client,
            account: BTreeMap::new(),
        },
        6,
    );
    users.go_on(STATEMENTS).await;
    strategies.go_on(STATEMENTS).await;
    seen(&stage).await;

    // Still no table: nothing happens. Then the first trade comes.
    let again = stage
        .pgmorph(&["apply", &directory, "--yes", "--through", "contract"])
        .await
        .expect(0);
    assert!(again.stdout.contains("waiting"), "{}", again.stdout);
    stage
        .sql(
            "CREATE TABLE trades (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, strategy_name text NOT NULL, \
             entry_time timestamptz NOT NULL DEFAULT now()); INSERT INTO trades (strategy_name) SELECT 'Razor' FROM \
             generate_series(1, 1000)",
        )
        .await;
    stage
        .pgmorph(&["apply", &directory, "--yes", "--through", "contract"])
        .await
        .expect(0);
    Stage::holds(&stage.verify(TRADES, &[]).await, "matches");
    let indexes =
        "SELECT count(*) FROM pg_indexes WHERE tablename = 'trades' AND indexname LIKE 'idx_trades_user%'";
    assert_eq!(stage.number(indexes).await, 2);
    strategies.go_on(STATEMENTS).await;

    // Back: the second half, then the first.
    balances(&stage, strategies.stop().await).await;
    stage.pgmorph(&["rollback", &directory, "--yes"]).await.expect(0);
    stage.sql("DROP TABLE trades").await;
    assert_eq!(before, schema_dump(&stage.database).await);
    stage
        .pgmorph(&["apply", &directory, "--yes", "--through", "contract"])
        .await
        .expect(0);
    Stage::holds(&stage.verify(STRATEGIES, &[]).await, "matches");
    let users = users.stop().await;
    assert_eq!(
        stage.number("SELECT count(*) FROM users").await,
        ROWS + users.left
    );
}

/// What was acknowledged to the new version is there, and nothing else.
async fn balances(stage: &Stage<'_>, strategies: Strategies) {
    let sql = "SELECT status FROM user_strategies WHERE user_id = md5('user ' || $1::bigint)::uuid";
    for (user, status) in &strategies.account {
        let found: String = stage.database.admin.query_one(sql, &[user]).await.unwrap().get(0);
        assert_eq!(found, *status);
    }
    let kept = i64::try_from(strategies.account.len()).unwrap();
    assert_eq!(stage.number("SELECT count(*) FROM user_strategies").await, kept);
}

/// The trigger keeps updated_at, and a user's strategies go with him.
async fn seen(stage: &Stage<'_>) {
    let stale = "SELECT count(*) FROM user_strategies WHERE status = 'active' AND updated_at <= created_at";
    assert_eq!(stage.number(stale).await, 0);
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'user_strategies'";
    assert_eq!(stage.number(columns).await, 17);
    let indexes = "SELECT count(*) FROM pg_indexes WHERE tablename = 'user_strategies'";
    assert_eq!(stage.number(indexes).await, 7);
}
