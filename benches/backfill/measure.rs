//! What a contender cost.

use crate::application::Felt;
use pgmorph::postgres::embedded::Server;
use serde::Serialize;
use std::fs;
use tokio_postgres::Client;

/// The meters at one moment.
pub struct Reading {
    wal_bytes: f64,
    heap_bytes: f64,
    index_bytes: f64,
    cpu_seconds: f64,
}

impl Reading {
    pub async fn take(client: &Client, server: &Server) -> Self {
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8, \
                   pg_relation_size('orders')::float8, pg_indexes_size('orders')::float8";
        let row = client.query_one(sql, &[]).await.unwrap();
        Self {
            wal_bytes: row.get(0),
            heap_bytes: row.get(1),
            index_bytes: row.get(2),
            cpu_seconds: cpu_seconds(server).unwrap_or(f64::NAN),
        }
    }
}

/// Of all processes of the server, those that ended included. Only Linux tells.
fn cpu_seconds(server: &Server) -> Option<f64> {
    let lock_file = fs::read_to_string(server.data_dir().join("postmaster.pid")).ok()?;
    let postmaster = lock_file.lines().next()?;
    let mut ticks = 0.0;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The name in parentheses may contain spaces.
        let Some((pid, rest)) = stat.split_once(" (") else {
            continue;
        };
        let Some((_, rest)) = rest.rsplit_once(") ") else {
            continue;
        };
        let fields: Vec<&str> = rest.split(' ').collect();
        let time = |field: usize| fields[field].parse::<f64>().unwrap_or(0.0);
        if pid == postmaster {
            ticks += time(11) + time(12) + time(13) + time(14);
        } else if fields[1] == postmaster {
            ticks += time(11) + time(12);
        }
    }
    Some(ticks / 100.0)
}

#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    pub seconds: f64,
    pub wal_bytes: f64,
    pub cpu_seconds: f64,
    /// Size afterwards by size before.
    pub heap_growth: f64,
    pub index_growth: f64,
}

impl Figures {
    pub fn between(before: &Reading, after: &Reading, seconds: f64) -> Self {
        Self {
            seconds,
            wal_bytes: after.wal_bytes - before.wal_bytes,
            cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            heap_growth: after.heap_bytes / before.heap_bytes,
            index_growth: after.index_bytes / before.index_bytes,
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

/// Of each figure by itself.
pub fn medians(rounds: &[Figures]) -> Figures {
    let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure));
    Figures {
        seconds: of(|figures| figures.seconds),
        wal_bytes: of(|figures| figures.wal_bytes),
        cpu_seconds: of(|figures| figures.cpu_seconds),
        heap_growth: of(|figures| figures.heap_growth),
        index_growth: of(|figures| figures.index_growth),
    }
}

/// The worst statement and all failures count; the rest are medians.
pub fn felt_medians(rounds: &[Felt]) -> Option<Felt> {
    let of = |figure: fn(&Felt) -> f64| median(rounds.iter().map(figure));
    (!rounds.is_empty()).then(|| Felt {
        statements: rounds.iter().map(|felt| felt.statements).sum(),
        failed: rounds.iter().map(|felt| felt.failed).sum(),
        median_ms: of(|felt| felt.median_ms),
        p99_ms: of(|felt| felt.p99_ms),
        p999_ms: of(|felt| felt.p999_ms),
        slowest_ms: rounds.iter().map(|felt| felt.slowest_ms).fold(0.0, f64::max),
    })
}
