//! The one place that knows how a test server is started.

use crate::catalog::server::{self, Server};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio_postgres::Client;

pub struct TestServer {
    server: Server,
    databases: AtomicU32,
}

impl TestServer {
    /// With these settings besides those of every test server.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let server = Self {
            server: Server::start(),
            databases: AtomicU32::new(0),
        };
        let admin = server.connect("postgres").await;
        // Autovacuum would change estimates between two plans and add its own locks to the measured ones.
        let mut all = vec![("autovacuum", "off")];
        all.extend_from_slice(settings);
        for (name, value) in all {
            let sql = format!("ALTER SYSTEM SET {name} = '{value}'");
            admin.batch_execute(&sql).await.unwrap();
        }
        admin.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
        server
    }

    pub fn url(&self, database: &str, user: &str) -> String {
        let directory = self.server.directory().display();
        format!("postgresql://{user}@/{database}?host={directory}")
    }

    /// A superuser's session.
    pub async fn connect(&self, database: &str) -> Client {
        self.server.connect(database, "postgres").await
    }

    pub async fn connect_as(&self, database: &str, user: &str) -> Client {
        self.server.connect(database, user).await
    }

    pub async fn major(&self) -> u32 {
        let admin = self.connect("postgres").await;
        let sql = "SELECT current_setting('server_version_num')::integer / 10000";
        let major: i32 = admin.query_one(sql, &[]).await.unwrap().get(0);
        u32::try_from(major).unwrap()
    }

    pub fn log_path(&self) -> PathBuf {
        self.server.directory().join("log")
    }

    /// A client program of the server's own release.
    pub fn command(&self, program: &str) -> Command {
        server::command(program, self.server.directory())
    }

    pub fn next_database(&self) -> String {
        format!("case_{}", self.databases.fetch_add(1, Ordering::Relaxed))
    }
}
