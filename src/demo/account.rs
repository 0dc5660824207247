//! Double-entry bookkeeping of the application: what the server acknowledged against what is in the tables.

use super::statements::TABLES;
use crate::error::{Error, ErrorKind};
use serde::Serialize;
use tokio_postgres::Client;

/// Writes to one table that the server acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Writes {
    pub inserts: i64,
    pub updates: i64,
    pub deletes: i64,
    /// By how much the sum of all versions grew.
    #[serde(skip)]
    pub versions: i64,
}

impl Writes {
    pub fn inserted(&mut self, version: i64) {
        self.inserts += 1;
        self.versions += version;
    }

    pub fn updated(&mut self) {
        self.updates += 1;
        self.versions += 1;
    }

    pub fn deleted(&mut self, version: i64) {
        self.deletes += 1;
        self.versions -= version;
    }

    pub fn add(&mut self, other: &Self) {
        self.inserts += other.inserts;
        self.updates += other.updates;
        self.deletes += other.deletes;
        self.versions += other.versions;
    }

    pub fn total(&self) -> i64 {
        self.inserts + self.updates + self.deletes
    }
}

/// What a table holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holding {
    pub rows: i64,
    pub versions: i64,
    /// Of the table with its indexes.
    pub bytes: i64,
}

/// One table's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    pub name: &'static str,
    pub before: Holding,
    pub writes: Writes,
    pub after: Holding,
}

impl Account {
    /// The accounts of the three tables.
    pub fn all(before: [Holding; 3], writes: [Writes; 3], after: [Holding; 3]) -> Vec<Self> {
        let names = TABLES.iter().map(|table| table.name);
        let sides = before.into_iter().zip(writes).zip(after);
        let account = |(name, ((before, writes), after))| Self {
            name,
            before,
            writes,
            after,
        };
        names.zip(sides).map(account).collect()
    }

    /// Rows and versions that must be there now.
    pub fn expected(&self) -> (i64, i64) {
        let rows = self.before.rows + self.writes.inserts - self.writes.deletes;
        (rows, self.before.versions + self.writes.versions)
    }

    /// By how much the table is wrong, in acknowledged writes.
    pub fn lost(&self) -> u64 {
        let (rows, versions) = self.expected();
        rows.abs_diff(self.after.rows) + versions.abs_diff(self.after.versions)
    }
}

/// Counts what each table holds. Nobody may write meanwhile, or the account of it must end here.
///
/// # Errors
/// When the server does not answer.
pub async fn holdings(client: &Client) -> Result<[Holding; 3], Error> {
    let mut found = [Holding::default(); 3];
    for (holding, table) in found.iter_mut().zip(&TABLES) {
        let sql = format!(
            "SELECT count(*), coalesce(sum(version), 0)::bigint, pg_total_relation_size('{0}') FROM {0}",
            table.name
        );
        let failed = |error| Error::postgres(ErrorKind::StepFailed, "counting the rows", error);
        let row = client.query_one(&sql, &[]).await.map_err(failed)?;
        *holding = Holding {
            rows: row.get(0),
            versions: row.get(1),
            bytes: row.get(2),
        };
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_is_missing_shows() {
        let mut writes = Writes::default();
        writes.inserted(1);
        writes.inserted(0);
        writes.updated();
        writes.deleted(1);
        let holding = |rows, versions| Holding {
            rows,
            versions,
            bytes: 0,
        };
        let account = |after| Account {
            name: "t",
            before: holding(10, 100),
            writes,
            after,
        };
        assert_eq!(account(holding(11, 101)).lost(), 0);
        assert_eq!(account(holding(11, 100)).lost(), 1);
        assert_eq!(account(holding(10, 100)).lost(), 2);
        assert_eq!(writes.total(), 4);
    }
}
