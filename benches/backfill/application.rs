//! Clients that read and update single rows at a fixed rate, and how long each statement took from when it was due: a
//! client that was kept waiting is late with the next ones too, as its users are.

use crate::Scene;
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;

const TRANSACTIONS_PER_SECOND: u32 = 200;

#[derive(Debug, Clone, Serialize)]
pub struct Felt {
    pub statements: usize,
    pub failed: usize,
    pub median_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub slowest_ms: f64,
}

pub struct Application {
    stop: watch::Sender<bool>,
    clients: Vec<JoinHandle<(Vec<f64>, usize)>>,
}

impl Application {
    pub async fn start(scene: &Scene, clients: u32) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        for number in 0..clients {
            let client = scene.connect("contest").await;
            let every = Duration::from_secs(1) * clients / TRANSACTIONS_PER_SECOND;
            let rows = scene.rows;
            tasks.push(tokio::spawn(work(client, number, rows, every, stopped.clone())));
        }
        Self { stop, clients: tasks }
    }

    pub async fn stop(self) -> Option<Felt> {
        self.stop.send_replace(true);
        let (mut times, mut failed) = (Vec::new(), 0);
        for client in self.clients {
            let (own, own_failed) = client.await.unwrap();
            times.extend(own);
            failed += own_failed;
        }
        times.sort_by(f64::total_cmp);
        let last = times.len().checked_sub(1)?;
        Some(Felt {
            statements: times.len(),
            failed,
            median_ms: times[last / 2],
            p99_ms: times[last * 99 / 100],
            p999_ms: times[last * 999 / 1_000],
            slowest_ms: times[last],
        })
    }
}

/// Statements in turn until it is stopped; gives their times in milliseconds, and how many failed.
async fn work(
    client: Client,
    number: u32,
    rows: u32,
    every: Duration,
    stopped: watch::Receiver<bool>,
) -> (Vec<f64>, usize) {
    let (mut times, mut failed) = (Vec::new(), 0);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let texts = [
        "UPDATE orders SET total = total + 1 WHERE id = $1",
        "SELECT total, note FROM orders WHERE id = $1",
    ];
    let mut statements = Vec::new();
    for text in texts {
        statements.push(client.prepare(text).await.unwrap());
    }
    // A fixed walk all over the table: a large step that shares no factor with most sizes.
    let mut row = number * 7_919;
    let mut free = Instant::now();
    while !*stopped.borrow() {
        let due = ticks.tick().await.into_std();
        row = (row + 611_953) % rows;
        let id = i32::try_from(row + 1).unwrap();
        // A timer that wakes late is not the server's fault.
        let began = if due < free { due } else { Instant::now() };
        let done = client.execute(&statements[times.len() % 2], &[&id]).await;
        free = Instant::now();
        times.push(free.duration_since(began).as_secs_f64() * 1e3);
        failed += usize::from(done.is_err());
    }
    (times, failed)
}
