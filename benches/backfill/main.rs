//! `integer` → `bigint` on one table: pgmorph beside what people do by hand, on one server of its own, in rotated rounds.
//!
//! `cargo bench --bench backfill -- --rows 5000000`, or PGMORPH_BENCH_ROWS; `--help` lists the rest. Figures are medians
//! of the rounds; ratios are to the single UPDATE of the same run. Sizes are those right after, before any VACUUM.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark fails by panicking and tells on its output what it did"
)]

use application::Application;
use clap::{Parser, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use contenders::Contender;
use measure::{Figures, medians};
use pgmorph::postgres::embedded::{Installation, Options, Server};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio_postgres::{Client, NoTls};

mod application;
mod contenders;
mod measure;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Human,
    Json,
}

/// How fast a column is filled, and what it costs.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rows of about 140 bytes, with two indexes.
    #[arg(long, env = "PGMORPH_BENCH_ROWS", default_value_t = 300_000)]
    rows: u32,
    #[arg(long, env = "PGMORPH_BENCH_ROUNDS", default_value_t = 3)]
    rounds: usize,
    /// Only contenders with this text in their name; the single UPDATE always runs.
    #[arg(long, default_value = "")]
    only: String,
    /// Room that the table leaves on its pages.
    #[arg(long, default_value_t = 100)]
    fillfactor: u32,
    /// Clients of an application, 200 transactions a second together, whose latency is measured meanwhile.
    #[arg(long, default_value_t = 0)]
    clients: u32,
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The server and the database that every contender gets a copy of.
struct Scene {
    server: Server,
    arguments: Arguments,
}

const TEMPLATE: &str = "prepared";

impl Scene {
    async fn set(arguments: Arguments) -> Self {
        // Vacuuming and checkpoints by luck would tell about luck.
        let settings = [
            ("autovacuum", "off"),
            ("shared_buffers", "1GB"),
            ("max_wal_size", "16GB"),
            ("checkpoint_timeout", "1h"),
        ];
        let options = Options {
            settings: settings
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            durable: true,
            ..Options::default()
        };
        let server = Server::start(&Installation::find(None).unwrap(), &options).unwrap();
        let scene = Self { server, arguments };
        scene
            .sql("postgres", &format!("CREATE DATABASE {TEMPLATE}"))
            .await;
        let (rows, fillfactor) = (scene.arguments.rows, scene.arguments.fillfactor);
        let load = format!(
            "CREATE TABLE orders (id integer NOT NULL, customer_id integer NOT NULL, version integer NOT NULL, \
             total numeric NOT NULL, created_at timestamptz NOT NULL, note text NOT NULL) WITH (fillfactor = {fillfactor}); \
             INSERT INTO orders SELECT i, i % 5000, i % 1000, i / 100.0, \
             timestamptz '2020-01-01' + i * interval '1 second', repeat(md5(i::text), 2) FROM generate_series(1, {rows}) AS i; \
             ALTER TABLE orders ADD PRIMARY KEY (id); CREATE INDEX ON orders (created_at)"
        );
        scene.sql(TEMPLATE, &load).await;
        scene.sql(TEMPLATE, "VACUUM (ANALYZE, FREEZE) orders").await;
        scene
    }

    async fn connect(&self, database: &str) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.server.url(database), NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }

    async fn sql(&self, database: &str, sql: &str) {
        self.connect(database).await.batch_execute(sql).await.unwrap();
    }

    async fn measure(&self, contender: Contender) -> Figures {
        self.sql(
            "postgres",
            &format!("CREATE DATABASE contest TEMPLATE {TEMPLATE}"),
        )
        .await;
        let client = self.connect("contest").await;
        contender.prepare(&client).await;
        // In cache, and with the same distance to the last checkpoint.
        let warm = "SELECT sum(version) FROM orders; SET enable_seqscan = off; \
                    SELECT count(id) FROM orders; SELECT count(created_at) FROM orders; CHECKPOINT";
        client.batch_execute(warm).await.unwrap();
        let application = Application::start(self, self.arguments.clients).await;
        let before = measure::Reading::take(&client, &self.server).await;
        let seconds = contender.run(&client, &self.server.url("contest")).await;
        let after = measure::Reading::take(&client, &self.server).await;
        let felt = application.stop().await;
        contender.check(&client).await;
        drop(client);
        self.sql("postgres", "DROP DATABASE contest WITH (FORCE)").await;
        Figures::between(&before, &after, seconds, felt)
    }
}

fn main() {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(Box::pin(compete(arguments)));
}

async fn compete(arguments: Arguments) {
    let contenders: Vec<Contender> = Contender::ALL
        .into_iter()
        .filter(|one| *one == Contender::SingleUpdate || one.name().contains(&arguments.only))
        .collect();
    let scene = Scene::set(arguments).await;
    let mut results: BTreeMap<Contender, Vec<Figures>> = BTreeMap::new();
    for round in 0..scene.arguments.rounds {
        for position in 0..contenders.len() {
            let contender = contenders[(position + round) % contenders.len()];
            let figures = scene.measure(contender).await;
            eprintln!("round {}: {}: {figures:?}", round + 1, contender.name());
            results.entry(contender).or_default().push(figures);
        }
    }
    let results: Vec<(Contender, Figures)> = results
        .iter()
        .map(|(contender, rounds)| (*contender, medians(rounds)))
        .collect();
    match scene.arguments.format {
        Format::Human => println!("{}", table(&scene, &results)),
        Format::Json => println!("{:#}", as_json(&scene, &results)),
    }
}

fn single(results: &[(Contender, Figures)]) -> &Figures {
    let found = results.iter().find(|(one, _)| *one == Contender::SingleUpdate);
    &found.unwrap().1
}

fn table(scene: &Scene, results: &[(Contender, Figures)]) -> Table {
    let base = single(results);
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_MARKDOWN)
        .set_content_arrangement(ContentArrangement::Disabled);
    let mut header = vec![
        "",
        "time",
        "ratio",
        "rows/s",
        "WAL",
        "ratio",
        "server CPU",
        "ratio",
        "heap",
        "indexes",
    ];
    if scene.arguments.clients > 0 {
        header.extend(["statements", "median", "99 %", "slowest", "failed"]);
    }
    table.set_header(header);
    for (contender, figures) in results {
        let rate = f64::from(scene.arguments.rows) / figures.seconds;
        let mut cells = vec![
            contender.name().to_owned(),
            format!("{:.2} s", figures.seconds),
            format!("{:.2}", figures.seconds / base.seconds),
            format!("{rate:.0}"),
            format!("{:.0} MB", figures.wal_bytes / 1e6),
            format!("{:.2}", figures.wal_bytes / base.wal_bytes),
            format!("{:.2} s", figures.cpu_seconds),
            format!("{:.2}", figures.cpu_seconds / base.cpu_seconds),
            format!("{:.2}", figures.heap_growth),
            format!("{:.2}", figures.index_growth),
        ];
        if let Some(felt) = &figures.felt {
            cells.extend([
                felt.statements.to_string(),
                format!("{:.1} ms", felt.median_ms),
                format!("{:.1} ms", felt.p99_ms),
                format!("{:.1} ms", felt.slowest_ms),
                felt.failed.to_string(),
            ]);
        }
        table.add_row(cells);
    }
    table
}

fn as_json(scene: &Scene, results: &[(Contender, Figures)]) -> Value {
    let base = single(results);
    let one = |(contender, figures): &(Contender, Figures)| {
        json!({
            "name": contender.name(),
            "figures": figures,
            "ratios": {
                "seconds": figures.seconds / base.seconds,
                "wal_bytes": figures.wal_bytes / base.wal_bytes,
                "cpu_seconds": figures.cpu_seconds / base.cpu_seconds,
            },
        })
    };
    json!({
        "version": 1,
        "postgresql": scene.server.version().to_string(),
        "rows": scene.arguments.rows,
        "rounds": scene.arguments.rounds,
        "fillfactor": scene.arguments.fillfactor,
        "contenders": results.iter().map(one).collect::<Vec<_>>(),
    })
}
