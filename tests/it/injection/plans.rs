//! Whole plans over tables whose every name is nasty: applied, verified, taken back, applied to the end, and once more as
//! the script that `plan --format sql` prints.

use super::names::NASTY;
use super::{CANARY, canary_lives, encoded};
use crate::harness::{Database, TestServer};
use pgmorph::plan::{ExecutionPlan, Phase};
use pgmorph::report::plan_sql;
use pgmorph::sql::{QualifiedName, ident, literal};
use std::io::Write;
use std::process::Stdio;

/// Names that differ, from these nasty ones in turn.
struct Names<'a> {
    nasty: &'a [&'a str],
}

impl Names<'_> {
    /// The same for the same number, and at most 63 bytes.
    fn get(&self, number: usize) -> String {
        let nasty = self.nasty[number % self.nasty.len()];
        // In front, so that names near the limit differ only in what generated names keep, or behind, where they are cut.
        let (before, after) = if number.is_multiple_of(2) {
            (number.to_string(), String::new())
        } else {
            (String::new(), number.to_string())
        };
        let room = 63 - before.len() - after.len();
        format!("{before}{}{after}", &nasty[..nasty.floor_char_boundary(room)])
    }

    fn id(&self, number: usize) -> String {
        ident(&self.get(number))
    }

    fn table(&self, number: usize) -> QualifiedName {
        QualifiedName::new(self.get(0), self.get(number))
    }

    /// As a plan spells an identifier.
    fn yaml(&self, number: usize) -> String {
        serde_json::Value::from(self.get(number)).to_string()
    }

    /// As a plan spells a relation.
    fn relation(&self, number: usize) -> String {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        serde_json::Value::from(format!("{}.{}", quoted(&self.get(0)), quoted(&self.get(number)))).to_string()
    }

    fn setup(&self) -> String {
        let (table, other) = (self.table(1), self.table(2));
        let [number, text, gone, check, index, view] = [3, 4, 5, 6, 7, 8].map(|number| self.id(number));
        format!(
            "{CANARY} CREATE SCHEMA {schema};
             CREATE TABLE {other} (id bigint PRIMARY KEY, {number} bigint);
             CREATE TABLE {table} (id bigint PRIMARY KEY, {number} int NOT NULL DEFAULT 1, {text} text, {gone} text,
               CONSTRAINT {check} CHECK ({number} > 0));
             CREATE INDEX {index} ON {table} ({number}, {text});
             COMMENT ON COLUMN {table}.{number} IS {comment};
             CREATE VIEW {schema}.{view} AS SELECT {number} AS {text} FROM {table};
             INSERT INTO {other} SELECT i, i FROM generate_series(1, 50) i;
             INSERT INTO {table} SELECT i, i, {comment}, 'x' FROM generate_series(1, 50) i;",
            schema = self.id(0),
            comment = literal(&self.get(9)),
        )
    }

    fn plan(&self) -> String {
        let (table, other) = (self.relation(1), self.relation(2));
        let [number, text, gone] = [3, 4, 5].map(|number| self.yaml(number));
        let default = serde_json::Value::from(literal(&self.get(9))).to_string();
        let expression =
            serde_json::Value::from(format!("{} <> {}", self.id(4), literal(&self.get(10)))).to_string();
        let summary = self.yaml(19);
        format!(
            "name: nasty
description: {summary}
settings: {{small_table: 0}}
before:
  - {{name: {summary}, query: SELECT 1 WHERE false}}
changes:
  - widen_column: {{table: {table}, column: {number}, type: bigint}}
  - create_index: {{name: {index}, table: {table}, columns: [{text}]}}
  - add_check: {{table: {table}, name: {check}, expression: {expression}}}
  - set_not_null: {{table: {table}, column: {text}}}
  - set_default: {{table: {table}, column: {text}, default: {default}}}
  - add_column: {{table: {table}, column: {added}, type: text, default: {default}, not_null: true}}
  - add_foreign_key: {{table: {other}, name: {key}, columns: [{number}], references: {{table: {table}, columns: [id]}}}}
  - drop_column: {{table: {table}, column: {gone}}}
  - create_view: {{name: {view}, select: {query}}}
  - sql: {{summary: {summary}, run: SELECT 1, no_undo: {summary}, phase: expand, lock: {{}}}}
after:
  - {{name: {summary}, query: SELECT 1 WHERE false}}
",
            index = self.yaml(11),
            check = self.yaml(12),
            added = self.yaml(13),
            key = self.yaml(14),
            view = self.relation(15),
            query = serde_json::Value::from(format!("SELECT {} FROM {}", self.id(4), self.table(1))).to_string(),
        )
    }

    /// What is renamed, replaced, copied and retired.
    fn second_plan(&self) -> String {
        let (table, other) = (self.relation(1), self.relation(2));
        let [number, text] = [3, 4].map(|number| self.yaml(number));
        format!(
            "name: nastier
settings: {{small_table: 0}}
changes:
  - sync: {{name: {sync}, from: {table}, into: {other}, key: [id], columns: {{{number}: {value}}}}}
  - replace_index: {{name: {index}, table: {table}, columns: [{text}, {number}]}}
  - snapshot_table: {{name: {copy}, from: {table}, columns: {{id: id, {text}: {copied}}}}}
",
            sync = self.yaml(16),
            value = serde_json::Value::from(format!("{}.{}", self.id(1), self.id(3))).to_string(),
            index = self.yaml(7),
            copied = serde_json::Value::from(self.id(3)).to_string(),
            copy = self.relation(17),
        )
    }
}

impl Names<'_> {
    fn third_plan(&self) -> String {
        let [other, number, renamed] = [self.relation(2), self.yaml(3), self.yaml(18)];
        format!(
            "name: renamed\nchanges:\n  - rename_column: {{table: {other}, column: {number}, to: {renamed}}}\n"
        )
    }
}

async fn is_as(database: &Database<'_>, what: &str, plan: &ExecutionPlan, before: bool) {
    let (expected, also) = match before {
        true => (&plan.before, &plan.after),
        false => (&plan.after, &plan.before),
    };
    assert_eq!(
        database.differences(expected, also).await,
        Vec::<String>::new(),
        "{what}"
    );
    let mut left = database.leftovers().await;
    // The tag of our dollar quotes is in one of the names itself.
    left.retain(|it| !it.contains("$pgmorph$"));
    assert_eq!(left, Vec::<String>::new(), "{what}");
    canary_lives(database).await;
}

async fn applied(database: &Database<'_>, what: &str, plan: &ExecutionPlan, through: Phase) {
    if let Err(error) = database.apply(plan, through).await {
        panic!("{what}: {error:?}");
    }
}

/// There, back, and there again to the end.
async fn whole_life(database: &Database<'_>, what: &str, source: &str) -> ExecutionPlan {
    let plan = database
        .plan(source)
        .await
        .unwrap_or_else(|found| panic!("{what}: {found:#?}\n{source}"));
    applied(database, what, &plan, Phase::Cutover).await;
    if let Err(error) = database.rollback(&plan).await {
        panic!("{what}: {error:?}");
    }
    is_as(database, what, &plan, true).await;
    let again = database.planned(source).await;
    applied(database, what, &again, Phase::Contract).await;
    is_as(database, what, &again, false).await;
    again
}

/// psql runs the printed script to its end, to the same tables.
async fn script_runs(server: &TestServer, names: &Names<'_>, what: &str) {
    let database = Database::create(server, &names.setup()).await;
    let plan = database.planned(&names.plan()).await;
    let script = plan_sql::plan(&plan);
    let directory = tempfile::tempdir().unwrap();
    let mut psql = server
        .command("psql")
        .args([
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-v",
            "contract=1",
            &server.url(&database.name, "postgres"),
        ])
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    psql.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = psql.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{what}: {said}\n{script}");
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        0,
        "psql was made to write a file"
    );
    assert_eq!(
        database.differences(&plan.after, &plan.before).await,
        Vec::<String>::new(),
        "{what}"
    );
    canary_lives(&database).await;
    database.drop().await;
}

async fn nasty(number: usize) {
    let server = TestServer::start(&[]);
    // Four kinds at a time, so that each meets others in one plan, and each is every kind of name in some plan.
    let count = NASTY.len();
    let mixed: Vec<&str> = (0..5).map(|at| NASTY[(number * 5 + at) % count]).collect();
    let names = Names { nasty: &mixed };
    let what = format!("{mixed:?}");
    let database = Database::create(&server, &names.setup()).await;
    whole_life(&database, &what, &names.plan()).await;
    let database = Database::create(&server, &names.setup()).await;
    whole_life(&database, &what, &names.second_plan()).await;
    let database = Database::create(&server, &names.setup()).await;
    whole_life(&database, &what, &names.third_plan()).await;
    script_runs(&server, &names, &what).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quotes_and_dollars_through_whole_plans() {
    nasty(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_lines_and_commands_of_psql_through_whole_plans() {
    nasty(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lone_quotes_and_dots_through_whole_plans() {
    nasty(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keywords_escapes_and_long_names_through_whole_plans() {
    nasty(3).await;
}

/// Every generated name is cut off there, and none of them may be that of another.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_63_bytes_through_whole_plans() {
    let server = TestServer::start(&[]);
    for long in [NASTY[20], NASTY[21]] {
        let names = Names { nasty: &[long] };
        let database = Database::create(&server, &names.setup()).await;
        whole_life(&database, long, &names.plan()).await;
        let database = Database::create(&server, &names.setup()).await;
        whole_life(&database, long, &names.second_plan()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_encodings_through_whole_plans() {
    let server = TestServer::start(&[
        ("standard_conforming_strings", "off"),
        ("escape_string_warning", "off"),
    ]);
    for (encoding, kind) in [("LATIN1", "é'\\"), ("SQL_ASCII", "é\"\\"), ("EUC_JP", "表'\\")] {
        let names = Names {
            nasty: &[kind, "x\\'; DROP TABLE public.canary; --"],
        };
        let database = encoded(&server, encoding).await;
        let setup = names.setup().replace(CANARY, "");
        database.admin.batch_execute(&setup).await.unwrap();
        whole_life(&database, encoding, &names.plan()).await;
    }
}
