//! Autovacuum on the table: a plain one yields, whoever asks; one that prevents wraparound is never disturbed.

use super::scene::CHANGE;
use super::{Scene, roles};
use crate::harness::{TestServer, until};

/// Long enough to outlast any run here, for a table of a few pages.
const SLOWLY: &str = "ALTER TABLE orders SET (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, \
                      autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0)";

const RUNNING: &str = "SELECT coalesce((SELECT pid FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' \
                       AND datname = current_database() AND query LIKE 'autovacuum: VACUUM %public.orders%'), 0)";

async fn vacuuming(scene: &Scene<'_>) -> i32 {
    let row = scene.database.admin.query_one(RUNNING, &[]).await.unwrap();
    row.get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_autovacuum_yields() {
    let server = TestServer::start(&[("autovacuum", "on"), ("autovacuum_naptime", "1s")]);
    roles(&server).await;
    // Who may cancel it, and who has to wait until the server does.
    for role in ["postgres", "deploy"] {
        let scene = Scene::set(&server, role).await;
        scene.write("lock_deadline: 30s", CHANGE);
        scene.sql(SLOWLY).await;
        scene
            .sql(
                "INSERT INTO orders SELECT n, repeat('z', 500) FROM generate_series(1000, 20000) n; \
                  UPDATE orders SET note = 'dead'",
            )
            .await;
        until("an autovacuum is at work", async || vacuuming(&scene).await != 0).await;
        let before = server.log().matches("canceling autovacuum task").count();
        scene.apply(&[]).await.expect(0);
        assert!(scene.is_done().await);
        let after = server.log().matches("canceling autovacuum task").count();
        assert!(after > before, "as {role}: it ended by itself");
        scene.database.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_prevents_wraparound_is_never_disturbed() {
    let server = TestServer::start(&[
        ("autovacuum", "on"),
        ("autovacuum_naptime", "1s"),
        ("autovacuum_freeze_max_age", "100000"),
        ("autovacuum_vacuum_cost_delay", "0"),
    ]);
    roles(&server).await;
    for role in ["postgres", "deploy"] {
        let scene = Scene::set(&server, role).await;
        scene.write(
            "lock_deadline: 4s, on_blocked: terminate, on_blocked_after: 1ms",
            CHANGE,
        );
        // Only against wraparound it is vacuumed nevertheless.
        scene.sql(SLOWLY).await;
        scene
            .sql("ALTER TABLE orders SET (autovacuum_enabled = off)")
            .await;
        scene
            .sql("INSERT INTO orders SELECT n, repeat('z', 500) FROM generate_series(1000, 20000) n")
            .await;
        scene
            .sql("DO $$ BEGIN FOR n IN 1..110000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
            .await;
        until("an autovacuum against wraparound is at work", async || {
            vacuuming(&scene).await != 0
        })
        .await;
        let pid = vacuuming(&scene).await;
        let ended = scene.apply(&[]).await.expect(4);
        assert!(
            ended.stderr.contains(&format!("blocked by pid {pid} of ")),
            "{}",
            ended.stderr
        );
        if role == "postgres" {
            assert!(ended.stderr.contains("autovacuum worker"), "{}", ended.stderr);
        }
        assert_eq!(vacuuming(&scene).await, pid, "it was disturbed");
        assert!(!server.log().contains("canceling autovacuum task"));
        scene.nothing_is_held().await;
        scene.database.drop().await;
    }
}
