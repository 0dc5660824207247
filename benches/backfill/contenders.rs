//! The ways to fill a column.

use pgmorph::catalog::{load, probe};
use pgmorph::change_plan;
use pgmorph::event::Event;
use pgmorph::executor::{Executor, Interrupt, ledger};
use pgmorph::plan::{Action, ExecutionPlan, Phase};
use pgmorph::planner;
use pgmorph::postgres::settings::ConnectionSettings;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_postgres::Client;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    Pgmorph {
        workers: u32,
    },
    SingleUpdate,
    KeysetLoop,
    AlterType,
    /// The program of that name, where it is installed.
    Reshape,
}

const KEYSET_ROWS: i32 = 1_000;

impl Contender {
    pub const ALL: [Self; 6] = [
        Self::Pgmorph { workers: 1 },
        Self::Pgmorph { workers: 2 },
        Self::SingleUpdate,
        Self::KeysetLoop,
        Self::AlterType,
        Self::Reshape,
    ];

    pub fn is_there(self) -> bool {
        self != Self::Reshape || Command::new("reshape").arg("--version").output().is_ok()
    }

    /// Others take as long per row, whatever the size, and the largest tables take their time.
    pub fn is_compared_in_growth(self) -> bool {
        matches!(self, Self::Pgmorph { .. } | Self::SingleUpdate)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Pgmorph { workers: 1 } => "pgmorph",
            Self::Pgmorph { .. } => "pgmorph, 2 workers",
            Self::SingleUpdate => "single UPDATE",
            Self::KeysetLoop => "UPDATE loop, 1,000 rows each",
            Self::AlterType => "ALTER TYPE (blocks everybody)",
            Self::Reshape => "reshape migration start",
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
            Self::Reshape => reshape(url).await,
        }
        began.elapsed().as_secs_f64()
    }

    /// Every row is filled.
    pub async fn check(self, client: &Client) {
        if self == Self::AlterType {
            return;
        }
        let added = "SELECT quote_ident(attname) FROM pg_attribute \
                     WHERE attrelid = 'orders'::regclass AND attnum > 0 AND atttypid = 'bigint'::regtype";
        let column: String = client.query_one(added, &[]).await.unwrap().get(0);
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

/// It fills with the application's transactions as bystanders, as ours does; what it does at `complete` is left out.
async fn reshape(url: &str) {
    let directory = tempfile::tempdir().unwrap();
    let migrations = directory.path().join("migrations");
    std::fs::create_dir(&migrations).unwrap();
    let migration = "[[actions]]\ntype = \"alter_column\"\ntable = \"orders\"\ncolumn = \"version\"\n\
                     up = \"version\"\ndown = \"version\"\n\n[actions.changes]\ntype = \"BIGINT\"\n";
    std::fs::write(migrations.join("1_wide.toml"), migration).unwrap();
    let mut command = Command::new("reshape");
    command
        .args(["migration", "start", "--url", url])
        .current_dir(directory.path());
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap());
    let ended = ended.await.unwrap();
    assert!(
        ended.status.success(),
        "{}{}",
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr)
    );
}

/// Only the step that fills, as it reports it itself: the column and the trigger before it are an instant.
async fn fill(client: &Client, url: &str, workers: u32) -> Duration {
    let source = format!(
        "name: bench\nsettings: {{small_table: 0, workers: {workers}}}\n\
         changes:\n  - widen_column: {{table: orders, column: version, type: bigint}}\n"
    );
    let source = change_plan::parse(&source).unwrap();
    let mut snapshot = load::snapshot(client).await.unwrap();
    let questions = planner::questions(&source, &snapshot);
    probe::ask(client, &mut snapshot, &questions).await.unwrap();
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
