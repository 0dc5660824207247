//! The figures as tables and as JSON, and which of the targets are met.

use crate::application::Felt;
use crate::contenders::Contender;
use crate::measure::Figures;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How much longer than alone an application's slowest statement may take.
const STALL_MAX_MS: f64 = 15.0;

pub struct Result {
    pub contender: Contender,
    pub figures: Figures,
    pub felt: Option<Felt>,
}

pub struct Growth {
    pub rows: u32,
    pub seconds: BTreeMap<Contender, f64>,
}

pub struct Report {
    pub postgresql: String,
    pub rows: u32,
    pub rounds: usize,
    pub fillfactor: u32,
    pub results: Vec<Result>,
    /// What the application feels when nobody fills.
    pub idle: Option<Felt>,
    pub growth: Vec<Growth>,
}

/// Figures are at most the limit.
struct Target {
    name: &'static str,
    limit: f64,
    measured: f64,
}

impl Report {
    fn base(&self) -> &Figures {
        &self.result(Contender::SingleUpdate).unwrap().figures
    }

    fn result(&self, contender: Contender) -> Option<&Result> {
        self.results.iter().find(|result| result.contender == contender)
    }

    pub fn text(&self) -> String {
        let mut text = self.costs().to_string();
        if let Some(idle) = &self.idle {
            text = format!("{text}\n\n{}", self.feelings(idle));
        }
        format!("{text}\n\n{}", self.targets_table())
    }

    fn costs(&self) -> Table {
        let base = self.base();
        let mut table = plain([
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
        ]);
        for Result {
            contender, figures, ..
        } in &self.results
        {
            table.add_row([
                contender.name().to_owned(),
                format!("{:.2} s", figures.seconds),
                format!("{:.2}", figures.seconds / base.seconds),
                format!("{:.0}", f64::from(self.rows) / figures.seconds),
                format!("{:.0} MB", figures.wal_bytes / 1e6),
                format!("{:.2}", figures.wal_bytes / base.wal_bytes),
                format!("{:.2} s", figures.cpu_seconds),
                format!("{:.2}", figures.cpu_seconds / base.cpu_seconds),
                format!("{:.2}", figures.heap_growth),
                format!("{:.2}", figures.index_growth),
            ]);
        }
        table
    }

    fn feelings(&self, idle: &Felt) -> Table {
        let mut table = plain([
            "application",
            "statements",
            "failed",
            "median",
            "99 %",
            "99.9 %",
            "slowest",
        ]);
        let results = self.results.iter();
        let others = results.filter_map(|result| Some((result.contender.name(), result.felt.as_ref()?)));
        for (name, felt) in std::iter::once(("nobody fills", idle)).chain(others) {
            table.add_row([
                name.to_owned(),
                felt.statements.to_string(),
                felt.failed.to_string(),
                format!("{:.1} ms", felt.median_ms),
                format!("{:.1} ms", felt.p99_ms),
                format!("{:.1} ms", felt.p999_ms),
                format!("{:.1} ms", felt.slowest_ms),
            ]);
        }
        table
    }

    fn targets(&self) -> Vec<Target> {
        let base = self.base();
        let mut targets = Vec::new();
        let mut target = |name, limit, measured| {
            targets.push(Target {
                name,
                limit,
                measured,
            });
        };
        if let Some(Result { figures, felt, .. }) = self.result(Contender::Pgmorph { workers: 1 }) {
            target("time, 1 worker", 0.85, figures.seconds / base.seconds);
            target("WAL", 0.65, figures.wal_bytes / base.wal_bytes);
            target("heap", 1.2, figures.heap_growth);
            target("indexes", 1.1, figures.index_growth);
            if let (Some(felt), Some(idle)) = (felt, &self.idle) {
                #[allow(clippy::cast_precision_loss)]
                target("failed statements", 0.0, felt.failed as f64);
                target(
                    "slowest statement above idle's, ms",
                    STALL_MAX_MS,
                    felt.slowest_ms - idle.slowest_ms,
                );
            }
        }
        if let Some(result) = self.result(Contender::Pgmorph { workers: 2 }) {
            target("time, 2 workers", 0.5, result.figures.seconds / base.seconds);
        }
        targets
    }

    fn targets_table(&self) -> Table {
        let mut table = plain(["target", "at most", "measured", ""]);
        for target in self.targets() {
            table.add_row([
                target.name.to_owned(),
                format!("{:.2}", target.limit),
                format!("{:.2}", target.measured),
                if target.is_met() { "met" } else { "missed" }.to_owned(),
            ]);
        }
        table
    }

    pub fn growth_table(&self) -> Table {
        let mut header = vec!["rows".to_owned()];
        for contender in self.growing() {
            header.extend([contender.name().to_owned(), "per million".to_owned()]);
        }
        let mut table = plain(header);
        for growth in &self.growth {
            let mut cells = vec![growth.rows.to_string()];
            for seconds in growth.seconds.values() {
                cells.push(format!("{seconds:.1} s"));
                cells.push(format!("{:.2} s", seconds * 1e6 / f64::from(growth.rows)));
            }
            table.add_row(cells);
        }
        table
    }

    fn growing(&self) -> impl Iterator<Item = &Contender> {
        self.growth
            .iter()
            .take(1)
            .flat_map(|growth| growth.seconds.keys())
    }

    pub fn json(&self) -> Value {
        let base = self.base();
        let result = |result: &Result| {
            let figures = &result.figures;
            json!({
                "name": result.contender.name(),
                "figures": figures,
                "ratios": {
                    "seconds": figures.seconds / base.seconds,
                    "wal_bytes": figures.wal_bytes / base.wal_bytes,
                    "cpu_seconds": figures.cpu_seconds / base.cpu_seconds,
                },
                "felt": result.felt,
            })
        };
        let target = |target: &Target| {
            json!({
                "name": target.name,
                "at_most": target.limit,
                "measured": target.measured,
                "met": target.is_met(),
            })
        };
        let growth = |growth: &Growth| {
            let seconds = growth.seconds.iter();
            let seconds: BTreeMap<_, _> = seconds.map(|(one, seconds)| (one.name(), seconds)).collect();
            json!({"rows": growth.rows, "seconds": seconds})
        };
        json!({
            "version": 2,
            "postgresql": self.postgresql,
            "rows": self.rows,
            "rounds": self.rounds,
            "fillfactor": self.fillfactor,
            "contenders": self.results.iter().map(result).collect::<Vec<_>>(),
            "idle": self.idle,
            "targets": self.targets().iter().map(target).collect::<Vec<_>>(),
            "growth": self.growth.iter().map(growth).collect::<Vec<_>>(),
        })
    }
}

impl Target {
    fn is_met(&self) -> bool {
        self.measured <= self.limit
    }
}

fn plain(header: impl Into<comfy_table::Row>) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_MARKDOWN)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    table
}
