//! Rows of the live database in the tables of the server that is thrown away: up to so many of each table, and those that
//! they refer to.
//!
//! The live database is read by one session, in one snapshot, each statement bounded, and no lock outlives the statement that
//! needed it. What it says of itself is never trusted to be complete: a row whose parent could not be had is taken out again.

use super::Site;
use super::rows::{Filled, Origin};
use crate::error::{Error, ErrorKind};
use crate::sql::{QualifiedName, ident, idents, literal};
use crate::units;
use aside::Aside;
use keys::Key;
use reader::{Reader, There};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use tokio_postgres::Client;

mod aside;
mod keys;
mod reader;

pub use reader::BOUNDS;

/// So many times rows are fetched that others refer to; a chain of references that is longer is cut off.
const ROUNDS_MAX: usize = 100;
/// So many times rows without their parents are looked for; after that all rows go that have any.
const REMOVALS_MAX: usize = 200;
/// So many keys, or bytes of them, are asked for at once.
const KEYS_AT_ONCE: usize = 2_000;
const KEY_BYTES_AT_ONCE: usize = 1_000_000;

const SETTINGS: &str = "SET session_replication_role = replica; SET search_path = pg_catalog; SET statement_timeout = '300s'; \
     SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET xmloption = content";

/// Partitions and the tables that inherit are tables of their own; partitioned tables are known for their keys.
const TABLES: &str = "SELECT c.oid, n.nspname, c.relname, c.relkind = 'p', \
      coalesce(pg_catalog.pg_partition_root(c.oid)::pg_catalog.oid, c.oid), \
      EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
       AND d.objid = c.oid AND d.deptype = 'e'), \
      (SELECT coalesce(pg_catalog.array_agg(a.attname::text ORDER BY a.attnum), '{}') FROM pg_catalog.pg_attribute AS a \
       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') \
     FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND c.oid >= 16384 \
      AND n.nspname NOT IN ('pgmorph', 'information_schema') ORDER BY n.nspname, c.relname";

/// A table of the server that is thrown away.
#[derive(Debug)]
struct Table {
    name: QualifiedName,
    partitioned: bool,
    /// The root of its partitions, or itself.
    family: u32,
    of_extension: bool,
    columns: Vec<String>,
}

impl Table {
    /// `COPY … FROM`; nothing for a table without columns.
    fn copy_sql(&self) -> Option<String> {
        let columns = idents(&self.columns);
        (!columns.is_empty()).then(|| format!("COPY {} ({columns}) FROM STDIN", self.name))
    }
}

/// Tells how far it is.
pub type Told<'a> = &'a mut (dyn FnMut(&str) + Send);

impl Site {
    /// Copies up to `rows` rows of every table from the live database. Gives every table: where it is said why, it has no
    /// sample, and rows may be made up for it.
    ///
    /// # Errors
    /// When one of the servers does not answer. A table that cannot be read is told.
    pub async fn sample(
        &self,
        database: &str,
        live: &Client,
        rows: u64,
        told: Told<'_>,
    ) -> Result<Vec<Filled>, Error> {
        let here = self.connect(database).await?;
        here.batch_execute(SETTINGS).await.map_err(failed)?;
        let tables = tables(&here).await.map_err(failed)?;
        let keys = keys::read(&here).await.map_err(failed)?;
        let aside = Aside::put(&here).await.map_err(failed)?;
        // Functions in checks find what they name as they always do.
        here.batch_execute("RESET search_path").await.map_err(failed)?;
        let reader = Reader::begin(live).await?;
        let there = reader.tables().await?;
        let mut sampling = Sampling {
            here: &here,
            reader: &reader,
            tables: &tables,
            keys: &keys,
            there: &there,
            unread: BTreeMap::new(),
            incomplete: BTreeSet::new(),
            left_out: BTreeMap::new(),
        };
        Box::pin(sampling.tables(rows, told)).await?;
        Box::pin(sampling.parents(told)).await?;
        sampling.sequences().await?;
        reader.end().await?;
        told("taking out rows without those that they refer to");
        sampling.remove_orphans().await.map_err(failed)?;
        aside.restore(&here).await.map_err(failed)?;
        sampling.counted().await.map_err(failed)
    }
}

fn failed(error: tokio_postgres::Error) -> Error {
    Error::postgres(ErrorKind::StepFailed, "sampling rows", error)
}

async fn tables(here: &Client) -> Result<BTreeMap<u32, Table>, tokio_postgres::Error> {
    let rows = here.query(TABLES, &[]).await?;
    let table = |row: &tokio_postgres::Row| {
        let table = Table {
            name: QualifiedName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
            partitioned: row.get(3),
            family: row.get(4),
            of_extension: row.get(5),
            columns: row.get(6),
        };
        (row.get(0), table)
    };
    Ok(rows.iter().map(table).collect())
}

struct Sampling<'a> {
    here: &'a Client,
    reader: &'a Reader<'a>,
    /// By their OID here.
    tables: &'a BTreeMap<u32, Table>,
    keys: &'a [Key],
    there: &'a BTreeMap<QualifiedName, There>,
    /// Why tables were not read.
    unread: BTreeMap<u32, String>,
    /// Families of tables of which rows may be missing that the live database has.
    incomplete: BTreeSet<u32>,
    left_out: BTreeMap<u32, u64>,
}

/// What is read by one statement.
struct Unit {
    into: u32,
    from: There,
    /// The tables that get the rows.
    covers: Vec<u32>,
}

impl Sampling<'_> {
    /// Each table by itself; partitions that may not be read by themselves through their root.
    fn units(&mut self) -> Vec<Unit> {
        let mut units: BTreeMap<u32, Unit> = BTreeMap::new();
        let leaves = self
            .tables
            .iter()
            .filter(|(_, table)| !table.partitioned && !table.of_extension);
        let may_read = |oid: &u32| {
            let there = self.there.get(&self.tables.get(oid)?.name)?;
            there.readable.then_some(there)
        };
        let through_root: BTreeSet<u32> = leaves
            .clone()
            .filter(|(oid, table)| may_read(oid).is_none() && may_read(&table.family).is_some())
            .map(|(_, table)| table.family)
            .collect();
        for (oid, table) in leaves {
            let into = if through_root.contains(&table.family) {
                table.family
            } else {
                *oid
            };
            match (may_read(&into), self.there.get(&table.name)) {
                (_, None) => {
                    self.unread.insert(*oid, "it is not in the database".into());
                }
                (None, _) => {
                    self.unread.insert(*oid, "the role may not read it".into());
                }
                (Some(from), _) => {
                    let unit = || Unit {
                        into,
                        from: from.clone(),
                        covers: Vec::new(),
                    };
                    units.entry(into).or_insert_with(unit).covers.push(*oid);
                }
            }
        }
        units.into_values().collect()
    }

    async fn tables(&mut self, rows: u64, told: Told<'_>) -> Result<(), Error> {
        let units = self.units();
        let all = units.len();
        for (number, unit) in units.into_iter().enumerate() {
            let Some(table) = self.tables.get(&unit.into) else {
                continue;
            };
            let what = format!("sampling {}, table {} of {all}", table.name, number + 1);
            told(&what);
            let mut more = |rows: &str| told(&format!("{what}: {rows}"));
            let read = self
                .reader
                .sample(&unit.from, table, rows, self.here, &mut more)
                .await?;
            if let Err(why) = read {
                for oid in &unit.covers {
                    self.unread.insert(*oid, why.clone());
                }
            }
            if unit.from.row_security {
                self.incomplete.insert(table.family);
            }
        }
        for oid in self.unread.keys() {
            self.incomplete
                .extend(self.tables.get(oid).map(|table| table.family));
        }
        Ok(())
    }

    /// Fetches the rows that others refer to, and those that they refer to, until there is nothing to fetch.
    async fn parents(&mut self, told: Told<'_>) -> Result<(), Error> {
        let mut due: BTreeSet<usize> = (0..self.keys.len()).collect();
        let mut asked: Vec<HashSet<Vec<String>>> = vec![HashSet::new(); self.keys.len()];
        let mut fetched = 0;
        for _ in 0..ROUNDS_MAX {
            let mut grown = BTreeSet::new();
            for number in std::mem::take(&mut due) {
                let (key, asked) = (&self.keys[number], &mut asked[number]);
                if key.period {
                    self.incomplete.insert(key.parent.family);
                    continue;
                }
                let missing = key.missing_values(self.here).await.map_err(failed)?;
                let missing: Vec<Vec<String>> = missing
                    .into_iter()
                    .filter(|it| asked.insert(it.clone()))
                    .collect();
                for batch in batches(&missing) {
                    told(&format!(
                        "fetching rows of {} that others refer to, {} so far",
                        key.parent.name,
                        units::count(fetched)
                    ));
                    let rows = self.fetch(key, batch).await?;
                    fetched += rows;
                    if rows > 0 {
                        grown.insert(key.parent.family);
                    }
                }
            }
            let has_grown = |key: &Key| grown.contains(&key.child.family);
            due = (0..self.keys.len())
                .filter(|at| has_grown(&self.keys[*at]))
                .collect();
            if due.is_empty() {
                break;
            }
        }
        // Cut off: what these refer to was not asked for.
        let parents = due.into_iter().map(|number| self.keys[number].parent.family);
        self.incomplete.extend(parents);
        Ok(())
    }

    async fn fetch(&mut self, key: &Key, batch: &[Vec<String>]) -> Result<u64, Error> {
        let family = key.parent.family;
        let Some(table) = self.tables.get(&key.parent.oid) else {
            return Ok(0);
        };
        let readable = self.there.get(&table.name).is_some_and(|there| there.readable);
        let Some(into) = table.copy_sql().filter(|_| readable) else {
            self.incomplete.insert(family);
            return Ok(0);
        };
        let select = key.fetch_sql(&table.columns, batch);
        match self.reader.fetch(&select, self.here, &into, &mut |_| {}).await? {
            Ok(rows) => Ok(rows),
            Err(_) => {
                self.incomplete.insert(family);
                Ok(0)
            }
        }
    }

    /// What sequences give next here is what they give next there.
    async fn sequences(&self) -> Result<(), Error> {
        for (name, last) in self.reader.sequences().await? {
            let there_is = literal(&name.to_string());
            let sql = format!(
                "SELECT pg_catalog.setval(c.oid::pg_catalog.regclass, {last}) FROM pg_catalog.pg_class AS c \
                 JOIN pg_catalog.pg_sequence AS s ON s.seqrelid = c.oid \
                 WHERE c.oid = pg_catalog.to_regclass({there_is}) AND {last} BETWEEN s.seqmin AND s.seqmax"
            );
            self.here.batch_execute(&sql).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Takes out what refers to rows that are not there. Where a key was never validated, such rows may be there in the live
    /// database, too: then they stay, so that the rehearsal meets what the plan will meet.
    async fn remove_orphans(&mut self) -> Result<(), tokio_postgres::Error> {
        let mut due: BTreeSet<usize> = (0..self.keys.len()).collect();
        for round in 0.. {
            let mut shrunk = BTreeSet::new();
            for number in std::mem::take(&mut due) {
                let key = &self.keys[number];
                if !key.validated && !self.incomplete.contains(&key.parent.family) {
                    continue;
                }
                for row in self
                    .here
                    .query(&key.remove_sql(round >= REMOVALS_MAX), &[])
                    .await?
                {
                    let gone = u64::try_from(row.get::<_, i64>(1)).unwrap_or_default();
                    *self.left_out.entry(row.get(0)).or_default() += gone;
                    shrunk.insert(key.child.family);
                }
            }
            if shrunk.is_empty() {
                break;
            }
            let has_shrunk = |key: &Key| shrunk.contains(&key.parent.family);
            due = (0..self.keys.len())
                .filter(|at| has_shrunk(&self.keys[*at]))
                .collect();
            self.incomplete.extend(shrunk);
        }
        Ok(())
    }

    async fn counted(self) -> Result<Vec<Filled>, tokio_postgres::Error> {
        let mut filled = Vec::new();
        for (oid, table) in self
            .tables
            .iter()
            .filter(|(_, table)| !table.partitioned && !table.of_extension)
        {
            let sql = format!("SELECT count(*) FROM ONLY {}", table.name);
            let rows =
                u64::try_from(self.here.query_one(&sql, &[]).await?.get::<_, i64>(0)).unwrap_or_default();
            let left_out = self.left_out.get(oid).copied().unwrap_or_default();
            let unread = self.unread.get(oid).cloned();
            let all_gone = (rows == 0 && left_out > 0)
                .then(|| "all its rows refer to rows that could not be read".to_owned());
            let has_row_security = |name| self.there.get(name).is_some_and(|there| there.row_security);
            filled.push(Filled {
                table: table.name.clone(),
                rows,
                source: Origin::Sampled,
                why_empty: None,
                why_not_sampled: unread.or(all_gone),
                left_out,
                row_security: has_row_security(&table.name),
            });
        }
        filled.sort_by(|one, other| one.table.cmp(&other.table));
        Ok(filled)
    }
}

/// Of so many keys, and of so many bytes, that one statement can hold them.
fn batches(mut keys: &[Vec<String>]) -> Vec<&[Vec<String>]> {
    let mut batches = Vec::new();
    while !keys.is_empty() {
        let mut bytes = 0;
        let fits = |key: &Vec<String>| {
            bytes += key.iter().map(String::len).sum::<usize>();
            bytes <= KEY_BYTES_AT_ONCE
        };
        let count = keys
            .iter()
            .take(KEYS_AT_ONCE)
            .map(fits)
            .take_while(|fits| *fits)
            .count();
        let (batch, rest) = keys.split_at(count.max(1));
        batches.push(batch);
        keys = rest;
    }
    batches
}

/// `SELECT` of these columns.
fn columns_of(alias: &str, columns: &[String]) -> String {
    let columns: Vec<String> = columns
        .iter()
        .map(|name| format!("{alias}.{}", ident(name)))
        .collect();
    columns.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_so_many_keys_and_so_many_bytes() {
        let sizes = |keys: &[Vec<String>]| batches(keys).iter().map(|batch| batch.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&vec![vec!["1".to_owned()]; 4_500]), [2_000, 2_000, 500]);
        assert_eq!(sizes(&vec![vec!["x".repeat(400_000)]; 5]), [2, 2, 1]);
        assert_eq!(sizes(&vec![vec!["x".repeat(2_000_000)]; 2]), [1, 1]);
        assert!(sizes(&[]).is_empty());
    }
}
