//! What was measured on real servers, statement by statement, against what the lint says. A row has its own schema
//! on a server of the release under test; the lint sees that through a catalog snapshot, as its users have one.

use crate::harness::TestServer;
use pgmorph::catalog::load;
use pgmorph::catalog::model::CatalogSnapshot;
use pgmorph::plan::LockMode;
use pgmorph::sql::QualifiedName;
use pgmorph::sql_lint::{Effects, Refusal, World, effects, parse};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Client;

const ROWS: &str = include_str!("matrix.jsonl");
const FIXTURE: &str = include_str!("fixture.sql");

/// Tables that only some rows need.
const TABLES: &[(&str, &str)] = &[
    (
        "pt,pt1,pt2",
        "CREATE TABLE pt (id int NOT NULL, k int NOT NULL, a int, p_id int, v varchar(10)) PARTITION BY RANGE (k);
         CREATE TABLE pt1 PARTITION OF pt FOR VALUES FROM (0) TO (2000);
         CREATE TABLE pt2 PARTITION OF pt FOR VALUES FROM (2000) TO (4000);",
    ),
    (
        "ptn",
        "CREATE TABLE ptn (id int NOT NULL, k int NOT NULL, a int, p_id int, v varchar(10));",
    ),
    ("ptd default", "CREATE TABLE ptd PARTITION OF pt DEFAULT;"),
    (
        "pp,pp1,pp2",
        "CREATE TABLE pp (id int PRIMARY KEY, txt text) PARTITION BY RANGE (id);
         CREATE TABLE pp1 PARTITION OF pp FOR VALUES FROM (0) TO (2000);
         CREATE TABLE pp2 PARTITION OF pp FOR VALUES FROM (2000) TO (4000);
         INSERT INTO pp VALUES (1, 'one'), (2001, 'two');",
    ),
    (
        "ip,ic",
        "CREATE TABLE ip (id int, v varchar(10)); CREATE TABLE ic () INHERITS (ip);",
    ),
];

#[derive(Deserialize)]
struct Row {
    id: String,
    sql: String,
    #[serde(default)]
    setup: String,
    #[serde(default)]
    tables: Vec<String>,
    /// What ran before in the same transaction.
    same_transaction: Option<String>,
    time_zone: Option<String>,
    expect: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    versions: [u32; 2],
    locks: BTreeMap<String, String>,
    rewrites: BTreeSet<String>,
    scans: BTreeSet<String>,
    rebuilds_indexes: BTreeSet<String>,
    transaction: bool,
    fails: Option<String>,
}

/// Rows that nothing but the server can judge, and why.
const UNKNOWABLE: &[(&str, &str)] = &[
    (
        "create_unique_index_concurrently_dup",
        "whether values repeat is in the rows",
    ),
    (
        "vacuum_truncating_tail",
        "whether the last pages are empty is in the rows",
    ),
    (
        "attach_column_order_differs",
        "the table was empty when it was measured: reading no rows does not show",
    ),
];

#[tokio::test]
async fn agrees_with_every_measured_row() {
    let server = TestServer::start(&[("fsync", "off"), ("max_locks_per_transaction", "2000")]);
    let major = server.major();
    let rows: Vec<Row> = ROWS
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let measured = |row: &&Row| row.expect.iter().any(|expected| applies(expected, major));
    let rows: Vec<&Row> = rows.iter().filter(measured).collect();
    let admin = server.connect("postgres").await;
    admin
        .batch_execute("CREATE EXTENSION citext; CREATE EXTENSION pg_trgm; CREATE EXTENSION btree_gist")
        .await
        .unwrap();
    let mut disagree = Vec::new();
    for chunk in rows.chunks(100) {
        for row in chunk {
            prepare(&admin, row).await;
        }
        let catalog = load::snapshot(&admin).await.unwrap();
        for row in chunk {
            let expected = row
                .expect
                .iter()
                .find(|expected| applies(expected, major))
                .unwrap();
            let said = judge(&catalog, row);
            if let Some(difference) = difference(row, expected, &said) {
                disagree.push((
                    row.id.as_str(),
                    format!("{}: {}\n    {difference}", row.id, row.sql),
                ));
            }
        }
        for row in chunk {
            clean(&admin, row).await;
        }
    }
    let is_unknowable = |id: &str| UNKNOWABLE.iter().any(|(known, _)| *known == id);
    let (excused, wrong): (Vec<_>, Vec<_>) = disagree.into_iter().partition(|(id, _)| is_unknowable(id));
    println!(
        "PostgreSQL {major}: {} of {} rows agree, {} cannot be judged",
        rows.len() - wrong.len() - excused.len(),
        rows.len(),
        excused.len()
    );
    for (id, reason) in UNKNOWABLE {
        println!("  {id}: {reason}");
    }
    let texts: Vec<String> = wrong.into_iter().map(|(_, text)| text).collect();
    assert!(
        texts.is_empty(),
        "{} rows disagree:\n{}",
        texts.len(),
        texts.join("\n")
    );
}

fn applies(expected: &Expected, major: u32) -> bool {
    (expected.versions[0]..=expected.versions[1]).contains(&major)
}

fn schema(row: &Row) -> String {
    format!("m_{}", row.id.to_lowercase())
}

/// The matrix calls the schema `s` and a second one `s2`.
fn rename(sql: &str, row: &Row) -> String {
    let schema = schema(row);
    let words = sql.split_inclusive([' ', ';', '.']);
    let mut before = "";
    let renamed = words.map(|word| {
        let bare = word.trim_end_matches([' ', ';', '.']);
        let tail = &word[bare.len()..];
        let is_schema = tail.starts_with('.') || before.trim() == "SCHEMA";
        before = word;
        match bare {
            "s" if !is_schema => word.to_owned(),
            "s2" => format!("{schema}_s2{tail}"),
            "s" => format!("{schema}{tail}"),
            "s_new" => format!("{schema}_new{tail}"),
            "pub_x" | "pub0" => format!("{schema}_{bare}{tail}"),
            _ => word.to_owned(),
        }
    });
    renamed.collect()
}

async fn prepare(admin: &Client, row: &Row) {
    let schema = schema(row);
    let mut sql = format!("CREATE SCHEMA {schema}; SET search_path = {schema}, public;\n{FIXTURE}\n");
    for (name, definition) in TABLES {
        if row.tables.iter().any(|wanted| wanted == name) {
            sql.push_str(definition);
        }
    }
    // Rows are not needed, except where a statement could not be run without.
    sql.push_str(&rename(&row.setup, row));
    if let Err(error) = admin.batch_execute(&sql).await {
        panic!("{}: {error:?}\n{sql}", row.id);
    }
}

async fn clean(admin: &Client, row: &Row) {
    let schema = schema(row);
    let sql = format!(
        "SET client_min_messages = warning; DROP SCHEMA {schema} CASCADE; DROP SCHEMA IF EXISTS {schema}_s2 CASCADE;
         DROP PUBLICATION IF EXISTS {schema}_pub_x; DROP PUBLICATION IF EXISTS {schema}_pub0"
    );
    admin.batch_execute(&sql).await.unwrap();
}

fn judge(catalog: &CatalogSnapshot, row: &Row) -> Effects {
    let schema = schema(row);
    let other = format!("{schema}_s2");
    let mut catalog = catalog.clone();
    let inside = |name: &QualifiedName| name.schema == schema || name.schema == other;
    catalog.tables.retain(|name, _| inside(name));
    catalog.views.retain(|name, _| inside(name));
    catalog.sequences.retain(|name, _| inside(name));
    catalog.server.time_zone = row.time_zone.clone().unwrap_or_else(|| "UTC".into());
    let mut world = World::of(catalog, None);
    world.search_path = vec![schema, "public".into()];
    if let Some(before) = &row.same_transaction {
        for statement in parse::parse(&format!("BEGIN; {before}")).statements {
            world.apply(&statement);
        }
    }
    let script = parse::parse(&rename(&row.sql, row));
    if let Some((_, message)) = script.errors.first() {
        let refusal = Refusal {
            sqlstate: "42601",
            message: message.clone(),
        };
        return Effects {
            fails: Some(refusal),
            ..Effects::default()
        };
    }
    effects(&world, &script.statements[0])
}

fn difference(row: &Row, expected: &Expected, said: &Effects) -> Option<String> {
    let schema = schema(row);
    let name = |name: &QualifiedName| match name.schema == schema {
        true => name.name.clone(),
        false => format!(
            "{}.{}",
            name.schema.replace(&format!("{schema}_s2"), "s2"),
            name.name
        ),
    };
    let set = |names: &BTreeSet<QualifiedName>| names.iter().map(name).collect::<BTreeSet<String>>();
    let locks = said.locks.iter();
    let locks: BTreeMap<String, String> = locks
        .map(|(relation, mode)| (name(relation), mode_of(*mode)))
        .collect();
    let mut different = Vec::new();
    let fails = said.fails.as_ref().map(|refusal| refusal.sqlstate.to_owned());
    if fails != expected.fails {
        different.push(format!("fails {:?}, measured {:?}", said.fails, expected.fails));
    }
    if expected.fails.is_none() {
        if locks != expected.locks {
            different.push(format!("locks {locks:?}, measured {:?}", expected.locks));
        }
        for (what, one, other) in [
            ("rewrites", set(&said.rewrites), &expected.rewrites),
            ("scans", set(&said.scans), &expected.scans),
            (
                "rebuilds",
                set(&said.rebuilds_indexes),
                &expected.rebuilds_indexes,
            ),
        ] {
            if one != *other {
                different.push(format!("{what} {one:?}, measured {other:?}"));
            }
        }
        if said.transaction != expected.transaction {
            different.push(format!(
                "transaction {}, measured {}",
                said.transaction, expected.transaction
            ));
        }
    }
    (!different.is_empty()).then(|| different.join("\n    "))
}

fn mode_of(mode: LockMode) -> String {
    mode.sql().to_owned()
}
