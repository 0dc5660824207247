//! `lint` of SQL files from the command line, with a catalog and without.

use crate::harness::{Database, TestServer, pgmorph};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Nobody is asked: no URL stands on the command line.
const UNREACHABLE: &str = "postgresql://app@127.0.0.1:1/app";

fn written(directory: &Path, name: &str, sql: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, sql).unwrap();
    path
}

async fn lint(arguments: &[&str], code: i32) -> String {
    let mut all = vec!["lint"];
    all.extend(arguments);
    pgmorph(UNREACHABLE, &all).await.expect(code).stdout
}

const MIGRATION: &str = "SET lock_timeout = '2s';
ALTER TABLE accounts
  ALTER COLUMN name TYPE varchar(20);
CREATE INDEX CONCURRENTLY accounts_name_idx ON accounts (name);
";

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_in_json_has_its_locks_and_its_findings() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(directory.path(), "1.sql", MIGRATION);
    let path = path.to_str().unwrap();
    let found: Value = serde_json::from_str(&lint(&[path, "--format", "json"], 1).await).unwrap();
    let statement = &found["files"][0]["statements"][1];
    let keys: Vec<&String> = statement.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "findings",
            "line",
            "locks",
            "rebuilds_indexes",
            "rewrites",
            "scans",
            "sql",
            "transaction"
        ]
    );
    assert_eq!(statement["line"], json!(2));
    assert_eq!(
        statement["locks"],
        json!([{"relation": "public.accounts", "mode": "ACCESS EXCLUSIVE"}])
    );
    assert_eq!(statement["rewrites"], json!(["public.accounts"]));
    assert_eq!(statement["transaction"], json!(true));
    let finding = &statement["findings"][0];
    assert_eq!(finding["rule"], json!("type-change-rewrites"));
    assert_eq!((&finding["line"], &finding["column"]), (&json!(2), &json!(1)));
    assert_eq!(
        finding["help"],
        json!("it depends on the old type of name: the worst is assumed")
    );
    assert_eq!(found["files"][0]["statements"][2]["transaction"], json!(false));

    let human = lint(&[path], 1).await;
    for part in [
        "error[type-change-rewrites]",
        "1.sql:2:1",
        "ALTER TABLE accounts",
        "ACCESS EXCLUSIVE on public.accounts (blocks reads and writes)",
        "1 SQL file, 1 finding",
    ] {
        assert!(human.contains(part), "{part}\n{human}");
    }
    assert!(!human.contains("x1b"), "{human}");
    let sarif: Value = serde_json::from_str(&lint(&[path, "--format", "sarif"], 1).await).unwrap();
    assert_eq!(sarif["version"], json!("2.1.0"));
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!(result["ruleId"], json!("type-change-rewrites"));
    assert_eq!(
        result["locations"][0]["physicalLocation"]["region"]["startLine"],
        json!(2)
    );
    let github = lint(&[path, "--format", "github"], 1).await;
    assert!(github.starts_with("::error file="), "{github}");
    assert!(
        github.contains(",line=2,col=1,title=type-change-rewrites::"),
        "{github}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_tells_a_harmless_change_of_type_from_a_rewrite() {
    let server = TestServer::start(&[]);
    let setup = "CREATE TABLE accounts (id int PRIMARY KEY, name varchar(10), number int)";
    let database = Database::create(&server, setup).await;
    let directory = tempfile::tempdir().unwrap();
    let url = server.url(&database.name, "postgres");
    let harmless = written(directory.path(), "1.sql", MIGRATION);
    let harmless = harmless.to_str().unwrap();
    let told = lint(&[harmless, "--url", &url], 0).await;
    assert!(told.contains("1 SQL file, nothing found"), "{told}");
    let rewrite = "SET lock_timeout = '2s'; ALTER TABLE accounts ALTER COLUMN number TYPE bigint;";
    let rewrite = written(directory.path(), "2.sql", rewrite);
    let rewrite = rewrite.to_str().unwrap();
    let found: Value =
        serde_json::from_str(&lint(&[rewrite, "--url", &url, "--format", "json"], 1).await).unwrap();
    let statement = &found["files"][0]["statements"][1];
    assert_eq!(statement["rebuilds_indexes"], json!(["public.accounts_pkey"]));

    // The plan that takes its place is one that can be made.
    let plan = directory.path().join("safe.yaml");
    let plan = plan.to_str().unwrap();
    lint(&[rewrite, "--url", &url, "--fix", plan], 1).await;
    let text = std::fs::read_to_string(plan).unwrap();
    assert!(
        text.contains("widen_column: {table: accounts, column: number, type: bigint}"),
        "{text}"
    );
    pgmorph(&url, &["plan", plan]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_directory_knows_what_its_files_made() {
    let directory = tempfile::tempdir().unwrap();
    written(directory.path(), "1.sql", "CREATE TABLE notes (id int);");
    written(
        directory.path(),
        "2.sql",
        "CREATE INDEX ON notes (id); ALTER TABLE notes ALTER id TYPE bigint;",
    );
    let path = directory.path().to_str().unwrap();
    assert!(lint(&[path], 0).await.contains("2 SQL files, nothing found"));
    let second = directory.path().join("2.sql");
    lint(&[second.to_str().unwrap()], 1).await;
    written(
        directory.path(),
        "3.sql",
        "CREATE INDEX CONCURRENTLY ON notes (id);",
    );
    lint(&[path], 0).await;
    let told = lint(&[path, "--in-transaction"], 1).await;
    assert!(told.contains("error[not-in-transaction]"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_has_its_page() {
    let list = pgmorph(UNREACHABLE, &["explain"]).await.expect(0).stdout;
    for rule in pgmorph::sql_lint::rules::RULES {
        assert!(list.contains(rule.id), "{}", rule.id);
        let page = pgmorph(UNREACHABLE, &["explain", rule.id]).await.expect(0).stdout;
        assert!(page.contains(rule.manual.lines().next().unwrap()), "{page}");
    }
}
