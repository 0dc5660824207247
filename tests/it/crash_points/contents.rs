//! The rows of all tables, in little.

use crate::harness::Database;
use pgmorph::sql::{ident, literal};
use std::collections::{BTreeMap, BTreeSet};

/// Columns by their tables.
pub type Columns = BTreeSet<(String, String)>;

/// Number and digest of the rows, by table.
pub type Rows = BTreeMap<String, String>;

struct Column {
    table: String,
    name: String,
    /// Filled from a sequence, of which a death may use up numbers.
    numbered: bool,
}

async fn columns(database: &Database<'_>) -> Vec<Column> {
    let sql = "SELECT a.attrelid::regclass::text, a.attname::text, \
                a.attidentity <> '' OR coalesce(pg_get_expr(d.adbin, d.adrelid) LIKE '%nextval(%', false) \
               FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'm') \
               JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname NOT LIKE 'pg\\_%' \
                AND n.nspname NOT IN ('information_schema', 'pgmorph') \
               LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
               WHERE a.attnum > 0 AND NOT a.attisdropped AND (c.relkind <> 'm' OR c.relispopulated) ORDER BY 1, 2";
    let rows = database.admin.query(sql, &[]).await.unwrap();
    let column = |row: &tokio_postgres::Row| Column {
        table: row.get(0),
        name: row.get(1),
        numbered: row.get(2),
    };
    rows.iter().map(column).collect()
}

/// Columns that are filled from a sequence.
pub async fn numbered(database: &Database<'_>) -> Columns {
    let columns = columns(database).await.into_iter();
    let numbered = columns.filter(|column| column.numbered);
    numbered.map(|column| (column.table, column.name)).collect()
}

/// All columns.
pub async fn all(database: &Database<'_>) -> Columns {
    let columns = columns(database).await.into_iter();
    columns.map(|column| (column.table, column.name)).collect()
}

const DIGEST: &str =
    "count(*)::text || ' rows ' || coalesce(md5(string_agg(md5(v), '' ORDER BY md5(v))), '')";

async fn digests(database: &Database<'_>, parts: Vec<String>) -> Vec<(String, String)> {
    if parts.is_empty() {
        return Vec::new();
    }
    let sql = parts.join(" UNION ALL ");
    let rows = database.admin.query(&sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Without these columns.
pub async fn rows(database: &Database<'_>, without: &Columns) -> Rows {
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for column in columns(database).await {
        let values = tables.entry(column.table.clone()).or_default();
        if !without.contains(&(column.table, column.name.clone())) {
            values.push(format!("t.{}::text", ident(&column.name)));
        }
    }
    // Of which nothing is left to compare, not even the number of rows.
    tables.retain(|_, values| !values.is_empty());
    let part = |(table, values): (&String, &Vec<String>)| {
        format!(
            "SELECT {}, {DIGEST} FROM (SELECT ROW({})::text AS v FROM {table} AS t) AS r",
            literal(table),
            values.join(", ")
        )
    };
    let parts = tables.iter().map(part).collect();
    digests(database, parts).await.into_iter().collect()
}

/// The digest of each column by itself.
pub async fn by_column(database: &Database<'_>) -> BTreeMap<(String, String), String> {
    let columns = columns(database).await;
    let part = |column: &Column| {
        format!(
            "SELECT {}, {DIGEST} FROM (SELECT coalesce({}::text, 'NULL ') AS v FROM {}) AS r",
            literal(&format!("{}\n{}", column.table, column.name)),
            ident(&column.name),
            column.table
        )
    };
    let parts = columns.iter().map(part).collect();
    let digests = digests(database, parts).await;
    let key = |name: &str| {
        let (table, column) = name.split_once('\n').unwrap();
        (table.to_owned(), column.to_owned())
    };
    digests
        .into_iter()
        .map(|(name, digest)| (key(&name), digest))
        .collect()
}
