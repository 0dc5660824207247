//! What a session is asked, on its own line, about what it holds and has done, and what it answers.

use crate::plan::LockMode;
use crate::sql::QualifiedName;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Relations of the user: not the system's, and not the ledger's.
const OF_THE_USER: &str = "c.oid >= 16384 AND n.nspname NOT IN ('pg_toast', 'information_schema', 'pgmorph') \
     AND n.nspname NOT LIKE 'pg\\_temp\\_%' AND n.nspname NOT LIKE 'pg\\_toast\\_temp\\_%'";

/// A relation as it was before a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    pub name: QualifiedName,
    /// As in `pg_class.relkind`.
    pub kind: char,
    /// Where its rows are; nothing for what has none.
    pub file: Option<u32>,
    /// The table of an index, or of a sequence that belongs to a column.
    pub table: Option<u32>,
}

impl Relation {
    pub fn is_index(&self) -> bool {
        matches!(self.kind, 'i' | 'I')
    }
}

/// What there is, by OID.
pub type World = BTreeMap<u32, Relation>;

/// Asks for the world.
pub fn world_sql() -> String {
    format!(
        "SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(c.oid::pg_catalog.int8, n.nspname, c.relname, \
          c.relkind, pg_catalog.pg_relation_filenode(c.oid)::pg_catalog.int8, \
          coalesce(i.indrelid, d.refobjid)::pg_catalog.int8)), '[]') \
         FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
         LEFT JOIN pg_catalog.pg_index AS i ON i.indexrelid = c.oid \
         LEFT JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid \
          AND d.refclassid = d.classid AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i') AND c.relkind = 'S' \
         WHERE {OF_THE_USER}"
    )
}

pub fn world(answer: &str) -> Option<World> {
    type Row = (u32, String, String, char, Option<u32>, Option<u32>);
    let rows: Vec<Row> = serde_json::from_str(answer).ok()?;
    let relation = |(oid, schema, name, kind, file, table): Row| {
        let name = QualifiedName::new(schema, name);
        let relation = Relation {
            name,
            kind,
            file: file.filter(|file| *file != 0),
            table,
        };
        (oid, relation)
    };
    Some(rows.into_iter().map(relation).collect())
}

/// What a session holds and has done in its transaction, or another one holds and waits for.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Observation {
    /// OID of a relation, and the mode as `pg_locks` spells it.
    pub locks: Vec<(u32, String)>,
    /// OID, number of scans, rows that they read; since the session last told the statistics.
    pub scans: Vec<(u32, i64, i64)>,
    /// OID and file node.
    pub files: Vec<(u32, Option<u32>)>,
    /// Where the server writes its WAL.
    pub wal: i64,
    /// Bytes of temporary files since it was asked last, where the log of the server tells.
    #[serde(skip)]
    pub temp: Option<u64>,
}

impl Observation {
    /// The strongest on each relation.
    pub fn locks(&self) -> BTreeMap<u32, LockMode> {
        let mut strongest = BTreeMap::new();
        for (relation, mode) in &self.locks {
            if let Some(mode) = mode_of(mode) {
                let held = strongest.entry(*relation).or_insert(mode);
                *held = mode.max(*held);
            }
        }
        strongest
    }

    /// With locks that another session saw.
    #[must_use]
    pub fn with_locks(self, locks: BTreeMap<u32, LockMode>) -> Self {
        let locks = locks.into_iter().map(|(oid, mode)| (oid, mode.pg_locks_name()));
        Self {
            locks: locks.collect(),
            ..self
        }
    }

    pub fn parse(answer: &str) -> Option<Self> {
        serde_json::from_str(answer).ok()
    }
}

pub fn mode_of(pg_locks: &str) -> Option<LockMode> {
    LockMode::ALL
        .into_iter()
        .find(|mode| mode.pg_locks_name() == pg_locks)
}

/// Asked by the session itself, within its transaction: it sees what it has not committed.
pub fn observation_sql() -> String {
    format!(
        "SELECT pg_catalog.json_build_object('locks', \
          (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(l.relation::pg_catalog.int8, l.mode)), '[]') \
           FROM pg_catalog.pg_locks AS l WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' \
            AND l.granted AND l.relation >= 16384), \
         'scans', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(c.oid::pg_catalog.int8, \
            pg_catalog.pg_stat_get_xact_numscans(c.oid), pg_catalog.pg_stat_get_xact_tuples_returned(c.oid))), '[]') \
           FROM pg_catalog.pg_class AS c WHERE c.oid >= 16384 AND c.relkind IN ('r', 'm') \
            AND pg_catalog.pg_stat_get_xact_numscans(c.oid) > 0), \
         'files', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(c.oid::pg_catalog.int8, \
            pg_catalog.pg_relation_filenode(c.oid)::pg_catalog.int8)), '[]') \
           FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
           WHERE {OF_THE_USER} AND c.relkind IN ('r', 'm', 'i')), \
         'wal', (pg_catalog.pg_current_wal_insert_lsn() - '0/0')::pg_catalog.int8)"
    )
}

/// Asked by another session: what this one holds and waits for, and what for besides relations.
pub const OF_ANOTHER: &str = "SELECT l.locktype, l.relation::pg_catalog.int8, l.mode, l.granted FROM pg_catalog.pg_locks AS l \
     WHERE l.pid = $1 AND (l.locktype = 'relation' OR NOT l.granted) \
      AND (l.database IS NULL OR l.database = 0 OR l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d \
        WHERE d.datname = pg_catalog.current_database()))";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let world = world(
            r#"[[16400, "public", "t", "r", 16400, null], [16405, "public", "t_pkey", "i", 16405, 16400]]"#,
        );
        let world = world.unwrap();
        assert!(world[&16405].is_index() && !world[&16400].is_index());
        assert_eq!(world[&16405].table, Some(16400));
        let seen = Observation::parse(
            r#"{"locks": [[16400, "RowExclusiveLock"], [16400, "ShareUpdateExclusiveLock"], [16400, "AccessShareLock"]],
                "scans": [[16400, 1, 10]], "files": [[16400, 16409]], "wal": 77}"#,
        );
        let seen = seen.unwrap();
        assert_eq!(seen.locks()[&16400], LockMode::ShareUpdateExclusive);
        assert_eq!(seen.files, [(16400, Some(16409))]);
    }
}
