//! What must be equal in two databases, and what may differ.

use super::model::{Case, Cell};
use super::writers::Account;
use crate::harness::{Database, difference};
use pgmorph::sql::literal;
use std::collections::BTreeMap;
use tokio_postgres::{Client, SimpleQueryMessage};

/// The statements of a dump without what depends on the order of columns: that within a table, and the order of
/// the statements themselves, since those for columns follow it.
pub fn normalised(dump: &str) -> String {
    let mut statements: Vec<String> = Vec::new();
    let mut statement = String::new();
    for line in dump.lines() {
        statement.push_str(line);
        statement.push('\n');
        if line.ends_with(';') {
            statements.push(without_order(&statement));
            statement.clear();
        }
    }
    statements.push(statement);
    statements.sort();
    statements.concat()
}

fn without_order(statement: &str) -> String {
    if statement.starts_with("CREATE TABLE ") {
        let mut lines: Vec<&str> = statement.lines().map(|line| line.trim_end_matches(',')).collect();
        let end = lines
            .iter()
            .position(|line| line.starts_with(')'))
            .unwrap_or(lines.len());
        if end > 1 {
            lines[1..end].sort_unstable();
        }
        return lines.join("\n") + "\n";
    }
    // The server lists the columns of a statistics object and of a publication by their position.
    let listed = if statement.starts_with("CREATE STATISTICS ") {
        statement
            .find(" ON ")
            .map(|at| at + 4)
            .zip(statement.rfind(" FROM "))
    } else if statement.starts_with("ALTER PUBLICATION ") {
        statement.find(" (").map(|at| at + 2).zip(statement.rfind(')'))
    } else {
        None
    };
    let Some((start, end)) = listed else {
        return statement.to_owned();
    };
    let mut names: Vec<&str> = statement[start..end].split(", ").collect();
    names.sort_unstable();
    format!("{}{}{}", &statement[..start], names.join(", "), &statement[end..])
}

/// Catalog facts that a dump leaves out or shows only in part. Nothing in them depends on the order of columns, nor on
/// whether VALIDATE reached the constraints below one, which it does in newer releases only.
const FACTS: &[&str] = &[
    "SELECT format('column %s.%I %s', c.oid::regclass, CASE WHEN c.relkind IN ('i', 'I') THEN a.attnum::text ELSE a.attname END, \
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, coalesce(a.attstattarget, -1), \
         coalesce(a.attoptions::text, '-'), a.attstorage, nullif(a.attcompression, ''), nullif(a.attidentity, ''), \
         nullif(a.attgenerated, ''), nullif(a.attcollation, 0)::regcollation, a.attislocal, a.attinhcount, \
         pg_get_expr(d.adbin, d.adrelid))) \
     FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid \
     LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
     WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind <> 'S' AND c.relnamespace = ANY (SELECT oid FROM ours)",
    // A partition's key that was an index before cannot be inherited, which says nothing of a key.
    "SELECT format('constraint %I on %s: %s', k.conname, k.conrelid::regclass, concat_ws(' ', k.contype, k.convalidated OR k.conparentid <> 0, \
       k.condeferrable, k.condeferred, k.connoinherit AND k.conparentid = 0, k.conislocal, k.coninhcount, k.confupdtype, k.confdeltype, \
       k.confmatchtype, k.conindid::regclass, CASE WHEN k.conparentid = 0 THEN pg_get_constraintdef(k.oid) \
       ELSE regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '') END, obj_description(k.oid, 'pg_constraint'))) \
     FROM pg_constraint AS k WHERE k.connamespace = ANY (SELECT oid FROM ours)",
    "SELECT format('index %s of %s: %s', i.indexrelid::regclass, i.indrelid::regclass, concat_ws(' ', i.indisunique, i.indisprimary, \
       i.indisvalid, i.indisready, i.indislive, i.indisclustered, i.indisreplident, i.indimmediate, \
       pg_get_indexdef(i.indexrelid), obj_description(i.indexrelid, 'pg_class'))) \
     FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid WHERE c.relnamespace = ANY (SELECT oid FROM ours)",
    "SELECT format('relation %s: %s', c.oid::regclass, concat_ws(' ', c.relkind, c.relpersistence, c.relreplident, c.relispopulated, \
       c.relrowsecurity, c.relforcerowsecurity, c.reloptions, c.relowner::regrole, \
       (SELECT array_agg(one::text ORDER BY one::text) FROM unnest(coalesce(c.relacl, \
         acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", c.relowner))) AS one), \
       c.relchecks, c.relhasrules, obj_description(c.oid, 'pg_class'))) \
     FROM pg_class AS c WHERE c.relnamespace = ANY (SELECT oid FROM ours)",
    "SELECT format('trigger %s on %s: %s', CASE WHEN t.tgisinternal THEN 'of ' || k.conname ELSE t.tgname END, t.tgrelid::regclass, \
       concat_ws(' ', t.tgenabled, t.tgtype, t.tgdeferrable, t.tginitdeferred, t.tgfoid::regproc, \
       CASE WHEN NOT t.tgisinternal THEN pg_get_triggerdef(t.oid) END, obj_description(t.oid, 'pg_trigger'))) \
     FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid LEFT JOIN pg_constraint AS k ON k.oid = t.tgconstraint \
     WHERE c.relnamespace = ANY (SELECT oid FROM ours)",
    "SELECT format('sequence %s: %s', s.seqrelid::regclass, concat_ws(' ', format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, \
       s.seqmin, s.seqmax, s.seqcache, s.seqcycle)) FROM pg_sequence AS s",
    "SELECT format('statistics %I: %s', s.stxname, concat_ws(' ', s.stxrelid::regclass, coalesce(s.stxstattarget, -1), s.stxkind, \
       s.stxowner::regrole, obj_description(s.oid, 'pg_statistic_ext'))) FROM pg_statistic_ext AS s",
    "SELECT format('grant on column %s.%I: %s', a.attrelid::regclass, a.attname, one) \
     FROM pg_attribute AS a, unnest(a.attacl) AS one WHERE NOT a.attisdropped",
];

pub async fn facts(database: &Database<'_>) -> String {
    let mut lines = Vec::new();
    let session = database.server.connect(&database.name).await;
    session
        .batch_execute("SET search_path = pg_catalog")
        .await
        .unwrap();
    for query in FACTS {
        let ours = "WITH ours AS (SELECT oid FROM pg_namespace \
                    WHERE nspname NOT LIKE 'pg\\_%' AND nspname NOT IN ('information_schema', 'pgmorph'))";
        let rows = session.query(&format!("{ours} {query}"), &[]).await;
        let rows = rows.unwrap_or_else(|error| panic!("{query}: {:?}", error.as_db_error()));
        lines.extend(rows.iter().map(|row| row.get::<_, String>(0) + "\n"));
    }
    lines.sort();
    // The ledger's own column grants and sequences.
    lines.retain(|line| !line.contains(" pgmorph."));
    lines.concat()
}

pub fn same(what: &str, expected: &str, found: &str) -> Result<(), String> {
    match expected == found {
        true => Ok(()),
        false => Err(format!("{what}:\n{}", difference(expected, found))),
    }
}

/// Sequences of the first that lag behind those of the second, which nobody used.
pub async fn sequences(database: &Database<'_>, twin: &Database<'_>) -> Result<(), String> {
    let sql = "SELECT format('%I.%I', schemaname, sequencename), coalesce(last_value, 0) FROM pg_sequences \
               WHERE schemaname <> 'pgmorph'";
    let read = async |client: &Client| -> BTreeMap<String, i64> {
        let rows = client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let (found, expected) = (read(&database.admin).await, read(&twin.admin).await);
    for (name, at_least) in expected {
        match found.get(&name) {
            Some(last) if *last >= at_least => {}
            last => return Err(format!("sequence {name} is at {last:?}, not at {at_least}")),
        }
    }
    Ok(())
}

type Texts = BTreeMap<i64, Vec<Option<String>>>;

async fn texts(database: &Database<'_>, case: &Case, at: usize) -> Texts {
    let table = &case.tables[at];
    let sql = format!("SELECT {} FROM {}", table.list(), table.name);
    let messages = database.admin.simple_query(&sql).await.unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.map(|row| {
        let cells: Vec<Option<String>> = (0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect();
        (cells[0].as_deref().unwrap().parse().unwrap(), cells)
    })
    .collect()
}

/// Rows that are not those of the account; rows that nobody wrote must be those of the twin to the letter.
pub async fn rows(
    database: &Database<'_>,
    twin: &Database<'_>,
    case: &Case,
    account: &Account,
) -> Result<(), String> {
    let mut wrong = Vec::new();
    for (at, table) in case.tables.iter().enumerate() {
        let (found, original) = (texts(database, case, at).await, texts(twin, case, at).await);
        let expected = &account.tables[at];
        let name = &table.name;
        for tag in found.keys().filter(|tag| !expected.contains_key(tag)) {
            wrong.push(format!("not acknowledged in {name}: {:?}", found[tag]));
        }
        for (tag, row) in expected {
            let Some(texts) = found.get(tag) else {
                wrong.push(format!("lost from {name}: {row:?}"));
                continue;
            };
            if !account.touched.contains(&(at, *tag)) {
                if original.get(tag) != Some(texts) {
                    wrong.push(format!("in {name} {texts:?}, unlike {:?}", original.get(tag)));
                }
                continue;
            }
            for (position, cell) in row.iter().enumerate() {
                let text = &texts[position];
                let right = match cell {
                    Cell::Initial(_) => original.get(tag).is_some_and(|row| row[position] == *text),
                    _ => Cell::of(text.as_deref(), table.columns[position].data_type) == *cell,
                };
                if !right {
                    let column = &table.columns[position].name;
                    wrong.push(format!(
                        "stale in {name}, {tag}, {column}: {text:?}, not {cell:?}"
                    ));
                }
            }
        }
    }
    match wrong.len() {
        0 => Ok(()),
        count => Err(format!(
            "{count} rows are wrong:\n{}",
            wrong[..count.min(5)].join("\n")
        )),
    }
}

/// Whether planning left its hands off.
pub async fn has_schema(database: &Database<'_>, name: &str) -> bool {
    let sql = format!("SELECT to_regnamespace({}) IS NOT NULL", literal(name));
    database.admin.query_one(&sql, &[]).await.unwrap().get(0)
}
