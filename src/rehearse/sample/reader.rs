//! Reads the live database: one session, one snapshot, and no lock for longer than a statement.

use super::{Table, Told, columns_of};
use crate::error::{Error, ErrorKind};
use crate::postgres::settings::Bounds;
use crate::sql::QualifiedName;
use crate::units;
use futures_util::{SinkExt, TryStreamExt};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// What the session is opened with.
pub const BOUNDS: Bounds = Bounds {
    statement: Duration::from_secs(60),
    lock: Duration::from_secs(1),
    // While rows are looked for here, the transaction there waits.
    idle_in_transaction: Duration::from_secs(300),
    idle: Duration::ZERO,
};

/// After so long nothing more is read: the snapshot holds back the vacuum of the live database.
const AT_MOST: Duration = Duration::from_secs(600);

/// Rows a page where the statistics do not know.
const ROWS_A_PAGE: f64 = 20.0;

const TOLD_EVERY: u64 = 10_000;

/// What is read is written by the same rules on every server.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = pg_catalog; \
     SET LOCAL datestyle = 'ISO'; SET LOCAL intervalstyle = 'postgres'; SET LOCAL extra_float_digits = 3; \
     SET LOCAL lc_monetary = 'C'; SET LOCAL synchronize_seqscans = off; SET LOCAL max_parallel_workers_per_gather = 0";

/// By key means through its index, whatever the statistics say.
const BY_INDEX: &str =
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";

const TABLES: &str = "SELECT n.nspname, c.relname, c.oid, c.relkind = 'p', c.relpages, c.reltuples, \
      coalesce(pg_catalog.has_schema_privilege(n.oid, 'USAGE'), false) \
       AND (SELECT coalesce(pg_catalog.bool_and(pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')), true) \
        FROM pg_catalog.pg_attribute AS a \
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), \
      coalesce(pg_catalog.row_security_active(c.oid), false) \
     FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND c.oid >= 16384";

/// Of a table, or of all partitions together.
const PAGES: &str = "SELECT (coalesce(pg_catalog.sum(pg_catalog.pg_relation_size(t.relid)), 0) \
      / pg_catalog.current_setting('block_size')::pg_catalog.int8)::pg_catalog.int8 \
     FROM (SELECT $1::pg_catalog.oid::pg_catalog.regclass AS relid \
      UNION SELECT p.relid FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid::pg_catalog.regclass) AS p) AS t";

const SEQUENCES: &str = "SELECT schemaname::text, sequencename::text, last_value FROM pg_catalog.pg_sequences \
     WHERE last_value IS NOT NULL AND schemaname <> 'pgmorph'";

/// A table of the live database.
#[derive(Debug, Clone, PartialEq)]
pub struct There {
    oid: u32,
    partitioned: bool,
    pages: i32,
    tuples: f32,
    /// The role may read all its columns.
    pub readable: bool,
    /// The role sees only what policies let it see.
    pub row_security: bool,
}

pub struct Reader<'a> {
    live: &'a Client,
    began: Instant,
}

/// Rows that were copied, or why none.
pub type Copied = Result<u64, String>;

fn reading(error: tokio_postgres::Error) -> Error {
    Error::postgres(
        ErrorKind::Precondition,
        "reading the database for the sample",
        error,
    )
}

/// Why the live server refuses. One that ends the session is an error.
fn refused_there(error: tokio_postgres::Error) -> Result<Copied, Error> {
    let ends = |error: &tokio_postgres::Error| {
        error
            .as_db_error()
            .is_none_or(|db| crate::sqlstate::ends_session(db.code().code()))
    };
    if ends(&error) {
        return Err(reading(error));
    }
    let Some(db) = error.as_db_error() else {
        return Err(reading(error));
    };
    Ok(Err(match db.code().code() {
        "57014" => format!(
            "reading it took longer than {} seconds",
            BOUNDS.statement.as_secs()
        ),
        "55P03" => "somebody holds a lock on it".into(),
        _ => db.message().to_owned(),
    }))
}

/// Why the server that is thrown away refuses. Its words may quote a value, and these go into reports.
fn refused_here(error: tokio_postgres::Error) -> Result<Copied, Error> {
    let Some(db) = error.as_db_error() else {
        return Err(super::failed(error));
    };
    let by = db
        .constraint()
        .map(|name| format!(" by {name}"))
        .unwrap_or_default();
    Ok(Err(format!(
        "its rows are refused here{by} (SQLSTATE {})",
        db.code().code()
    )))
}

impl<'a> Reader<'a> {
    pub async fn begin(live: &'a Client) -> Result<Self, Error> {
        live.batch_execute(BEGIN).await.map_err(reading)?;
        Ok(Self {
            live,
            began: Instant::now(),
        })
    }

    pub async fn end(&self) -> Result<(), Error> {
        self.live.batch_execute("ROLLBACK").await.map_err(reading)
    }

    /// This takes the snapshot, too.
    pub async fn tables(&self) -> Result<BTreeMap<QualifiedName, There>, Error> {
        let rows = self.live.query(TABLES, &[]).await.map_err(reading)?;
        let table = |row: &tokio_postgres::Row| {
            let name = QualifiedName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            let there = There {
                oid: row.get(2),
                partitioned: row.get(3),
                pages: row.get(4),
                tuples: row.get(5),
                readable: row.get(6),
                row_security: row.get(7),
            };
            (name, there)
        };
        Ok(rows.iter().map(table).collect())
    }

    /// Rows of a table, from all over it where it is large.
    pub async fn sample(
        &self,
        there: &There,
        table: &Table,
        rows: u64,
        here: &Client,
        told: Told<'_>,
    ) -> Result<Copied, Error> {
        let Some(into) = table.copy_sql() else {
            return Ok(Ok(0));
        };
        if self.is_late() {
            return Ok(Err(late()));
        }
        self.save("").await?;
        let copied = match self.live.query_one(PAGES, &[&there.oid]).await {
            Ok(row) => {
                let select = sample_sql(there, table, rows, row.get(0));
                Box::pin(self.copied(&select, here, &into, told)).await
            }
            Err(error) => refused_there(error),
        };
        self.let_go().await?;
        copied
    }

    /// What this says, which looks for rows by their keys.
    pub async fn fetch(
        &self,
        select: &str,
        here: &Client,
        into: &str,
        told: Told<'_>,
    ) -> Result<Copied, Error> {
        if self.is_late() {
            return Ok(Err(late()));
        }
        self.save(BY_INDEX).await?;
        let copied = Box::pin(self.copied(select, here, into, told)).await;
        self.let_go().await?;
        copied
    }

    /// The last value of each that the role may read, of those that gave one.
    pub async fn sequences(&self) -> Result<Vec<(QualifiedName, i64)>, Error> {
        self.save("").await?;
        let rows = match self.live.query(SEQUENCES, &[]).await {
            Ok(rows) => rows,
            // Somebody may hold a lock on one. They are of use, and not more.
            Err(error) => refused_there(error).map(|_| Vec::new())?,
        };
        self.let_go().await?;
        let sequence = |row: &tokio_postgres::Row| {
            let name = QualifiedName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            (name, row.get(2))
        };
        Ok(rows.iter().map(sequence).collect())
    }

    fn is_late(&self) -> bool {
        self.began.elapsed() > AT_MOST
    }

    async fn save(&self, settings: &str) -> Result<(), Error> {
        let sql = format!("SAVEPOINT pgmorph_sample; {settings}");
        self.live.batch_execute(&sql).await.map_err(reading)
    }

    /// With the savepoint go the locks that were taken since, while the snapshot stays.
    async fn let_go(&self) -> Result<(), Error> {
        let sql = "ROLLBACK TO SAVEPOINT pgmorph_sample; RELEASE SAVEPOINT pgmorph_sample";
        self.live.batch_execute(sql).await.map_err(reading)
    }

    /// Row by row, as they come.
    async fn copied(&self, select: &str, here: &Client, into: &str, told: Told<'_>) -> Result<Copied, Error> {
        // Functions of policies and types find what they name as they always do.
        let settings = "SET LOCAL search_path TO DEFAULT";
        self.live.batch_execute(settings).await.map_err(reading)?;
        let sql = format!("COPY ({select}) TO STDOUT");
        let mut source = match self.live.copy_out(&sql).await {
            Ok(source) => Box::pin(source),
            Err(error) => return refused_there(error),
        };
        let mut sink = match here.copy_in(into).await {
            Ok(sink) => Box::pin(sink),
            Err(error) => {
                // The session is of use again when it has said all.
                while let Ok(Some(_)) = source.try_next().await {}
                return refused_here(error);
            }
        };
        let mut count: u64 = 0;
        loop {
            match source.try_next().await {
                Ok(Some(rows)) => {
                    count += 1;
                    if count.is_multiple_of(TOLD_EVERY) {
                        told(&format!("{} rows", units::count(count)));
                    }
                    if let Err(error) = sink.send(rows).await {
                        return Err(super::failed(error));
                    }
                }
                Ok(None) => break,
                // Without its end nothing of the copy stays.
                Err(error) => return refused_there(error),
            }
        }
        match sink.as_mut().finish().await {
            Ok(rows) => Ok(Ok(rows)),
            Err(error) => refused_here(error),
        }
    }
}

fn late() -> String {
    format!("the {} minutes for the sample were over", AT_MOST.as_secs() / 60)
}

/// So many rows of those pages are chosen by chance; of more, the first ones are nearly all.
const CHOSEN_MAX: u64 = 10_000;

/// A table of many pages is not read from its beginning: as many pages are, from all over it, as such a number of rows
/// should be in. Always the same ones, so that two rehearsals are alike.
fn sample_sql(there: &There, table: &Table, rows: u64, pages: i64) -> String {
    let density = match (f64::from(there.tuples), f64::from(there.pages)) {
        (tuples, pages) if tuples > 0.0 && pages > 0.0 => tuples / pages,
        _ => ROWS_A_PAGE,
    };
    let wanted = rows as f64 / density * 1.1 + 8.0;
    let percent = 100.0 * wanted / (pages as f64).max(1.0);
    let chosen = match percent {
        ..50.0 if rows <= CHOSEN_MAX => {
            format!(" TABLESAMPLE SYSTEM ({percent:.6}) REPEATABLE (1) ORDER BY pg_catalog.hashtid(t.ctid)")
        }
        ..50.0 => format!(" TABLESAMPLE SYSTEM ({percent:.6}) REPEATABLE (1)"),
        _ => String::new(),
    };
    let only = if there.partitioned { "" } else { "ONLY " };
    format!(
        "SELECT {} FROM {only}{} AS t{chosen} LIMIT {rows}",
        columns_of("t", &table.columns),
        table.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_tables_are_read_in_places() {
        let table = Table {
            name: QualifiedName::new("public", "Orders"),
            partitioned: false,
            family: 1,
            of_extension: false,
            columns: vec!["id".into(), "Kind".into()],
        };
        let there = |pages: i32, tuples: f32| There {
            oid: 1,
            partitioned: false,
            pages,
            tuples,
            readable: true,
            row_security: false,
        };
        let select = "SELECT t.id, t.\"Kind\" FROM ONLY public.\"Orders\" AS t";
        for (there, rows, pages, place) in [
            (there(10, 1_000.0), 100, 10, ""),
            // 1.1 of 100 pages, and 8 more, of a million.
            (
                there(1_000_000, 1e8),
                10_000,
                1_000_000,
                " TABLESAMPLE SYSTEM (0.011800) REPEATABLE (1) ORDER BY pg_catalog.hashtid(t.ctid)",
            ),
            // Grown since the statistics were gathered.
            (
                there(0, -1.0),
                20_000,
                110_800,
                " TABLESAMPLE SYSTEM (1.000000) REPEATABLE (1)",
            ),
            (there(100, 10_000.0), 10_000, 100, ""),
        ] {
            assert_eq!(
                sample_sql(&there, &table, rows, pages),
                format!("{select}{place} LIMIT {rows}")
            );
        }
    }
}
