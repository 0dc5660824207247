//! How `snapshot`, `plan` and `verify` grow with the number of tables: time, memory, and what is asked of the server.
//!
//! `make bench-catalog`, or `cargo bench --bench catalog -- --help`. A table has five columns and five indexes. Time is the
//! median of the rounds, memory the most that the program had resident, questions those of one command over the wire.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark fails by panicking and tells on its output what it did"
)]

#[path = "../../tests/it/scale/counter.rs"]
mod counter;

use clap::Parser;
use comfy_table::{Table, presets};
use counter::Counter;
use pgmorph::postgres::embedded::{Installation, Options, Server};
use pgmorph::units;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio_postgres::{Client, NoTls};

/// How the commands grow with the catalog.
#[derive(Debug, Parser)]
struct Arguments {
    /// Numbers of tables, rising.
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000,20000")]
    tables: Vec<u32>,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Tables in one transaction at most: each takes locks for itself and its indexes.
const AT_ONCE: u32 = 200;

const PLAN: &str = "name: NAME
settings: {small_table: 0}
changes:
  - widen_column: {table: t00007, column: a, type: bigint}
  - create_index: {table: t00008, columns: [a, b]}
  - set_not_null: {table: t00009, column: b}
  - add_foreign_key: {table: t00010, columns: [a], references: {table: t00011, columns: [id]}}
";

struct Scene {
    server: Server,
    counter: Counter,
    client: Client,
    directory: tempfile::TempDir,
}

struct Measured {
    time: Duration,
    resident_kb: u64,
    asked: u64,
}

impl Scene {
    async fn set() -> Self {
        let settings = [
            ("autovacuum", "off"),
            ("max_locks_per_transaction", "2048"),
            ("shared_buffers", "512MB"),
        ];
        let options = Options {
            settings: settings
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Options::default()
        };
        let server = Server::start(&Installation::find(None).unwrap(), &options).unwrap();
        let socket = server.socket_dir().join(format!(".s.PGSQL.{}", server.port()));
        let (client, connection) = tokio_postgres::connect(&server.url("postgres"), NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        let directory = tempfile::tempdir().unwrap();
        let other = PLAN
            .replace("NAME", "other")
            .replace("t0000", "t0002")
            .replace("t0001", "t0003");
        for (file, text) in [("plan.yaml", PLAN.replace("NAME", "made")), ("other.yaml", other)] {
            std::fs::write(directory.path().join(file), text).unwrap();
        }
        Self {
            counter: Counter::start(socket).await,
            server,
            client,
            directory,
        }
    }

    async fn grow(&self, from: u32, to: u32) {
        for from in (from..to).step_by(AT_ONCE as usize) {
            let to = (from + AT_ONCE).min(to);
            let sql = format!(
                "DO $$ BEGIN FOR i IN {from} .. {to} - 1 LOOP
                   EXECUTE format('CREATE TABLE t%1$s (id bigint PRIMARY KEY, a int NOT NULL DEFAULT 1, b text, c timestamptz, d int);
                     CREATE INDEX ON t%1$s (a); CREATE INDEX ON t%1$s (b, c); CREATE INDEX ON t%1$s (lower(b)) WHERE a > 0;
                     CREATE UNIQUE INDEX ON t%1$s (d, id)', to_char(i, 'FM00000'));
                 END LOOP; END $$"
            );
            self.client.batch_execute(&sql).await.unwrap();
        }
        // In one statement: several of them would be one transaction.
        let sql = "VACUUM (ANALYZE) pg_catalog.pg_class, pg_catalog.pg_attribute, pg_catalog.pg_index, \
                   pg_catalog.pg_depend, pg_catalog.pg_constraint";
        self.client.batch_execute(sql).await.unwrap();
    }

    async fn run(&self, arguments: &[&str]) -> Measured {
        self.counter.take();
        let began = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_pgmorph"))
            .args(arguments)
            .env_clear()
            .env("DATABASE_URL", self.counter.url("postgres"))
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let status = format!("/proc/{}/status", child.id().unwrap());
        let mut resident_kb = 0;
        let ended = loop {
            if let Some(ended) = child.try_wait().unwrap() {
                break ended;
            }
            resident_kb = peak(Path::new(&status)).unwrap_or(0).max(resident_kb);
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        assert!(ended.success(), "{arguments:?}");
        Measured {
            time: began.elapsed(),
            resident_kb,
            asked: self.counter.take(),
        }
    }

    async fn median(&self, rounds: usize, arguments: &[&str]) -> Measured {
        let mut measured = Vec::new();
        for _ in 0..rounds.max(1) {
            measured.push(self.run(arguments).await);
        }
        measured.sort_by_key(|one| one.time);
        let resident_kb = measured.iter().map(|one| one.resident_kb).max().unwrap();
        let middle = measured.len() / 2;
        Measured {
            resident_kb,
            ..measured.swap_remove(middle)
        }
    }
}

/// The most that was resident so far, as long as the process lives.
fn peak(status: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let scene = Scene::set().await;
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "tables",
        "indexes",
        "command",
        "time",
        "time per 1,000 tables",
        "memory",
        "round trips",
    ]);
    let mut there = 0;
    for tables in arguments.tables {
        let began = Instant::now();
        scene.grow(there, tables.max(50)).await;
        eprintln!("{} tables made in {:.0?}", tables, began.elapsed());
        if there == 0 {
            scene
                .run(&["apply", "plan.yaml", "--yes", "--quiet", "--through", "contract"])
                .await;
        }
        there = tables.max(50);
        for command in [
            &["snapshot", "-o", "catalog.json"][..],
            &["plan", "other.yaml"],
            &["verify", "plan.yaml"],
        ] {
            let measured = scene.median(arguments.rounds, command).await;
            table.add_row([
                units::count(u64::from(there)),
                units::count(u64::from(there) * 5),
                command[0].to_owned(),
                format!("{:.2} s", measured.time.as_secs_f64()),
                format!("{:.0} ms", measured.time.as_secs_f64() * 1e6 / f64::from(there)),
                units::size(measured.resident_kb << 10),
                measured.asked.to_string(),
            ]);
        }
    }
    println!("{table}");
    println!("PostgreSQL {}", scene.server.version());
}
