//! The one place that knows how a test server is started.

use super::{Proxy, Tap};
use pgmorph::postgres::embedded::{Installation, Options, Server, Version};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, NoTls};

/// What initdb makes, kept between the tests of all runs; each makes its own where the server's user cannot reach it.
fn template(installation: &Installation) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clusters");
    std::fs::create_dir_all(&folder).ok()?;
    std::fs::set_permissions(&folder, Permissions::from_mode(0o777)).ok()?;
    Some(folder.join(installation.version.to_string()))
}

pub struct TestServer {
    server: Server,
    databases: AtomicU32,
    /// Where else it may be one day: clients look there too, for the one that writes.
    elsewhere: Vec<PathBuf>,
}

impl TestServer {
    /// With these settings besides those of every test server.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        // Autovacuum would change estimates between two plans and add its own locks to the measured ones.
        let settings = [("autovacuum", "off"), ("max_connections", "200")]
            .iter()
            .chain(settings);
        let installation = Installation::find(None).unwrap();
        let options = Options {
            settings: settings
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            template: template(&installation),
            ..Options::default()
        };
        Self {
            server: Server::start(&installation, &options).unwrap(),
            databases: AtomicU32::new(0),
            elsewhere: Vec::new(),
        }
    }

    /// A streaming standby of it, by its name in `pg_stat_replication`. Clients of the two find out which one writes.
    pub fn start_standby(&mut self, name: &str, settings: &[(&str, &str)]) -> Self {
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let server = self.server.start_standby(name, &settings).unwrap();
        self.elsewhere = vec![server.socket_dir().to_owned()];
        Self {
            server,
            databases: AtomicU32::new(1_000),
            elsewhere: vec![self.server.socket_dir().to_owned()],
        }
    }

    pub fn socket_dir(&self) -> &Path {
        self.server.socket_dir()
    }

    pub fn major(&self) -> u32 {
        self.version().major
    }

    pub fn version(&self) -> Version {
        self.server.version()
    }

    pub fn socket(&self) -> PathBuf {
        let file = format!(".s.PGSQL.{}", self.server.port());
        self.server.socket_dir().join(file)
    }

    pub fn url(&self, database: &str, user: &str) -> String {
        let (host, port) = (self.server.socket_dir().display(), self.server.port());
        if self.elsewhere.is_empty() {
            return format!("postgresql://{user}@/{database}?host={host}&port={port}");
        }
        let others = self.elsewhere.iter().map(|it| format!(",{}", it.display()));
        let others: String = others.collect();
        format!(
            "postgresql://{user}@/{database}?host={host}{others}&port={port}&target_session_attrs=read-write"
        )
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
        if !self.elsewhere.is_empty() {
            for directory in &self.elsewhere {
                config.host_path(directory);
            }
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        config
    }

    /// As after a power cut: every process at once, and then the server comes up again.
    pub fn crash(&self) {
        tokio::task::block_in_place(|| {
            self.server.kill_immediately().unwrap();
            self.server.restart().unwrap();
        });
    }

    /// A line to it that counts what is sent and breaks where it is told to.
    pub fn tap(&self) -> Tap {
        Tap::new(self.server.socket_dir(), self.server.port())
    }

    /// Every process at once.
    pub fn kill(&self) {
        tokio::task::block_in_place(|| self.server.kill_immediately().unwrap());
    }

    /// A superuser's session at this one, whether it writes or not.
    pub async fn connect_here(&self, database: &str) -> Client {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(self.server.socket_dir())
            .port(self.server.port())
            .user("postgres")
            .dbname(database);
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// It comes up again; one that is up is shut down fast before.
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

    pub fn bindir(&self) -> &Path {
        self.server.bindir()
    }

    pub fn next_database(&self) -> String {
        format!("case_{}", self.databases.fetch_add(1, Ordering::Relaxed))
    }
}
