//! Large catalogs: what is asked of the server does not grow with them.

pub mod counter;
mod shapes;

use crate::harness::{Database, TestServer, pgmorph};
use counter::Counter;
use std::path::PathBuf;

/// Tables from one number to another, each with five indexes.
pub fn tables(from: u32, to: u32) -> String {
    format!(
        "DO $$ BEGIN FOR i IN {from} .. {to} - 1 LOOP
           EXECUTE format('CREATE TABLE t%1$s (id bigint PRIMARY KEY, a int NOT NULL DEFAULT 1, b text, c timestamptz, d int);
             CREATE INDEX ON t%1$s (a); CREATE INDEX ON t%1$s (b, c); CREATE INDEX ON t%1$s (lower(b)) WHERE a > 0;
             CREATE UNIQUE INDEX ON t%1$s (d, id)', to_char(i, 'FM00000'));
         END LOOP; END $$"
    )
}

pub const PLAN: &str = "name: scale
settings: {small_table: 0}
changes:
  - widen_column: {table: t00007, column: a, type: bigint}
  - create_index: {table: t00008, columns: [a, b]}
  - set_not_null: {table: t00009, column: b}
  - add_foreign_key: {table: t00010, columns: [a], references: {table: t00011, columns: [id]}}
";

pub fn socket(server: &TestServer) -> PathBuf {
    let config = server.config("postgres", "postgres");
    let tokio_postgres::config::Host::Unix(directory) = &config.get_hosts()[0] else {
        unreachable!("the servers of tests listen on sockets");
    };
    directory.join(format!(".s.PGSQL.{}", config.get_ports()[0]))
}

struct Scene<'s> {
    counter: Counter,
    database: Database<'s>,
    directory: tempfile::TempDir,
}

impl Scene<'_> {
    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// What a command asks.
    async fn asks(&self, arguments: &[&str]) -> u64 {
        self.counter.take();
        let url = self.counter.url(&self.database.name);
        pgmorph(&url, arguments).await.expect(0);
        self.counter.take()
    }

    async fn all(&self) -> [u64; 3] {
        let (plan, other) = (self.path("plan.yaml"), self.path("other.yaml"));
        let snapshot = self.path("catalog.json");
        [
            self.asks(&["snapshot", "-o", &snapshot]).await,
            self.asks(&["plan", &other]).await,
            self.asks(&["verify", &plan]).await,
        ]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn round_trips_do_not_grow_with_the_tables() {
    let server = TestServer::start(&[("max_locks_per_transaction", "1024"), ("fsync", "off")]);
    let scene = Scene {
        counter: Counter::start(socket(&server)).await,
        database: Database::create(&server, &tables(0, 150)).await,
        directory: tempfile::tempdir().unwrap(),
    };
    std::fs::write(scene.path("plan.yaml"), PLAN).unwrap();
    let other = PLAN
        .replace("name: scale", "name: other")
        .replace("t0000", "t0002")
        .replace("t0001", "t0003");
    std::fs::write(scene.path("other.yaml"), other).unwrap();
    scene
        .asks(&[
            "apply",
            &scene.path("plan.yaml"),
            "--yes",
            "--quiet",
            "--through",
            "contract",
        ])
        .await;
    let few = scene.all().await;
    scene
        .database
        .admin
        .batch_execute(&tables(150, 600))
        .await
        .unwrap();
    let many = scene.all().await;
    println!("snapshot, plan and verify ask {few:?} times with 150 tables, {many:?} times with 600");
    assert_eq!(few, many);
    assert!(many[0] < 40 && many.iter().all(|asked| *asked < 250), "{many:?}");
    let text = std::fs::read_to_string(scene.path("catalog.json")).unwrap();
    let snapshot = pgmorph::saved::snapshot("catalog.json", &text).unwrap();
    assert_eq!(snapshot.tables.len(), 600);
    assert_eq!(
        snapshot
            .tables
            .values()
            .map(|table| table.indexes.len())
            .sum::<usize>(),
        3_001
    );
}
