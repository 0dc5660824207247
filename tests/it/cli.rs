//! The binary as a process: exit codes, streams, and what needs no server.

use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a process said in the end.
#[must_use]
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

/// The program with an environment that knows no server.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgmorph"));
    command
        .args(arguments)
        .env_clear()
        .env("USER", "nobody")
        .stdin(Stdio::null());
    command
}

fn ended(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn pgmorph(arguments: &[&str]) -> Ended {
    ended(&mut command(arguments))
}

/// A directory with a good plan, a bad one, and a catalog to plan against.
fn files() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write(
        "plan.yaml",
        "name: harden\nchanges:\n  - set_default: {table: orders, column: state, default: \"'new'\"}\n",
    );
    write(
        "bad.yaml",
        "name: harden\nchanges:\n  - set_default: {tabel: orders, column: state, default: 1}\n",
    );
    write("catalog.json", &catalog().to_string());
    directory
}

fn catalog() -> Value {
    let size = json!({"rows": 10, "heap_bytes": 8192, "toast_bytes": 0, "index_bytes": 0});
    let column = json!({"name": "state", "data_type": "text", "not_null": false, "storage": "extended"});
    json!({
        "format": 2, "database": "app",
        "server": {"version_num": 150_000, "time_zone": "UTC", "date_style": "ISO, MDY", "deadlock_timeout_ms": 1_000, "in_recovery": false,
            "read_only": false},
        "role": {"name": "app", "superuser": false, "member_of": ["app"], "may_create_schema": true,
            "may_set_replication_role": false},
        "schemas": {"public": {"owner": "app", "may_create": true}},
        "tables": {"public.orders": {
            "kind": "table", "owner": "app", "persistence": "permanent", "row_security": false,
            "force_row_security": false, "replica_identity": "default", "columns": [column], "indexes": {},
            "constraints": {}, "triggers": {}, "rules": {}, "policies": {}, "statistics": {}, "size": size}},
        "views": {}, "sequences": {}, "types": {}, "publications": {},
    })
}

fn path(directory: &Path, name: &str) -> String {
    directory.join(name).display().to_string()
}

/// Nobody listens on port 1.
const UNREACHABLE: &str = "postgresql://app:hush@127.0.0.1:1/app";

#[test]
fn a_bad_plan_is_a_usage_error_with_its_place() {
    let files = files();
    let bad = path(files.path(), "bad.yaml");
    let catalog = path(files.path(), "catalog.json");
    let found = pgmorph(&["plan", &bad, "--catalog", &catalog]);
    assert_eq!((found.code, found.stdout.as_str()), (2, ""));
    assert!(found.stderr.contains("bad.yaml:3:19"), "{}", found.stderr);
    assert!(found.stderr.contains("did you mean `table`?"), "{}", found.stderr);
    assert!(!found.stderr.contains('\u{1b}'), "no colours in a pipe");
    let found = pgmorph(&["plan", &bad, "--catalog", &catalog, "--format", "json"]);
    let error: Value = serde_json::from_str(&found.stdout).unwrap();
    let complaints = error["error"]["diagnostics"].as_array().unwrap();
    let places: Vec<_> = complaints
        .iter()
        .map(|complaint| (&complaint["line"], &complaint["column"]))
        .collect();
    assert!(places.contains(&(&json!(3), &json!(19))), "{}", found.stdout);
    assert_eq!(
        (found.code, &error["version"], &error["error"]["kind"]),
        (2, &json!(1), &json!("usage"))
    );
}

#[test]
fn usage_errors() {
    for arguments in [
        &["frobnicate"][..],
        &["plan"],
        &["plan", "x", "--format", "xml"],
        &["plan", "/nowhere/plan.yaml"],
        &["apply", "x", "--through", "lunch"],
        &["explain", "create_indx"],
        &["status", "--format", "sql"],
    ] {
        let found = pgmorph(arguments);
        assert_eq!((found.code, found.stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(found.stderr.contains("error"), "{arguments:?}: {}", found.stderr);
    }
}

#[test]
fn an_unreachable_server_is_exit_code_5_without_the_password() {
    let files = files();
    let plan = path(files.path(), "plan.yaml");
    for arguments in [
        &["status"][..],
        &["plan", &plan],
        &["apply", &plan, "--yes"],
        &["verify", &plan],
        &["snapshot"],
    ] {
        for format in ["human", "json"] {
            let found = ended(command(arguments).args(["--format", format, "-v", "--url", UNREACHABLE]));
            assert_eq!(found.code, 5, "{arguments:?}: {}", found.stderr);
            let said = found.stdout.clone() + &found.stderr;
            assert!(
                said.contains("cannot reach the server") && !said.contains("hush"),
                "{said}"
            );
            assert_eq!(found.stdout.is_empty(), format == "human", "{}", found.stdout);
        }
    }
    let help = ended(command(&["--help"]).env("DATABASE_URL", UNREACHABLE));
    assert!(help.code == 0 && !help.stdout.contains("hush"), "{}", help.stdout);
}

#[test]
fn explains() {
    let list = pgmorph(&["explain"]);
    assert_eq!(list.code, 0);
    assert!(
        list.stdout.lines().any(|line| line.starts_with("set_default ")),
        "{}",
        list.stdout
    );
    let manual = pgmorph(&["explain", "set-default"]);
    assert!(
        manual.stdout.contains("Locks: ACCESS EXCLUSIVE"),
        "{}",
        manual.stdout
    );
    let unknown = pgmorph(&["explain", "set_defalt"]);
    assert!(
        unknown.stderr.contains("did you mean `set_default`?"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn completes() {
    for shell in ["bash", "zsh", "fish"] {
        let script = pgmorph(&["completions", shell]);
        assert!(
            script.code == 0 && script.stdout.contains("rollback"),
            "{shell}: {}",
            script.stderr
        );
    }
}

#[test]
fn planning_offline_gives_the_same_bytes_every_time() {
    let files = files();
    let at = |name| path(files.path(), name);
    let (plan, catalog) = (at("plan.yaml"), at("catalog.json"));
    for format in ["human", "json", "sql", "markdown"] {
        let print = |saved: &str| {
            pgmorph(&[
                "plan",
                &plan,
                "--catalog",
                &catalog,
                "--format",
                format,
                "-o",
                saved,
            ])
        };
        let (one, two) = (print(&at("1.json")), print(&at("2.json")));
        assert_eq!((one.code, one.stderr.as_str()), (0, ""));
        assert!(
            one.stdout.contains("ALTER COLUMN state SET DEFAULT 'new'"),
            "{}",
            one.stdout
        );
        assert_eq!(one.stdout, two.stdout);
        let saved = std::fs::read_to_string(at("1.json")).unwrap();
        assert!(saved.ends_with("}\n") && saved == std::fs::read_to_string(at("2.json")).unwrap());
        assert_eq!(
            pgmorph(&["plan", &at("1.json"), "--format", format]).stdout,
            one.stdout,
            "printed again"
        );
    }
}

#[test]
fn a_saved_plan_that_was_changed_is_refused() {
    let files = files();
    let at = |name| path(files.path(), name);
    let made = pgmorph(&[
        "plan",
        &at("plan.yaml"),
        "--catalog",
        &at("catalog.json"),
        "-o",
        &at("saved.json"),
    ]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let text = std::fs::read_to_string(at("saved.json")).unwrap();
    std::fs::write(at("saved.json"), text.replace("'new'", "'old'")).unwrap();
    let found = pgmorph(&["apply", &at("saved.json"), "--yes", "--url", UNREACHABLE]);
    assert_eq!(found.code, 2);
    assert!(
        found.stderr.contains("the plan was changed after it was saved"),
        "{}",
        found.stderr
    );
}

#[test]
fn snapshots_of_another_format_are_refused() {
    let files = files();
    let mut catalog = catalog();
    catalog["format"] = json!(99);
    std::fs::write(files.path().join("catalog.json"), catalog.to_string()).unwrap();
    let at = |name| path(files.path(), name);
    let found = pgmorph(&["plan", &at("plan.yaml"), "--catalog", &at("catalog.json")]);
    assert_eq!(found.code, 2);
    assert!(found.stderr.contains("format 99"), "{}", found.stderr);
}

#[test]
fn reads_standard_input_and_bears_a_reader_that_goes_away() {
    let files = files();
    let catalog = path(files.path(), "catalog.json");
    let mut child = command(&["plan", "-", "--catalog", &catalog])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let plan = std::fs::read(files.path().join("plan.yaml")).unwrap();
    child.stdin.take().unwrap().write_all(&plan).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}

#[test]
fn a_page_is_not_where_a_plan_is_saved() {
    let directory = files();
    let [plan, catalog, page] =
        ["plan.yaml", "catalog.json", "plan.html"].map(|name| path(directory.path(), name));
    let arguments = [
        "plan",
        &plan,
        "--catalog",
        &catalog,
        "--format",
        "html",
        "-o",
        &page,
    ];
    let ended = pgmorph(&arguments);
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    let help = format!("`pgmorph plan PLAN --format html > {page}`");
    assert!(ended.stderr.contains(&help), "{}", ended.stderr);
    assert!(!Path::new(&page).exists());
}
