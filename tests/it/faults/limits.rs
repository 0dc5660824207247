//! Servers that are out of connections, from the beginning or in the middle.

use super::stage::{Stage, stopped};
use crate::harness::{Running, TestServer, until};
use std::time::Duration;

const NONE_FREE: &str = "53300";

/// A limit of the role or of the database is lifted while the program waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_at_the_start_is_waited_for() {
    let stage = Stage::set(&[]).await;
    for limit in [
        "ALTER ROLE owner CONNECTION LIMIT",
        "ALTER DATABASE :db CONNECTION LIMIT",
    ] {
        let mut case = stage.begin().await;
        case.runs_as_owner().await;
        let limit = limit.replace(":db", &case.database.name);
        let admin = &case.database.admin;
        admin.batch_execute(&format!("{limit} 0")).await.unwrap();
        let running = stage.apply(&case.url());
        running.says("it is asked again for 30 s").await;
        admin.batch_execute(&format!("{limit} -1")).await.unwrap();
        running.end().await.expect(0);
        case.ends_done(&limit, Duration::ZERO).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_stays_stops_it_cleanly() {
    let stage = Stage::set(&[]).await;
    let mut case = stage.begin().await;
    case.runs_as_owner().await;
    let admin = &case.database.admin;
    admin
        .batch_execute("ALTER ROLE owner CONNECTION LIMIT 0")
        .await
        .unwrap();
    let ended = stage.apply(&case.url()).end().await;
    stopped(&ended, &[5], "a limit that stays");
    assert!(ended.stderr.contains(NONE_FREE) || ended.stderr.contains("too many connections"));
    admin
        .batch_execute("ALTER ROLE owner CONNECTION LIMIT -1")
        .await
        .unwrap();
    case.ends_well("a limit that stayed", false, Duration::ZERO).await;
}

/// In the middle of a run its working sessions are ended, and no others are to be had for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_in_the_middle_is_waited_for() {
    let stage = Stage::set(&[]).await;
    let mut case = stage.begin().await;
    case.runs_as_owner().await;
    let admin = &case.database.admin;
    let blocker = case.database.server.connect(&case.database.name).await;
    // It stands where the widened column begins, so that there is a middle.
    blocker
        .batch_execute("BEGIN; LOCK TABLE accounts IN SHARE UPDATE EXCLUSIVE MODE")
        .await
        .unwrap();
    let running: Running = stage.apply(&case.url());
    running.says(" begun: ").await;
    admin
        .batch_execute("ALTER ROLE owner CONNECTION LIMIT 1")
        .await
        .unwrap();
    let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND application_name IN ('pgmorph', 'pgmorph observer')";
    admin.batch_execute(ended).await.unwrap();
    blocker.batch_execute("ROLLBACK").await.unwrap();
    running.says(NONE_FREE).await;
    admin
        .batch_execute("ALTER ROLE owner CONNECTION LIMIT -1")
        .await
        .unwrap();
    running.end().await.expect(0);
    case.ends_done("a limit in the middle", Duration::from_secs(5))
        .await;
}

/// All connections of the server are taken; those that are reserved for superusers are not ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_is_waited_for() {
    let server = TestServer::start(&[("max_connections", "12"), ("superuser_reserved_connections", "3")]);
    let stage = Stage::on(server).await;
    let database = stage.database().await;
    let sql = "DO $$ BEGIN IF to_regrole('owner') IS NULL THEN CREATE ROLE owner LOGIN; END IF; END $$; \
               ALTER TABLE accounts OWNER TO owner; ALTER SCHEMA public OWNER TO owner";
    database.admin.batch_execute(sql).await.unwrap();
    let create = format!("GRANT CREATE, TEMP ON DATABASE {} TO owner", database.name);
    database.admin.batch_execute(&create).await.unwrap();
    let url = stage.server.url(&database.name, "owner");
    let mut hogs = Vec::new();
    let config = stage.server.config(&database.name, "owner");
    while let Ok((client, connection)) = config.connect(tokio_postgres::NoTls).await {
        tokio::spawn(connection);
        hogs.push(client);
    }
    assert!(!hogs.is_empty());
    let running = stage.apply(&url);
    running.says("it is asked again for 30 s").await;
    drop(hogs);
    running.end().await.expect(0);
    until("nothing of it is left over", async || {
        database.leftovers().await.is_empty()
    })
    .await;
}
