//! `integer` → `bigint` on one table: pgmorph beside what people do by hand, on one server of its own, in rotated rounds.
//!
//! `make bench ARGS="--rows 5000000 --clients 4 --growth 1000000,5000000,20000000 --json results.json"`, or `--help`.
//! Figures are medians of the rounds; ratios are to the single UPDATE of the same run. Sizes are those right after, before
//! any VACUUM. What an application feels is measured in rounds of its own, so that it is no part of the other figures.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark fails by panicking and tells on its output what it did"
)]

use application::{Application, Felt};
use clap::Parser;
use contenders::Contender;
use measure::{Figures, felt_medians, medians};
use pgmorph::postgres::embedded::{Installation, Options, Server};
use report::{Growth, Report, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::{Client, NoTls};

mod application;
mod contenders;
mod measure;
mod report;

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
    /// Clients of an application, 200 transactions a second together: further rounds measure what they feel.
    #[arg(long, default_value_t = 0)]
    clients: u32,
    /// How long the application is watched alone, to compare with.
    #[arg(long, default_value_t = 10)]
    idle_seconds: u64,
    /// Numbers of rows for a second table, on how the time grows with them.
    #[arg(long, value_delimiter = ',')]
    growth: Vec<u32>,
    #[arg(long, default_value_t = 1)]
    growth_rounds: usize,
    /// Also writes all figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The server, and how many rows the database has that every contender gets a copy of.
struct Scene {
    server: Server,
    rows: u32,
    fillfactor: u32,
}

const TEMPLATE: &str = "prepared";

impl Scene {
    fn set(arguments: &Arguments) -> Self {
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
        Self {
            server: Server::start(&Installation::find(None).unwrap(), &options).unwrap(),
            rows: 0,
            fillfactor: arguments.fillfactor,
        }
    }

    async fn load(&mut self, rows: u32) {
        self.rows = rows;
        let fillfactor = self.fillfactor;
        self.sql("postgres", &format!("DROP DATABASE IF EXISTS {TEMPLATE}"))
            .await;
        self.sql("postgres", &format!("CREATE DATABASE {TEMPLATE}")).await;
        let load = format!(
            "CREATE TABLE orders (id integer NOT NULL, customer_id integer NOT NULL, version integer NOT NULL, \
             total numeric NOT NULL, created_at timestamptz NOT NULL, note text NOT NULL) WITH (fillfactor = {fillfactor}); \
             INSERT INTO orders SELECT i, i % 5000, i % 1000, i / 100.0, \
             timestamptz '2020-01-01' + i * interval '1 second', repeat(md5(i::text), 2) FROM generate_series(1, {rows}) AS i; \
             ALTER TABLE orders ADD PRIMARY KEY (id); CREATE INDEX ON orders (created_at)"
        );
        self.sql(TEMPLATE, &load).await;
        self.sql(TEMPLATE, "VACUUM (ANALYZE, FREEZE) orders").await;
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

    /// A copy of the table in cache, with the same distance to the last checkpoint.
    async fn copy(&self) -> Client {
        let copy = format!("CREATE DATABASE contest TEMPLATE {TEMPLATE}");
        self.sql("postgres", &copy).await;
        let client = self.connect("contest").await;
        let warm = "SELECT sum(version) FROM orders; SET enable_seqscan = off; \
                    SELECT count(id) FROM orders; SELECT count(created_at) FROM orders; CHECKPOINT";
        client.batch_execute(warm).await.unwrap();
        client
    }

    async fn clear(&self, client: Client) {
        drop(client);
        self.sql("postgres", "DROP DATABASE contest WITH (FORCE)").await;
    }

    async fn measure(&self, contender: Contender) -> Figures {
        let client = self.copy().await;
        contender.prepare(&client).await;
        let before = measure::Reading::take(&client, &self.server).await;
        let seconds = contender.run(&client, &self.server.url("contest")).await;
        let after = measure::Reading::take(&client, &self.server).await;
        contender.check(&client).await;
        self.clear(client).await;
        Figures::between(&before, &after, seconds)
    }

    /// What an application feels of a contender, or of nobody.
    async fn feel(&self, contender: Option<Contender>, arguments: &Arguments) -> Felt {
        let client = self.copy().await;
        if let Some(contender) = contender {
            contender.prepare(&client).await;
        }
        let application = Application::start(self, arguments.clients).await;
        match contender {
            Some(contender) => drop(contender.run(&client, &self.server.url("contest")).await),
            None => tokio::time::sleep(Duration::from_secs(arguments.idle_seconds)).await,
        }
        let felt = application.stop().await.unwrap();
        self.clear(client).await;
        felt
    }
}

fn main() {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(Box::pin(compete(&arguments)));
}

async fn compete(arguments: &Arguments) {
    let contenders: Vec<Contender> = Contender::ALL
        .into_iter()
        .filter(|one| *one == Contender::SingleUpdate || one.name().contains(&arguments.only))
        .filter(|one| one.is_there())
        .collect();
    let mut scene = Scene::set(arguments);
    scene.load(arguments.rows).await;
    let figures = costs(&scene, &contenders, arguments.rounds).await;
    let mut felt = match arguments.clients {
        0 => BTreeMap::new(),
        _ => feelings(&scene, &contenders, arguments).await,
    };
    let idle = felt.remove(&None).flatten();
    let results = figures.into_iter().map(|(contender, figures)| Result {
        contender,
        figures,
        felt: felt.remove(&Some(contender)).flatten(),
    });
    let mut report = Report {
        postgresql: scene.server.version().to_string(),
        rows: arguments.rows,
        rounds: arguments.rounds,
        fillfactor: arguments.fillfactor,
        results: results.collect(),
        idle,
        growth: Vec::new(),
    };
    println!("{}", report.text());
    for rows in &arguments.growth {
        scene.load(*rows).await;
        let growing = contenders
            .iter()
            .copied()
            .filter(|one| one.is_compared_in_growth());
        let growing: Vec<Contender> = growing.collect();
        let figures = costs(&scene, &growing, arguments.growth_rounds).await;
        report.growth.push(Growth {
            rows: *rows,
            seconds: figures
                .into_iter()
                .map(|(one, figures)| (one, figures.seconds))
                .collect(),
        });
    }
    if !report.growth.is_empty() {
        println!("{}", report.growth_table());
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, format!("{:#}\n", report.json())).unwrap();
    }
}

/// The order is another one in each round.
async fn costs(scene: &Scene, contenders: &[Contender], rounds: usize) -> BTreeMap<Contender, Figures> {
    let mut all: BTreeMap<Contender, Vec<Figures>> = BTreeMap::new();
    for round in 0..rounds {
        for position in 0..contenders.len() {
            let contender = contenders[(position + round) % contenders.len()];
            let figures = scene.measure(contender).await;
            eprintln!(
                "{} rows, round {}: {}: {figures:?}",
                scene.rows,
                round + 1,
                contender.name()
            );
            all.entry(contender).or_default().push(figures);
        }
    }
    all.iter()
        .map(|(contender, rounds)| (*contender, medians(rounds)))
        .collect()
}

async fn feelings(
    scene: &Scene,
    contenders: &[Contender],
    arguments: &Arguments,
) -> BTreeMap<Option<Contender>, Option<Felt>> {
    let mut all: BTreeMap<Option<Contender>, Vec<Felt>> = BTreeMap::new();
    let mut who: Vec<Option<Contender>> = vec![None];
    who.extend(contenders.iter().copied().map(Some));
    for round in 0..arguments.rounds {
        for position in 0..who.len() {
            let contender = who[(position + round) % who.len()];
            let felt = scene.feel(contender, arguments).await;
            let name = contender.map_or("nobody", Contender::name);
            eprintln!("application, round {}: {name}: {felt:?}", round + 1);
            all.entry(contender).or_default().push(felt);
        }
    }
    all.iter()
        .map(|(contender, rounds)| (*contender, felt_medians(rounds)))
        .collect()
}
