//! What others are told of a run while it goes on: metrics, hooks, webhooks, traces. None of them may hold it up or fail it.

mod hooks;
mod metrics;
mod openmetrics;
mod receiver;
mod traces;
mod webhooks;

use crate::backfill;
use crate::harness::{Database, TestServer};
use std::path::Path;

/// A table, and a plan that fills a column of it, in a directory.
pub struct Stage<'s> {
    pub database: Database<'s>,
    pub directory: tempfile::TempDir,
    pub url: String,
    pub plan: String,
}

impl<'s> Stage<'s> {
    pub async fn new(server: &'s TestServer, rows: u32) -> Self {
        let database = backfill::database(server, rows).await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plan.yaml");
        let source = "name: p\nsettings: {small_table: 0}\n\
                      changes:\n  - widen_column: {table: orders, column: version, type: bigint}\n";
        std::fs::write(&path, source).unwrap();
        let url = server.url(&database.name, &database.user);
        Self {
            database,
            plan: path.display().to_string(),
            directory,
            url,
        }
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

/// The phases of the plan, through contract.
pub const PHASES: [&str; 5] = ["expand", "backfill", "validate", "cutover", "contract"];

pub fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
