//! The ways to fill a column.

use pgmorph::catalog::{load, probe};
use pgmorph::change_plan;
use pgmorph::event::Event;
use pgmorph::executor::{Executor, Interrupt, ledger};
use pgmorph::plan::{Action, ExecutionPlan, Phase};
use pgmorph::planner;
use pgmorph::postgres::settings::ConnectionSettings;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_postgres::Client;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    Pgmorph { workers: u32 },
    SingleUpdate,
    KeysetLoop,
    AlterType,
}

const KEYSET_ROWS: i32 = 1_000;

impl Contender {
    pub const ALL: [Self; 5] = [
        Self::Pgmorph { workers: 1 },
        Self::Pgmorph { workers: 2 },
        Self::SingleUpdate,
        Self::KeysetLoop,
        Self::AlterType,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Pgmorph { workers: 1 } => "pgmorph",
            Self::Pgmorph { .. } => "pgmorph, 2 workers",
            Self::SingleUpdate => "single UPDATE",
            Self::KeysetLoop => "UPDATE loop, 1,000 rows each",
            Self::AlterType => "ALTER TYPE (blocks everybody)",
        }
    }

    pub async fn prepare(self, client: &Client) {
        if matches!(self, Self::SingleUpdate | Self::KeysetLoop) {
            let sql = "ALTER TABLE orders ADD COLUMN wide bigint";
            client.batch_execute(sql).await.unwrap();
        }
    }

    /// Gives the seconds it took.
    pub async fn run(self, client: &Client, url: &str) -> f64 {
        let began = Instant::now();
        match self {
            Self::Pgmorph { workers } => return fill(client, url, workers).await.as_secs_f64(),
            Self::SingleUpdate => drop(
                client
                    .execute("UPDATE orders SET wide = version", &[])
                    .await
                    .unwrap(),
            ),
            Self::KeysetLoop => keyset(client).await,
            Self::AlterType => {
                let sql = "ALTER TABLE orders ALTER COLUMN version TYPE bigint";
                client.batch_execute(sql).await.unwrap();
            }
        }
        began.elapsed().as_secs_f64()
    }

    /// Every row is filled.
    pub async fn check(self, client: &Client) {
        let column = match self {
            Self::Pgmorph { .. } => "\"~pgmorph_version_new\"",
            Self::SingleUpdate | Self::KeysetLoop => "wide",
            Self::AlterType => return,
        };
        let sql = format!("SELECT count(*) FROM orders WHERE {column} IS DISTINCT FROM version");
        let left: i64 = client.query_one(&sql, &[]).await.unwrap().get(0);
        assert_eq!(left, 0, "{}: rows are not filled", self.name());
    }
}

async fn keyset(client: &Client) {
    let last: i32 = client
        .query_one("SELECT max(id) FROM orders", &[])
        .await
        .unwrap()
        .get(0);
    let sql = "UPDATE orders SET wide = version WHERE id > $1 AND id <= $2 AND wide IS DISTINCT FROM version";
    let statement = client.prepare(sql).await.unwrap();
    let mut from = 0;
    while from < last {
        client
            .execute(&statement, &[&from, &(from + KEYSET_ROWS)])
            .await
            .unwrap();
        from += KEYSET_ROWS;
    }
}

/// Only the step that fills, as it reports it itself: the column and the trigger before it are an instant.
async fn fill(client: &Client, url: &str, workers: u32) -> Duration {
    let source = format!(
        "name: bench\nsettings: {{small_table: 0, workers: {workers}}}\n\
         changes:\n  - widen_column: {{table: orders, column: version, type: bigint}}\n"
    );
    let source = change_plan::parse(&source).unwrap();
    let mut snapshot = load::snapshot(client).await.unwrap();
    let probes = planner::probes(&source, &snapshot);
    probe::ask(client, &mut snapshot, &probes).await.unwrap();
    let mut plan = planner::plan(&source, &snapshot).unwrap();
    let fills = |action: &Action| matches!(action, Action::Backfill(_));
    plan.steps
        .retain(|step| step.phase != Phase::Backfill || fills(&step.work.action));
    let took = Arc::new(Mutex::new(Duration::ZERO));
    let heard = Arc::clone(&took);
    let listener = move |event: &Event| match event {
        Event::StepDone { step, elapsed_ms, .. } if step.ends_with("-fill") => {
            *heard.lock().unwrap() = Duration::from_millis(*elapsed_ms);
        }
        Event::Noted { what, .. } => eprintln!("  {what}"),
        _ => {}
    };
    apply(client, url, &plan, listener).await;
    let sql = "SELECT batches FROM pgmorph.backfills";
    let batches: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
    eprintln!("  {batches} batches");
    *took.lock().unwrap()
}

async fn apply(
    client: &Client,
    url: &str,
    plan: &ExecutionPlan,
    listener: impl Fn(&Event) + Send + Sync + 'static,
) {
    let settings = ConnectionSettings::resolve(Some(url), &|_| None).unwrap();
    let (_keep, interrupts) = watch::channel(Interrupt::None);
    let executor = Executor::open(&settings, Arc::new(listener), interrupts)
        .await
        .unwrap();
    let run = ledger::latest_run(client, &plan.name).await.unwrap();
    Box::pin(executor.apply(plan, run.as_ref(), Phase::Backfill))
        .await
        .unwrap();
}
