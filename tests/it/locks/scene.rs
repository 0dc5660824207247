//! A database with two tables, its roles, plans as files, and an application at work.

use super::Monitor;
use crate::harness::{Database, Ended, PATIENCE, Running, TestServer, until};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// `deploy` owns the tables and runs the plans; `app` uses them; `marshal` may do as `deploy` and signal others.
pub async fn roles(server: &TestServer) {
    let postgres = server.connect("postgres").await;
    let sql = "CREATE ROLE app LOGIN; CREATE ROLE deploy LOGIN; \
               CREATE ROLE marshal LOGIN IN ROLE deploy, pg_signal_backend, pg_read_all_stats";
    postgres.batch_execute(sql).await.unwrap();
}

const SETUP: &str = "
CREATE TABLE orders (id bigint PRIMARY KEY, note text, total integer NOT NULL DEFAULT 0);
CREATE TABLE customers (id bigint PRIMARY KEY, note text, orders integer NOT NULL DEFAULT 0);
INSERT INTO orders SELECT n, repeat('x', 50), n FROM generate_series(0, 999) n;
INSERT INTO customers SELECT n, repeat('y', 50), n FROM generate_series(0, 999) n;
ALTER TABLE orders OWNER TO deploy; ALTER TABLE customers OWNER TO deploy;
GRANT ALL ON orders, customers TO app;
DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO deploy, marshal', current_database()); END $$;
GRANT CREATE ON SCHEMA public TO deploy, marshal;
ANALYZE;
";

/// One short lock that blocks everybody.
pub const CHANGE: &str = "  - set_default: {table: orders, column: total, default: 7}\n";

pub struct Scene<'s> {
    pub database: Database<'s>,
    directory: TempDir,
    pub role: &'static str,
}

impl<'s> Scene<'s> {
    pub async fn set(server: &'s TestServer, role: &'static str) -> Self {
        Self {
            database: Database::create(server, SETUP).await,
            directory: TempDir::new().unwrap(),
            role,
        }
    }

    pub fn write(&self, settings: &str, changes: &str) {
        let text = format!("name: attacked\nsettings: {{{settings}}}\nchanges:\n{changes}");
        std::fs::write(self.directory.path().join("plan.yaml"), text).unwrap();
    }

    pub fn start(&self, command: &str, more: &[&str]) -> Running {
        let plan = self.directory.path().join("plan.yaml").display().to_string();
        let url = self.database.server.url(&self.database.name, self.role);
        Running::start(&url, &[&[command, &plan, "--yes"], more].concat())
    }

    pub async fn apply(&self, more: &[&str]) -> Ended {
        self.start("apply", more).end().await
    }

    /// A session of a role, by a name that can be told.
    pub async fn session(&self, role: &str, application: &str) -> Client {
        let client = self.database.server.connect_as(&self.database.name, role).await;
        let sql = format!("SET application_name = '{application}'");
        client.batch_execute(&sql).await.unwrap();
        client
    }

    pub async fn ask(&self, sql: &str) -> bool {
        self.database.admin.query_one(sql, &[]).await.unwrap().get(0)
    }

    pub async fn sql(&self, sql: &str) {
        self.database.admin.batch_execute(sql).await.unwrap();
    }

    /// None of our sessions holds a lock on a table of the application.
    pub async fn nothing_is_held(&self) {
        let sql = "SELECT NOT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                   WHERE a.application_name LIKE 'pgmorph%' AND l.relation IN ('orders'::regclass, 'customers'::regclass))";
        until("nothing is held", async || self.ask(sql).await).await;
    }

    pub async fn is_done(&self) -> bool {
        self.ask(
            "SELECT pg_get_expr(adbin, adrelid) = '7' FROM pg_attrdef WHERE adrelid = 'orders'::regclass \
                  AND adnum = 3",
        )
        .await
    }

    /// Starts `apply`, and holds the table in a transaction that is young when our statement comes into the queue: an old one would be
    /// waited for beside it. Two take turns, so that it is always held by one.
    pub async fn trap(&self, more: &[&str]) -> (Running, Client) {
        let mut holder = self.session("app", "trap").await;
        let mut next = self.session("app", "trap").await;
        let lock = "BEGIN; SET LOCAL lock_timeout = '100ms'; LOCK TABLE orders IN ACCESS SHARE MODE";
        holder.batch_execute(lock).await.unwrap();
        let apply = self.start("apply", more);
        let began = Instant::now();
        loop {
            // Behind our statement it gets nothing.
            if next.batch_execute(lock).await.is_err() {
                return (apply, holder);
            }
            holder.batch_execute("COMMIT").await.unwrap();
            std::mem::swap(&mut holder, &mut next);
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(began.elapsed() < PATIENCE, "nobody comes into the trap");
        }
    }
}

pub async fn pid_of(client: &Client) -> i32 {
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
    row.get(0)
}

/// The application: sessions that read and write the tables, and what went wrong.
pub struct Busy {
    stop: watch::Sender<bool>,
    done: Arc<AtomicU64>,
    sessions: Vec<JoinHandle<Vec<String>>>,
    noise: JoinHandle<Duration>,
    monitor: Monitor,
}

/// What the application met.
#[derive(Debug)]
pub struct Felt {
    pub statements: u64,
    pub errors: Vec<String>,
    pub waits: super::monitor::Waits,
    pub noise: Duration,
}

impl Felt {
    /// No error, and nobody waited for us longer than `lock_timeout` and 100 ms; what the machine adds is what a
    /// statement suffers that nobody can make wait.
    #[track_caller]
    pub fn is_fine(&self, lock_timeout: Duration) {
        println!("the application felt: {self:?}");
        assert_eq!(self.errors, [""; 0]);
        assert!(self.statements > 0 && self.waits.looks > 0);
        let allowed = lock_timeout + Duration::from_millis(100) + 2 * self.noise;
        assert!(
            u128::try_from(self.waits.worst_ms).unwrap() <= allowed.as_millis(),
            "{self:?}"
        );
    }
}

impl Busy {
    /// So many sessions, each of which sends these in turn, `:id` being any of 1 to 999: row 0 is nobody's.
    pub async fn start(scene: &Scene<'_>, sessions: u64, statements: &'static [&'static str]) -> Self {
        let (stop, stopped) = watch::channel(false);
        let done = Arc::<AtomicU64>::default();
        let config = scene.database.server.config(&scene.database.name, "postgres");
        let mut all = Vec::new();
        for number in 0..sessions {
            let client = scene.session("app", "shop").await;
            let (stopped, done) = (stopped.clone(), Arc::clone(&done));
            all.push(tokio::spawn(async move {
                let mut errors = Vec::new();
                let mut turn = number;
                while !*stopped.borrow() {
                    let id = turn.wrapping_mul(7_919) % 999 + 1;
                    let at = usize::try_from(turn).unwrap() % statements.len();
                    let sql = statements[at].replace(":id", &id.to_string());
                    if let Err(error) = client.batch_execute(&sql).await {
                        errors.push(format!("{error:?}: {sql}"));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    turn += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                errors
            }));
        }
        Self {
            noise: crate::harness::measure_noise(config, stopped),
            monitor: Monitor::start(&scene.database).await,
            stop,
            done,
            sessions: all,
        }
    }

    /// Waits until it has done so many statements more.
    pub async fn go_on(&self, statements: u64) {
        let goal = self.done.load(Ordering::Relaxed) + statements;
        until("the application goes on", async || {
            self.done.load(Ordering::Relaxed) >= goal
        })
        .await;
    }

    pub async fn stop(self) -> Felt {
        self.stop.send_replace(true);
        let mut errors = Vec::new();
        for session in self.sessions {
            errors.extend(session.await.unwrap());
        }
        Felt {
            statements: self.done.load(Ordering::Relaxed),
            errors,
            waits: self.monitor.stop().await,
            noise: self.noise.await.unwrap(),
        }
    }
}
