//! `lint` and `new`: what is found without touching a database, and plans replayed on an empty one.

use crate::harness::{Ended, TestServer, pgmorph};
use serde_json::json;
use std::path::Path;

/// The environment names a server that nobody may ask.
const UNREACHABLE: &str = "postgresql://app@127.0.0.1:1/app";

fn directory(plans: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in plans {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

async fn lint(path: &Path, more: &[&str]) -> Ended {
    let path = path.display().to_string();
    let mut arguments = vec!["lint", path.as_str()];
    arguments.extend(more);
    pgmorph(UNREACHABLE, &arguments).await
}

fn made(name: &str, statement: &str) -> String {
    let table = statement.split_whitespace().nth(2).unwrap();
    format!(
        "name: {name}\nchanges:\n  - sql:\n      run: {statement}\n      undo: DROP TABLE {table}\n      phase: expand\n      expect: to_regclass('{table}') IS NOT NULL\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_have_their_file_line_and_way_out() {
    let key = "name: key\nchanges:\n  - add_foreign_key: {table: policies, columns: [tenant], references: internal.tenants}\n";
    let policies = made("policies", "CREATE TABLE policies (tenant uuid)");
    let tenants = made("tenants", "CREATE TABLE internal.tenants (id uuid PRIMARY KEY)");
    let place = directory(&[("1.yaml", &policies), ("2.yaml", key), ("3.yaml", &tenants)]);
    let found = lint(place.path(), &[]).await.expect(1);
    for part in [
        "error[order]: internal.tenants is made by 3.yaml, which runs after this plan",
        "2.yaml:3:71",
        "the order that works: 1.yaml, 3.yaml, 2.yaml",
        "3 plans, 1 finding",
    ] {
        assert!(found.stdout.contains(part), "{part}\n{}", found.stdout);
    }
    assert_eq!(found.stderr, "");
    let found = lint(place.path(), &["--format", "json"]).await.expect(1).json();
    let finding = &found["findings"][0];
    assert!(
        finding["file"].as_str().unwrap().ends_with("/2.yaml"),
        "{finding}"
    );
    assert_eq!(
        (&finding["code"], &finding["line"], &finding["column"]),
        (&json!("order"), &json!(3), &json!(71))
    );
    // Each file by itself says nothing about the others.
    lint(&place.path().join("2.yaml"), &[]).await.expect(0);
    std::fs::write(
        place.path().join("2.yaml"),
        format!("depends_on: [tenants]\n{key}"),
    )
    .unwrap();
    lint(place.path(), &[]).await.expect(0);
    lint(&place.path().join("2.yaml"), &[]).await.expect(0);

    std::fs::write(
        place.path().join("0.yaml"),
        "name: zero\nchanges:\n  - set_defalt: {}\n",
    )
    .unwrap();
    let found = lint(place.path(), &[]).await.expect(1);
    assert!(found.stdout.contains("0.yaml:3:5"), "{}", found.stdout);
    lint(&place.path().join("nowhere"), &[]).await.expect(2);
    let empty = tempfile::tempdir().unwrap();
    lint(empty.path(), &[]).await.expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_tells_what_exists() {
    let server = TestServer::start(&[]);
    let database = crate::harness::Database::create(&server, "CREATE TABLE orders (id bigint)").await;
    let plan = "name: p\nchanges:\n  - add_column: {table: ordrs, column: note, type: text}\n";
    let place = directory(&[("1.yaml", plan)]);
    lint(place.path(), &[]).await.expect(0);
    let url = server.url(&database.name, &database.user);
    let found = lint(place.path(), &["--url", &url]).await.expect(1);
    assert!(
        found
            .stdout
            .contains("error[unresolved]: there is no public.ordrs")
            && found.stdout.contains("did you mean `public.orders`?"),
        "{}",
        found.stdout
    );
    let catalog = place.path().join("catalog.json").display().to_string();
    pgmorph(&url, &["snapshot", "-o", &catalog]).await.expect(0);
    let same = lint(place.path(), &["--catalog", &catalog]).await.expect(1);
    assert_eq!(same.stdout, found.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_runs_everything_and_shows_the_first_failure() {
    let orders = made(
        "orders",
        "CREATE TABLE orders (id bigint PRIMARY KEY, state text)",
    );
    let column = "name: column\nchanges:\n  - add_column: {table: orders, column: note, type: text, default: \"'none'\"}\n  - drop_column: {table: orders, column: state}\n";
    let index =
        "name: index\nchanges:\n  - create_index: {name: orders_note_idx, table: orders, columns: [note]}\n";
    let place = directory(&[("1.yaml", &orders), ("2.yaml", column), ("3.yaml", index)]);
    let green = lint(place.path(), &["--replay"]).await.expect(0);
    assert!(
        green.stdout.contains("index: matches") && green.stdout.contains("3 plans, nothing found"),
        "{}",
        green.stdout
    );
    // Only a server knows that this column is gone by then.
    let late = "name: late\nchanges:\n  - set_default: {table: orders, column: state, default: \"'new'\"}\n";
    std::fs::write(place.path().join("4.yaml"), late).unwrap();
    std::fs::write(
        place.path().join("5.yaml"),
        made("after", "CREATE TABLE after_it (id int)"),
    )
    .unwrap();
    lint(place.path(), &[]).await.expect(0);
    let red = lint(place.path(), &["--replay"]).await.expect(1);
    for part in [
        "late: failed",
        "4.yaml:3:42",
        "has no column `state`",
        "not run after that: after",
    ] {
        assert!(red.stdout.contains(part), "{part}\n{}", red.stdout);
    }
    let red = lint(place.path(), &["--replay", "--format", "json"])
        .await
        .expect(1)
        .json();
    assert_eq!(
        red["replay"][0]["plans"][3]["error"]["diagnostics"][0]["code"],
        "unknown_column"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_can_begin_with_a_schema() {
    let index =
        "name: index\nchanges:\n  - create_index: {name: orders_note_idx, table: orders, columns: [note]}\n";
    let schema =
        "\\restrict x\nCREATE TABLE orders (note text);\nINSERT INTO orders VALUES ('a');\n\\unrestrict x\n";
    let place = directory(&[("1.yaml", index), ("schema.sql", schema)]);
    lint(place.path(), &["--replay"]).await.expect(1);
    let schema = place.path().join("schema.sql").display().to_string();
    lint(place.path(), &["--replay", "--schema", &schema])
        .await
        .expect(0);
}

/// Tables that are kept for 30 days, plans that wait for that, and what an earlier plan needs is there before.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_does_not_wait_for_safety_periods() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans/strategy_consolidation");
    let schema = folder.join("schema.sql").display().to_string();
    let arguments = ["--replay", "--schema", &schema, "--format", "json"];
    let replayed = lint(&folder, &arguments).await.expect(0).json();
    let plans = replayed["replay"][0]["plans"].as_array().unwrap();
    assert_eq!(plans.len(), 4, "{replayed}");
    assert!(plans.iter().all(|plan| plan["passes"] == true), "{replayed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_of_a_replay_tells_what_exists() {
    let plan = "name: p\nchanges:\n  - add_column: {table: ordrs, column: note, type: text}\n";
    let place = directory(&[
        ("1.yaml", plan),
        ("schema.sql", "CREATE TABLE orders (id bigint)"),
    ]);
    let schema = place.path().join("schema.sql").display().to_string();
    let found = lint(place.path(), &["--replay", "--schema", &schema])
        .await
        .expect(1);
    for part in [
        "error[unresolved]: there is no public.ordrs",
        "did you mean `public.orders`?",
        "They were not replayed",
    ] {
        assert!(found.stdout.contains(part), "{part}\n{}", found.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_of_one_minute_are_in_the_order_of_their_making() {
    let place = directory(&[]);
    let folder = place.path().display().to_string();
    let mut written = Vec::new();
    for name in ["z", "y", "x"] {
        let ended = pgmorph(UNREACHABLE, &["new", name, "-o", &folder])
            .await
            .expect(0);
        written.push(ended.stdout.trim().to_owned());
    }
    assert!(written.is_sorted(), "{written:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_writes_a_plan_that_lint_accepts_and_overwrites_nothing() {
    let place = directory(&[]);
    let folder = place.path().display().to_string();
    let new = async |arguments: &[&str]| pgmorph(UNREACHABLE, &[&["new"], arguments].concat()).await;
    let written = new(&["add note", "-o", &folder]).await.expect(0).stdout;
    let name = written.trim().rsplit('/').next().unwrap();
    let (time, rest) = name.split_at(15);
    assert!(
        time.bytes()
            .enumerate()
            .all(|(place, byte)| (place == 8 && byte == b'_') || byte.is_ascii_digit()),
        "{name}"
    );
    assert_eq!(rest, "_add_note.yaml");
    lint(place.path(), &[]).await.expect(0);
    let before = std::fs::read(written.trim()).unwrap();
    let refused = new(&["other", "-o", written.trim()]).await.expect(2);
    assert!(refused.stderr.contains("exists already"), "{}", refused.stderr);
    assert_eq!(std::fs::read(written.trim()).unwrap(), before);
    new(&["a/b"]).await.expect(2);
    let made = format!("{folder}/not/there");
    let written = new(&["third", "-o", &made]).await.expect(0).stdout;
    assert!(
        written.starts_with(&made) && written.trim().ends_with("_third.yaml"),
        "{written}"
    );
    let file = format!("{folder}/named.yaml");
    let written = new(&["fourth", "-o", &file]).await.expect(0).stdout;
    assert_eq!(written.trim(), file);
    let shown = new(&["shown", "-o", "-"]).await.expect(0).stdout;
    assert!(shown.starts_with("name: \"shown\""), "{shown}");
}
