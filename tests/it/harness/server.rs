//! The one place that knows how a test server is started.

use super::Proxy;
use pgmorph::postgres::embedded::{Installation, Options, Server};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio_postgres::{Client, NoTls};

pub struct TestServer {
    server: Server,
    databases: AtomicU32,
}

impl TestServer {
    /// With these settings besides those of every test server.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        // Autovacuum would change estimates between two plans and add its own locks to the measured ones.
        let settings = [("autovacuum", "off"), ("max_connections", "200")]
            .iter()
            .chain(settings);
        let options = Options {
            settings: settings
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Options::default()
        };
        Self {
            server: Server::start(&Installation::find(None).unwrap(), &options).unwrap(),
            databases: AtomicU32::new(0),
        }
    }

    pub fn major(&self) -> u32 {
        self.server.version().major
    }

    pub fn url(&self, database: &str, user: &str) -> String {
        let (host, port) = (self.server.socket_dir().display(), self.server.port());
        format!("postgresql://{user}@/{database}?host={host}&port={port}")
    }

    /// A proxy towards it.
    pub async fn proxy(&self) -> Proxy {
        let socket = format!(".s.PGSQL.{}", self.server.port());
        Proxy::start(self.server.socket_dir().join(socket)).await
    }

    /// A superuser's session.
    pub async fn connect(&self, database: &str) -> Client {
        self.connect_as(database, "postgres").await
    }

    pub async fn connect_as(&self, database: &str, user: &str) -> Client {
        let (client, connection) = self.config(database, user).connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    pub fn config(&self, database: &str, user: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(self.server.socket_dir())
            .port(self.server.port())
            .user(user)
            .dbname(database);
        config
    }

    /// As after a power cut: every process at once, and then the server comes up again.
    pub fn crash(&self) {
        tokio::task::block_in_place(|| {
            self.server.kill_immediately().unwrap();
            self.server.restart().unwrap();
        });
    }

    /// A fast shutdown, and then it comes up again.
    pub fn restart(&self) {
        tokio::task::block_in_place(|| self.server.restart().unwrap());
    }

    /// An immediate shutdown, and then it comes up again.
    pub fn stop_immediately(&self) {
        tokio::task::block_in_place(|| {
            let file = self.server.data_dir().join("postmaster.pid");
            let pid = std::fs::read_to_string(&file).unwrap();
            let pid = pid.lines().next().unwrap();
            let told = Command::new("kill").args(["-s", "QUIT", pid]).status();
            assert!(told.unwrap().success());
            while file.exists() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            self.server.restart().unwrap();
        });
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.server.log_path()).unwrap()
    }

    /// A client program of the server's own release.
    pub fn command(&self, program: &str) -> Command {
        let path: PathBuf = self.server.bindir().join(program);
        let mut command = Command::new(path);
        command.env_clear();
        command
    }

    pub fn next_database(&self) -> String {
        format!("case_{}", self.databases.fetch_add(1, Ordering::Relaxed))
    }
}
