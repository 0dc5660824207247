//! A throw-away server for these tests.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, NoTls};

/// Stopped and removed when it goes out of scope.
pub struct Server {
    process: Child,
    directory: tempfile::TempDir,
    databases: AtomicU32,
}

fn binaries() -> PathBuf {
    std::env::var_os("PGMORPH_TEST_BINDIR").map_or_else(|| "/usr/lib/postgresql/15/bin".into(), PathBuf::from)
}

/// The server refuses to run as root: then its files and its process belong to `postgres`.
fn unprivileged() -> Option<(u32, u32)> {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).unwrap();
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

fn command(program: &str, directory: &Path) -> Command {
    let mut command = Command::new(binaries().join(program));
    command
        .current_dir(directory)
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if let Some((uid, gid)) = unprivileged() {
        command.uid(uid).gid(gid);
    }
    command
}

impl Server {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let log = std::fs::File::create(path.join("log")).unwrap();
        if let Some((uid, gid)) = unprivileged() {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
        }
        let status = command("initdb", path)
            .args([
                "-D",
                "data",
                "-U",
                "postgres",
                "-A",
                "trust",
                "--no-sync",
                "-E",
                "UTF8",
            ])
            .status()
            .unwrap();
        assert!(status.success());
        let process = command("postgres", path)
            .args(["-D", "data", "-c", "listen_addresses=", "-c", "fsync=off", "-c"])
            .arg(format!("unix_socket_directories={}", path.display()))
            .args([
                "-c",
                "wal_level=logical",
                "-c",
                "log_statement=none",
                "-c",
                "max_locks_per_transaction=512",
            ])
            .args(["-c", "log_min_messages=error"])
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self {
            process,
            directory,
            databases: AtomicU32::new(0),
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !server.ready() {
            assert!(
                Instant::now() < deadline,
                "the server did not start: {}",
                server.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn ready(&self) -> bool {
        let pid = self.directory.path().join("data/postmaster.pid");
        std::fs::read_to_string(pid)
            .is_ok_and(|text| text.lines().nth(7).is_some_and(|s| s.trim() == "ready"))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    pub async fn connect(&self, database: &str, user: &str) -> Client {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(self.directory.path())
            .user(user)
            .dbname(database);
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A new database, and a superuser's session in it.
    pub async fn database(&self) -> (String, Client) {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let admin = self.connect("postgres", "postgres").await;
        let sql = format!("CREATE DATABASE {name}");
        admin.batch_execute(&sql).await.unwrap();
        let client = self.connect(&name, "postgres").await;
        (name, client)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An orderly stop would only wait; the directory goes away with it. The postmaster's children notice at
        // once when it is gone.
        let pid = self.process.id().to_string();
        let quit = Command::new("kill").args(["-QUIT", &pid]).status();
        if !quit.is_ok_and(|status| status.success()) {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}
