//! The real PgBouncer in front of a server: a pool of transactions or statements is refused, one of sessions works.
//!
//! Where no PgBouncer is installed these tests say so and prove nothing; with `PGMORPH_PGBOUNCER=required`, as on
//! continuous integration, they fail.

use crate::harness::{Database, Ended, Running, TestServer, pgmorph, until};
use crate::settings::{own, server_user};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

fn program() -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path
        .split(':')
        .chain(["/usr/sbin", "/usr/local/sbin"])
        .map(|folder| Path::new(folder).join("pgbouncer"))
        .find(|path| path.exists());
    let required = std::env::var("PGMORPH_PGBOUNCER").is_ok_and(|text| text == "required");
    assert!(
        found.is_some() || !required,
        "no pgbouncer: apt-get install pgbouncer"
    );
    if found.is_none() {
        eprintln!("NOT TESTED: pgbouncer is not installed");
    }
    found
}

struct Bouncer {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl Bouncer {
    async fn start(program: &Path, database: &Database<'_>, settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
        own(at);
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let url = database.server.url("", "");
        let socket = url.split_once("host=").unwrap().1.replace("&port", " port");
        let dir = at.display();
        let text = format!(
            "[databases]\n* = host={socket}\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nunix_socket_dir=\n\
             auth_type=trust\nauth_file={dir}/users\nlogfile={dir}/log\nmax_client_conn=100\ndefault_pool_size=40\n{settings}\n"
        );
        fs::write(at.join("bouncer.ini"), text).unwrap();
        fs::write(
            at.join("users"),
            format!("\"postgres\" \"\"\n\"{}\" \"\"\n", database.user),
        )
        .unwrap();
        let mut command = Command::new(program);
        command
            .arg("-q")
            .arg(at.join("bouncer.ini"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some((uid, gid)) = server_user() {
            command.uid(uid).gid(gid);
        }
        let bouncer = Self {
            child: command.spawn().unwrap(),
            port,
            directory,
        };
        until("pgbouncer listens", async || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
        .await;
        bouncer
    }

    fn url(&self, database: &Database<'_>, more: &str) -> String {
        format!(
            "postgresql://{}@127.0.0.1:{}/{}?{more}",
            database.user, self.port, database.name
        )
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ORDERS: &str = "
CREATE TABLE orders (id integer PRIMARY KEY, version integer NOT NULL DEFAULT 0, note text);
INSERT INTO orders SELECT i, 0, 'note ' || i FROM generate_series(1, 5000) AS i;
";

const WIDEN: &str = "
name: p
settings: {small_table: 0}
changes:
  - widen_column: {table: orders, column: version, type: bigint}
  - create_index: {name: orders_note_idx, table: orders, columns: [note]}
";

const BUILD: &str = "
name: b
changes:
  - create_index: {name: built, table: orders, columns: [note, id]}
";

struct Plans {
    directory: TempDir,
}

impl Plans {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [("p", WIDEN), ("b", BUILD)] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

/// As the owner of its tables, who is no superuser.
async fn database(server: &TestServer) -> Database<'_> {
    let mut database = Database::create(server, ORDERS).await;
    let name = &database.name;
    let setup = format!(
        "CREATE ROLE owner_{name} LOGIN; ALTER TABLE orders OWNER TO owner_{name}; \
         GRANT CREATE ON DATABASE {name} TO owner_{name}; GRANT ALL ON SCHEMA public TO owner_{name}"
    );
    database.admin.batch_execute(&setup).await.unwrap();
    database.user = format!("owner_{name}");
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_of_transactions_and_of_statements_are_refused() {
    let Some(program) = program() else { return };
    let server = TestServer::start(&[]);
    let database = database(&server).await;
    let plans = Plans::new();
    let plan = plans.path("p");
    for mode in ["transaction", "statement"] {
        let bouncer = Bouncer::start(&program, &database, &format!("pool_mode={mode}")).await;
        let url = bouncer.url(&database, "");
        for arguments in [
            vec!["plan", &plan],
            vec!["apply", &plan, "--yes"],
            vec!["verify", &plan],
            vec!["rollback", &plan, "--yes"],
            vec!["status"],
            vec!["snapshot"],
            vec!["apply", &plan, "--yes", "--role", &database.user],
        ] {
            let ended = pgmorph(&url, &arguments).await;
            assert_eq!(ended.code, Some(5), "{mode} {arguments:?}: {ended:?}");
            for part in ["transaction-pooling proxy", "session mode", "locks and settings"] {
                assert!(
                    ended.stderr.contains(part),
                    "{mode} {arguments:?}: {}",
                    ended.stderr
                );
            }
        }
        // A second user of the same pool finds a server session as it was.
        let other = server.connect(&database.name).await;
        let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' UNION ALL \
                   SELECT count(*) FROM pg_namespace WHERE nspname = 'pgmorph'";
        for row in other.query(sql, &[]).await.unwrap() {
            assert_eq!(row.get::<_, i64>(0), 0, "{mode}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_sessions_is_as_good_as_the_server() {
    let Some(program) = program() else { return };
    let server = TestServer::start(&[]);
    let database = database(&server).await;
    let bouncer = Bouncer::start(&program, &database, "pool_mode=session").await;
    let (url, plans) = (bouncer.url(&database, ""), Plans::new());
    let (plan, build) = (plans.path("p"), plans.path("b"));
    let done = async |arguments: &[&str]| -> Ended {
        let ended = pgmorph(&url, arguments).await;
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}\n{}", bouncer.log());
        ended
    };
    done(&["plan", &plan]).await;
    done(&["apply", &plan, "--yes"]).await;
    let verified = pgmorph(&url, &["verify", &plan]).await.expect(1);
    assert!(
        verified.stdout.contains("contract pending"),
        "{}",
        verified.stdout
    );
    done(&["rollback", &plan, "--yes"]).await;
    assert_eq!(database.leftovers().await, Vec::<String>::new());

    // A build that waits for an old snapshot is cancelled by Ctrl-C, and survives the program's death.
    let apply = ["apply", build.as_str(), "--yes"];
    for (signal, code) in [("INT", Some(130)), ("KILL", None)] {
        let old = server.connect(&database.name).await;
        old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
            .await
            .unwrap();
        let running = Running::start(&url, &apply);
        until("the build waits", async || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'CREATE INDEX%'";
            database.admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await;
        running.signal(signal).await;
        if signal == "INT" {
            running.says("press Ctrl-C again").await;
            running.signal(signal).await;
        }
        let ended = running.end().await;
        assert_eq!(ended.code, code, "{ended:?}\n{}", bouncer.log());
        old.batch_execute("ROLLBACK").await.unwrap();
    }
    done(&apply).await;
    done(&["verify", &build]).await;

    // Killed in a backfill, which waits for a row.
    done(&["apply", &plan, "--yes", "--through", "expand"]).await;
    let holder = server.connect(&database.name).await;
    holder
        .batch_execute("BEGIN; SELECT FROM orders WHERE id = 1 FOR NO KEY UPDATE")
        .await
        .unwrap();
    let mut running = Running::start(&url, &["apply", &plan, "--yes"]);
    running.says_or_ends("widen_column-fill begun").await;
    running.signal("KILL").await;
    assert_eq!(running.end().await.code, None);
    holder.batch_execute("ROLLBACK").await.unwrap();
    done(&["apply", &plan, "--yes", "--through", "contract"]).await;
    done(&["verify", &plan]).await;
    assert_eq!(database.leftovers().await, Vec::<String>::new());
    // Sessions that go back to the pool hold nothing.
    until("no lock of ours is left", async || {
        let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
        database.admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_do_not_pass_are_not_missed_in_silence() {
    let Some(program) = program() else { return };
    let server = TestServer::start(&[]);
    let database = database(&server).await;
    let strict = Bouncer::start(&program, &database, "pool_mode=session").await;
    let lenient = Bouncer::start(
        &program,
        &database,
        "pool_mode=session\nignore_startup_parameters=options",
    )
    .await;
    let options = "options=-c%20lock_timeout%3D7s%20-crole%3Dx";
    let ended = pgmorph(&strict.url(&database, options), &["status"])
        .await
        .expect(5);
    assert!(
        ended.stderr.contains("does not take every startup parameter"),
        "{}",
        ended.stderr
    );
    let ended = pgmorph(&lenient.url(&database, options), &["status"])
        .await
        .expect(5);
    assert!(
        ended
            .stderr
            .contains("a proxy did not pass on what `options` sets: lock_timeout, role"),
        "{}",
        ended.stderr
    );
    // Without them, and with what PgBouncer does not tell of itself.
    for bouncer in [&strict, &lenient] {
        for wanted in ["any", "read-write", "primary"] {
            let url = bouncer.url(&database, &format!("target_session_attrs={wanted}"));
            pgmorph(&url, &["status"]).await.expect(0);
        }
        let url = bouncer.url(&database, "target_session_attrs=standby");
        let ended = pgmorph(&url, &["status"]).await.expect(5);
        assert!(ended.stderr.contains("it is a primary"), "{}", ended.stderr);
    }
}
