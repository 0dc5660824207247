//! The temporary server, and the tables on it.

use crate::error::{Error, ErrorKind};
use crate::postgres::embedded::{EmbeddedError, Installation, Options, Server};
use crate::postgres::settings::ConnectionSettings;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_postgres::Client;

const SCHEMA: &str = include_str!("../../plans/portfolio_hardening/schema.sql");
const DATA: &str = include_str!("../../plans/portfolio_hardening/data.sql");
/// So that data.sql can be loaded in slices, and progress be told between them.
const ALL_ROWS: &str = "generate_series(1, :rows)";
const SLICE: u64 = 20_000;
const DATABASE: &str = "portfolio";
const GOODBYES: Duration = Duration::from_millis(200);

/// What a small production server has; only that it does not flush its writes to disk is different.
const SETTINGS: [(&str, &str); 3] = [
    ("shared_buffers", "256MB"),
    ("max_wal_size", "4GB"),
    ("log_lock_waits", "on"),
];

/// A running server with an empty database.
pub struct Stage {
    pub server: Server,
    pub settings: ConnectionSettings,
}

impl Stage {
    /// Starts a server with the programs in `bindir` or, without it, the newest found.
    ///
    /// # Errors
    /// When there are no server programs, or the server does not start.
    pub async fn start(bindir: Option<PathBuf>) -> Result<Self, Error> {
        let server = blocking(move || {
            let installation = Installation::find(bindir.as_deref())?;
            let settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let options = Options {
                settings: settings.into(),
                ..Options::default()
            };
            Server::start(&installation, &options)
        })
        .await?;
        // Nothing of the user's environment belongs to this server.
        let settings = |dbname| ConnectionSettings::resolve(Some(&server.url(dbname)), &|_| None);
        let session = settings("postgres")?.connect("pgmorph demo").await?;
        execute(&session.client, &format!("CREATE DATABASE {DATABASE}")).await?;
        let settings = settings(DATABASE)?;
        Ok(Self { server, settings })
    }

    /// A session beside the application's.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn client(&self) -> Result<Client, Error> {
        Ok(self.settings.connect("pgmorph demo").await?.client)
    }

    /// For `psql` and other clients.
    pub fn url(&self) -> String {
        self.server.url(DATABASE)
    }

    /// Stops the server soon after everything that used it was dropped.
    ///
    /// # Errors
    /// As [`Stage::stop`].
    pub async fn stop_after_goodbyes(self) -> Result<(), Error> {
        // Sessions that could say goodbye do not make the server complain about them.
        tokio::time::sleep(GOODBYES).await;
        self.stop().await
    }

    /// Stops the server and removes its files.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub async fn stop(self) -> Result<(), Error> {
        blocking(move || self.server.stop()).await
    }

    /// Lets the server outlive us; the answer is the command that stops it.
    ///
    /// # Errors
    /// When its supervisor does not answer.
    pub async fn keep(self) -> Result<String, Error> {
        blocking(move || {
            let command = self.server.stop_command();
            self.server.keep().map(|()| command)
        })
        .await
    }

    /// Fills the three tables, side by side, and leaves them as a database that has been in use for a while:
    /// vacuumed, with statistics. Tells how many of the rows of all three are there.
    ///
    /// # Errors
    /// When the server refuses something: its disk is full.
    pub async fn load(&self, rows: u64, progress: impl Fn(u64) + Send + Sync + 'static) -> Result<(), Error> {
        let progress = Arc::new(progress);
        let loaded = Arc::new(AtomicU64::new(0));
        let mut loads = JoinSet::new();
        for table in tables() {
            let client = self.client().await?;
            let (progress, loaded) = (progress.clone(), loaded.clone());
            loads.spawn(async move {
                let tell = |more| progress(loaded.fetch_add(more, Ordering::Relaxed) + more);
                table.load(&client, rows, &tell).await
            });
        }
        while let Some(ended) = loads.join_next().await {
            ended.map_err(panicked)??;
        }
        // One that starts by itself in the middle of the comparison would be taken for an effect of the change.
        let client = self.client().await?;
        execute(&client, "CHECKPOINT").await
    }
}

/// A table's statements of schema.sql and data.sql.
struct Table {
    name: &'static str,
    create: &'static str,
    insert: &'static str,
    indexes: Vec<&'static str>,
}

impl Table {
    async fn load(&self, client: &Client, rows: u64, tell: &(impl Fn(u64) + Sync)) -> Result<(), Error> {
        execute(client, self.create).await?;
        let mut first = 1;
        while first <= rows {
            let last = rows.min(first + SLICE - 1);
            let slice = format!("generate_series({first}, {last})");
            execute(client, &self.insert.replace(ALL_ROWS, &slice)).await?;
            tell(last + 1 - first);
            first = last + 1;
        }
        // Sorted once instead of grown row by row.
        for index in &self.indexes {
            execute(client, index).await?;
        }
        execute(client, &format!("VACUUM (ANALYZE) {}", self.name)).await
    }
}

fn tables() -> Vec<Table> {
    let schema = statements(SCHEMA);
    let starting = |start: String| move |sql: &&'static str| sql.starts_with(&start);
    let inserts = statements(DATA);
    let names = schema.iter().filter_map(|sql| sql.strip_prefix("CREATE TABLE "));
    let names = names.filter_map(|rest| rest.split_whitespace().next());
    let table = |name: &'static str| {
        let indexes = schema.iter().filter(|sql| sql.contains(" INDEX "));
        Some(Table {
            name,
            create: schema
                .iter()
                .copied()
                .find(starting(format!("CREATE TABLE {name} ")))?,
            insert: inserts
                .iter()
                .copied()
                .find(starting(format!("INSERT INTO {name} ")))?,
            indexes: indexes
                .filter(|sql| sql.contains(&format!(" ON {name} ")))
                .copied()
                .collect(),
        })
    };
    names.filter_map(table).collect()
}

/// The statements of a script whose texts contain no semicolons.
fn statements(script: &'static str) -> Vec<&'static str> {
    let without_comment = |mut sql: &'static str| {
        while let Some((comment, rest)) = sql.trim_start().split_once('\n')
            && comment.starts_with("--")
        {
            sql = rest;
        }
        sql.trim()
    };
    let parts = script.split(";\n").map(without_comment);
    parts.filter(|sql| !sql.is_empty()).collect()
}

async fn execute(client: &Client, sql: &str) -> Result<(), Error> {
    let failed = |error| Error::postgres(ErrorKind::StepFailed, "preparing the demo's tables", error);
    client.batch_execute(sql).await.map_err(failed)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EmbeddedError> + Send + 'static,
) -> Result<T, Error> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(panicked)??)
}

pub(super) fn panicked(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::StepFailed, "a task of the demo ended unexpectedly").source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_are_understood() {
        let tables = tables();
        let names: Vec<_> = tables.iter().map(|table| table.name).collect();
        assert_eq!(
            names,
            ["forecast_snapshots", "investment_lots", "reserve_allocations"]
        );
        for table in &tables {
            assert_eq!(table.indexes.len(), 2, "{}", table.name);
            assert!(
                table.insert.ends_with(&format!("FROM {ALL_ROWS} n")),
                "{}",
                table.insert
            );
        }
        let used = tables.iter().map(|table| 2 + table.indexes.len()).sum::<usize>();
        let analyze = 1;
        assert_eq!(used + analyze, statements(SCHEMA).len() + statements(DATA).len());
    }
}
