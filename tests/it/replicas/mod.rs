//! Those who receive what is written: standbys that lag, stand still, go away or take over; subscribers; and servers that
//! are far away.

mod failover;
mod far;
mod lag;
mod proxy;
mod slots;

use crate::harness::{Database, TestServer, until};
use tokio::process::Command;

/// A table of its own for a case, and a standby called `east` that has caught up.
pub async fn pair(settings: &[(&str, &str)]) -> (TestServer, TestServer) {
    let mut primary = TestServer::start(settings);
    let standby = primary.start_standby("east", &[]);
    let admin = primary.connect_here("postgres").await;
    until("the standby follows", async || {
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name = 'east'";
        admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    (primary, standby)
}

/// Commits wait for the standby from now on.
pub async fn wait_for_standby(primary: &TestServer) {
    let admin = primary.connect_here("postgres").await;
    for statement in [
        "ALTER SYSTEM SET synchronous_standby_names = 'east'",
        "SELECT pg_reload_conf()",
    ] {
        admin.batch_execute(statement).await.unwrap();
    }
    until("commits wait for the standby", async || {
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
}

/// The process of a standby that receives, to be stopped and continued.
pub struct Receiver(i32);

impl Receiver {
    pub async fn of(standby: &TestServer) -> Self {
        let client = standby.connect_here("postgres").await;
        let row = client
            .query_one("SELECT pid FROM pg_stat_wal_receiver", &[])
            .await;
        Self(row.unwrap().get(0))
    }

    pub async fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.0.to_string()])
            .status()
            .await;
        assert!(status.unwrap().success());
    }
}

pub async fn promote(standby: &TestServer) {
    let client = standby.connect_here("postgres").await;
    let promoted = client
        .query_one("SELECT pg_promote(true, 60)", &[])
        .await
        .unwrap();
    assert!(promoted.get::<_, bool>(0), "the standby does not take over");
}

/// The same database at the server that took over.
pub async fn at<'s>(server: &'s TestServer, name: &str) -> Database<'s> {
    Database {
        server,
        name: name.to_owned(),
        admin: server.connect_here(name).await,
        user: "postgres".into(),
        recorder: crate::harness::Recorder::default(),
    }
}
