//! Connection settings against a real server: logins, TLS modes, errors, cancelling, pooling.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only the test functions themselves as tests"
)]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use pgmorph::postgres::embedded::Installation;
use pgmorph::postgres::settings::{ConnectError, ConnectErrorKind, ConnectionSettings, Session};
use tempfile::TempDir;
use tokio_postgres::error::SqlState;

/// A throw-away server with certificates, stopped when dropped.
pub struct Cluster {
    directory: TempDir,
    pub port: u16,
    postmaster: Child,
}

const HBA: &str = "\
local     all,replication all         trust
hostssl   all tls_only   127.0.0.1/32 scram-sha-256
hostnossl all plain_only 127.0.0.1/32 scram-sha-256
hostssl   all certified  127.0.0.1/32 cert
host      all tls_only,plain_only,certified 127.0.0.1/32 reject
host      all old        127.0.0.1/32 md5
host      all plain      127.0.0.1/32 password
host      all free       127.0.0.1/32 trust
host      all all        127.0.0.1/32 scram-sha-256
";

const ROLES: &str = "\
CREATE ROLE secret LOGIN PASSWORD 'hush';
CREATE ROLE tls_only LOGIN PASSWORD 'hush';
CREATE ROLE plain_only LOGIN PASSWORD 'hush';
CREATE ROLE certified LOGIN;
CREATE ROLE crowded LOGIN CONNECTION LIMIT 0;
SET password_encryption = 'md5'; CREATE ROLE old LOGIN PASSWORD 'hush';
CREATE ROLE plain LOGIN PASSWORD 'hush';
CREATE ROLE free LOGIN;
";

impl Cluster {
    /// One server for all tests that run at the same time.
    pub async fn shared() -> Arc<Self> {
        static RUNNING: tokio::sync::Mutex<Weak<Cluster>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut running = RUNNING.lock().await;
        if let Some(cluster) = running.upgrade() {
            return cluster;
        }
        let cluster = Arc::new(Self::start("server").await);
        *running = Arc::downgrade(&cluster);
        cluster
    }

    pub async fn start(certificate: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
        certificates(at);
        for name in fs::read_dir(at).unwrap() {
            own(&name.unwrap().path());
        }
        own(at);
        let data = at.join("data");
        let mut initdb = server_command("initdb", at);
        initdb
            .arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"]);
        run(&mut initdb);
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        fs::write(data.join("pg_hba.conf"), HBA).unwrap();
        let settings = format!(
            "port={port}\nunix_socket_directories='{sockets}'\nlisten_addresses='127.0.0.1'\nfsync=off\nssl=on\n\
             ssl_cert_file='{dir}/{certificate}.crt'\nssl_key_file='{dir}/{certificate}.key'\n\
             ssl_ca_file='{dir}/ca.crt'\n",
            dir = at.display(),
            sockets = sockets(at, port)
        );
        fs::write(data.join("postgresql.auto.conf"), settings).unwrap();
        let log = fs::File::create(at.join("log")).unwrap();
        let postmaster = server_command("postgres", at)
            .arg("-D")
            .arg(&data)
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let cluster = Self {
            directory,
            port,
            postmaster,
        };
        cluster.wait_until_ready().await;
        for sql in ROLES.lines() {
            cluster.admin().await.client.batch_execute(sql).await.unwrap();
        }
        cluster
    }

    async fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) = self.over_socket("postgres").connect("wait").await {
            assert!(
                Instant::now() < deadline,
                "{error}\n{}",
                fs::read_to_string(self.file("log")).unwrap()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn admin(&self) -> Session {
        self.over_socket("postgres").connect("admin").await.unwrap()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn over_socket(&self, user: &str) -> ConnectionSettings {
        let host = self.directory.path().display();
        resolve(&format!(
            "host={host} port={} user={user} dbname=postgres connect_timeout=60",
            self.port
        ))
    }

    /// Over TCP, as a name that the certificate lists unless `more` says otherwise.
    fn over_tcp(&self, more: &str) -> ConnectionSettings {
        let (port, ca) = (self.port, self.file("ca.crt"));
        let more = more.replace("$CA", &ca.display().to_string());
        let more = more.replace("$DIR", &self.directory.path().display().to_string());
        resolve(&format!(
            "host=localhost hostaddr=127.0.0.1 port={port} user=secret password=hush dbname=postgres connect_timeout=60 {more}"
        ))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let pid = self.postmaster.id().to_string();
        let _ = Command::new("kill").args(["-QUIT", &pid]).status();
        let _ = self.postmaster.wait();
    }
}

/// A file's, and on Linux one of an abstract name.
fn sockets(at: &Path, port: u16) -> String {
    let abstract_name = if cfg!(target_os = "linux") {
        format!(", @pgmorph-{port}")
    } else {
        String::new()
    };
    format!("{}{abstract_name}", at.display())
}

fn bin(program: &str) -> PathBuf {
    Installation::find(None).unwrap().bindir.join(program)
}

/// As root the server's programs run as postgres, since they refuse root.
pub fn server_command(program: &str, directory: &Path) -> Command {
    let mut command = Command::new(bin(program));
    command
        .current_dir(directory)
        .env_remove("PGDATA")
        .env("LC_ALL", "C");
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command
}

pub fn server_user() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let account = accounts
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .expect("a user postgres");
    let fields: Vec<&str> = account.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

pub fn own(path: &Path) {
    if let Some((uid, gid)) = server_user() {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

pub fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Two authorities, a server and a client certificate of the first, and a server that vouches for itself.
fn certificates(at: &Path) {
    let openssl = |arguments: &str| {
        run(Command::new("openssl")
            .current_dir(at)
            .args(arguments.split_whitespace()));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    for (name, subject, more) in [
        ("ca", "authority", ""),
        ("other", "another", ""),
        ("self", "localhost", "-addext subjectAltName=DNS:localhost"),
    ] {
        openssl(&format!(
            "req -x509 {key} -subj /CN={subject} {more} -keyout {name}.key -out {name}.crt"
        ));
    }
    for (name, subject, extension) in [
        ("server", "localhost", "subjectAltName=DNS:localhost"),
        ("client", "certified", "extendedKeyUsage=clientAuth"),
    ] {
        fs::write(at.join("extension"), extension).unwrap();
        openssl(&format!(
            "req -new {key} -subj /CN={subject} -keyout {name}.key -out {name}.csr"
        ));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extension \
             -out {name}.crt"
        ));
    }
}

pub fn resolve(url: &str) -> ConnectionSettings {
    ConnectionSettings::resolve(Some(url), &|_| None).unwrap()
}

async fn refused(settings: &ConnectionSettings) -> ConnectError {
    let error = settings.connect("test").await.expect_err("no connection");
    assert!(!format!("{error} {error:?} {}", error.help()).contains("hush"));
    error
}

async fn text(session: &Session, sql: &str) -> String {
    session.client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn encrypted(settings: &ConnectionSettings) -> bool {
    let session = settings.connect("test").await.unwrap();
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    session.client.query_one(sql, &[]).await.unwrap().get(0)
}

/// A running statement is cancelled, and the session can be used afterwards.
async fn cancels(settings: &ConnectionSettings) {
    let session = settings.connect("test").await.unwrap();
    let cancel = session.cancel.clone();
    let sleep = session.client.batch_execute("SELECT pg_sleep(60)");
    let request = async {
        // Until the statement runs there is nothing to cancel, so ask until it is gone.
        loop {
            cancel.cancel().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let result = tokio::select! { result = sleep => result, () = request => unreachable!() };
    assert_eq!(result.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    assert_eq!(text(&session, "SELECT 'still here'").await, "still here");
}

#[tokio::test]
async fn a_session_over_the_socket() {
    let cluster = Cluster::shared().await;
    let settings = cluster.over_socket("postgres");
    let session = settings.connect("pgmorph test").await.unwrap();
    assert_eq!(text(&session, "SHOW application_name").await, "pgmorph test");
    session
        .client
        .batch_execute("DO $$ BEGIN RAISE WARNING 'look' USING DETAIL = 'here'; END $$")
        .await
        .unwrap();
    let notices = session.notices.take();
    assert_eq!(
        (notices[0].message.as_str(), notices[0].detail.as_deref()),
        ("look", Some("here"))
    );
    assert!(session.notices.take().is_empty());
    cancels(&settings).await;
    settings.refuse_transaction_pooling().await.unwrap();
}

#[tokio::test]
async fn refused_logins_are_told_apart() {
    let cluster = Cluster::shared().await;
    let cases = [
        (
            cluster.over_tcp("password=wrong"),
            ConnectErrorKind::LoginRefused,
            "28P01",
        ),
        (
            cluster.over_tcp("user=nobody"),
            ConnectErrorKind::LoginRefused,
            "28P01",
        ),
        (
            cluster.over_socket("nobody"),
            ConnectErrorKind::LoginRefused,
            "28000",
        ),
        (
            cluster.over_tcp("dbname=none"),
            ConnectErrorKind::DatabaseMissing,
            "3D000",
        ),
        (
            cluster.over_socket("postgres").with_dbname("none"),
            ConnectErrorKind::DatabaseMissing,
            "3D000",
        ),
        (
            cluster.over_socket("crowded"),
            ConnectErrorKind::TooManyConnections,
            "53300",
        ),
        (
            cluster.over_tcp("options='-c nothing=1'"),
            ConnectErrorKind::Refused,
            "42704",
        ),
    ];
    for (settings, kind, code) in cases {
        let error = refused(&settings).await;
        assert_eq!((error.kind(), error.sqlstate()), (kind, Some(code)), "{error}");
        assert!(error.to_string().contains(error.target()) && error.target().contains("postgresql://"));
    }
    let error = refused(&cluster.over_tcp("password=''")).await;
    assert_eq!(
        (error.kind(), error.sqlstate()),
        (ConnectErrorKind::LoginRefused, None),
        "{error}"
    );
}

#[tokio::test]
async fn servers_that_are_not_there() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = refused(&resolve(&format!("postgresql://u:hush@127.0.0.1:{closed}/d"))).await;
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable);
    let expected =
        format!("cannot reach the server at postgresql://u@127.0.0.1:{closed}/d: connection refused");
    assert_eq!(error.to_string(), expected);
    assert!(error.help().contains("PGHOST"));

    let empty = tempfile::tempdir().unwrap();
    let error = refused(&resolve(&format!("host={} user=u", empty.path().display()))).await;
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable);
    assert!(
        error.to_string().ends_with("no such file or directory"),
        "{error}"
    );

    let error = refused(&resolve("host=no-such-host.invalid user=u")).await;
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn other_hosts_are_tried_while_one_is_away() {
    let cluster = Cluster::shared().await;
    // It accepts connections, as the kernel does for it, and never says a word.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().port();
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let hosts = |one: u16, two: u16, more: &str| {
        let rest = "user=secret password=hush dbname=postgres connect_timeout=1";
        resolve(&format!(
            "host=127.0.0.1,127.0.0.1 port={one},{two} {rest} {more}"
        ))
    };
    hosts(closed, cluster.port, "").connect("test").await.unwrap();
    let error = refused(&hosts(silent, closed, "")).await;
    assert_eq!(error.kind(), ConnectErrorKind::Unreachable);
    assert!(
        error.to_string().ends_with("timed out; connection refused"),
        "{error}"
    );
    // A refused login ends the search.
    let error = refused(&hosts(cluster.port, silent, "password=wrong")).await;
    assert_eq!(error.kind(), ConnectErrorKind::LoginRefused);
}

#[tokio::test]
async fn servers_are_chosen_by_their_role() {
    let cluster = Cluster::shared().await;
    for wanted in ["any", "read-write", "primary", "prefer-standby"] {
        cluster
            .over_tcp(&format!("target_session_attrs={wanted}"))
            .connect("test")
            .await
            .unwrap();
    }
    for wanted in ["read-only", "standby"] {
        let error = refused(&cluster.over_tcp(&format!("target_session_attrs={wanted}"))).await;
        assert_eq!(error.kind(), ConnectErrorKind::WrongServer, "{error}");
    }
    let read_only =
        cluster.over_tcp("target_session_attrs=read-only options='-c default_transaction_read_only=on'");
    read_only.connect("test").await.unwrap();
}

#[tokio::test]
async fn tls_in_all_modes() {
    let cluster = Cluster::shared().await;
    for (more, expected) in [
        ("sslmode=disable", false),
        ("sslmode=allow", false),
        ("sslmode=prefer", true),
        ("sslmode=require", true),
        (
            "sslmode=require sslnegotiation=postgres ssl_max_protocol_version=TLSv1.2",
            true,
        ),
        ("sslmode=verify-ca sslrootcert=$CA", true),
        ("sslmode=verify-ca sslrootcert=$CA host=127.0.0.1", true),
        (
            "sslmode=verify-full sslrootcert=$CA channel_binding=require",
            true,
        ),
        // The other way is taken when the first is not to be had.
        ("sslmode=allow user=tls_only", true),
        ("sslmode=prefer user=plain_only", false),
        ("sslmode=prefer sslrootcert=$DIR/other.crt", false),
    ] {
        assert_eq!(encrypted(&cluster.over_tcp(more)).await, expected, "{more}");
    }
    for (more, detail, help) in [
        (
            "sslmode=verify-full sslrootcert=$CA host=127.0.0.1",
            "another name",
            "verify-ca",
        ),
        (
            "sslmode=verify-full sslrootcert=$DIR/other.crt",
            "trusted authority",
            "sslrootcert",
        ),
        (
            "sslmode=verify-ca sslrootcert=$DIR/other.crt",
            "trusted authority",
            "sslrootcert",
        ),
        (
            "sslmode=require sslrootcert=$DIR/other.crt",
            "trusted authority",
            "sslrootcert",
        ),
        ("sslrootcert=system", "trusted authority", "sslrootcert"),
        (
            "sslmode=verify-ca sslrootcert=$DIR/ca.key",
            "no certificate in it",
            "sslrootcert",
        ),
    ] {
        let error = refused(&cluster.over_tcp(more)).await;
        assert_eq!(error.kind(), ConnectErrorKind::Tls, "{more}: {error}");
        assert!(
            error.to_string().contains(detail) && error.help().contains(help),
            "{more}: {error}"
        );
    }
    let error = refused(&cluster.over_tcp("sslmode=disable user=tls_only")).await;
    assert_eq!(
        (error.kind(), error.sqlstate()),
        (ConnectErrorKind::LoginRefused, Some("28000"))
    );
    let error = refused(&cluster.over_tcp("sslmode=disable channel_binding=require")).await;
    assert_eq!(error.kind(), ConnectErrorKind::LoginRefused, "{error}");
    cancels(&cluster.over_tcp("sslmode=verify-full sslrootcert=$CA")).await;
    cancels(&cluster.over_tcp("sslmode=disable")).await;
}

#[tokio::test]
async fn a_client_certificate_is_a_login() {
    let cluster = Cluster::shared().await;
    let key = cluster.file("client.key");
    let certified = "user=certified password='' sslmode=verify-full sslrootcert=$CA sslcert=$DIR/client.crt \
                     sslkey=$DIR/client.key";
    assert!(encrypted(&cluster.over_tcp(certified)).await);
    let error = refused(&cluster.over_tcp("user=certified password='' sslmode=require")).await;
    assert_eq!(
        (error.kind(), error.sqlstate()),
        (ConnectErrorKind::LoginRefused, Some("28000"))
    );
    let exposed = key.with_extension("exposed");
    fs::copy(&key, &exposed).unwrap();
    fs::set_permissions(&exposed, fs::Permissions::from_mode(0o644)).unwrap();
    let error = refused(&cluster.over_tcp(&certified.replace("client.key", "client.exposed"))).await;
    assert!(
        error.kind() == ConnectErrorKind::Tls && error.to_string().contains("chmod 0600"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_vouches_for_itself_and_then_shuts_down() {
    let cluster = Cluster::start("self").await;
    assert!(encrypted(&cluster.over_tcp("sslmode=verify-full sslrootcert=$DIR/self.crt")).await);
    let error = refused(&cluster.over_tcp("sslmode=verify-full sslrootcert=$CA")).await;
    assert_eq!(error.kind(), ConnectErrorKind::Tls);

    cluster
        .admin()
        .await
        .client
        .batch_execute("ALTER SYSTEM SET ssl = off")
        .await
        .unwrap();
    cluster
        .admin()
        .await
        .client
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .unwrap();
    while encrypted(&cluster.over_tcp("")).await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = refused(&cluster.over_tcp("sslmode=require")).await;
    assert_eq!(error.kind(), ConnectErrorKind::Tls);
    assert!(
        error.to_string().ends_with("server does not support TLS"),
        "{error}"
    );

    // While a session is open a smart shutdown refuses new ones.
    let open = cluster.admin().await;
    let mut stop = server_command("pg_ctl", cluster.directory.path());
    run(stop
        .arg("-D")
        .arg(cluster.file("data"))
        .args(["-m", "smart", "-W", "stop"]));
    let error = loop {
        match cluster.over_socket("postgres").connect("test").await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(error) => break error,
        }
    };
    assert_eq!(
        (error.kind(), error.sqlstate()),
        (ConnectErrorKind::NotAccepting, Some("57P03"))
    );
    drop(open);
}

#[tokio::test]
async fn the_pool_sets_up_and_cleans_every_session() {
    let cluster = Cluster::shared().await;
    let setup = vec![
        "SET lock_timeout = '123ms'".to_owned(),
        "SET search_path = pg_catalog".to_owned(),
    ];
    let pool = cluster.over_tcp("").pool("pgmorph pool", 1, setup).unwrap();
    let first: i32 = {
        let client = pool.get().await.unwrap();
        let cached = client.prepare_cached("SELECT pg_backend_pid()").await.unwrap();
        client
            .batch_execute("SET lock_timeout = 0; SET work_mem = '1MB'; SELECT pg_advisory_lock(7)")
            .await
            .unwrap();
        client
            .batch_execute("BEGIN; CREATE TEMP TABLE scratch (); SET ROLE secret")
            .await
            .unwrap();
        client.query_one(&cached, &[]).await.unwrap().get(0)
    };
    for round in 0..2 {
        let client = pool.get().await.unwrap();
        let cached = client.prepare_cached("SELECT pg_backend_pid()").await.unwrap();
        assert_eq!(
            client.query_one(&cached, &[]).await.unwrap().get::<_, i32>(0),
            first
        );
        let sql =
            "SELECT concat_ws(' ', current_setting('lock_timeout'), current_setting('application_name'),
                       current_setting('work_mem'), to_regclass('pg_temp.scratch') IS NULL,
                       (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()))";
        let state: String = client.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(state, "123ms pgmorph pool 4MB t 0", "round {round}");
        client
            .batch_execute("VACUUM pg_am")
            .await
            .expect("no transaction is open");
        // An aborted transaction is as good as none.
        client.batch_execute("BEGIN; SELECT 1/0").await.unwrap_err();
    }
}

#[tokio::test]
async fn the_pool_passes_connection_errors_on() {
    let cluster = Cluster::shared().await;
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for (settings, kind) in [
        (cluster.over_tcp("password=wrong"), ConnectErrorKind::LoginRefused),
        (
            cluster.over_tcp(&format!("port={closed}")),
            ConnectErrorKind::Unreachable,
        ),
    ] {
        let pool = settings.pool("test", 2, Vec::new()).unwrap();
        let error = pool.get().await.unwrap_err();
        assert_eq!(
            ConnectError::in_chain(&error).map(ConnectError::kind),
            Some(kind),
            "{error:?}"
        );
        assert!(!format!("{error:?} {error} {pool:?}").contains("wrong"));
    }
    let pool = cluster
        .over_tcp("")
        .pool("test", 1, vec!["SET nothing = 1".to_owned()])
        .unwrap();
    assert!(pool.get().await.is_err());
    let missing = cluster.over_tcp("sslcert=/nonexistent sslkey=/nonexistent");
    assert_eq!(
        missing.pool("test", 1, Vec::new()).err().unwrap().kind(),
        ConnectErrorKind::Tls
    );
}

/// Passes bytes on, but drops a cancel request whose sender hangs up first, as PgBouncer does.
async fn impatient_proxy(server: u16) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
    use tokio::net::{TcpListener, TcpStream};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = [0; 8];
                client.read_exact(&mut head).await.unwrap();
                let mut upstream = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                if head[4..] == 80_877_102_u32.to_be_bytes() {
                    let mut key = [0; 8];
                    client.read_exact(&mut key).await.unwrap();
                    let hung_up = tokio::time::timeout(Duration::from_millis(200), client.read_u8()).await;
                    if hung_up.is_ok() {
                        return;
                    }
                    upstream.write_all(&[head, key].concat()).await.unwrap();
                    return;
                }
                upstream.write_all(&head).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut upstream).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn a_cancel_request_waits_until_a_proxy_has_passed_it_on() {
    let cluster = Cluster::shared().await;
    let port = impatient_proxy(cluster.port).await;
    let settings = cluster.over_tcp(&format!("sslmode=disable port={port}"));
    tokio::time::timeout(Duration::from_secs(20), cancels(&settings))
        .await
        .expect("the request was dropped");
}
