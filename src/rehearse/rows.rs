//! Rows that nobody wrote, in tables that are empty: of the right types, and such that keys and checks let them in.
//!
//! Of every column there are some candidates: values of its type, and those that stand in its checks and in the bounds of
//! its partition. More rows than are wanted are made of them by chance; the checks themselves choose among those.

use super::Site;
use crate::error::{Error, ErrorKind};
use crate::sql::{QualifiedName, ident, literal};
use serde::Serialize;
use std::collections::BTreeSet;
use tokio_postgres::Client;

/// So many are made for each that is wanted, for the checks to choose from.
const TRIES: u64 = 4;

/// Where rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    MadeUp,
    /// From the live database.
    Sampled,
}

/// How many rows a table got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Filled {
    pub table: QualifiedName,
    pub rows: u64,
    pub source: Origin,
    /// Why it has none, though some were to be made up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_empty: Option<String>,
    /// Why it has none of the live database, or only those that others refer to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not_sampled: Option<String>,
    /// Sampled rows that refer to rows which could not be had.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// Only rows that row-level security shows were sampled.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub row_security: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

struct Column {
    name: String,
    data_type: String,
    /// As in `pg_type.typcategory`, of the type below a domain.
    category: char,
    base: String,
    not_null: bool,
    unique: bool,
    length: Option<i32>,
}

struct Table {
    oid: u32,
    name: QualifiedName,
    columns: Vec<Column>,
    checks: Vec<String>,
    keys: Vec<ForeignKey>,
}

struct ForeignKey {
    columns: Vec<String>,
    parent: u32,
    parent_name: String,
    parent_columns: Vec<String>,
}

const TABLES: &str = "SELECT c.oid, n.nspname, c.relname, pg_catalog.pg_get_partition_constraintdef(c.oid) \
     FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE c.relkind = 'r' AND c.oid >= 16384 AND n.nspname NOT IN ('pgmorph', 'information_schema') \
     ORDER BY n.nspname, c.relname";

const COLUMNS: &str = "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), b.typcategory, \
      pg_catalog.format_type(b.oid, NULL), a.attnotnull, \
      EXISTS (SELECT FROM pg_catalog.pg_index AS i WHERE i.indrelid = a.attrelid AND i.indisunique \
       AND a.attnum = ANY (i.indkey)), \
      CASE WHEN a.atttypmod > 4 AND b.typname IN ('varchar', 'bpchar') THEN a.atttypmod - 4 END \
     FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid \
     JOIN pg_catalog.pg_type AS b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END \
     WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum";

const CHECKS: &str = "SELECT pg_catalog.pg_get_expr(conbin, conrelid) FROM pg_catalog.pg_constraint \
     WHERE conrelid = $1 AND contype = 'c'";

const KEYS: &str = "SELECT (SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.n) \
       FROM pg_catalog.unnest(conkey) WITH ORDINALITY AS k (att, n) \
       JOIN pg_catalog.pg_attribute AS a ON a.attrelid = conrelid AND a.attnum = k.att), \
      confrelid, confrelid::pg_catalog.regclass::text, \
      (SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.n) \
       FROM pg_catalog.unnest(confkey) WITH ORDINALITY AS k (att, n) \
       JOIN pg_catalog.pg_attribute AS a ON a.attrelid = confrelid AND a.attnum = k.att) \
     FROM pg_catalog.pg_constraint WHERE conrelid = $1 AND contype = 'f'";

impl Site {
    /// Fills every table that is empty, and is wanted, with up to so many rows.
    ///
    /// # Errors
    /// When the server does not answer. A table that cannot be filled stays empty, and it is told why.
    pub async fn fill(
        &self,
        database: &str,
        rows: u64,
        wanted: impl Fn(&QualifiedName) -> bool,
    ) -> Result<Vec<Filled>, Error> {
        let client = self.connect(database).await?;
        let failed = |error| Error::postgres(ErrorKind::StepFailed, "making rows", error);
        // What the application's triggers would do is not asked for; the keys are kept by how rows are made.
        let settings =
            "SET session_replication_role = replica; SET statement_timeout = '300s'; SELECT setseed(0.5)";
        client.batch_execute(settings).await.map_err(failed)?;
        let tables = in_order(read(&client).await.map_err(failed)?);
        let mut filled = Vec::new();
        let mut done = BTreeSet::new();
        for table in &tables {
            let is_there = format!("SELECT EXISTS (SELECT FROM ONLY {})", table.name);
            if wanted(&table.name)
                && !client
                    .query_one(&is_there, &[])
                    .await
                    .map_err(failed)?
                    .get::<_, bool>(0)
            {
                let (rows, why_empty) = match client.execute(&insert(table, &done, rows), &[]).await {
                    Ok(0) => (
                        0,
                        Some("no row that was tried fulfils its checks and keys".to_owned()),
                    ),
                    Ok(rows) => (rows, None),
                    Err(error) => match error.as_db_error() {
                        Some(db) => (0, Some(db.message().to_owned())),
                        None => return Err(failed(error)),
                    },
                };
                filled.push(Filled {
                    table: table.name.clone(),
                    rows,
                    source: Origin::MadeUp,
                    why_empty,
                    why_not_sampled: None,
                    left_out: 0,
                    row_security: false,
                });
            }
            done.insert(table.oid);
        }
        Ok(filled)
    }
}

async fn read(client: &Client) -> Result<Vec<Table>, tokio_postgres::Error> {
    let mut tables = Vec::new();
    for row in client.query(TABLES, &[]).await? {
        let oid: u32 = row.get(0);
        let columns = client.query(COLUMNS, &[&oid]).await?;
        let columns = columns.iter().map(|row| Column {
            name: row.get(0),
            data_type: row.get(1),
            category: char::from(row.get::<_, i8>(2).cast_unsigned()),
            base: row.get(3),
            not_null: row.get(4),
            unique: row.get(5),
            length: row.get(6),
        });
        let mut checks: Vec<String> = client
            .query(CHECKS, &[&oid])
            .await?
            .iter()
            .map(|row| row.get(0))
            .collect();
        checks.extend(row.get::<_, Option<String>>(3));
        let keys = client.query(KEYS, &[&oid]).await?;
        let keys = keys.iter().map(|row| ForeignKey {
            columns: row.get(0),
            parent: row.get(1),
            parent_name: row.get(2),
            parent_columns: row.get(3),
        });
        tables.push(Table {
            oid,
            name: QualifiedName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
            columns: columns.collect(),
            checks,
            keys: keys.collect(),
        });
    }
    Ok(tables)
}

/// Referenced tables first, as far as they do not refer to each other.
fn in_order(mut rest: Vec<Table>) -> Vec<Table> {
    let mut ordered: Vec<Table> = Vec::new();
    while !rest.is_empty() {
        let waiting: BTreeSet<u32> = rest.iter().map(|table| table.oid).collect();
        let waits = |table: &Table| {
            table
                .keys
                .iter()
                .any(|key| key.parent != table.oid && waiting.contains(&key.parent))
        };
        let next = rest.iter().position(|table| !waits(table)).unwrap_or(0);
        ordered.push(rest.remove(next));
    }
    ordered
}

/// Quoted texts and numbers of an expression.
fn constants(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = expression;
    let mut outside = String::new();
    while let Some((before, after)) = rest.split_once('\'') {
        outside.push_str(before);
        outside.push(' ');
        let (text, after) = after.split_once('\'').unwrap_or((after, ""));
        found.insert(text.to_owned());
        rest = after;
    }
    outside.push_str(rest);
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '-';
    for word in outside.split(|c| !is_part(c)) {
        if word.parse::<f64>().is_ok() {
            found.insert(word.to_owned());
        }
    }
    found
}

impl Column {
    /// Expressions in `i`, the number of the row.
    fn candidates(&self, checks: &[String]) -> Vec<String> {
        let name = ident(&self.name);
        let mine = checks.iter().filter(|check| check.contains(&name));
        let constants: BTreeSet<String> = mine.flat_map(|check| constants(check)).collect();
        let mut found = vec![self.value()];
        if !self.unique && self.category == 'N' {
            found.extend(["i % 100".into(), "1".into(), "0".into()]);
        }
        for constant in constants {
            let text = literal(&constant);
            let number = constant.parse::<f64>().is_ok();
            match self.category {
                'N' if number => found.extend([
                    constant.clone(),
                    format!("{constant} + 1 + i % 50"),
                    format!("{constant} - 1"),
                ]),
                'D' if !number => found.push(format!(
                    "{text}::{} + (i % 1000) * interval '1 minute'",
                    self.base
                )),
                'S' | 'E' | 'U' if !number || self.category == 'S' => found.push(text),
                _ => {}
            }
        }
        if !self.not_null {
            found.push("NULL".into());
        }
        let cast = |value: String| format!("({value})::{}", self.data_type);
        found.into_iter().map(cast).collect()
    }

    /// One for each row, and different in most.
    fn value(&self) -> String {
        let salt = literal(&self.name);
        let text = match self.length {
            Some(length) => format!("left(md5(i || {salt}), {length})"),
            None => format!("md5(i || {salt})"),
        };
        match (self.category, self.base.as_str()) {
            ('N', "smallint") => "i % 32767".into(),
            ('N', _) => "i".into(),
            ('B', _) => "i % 2 = 0".into(),
            ('D', "time without time zone" | "time with time zone") => {
                "time '00:00' + i * interval '1 second'".into()
            }
            ('D', _) => "timestamptz '2026-01-01 00:00 UTC' - i * interval '1 minute'".into(),
            ('T', _) => "i * interval '1 minute'".into(),
            ('E', _) => format!(
                "(enum_range(NULL::{base}))[1 + i % cardinality(enum_range(NULL::{base}))]",
                base = self.base
            ),
            ('A', _) => "'{}'".into(),
            ('I', _) => "'10.0.0.0'::inet + i".into(),
            ('U', "uuid") => format!("md5(i || {salt})::uuid"),
            ('U', "jsonb" | "json") => "json_build_object('n', i)".into(),
            ('U', "bytea") => format!("decode(md5(i || {salt}), 'hex')"),
            ('S', _) => text,
            _ if self.not_null => text,
            _ => "NULL".into(),
        }
    }
}

/// Fills `table`; of the tables that it refers to, those in `done` have rows.
fn insert(table: &Table, done: &BTreeSet<u32>, rows: u64) -> String {
    let mut joins = String::new();
    let mut values: Vec<String> = Vec::new();
    let of_key = |column: &Column| {
        let has = |key: &ForeignKey| key.columns.iter().position(|name| *name == column.name);
        table
            .keys
            .iter()
            .enumerate()
            .find_map(|(number, key)| Some((number, key, has(key)?)))
    };
    for (number, key) in table
        .keys
        .iter()
        .enumerate()
        .filter(|(_, key)| done.contains(&key.parent))
    {
        let columns: Vec<String> = key.parent_columns.iter().map(|name| ident(name)).collect();
        let columns = columns.join(", ");
        joins.push_str(&format!(
            " LEFT JOIN (SELECT row_number() OVER () AS n, {columns} FROM {parent}) AS p{number} \
             ON p{number}.n = 1 + i % nullif((SELECT count(*) FROM {parent}), 0)",
            parent = key.parent_name
        ));
    }
    for column in &table.columns {
        let value = match of_key(column) {
            Some((number, key, position)) if done.contains(&key.parent) => {
                format!("p{number}.{}", ident(&key.parent_columns[position]))
            }
            Some(_) => "NULL".into(),
            None => {
                let candidates = column.candidates(&table.checks);
                match candidates.as_slice() {
                    [only] => only.clone(),
                    several if column.unique => several[0].clone(),
                    several => {
                        let cases = several.iter().enumerate();
                        let cases: String = cases
                            .map(|(n, value)| format!(" WHEN {n} THEN {value}"))
                            .collect();
                        format!("CASE floor(random() * {})::int{cases} END", several.len())
                    }
                }
            }
        };
        values.push(format!("{value} AS {}", ident(&column.name)));
    }
    let names: Vec<String> = table.columns.iter().map(|column| ident(&column.name)).collect();
    let names = names.join(", ");
    let checks: String = table
        .checks
        .iter()
        .map(|check| format!(" AND ({check}) IS NOT FALSE"))
        .collect();
    format!(
        "INSERT INTO {} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM (SELECT {} FROM generate_series(1, {}) AS i{joins}) \
         AS candidates WHERE true{checks} LIMIT {rows} ON CONFLICT DO NOTHING",
        table.name,
        values.join(", "),
        rows.saturating_mul(TRIES)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_of_an_expression_are_found() {
        let found =
            constants("((state = ANY (ARRAY['open'::text, 'done'::text])) AND (n >= 10) AND (n < 2.5))");
        let found: Vec<String> = found.into_iter().collect();
        assert_eq!(found, ["10", "2.5", "done", "open"]);
    }
}
