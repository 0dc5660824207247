//! What the program prints cannot move a cursor, hide a line or begin one, whatever a name or the server says.

use crate::harness::{Database, TestServer, pgmorph};
use pgmorph::report::safe;
use pgmorph::sql::ident;
use std::io::Write;

const HOSTILE: &str = "o\u{1b}]0;owned\u{7}\u{1b}[2J\r\u{9b}31m\u{202e}`<b>|![x](//y)";

fn control(text: &str) -> Option<char> {
    text.chars()
        .find(|c| (c.is_control() && *c != '\n' && *c != '\t') || matches!(c, '\u{202a}'..='\u{202e}'))
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_errors_are_spelled_out() {
    let server = TestServer::start(&[]);
    let table = ident(HOSTILE);
    let setup = format!(
        "CREATE TABLE {table} (id bigint PRIMARY KEY, {table} int, other int); INSERT INTO {table} VALUES (1)"
    );
    let database = Database::create(&server, &setup).await;
    let url = server.url(&database.name, "postgres");
    // YAML takes some control characters only when they are spelled out.
    let yaml = |text: &str| safe::json(&serde_json::Value::from(text).to_string());
    let (name, column) = (yaml(&format!("\"{HOSTILE}\"")), yaml(HOSTILE));
    let changes = format!(
        "changes:\n  - widen_column: {{table: {name}, column: {column}, type: bigint}}\n  - set_not_null: {{table: {name}, column: other}}\n"
    );
    let plan = file(&format!("name: p\n{changes}"));
    let path = plan.path().to_str().unwrap();
    for format in ["human", "markdown", "json"] {
        let printed = pgmorph(&url, &["plan", path, "--format", format]).await.expect(0);
        assert_eq!(control(&printed.stdout), None, "{format}: {}", printed.stdout);
        match format {
            "json" => {
                let plan = printed.json();
                let tables = plan["plan"]["after"]["tables"].as_object().unwrap();
                assert!(tables.keys().any(|name| name.contains(HOSTILE)), "{tables:?}");
            }
            _ => assert!(
                printed.stdout.contains("o\\x1b]0;owned\\x07"),
                "{}",
                printed.stdout
            ),
        }
        if format == "markdown" {
            let outside: Vec<&str> = printed.stdout.split("```").step_by(2).collect();
            let outside = outside.concat();
            assert!(!outside.contains("<b>") && !outside.contains("](//"), "{outside}");
        }
    }
    // SQL is to be run: names stand in it as they are, but comments need not.
    let printed = pgmorph(&url, &["plan", path, "--format", "sql"]).await.expect(0);
    for line in printed
        .stdout
        .split(['\n', '\r'])
        .filter(|line| line.starts_with("--"))
    {
        assert_eq!(control(line), None, "{line}");
    }
    assert!(printed.stdout.contains(&table), "{:?}", printed.stdout);

    // The NULL stops it, with the server's own words.
    let stopped = pgmorph(&url, &["apply", path, "--yes"]).await;
    let said = stopped.stdout + &stopped.stderr;
    assert_ne!(stopped.code, Some(0), "{said}");
    assert_eq!(control(&said), None, "{said}");
    assert!(said.contains("o\\x1b]0;owned"), "{said}");
    for command in ["status", "verify", "rollback"] {
        let extra: &[&str] = if command == "rollback" { &["--yes"] } else { &[] };
        let ended = pgmorph(&url, &[&[command, path], extra].concat()).await;
        let said = ended.stdout + &ended.stderr;
        assert_eq!(control(&said), None, "{command}: {said}");
    }

    // An error message that the plan makes the server say.
    let check = file(
        "name: q\nbefore:\n  - {name: a, query: \"SELECT (chr(27) || ']0;owned' || chr(7))::int\"}\nchanges:\n  - create_schema: {name: told}\n",
    );
    for format in ["human", "json"] {
        let ended = pgmorph(
            &url,
            &[
                "apply",
                check.path().to_str().unwrap(),
                "--yes",
                "--format",
                format,
            ],
        )
        .await;
        let said = ended.stdout + &ended.stderr;
        assert_ne!(ended.code, Some(0), "{said}");
        assert_eq!(control(&said), None, "{said}");
        assert!(said.contains("]0;owned"), "{said}");
    }
    database.drop().await;
}
