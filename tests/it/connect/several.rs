//! Several hosts: a primary and its standby, and which of them one gets.

use super::{Case, Comparison, case, since};
use crate::settings::{Cluster, run, server_command};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A streaming standby of a cluster, stopped when dropped.
struct Standby {
    port: u16,
    postmaster: Child,
}

impl Standby {
    async fn of(primary: &Cluster) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let (at, data) = (primary.file(""), primary.file("standby"));
        run(server_command("pg_basebackup", &at)
            .args([
                "-h",
                &at.display().to_string(),
                "-p",
                &primary.port.to_string(),
                "-U",
                "postgres",
                "-c",
                "fast",
                "-R",
                "-D",
            ])
            .arg(&data));
        let mut command = server_command("postgres", &at);
        let postmaster = command.arg("-D").arg(&data).args(["-c", &format!("port={port}")]);
        let sockets = format!("unix_socket_directories={}", at.display());
        let postmaster = postmaster
            .args(["-c", &sockets])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let standby = Self { port, postmaster };
        let url = format!("host={} port={port} user=postgres dbname=postgres", at.display());
        let began = Instant::now();
        while crate::settings::resolve(&url).connect("wait").await.is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "the standby does not come up"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        standby
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .args(["-QUIT", &self.postmaster.id().to_string()])
            .status();
        let _ = self.postmaster.wait();
    }
}

const PRIMARY: Result<&str, &str> = Ok("secret postgres 127.0.0.1 TLSv1.3 primary");
const STANDBY: Result<&str, &str> = Ok("secret postgres 127.0.0.1 TLSv1.3 standby");

/// Two hosts in this order, and what is wanted of them.
const WANTED: &[(&str, &str, Result<&str, &str>)] = &[
    ("$STANDBY,$PORT", "any", STANDBY),
    ("$PORT,$STANDBY", "any", PRIMARY),
    ("$STANDBY,$PORT", "read-write", PRIMARY),
    ("$PORT,$STANDBY", "read-only", STANDBY),
    ("$STANDBY,$PORT", "primary", PRIMARY),
    ("$PORT,$STANDBY", "standby", STANDBY),
    ("$PORT,$STANDBY", "prefer-standby", STANDBY),
    ("$PORT,$CLOSED", "prefer-standby", PRIMARY),
    ("$CLOSED,$PORT", "standby", Err("it is a primary")),
    ("$STANDBY,$CLOSED", "read-write", Err("it is a standby")),
    ("$STANDBY,$CLOSED", "primary", Err("it is a standby")),
    ("$CLOSED,$PORT", "any", PRIMARY),
    (
        "$CLOSED,$CLOSED",
        "any",
        Err("connection refused; connection refused"),
    ),
];

#[tokio::test]
async fn one_gets_the_server_that_was_asked_for() {
    let cluster = Cluster::start("server").await;
    let standby = Standby::of(&cluster).await;
    let comparison = Comparison::new(&cluster).with("$STANDBY", standby.port.to_string());
    let mut cases: Vec<Case> = Vec::new();
    for (ports, wanted, outcome) in WANTED {
        let string = format!(
            "host=127.0.0.1,127.0.0.1 port={ports} user=secret password=hush dbname=postgres target_session_attrs={wanted}"
        );
        let string: &'static str = Box::leak(string.into_boxed_str());
        cases.push(case(string, &[], *outcome));
    }
    cases.extend([
        case("postgresql://secret:hush@127.0.0.1:$CLOSED,127.0.0.1:$PORT/postgres", &[], Ok("secret")),
        case("host=nowhere.invalid,127.0.0.1 port=$PORT user=secret password=hush dbname=postgres", &[], Ok("secret")),
        case("host=a,b,c hostaddr=127.0.0.1,127.0.0.1,127.0.0.1 port=$CLOSED,$CLOSED,$PORT user=secret password=hush dbname=postgres", &[], Ok("secret")),
        case("host=127.0.0.1,127.0.0.1 port=$PORT,$PORT,$PORT user=secret", &[], Err("contradict")),
        case("host=$DIR,127.0.0.1 port=$CLOSED,$PORT user=secret password=hush dbname=postgres", &[], Ok("secret postgres 127.0.0.1")),
        case("host=127.0.0.1,127.0.0.1 port=$PORT,$CLOSED user=secret password=wrong dbname=postgres", &[], Err("refused")),
        since(16, case("host=127.0.0.1,127.0.0.1 port=$CLOSED,$PORT load_balance_hosts=random user=secret password=hush dbname=postgres", &[], Ok("secret"))),
        since(16, case("host=127.0.0.1 port=$PORT load_balance_hosts=maybe user=secret", &[], Err("load_balance_hosts"))),
        case("host=127.0.0.1,127.0.0.1 port=$STANDBY,$PORT user=secret password=hush dbname=postgres", &[("PGTARGETSESSIONATTRS", "primary")], Ok("secret")),
    ]);
    let compared = comparison.try_all(&cases).await;
    println!("{compared} connections are as psql's");
}

#[tokio::test]
async fn hosts_are_shuffled_where_that_is_asked_for() {
    let first = Cluster::shared().await;
    let second = Cluster::start("server").await;
    let settings = crate::settings::resolve(&format!(
        "host=127.0.0.1,127.0.0.1 port={},{} user=secret password=hush dbname=postgres load_balance_hosts=random",
        first.port, second.port
    ));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..60 {
        let session = settings.connect("test").await.unwrap();
        let row = session.client.query_one("SHOW port", &[]).await.unwrap();
        seen.insert(row.get::<_, String>(0));
        if seen.len() == 2 {
            return;
        }
    }
    panic!("60 times the same: {seen:?}");
}
