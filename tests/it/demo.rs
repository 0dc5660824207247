//! The demo: it shows what it promises, and leaves nothing behind.

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder for the server, which another user may have to write in.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

fn demo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgmorph"));
    command.args(["demo", "--rows", "2000"]).args(arguments);
    command.env("TMPDIR", folder).stdin(Stdio::null());
    command
}

fn assert_nothing_left(folder: &Path) {
    let files: Vec<_> = fs::read_dir(folder).unwrap().collect();
    assert!(files.is_empty(), "{files:?}");
    let processes: Vec<_> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder)))
        .collect();
    assert!(processes.is_empty(), "{processes:?}");
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !holds() {
        assert!(Instant::now() < deadline, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ended(mut child: Child) -> i32 {
    let mut status = None;
    wait_until("it ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap().code().unwrap()
}

#[test]
fn no_statement_fails_and_no_write_is_lost() {
    let folder = folder();
    let output = demo(folder.path(), &["--seconds-before", "1", "--format", "json"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{output:?}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["failed"], 0, "{summary}");
    assert_eq!(summary["lost"], 0, "{summary}");
    assert_eq!(summary["problems"], Value::Array(Vec::new()), "{summary}");
    assert_eq!(summary["verification"]["verdict"], "matches", "{summary}");
    for account in summary["accounts"].as_array().unwrap() {
        for write in ["inserts", "updates", "deletes"] {
            assert!(account["acknowledged"][write].as_i64().unwrap() > 0, "{account}");
        }
    }
    for period in ["before", "during"] {
        assert!(summary[period]["statements"].as_u64().unwrap() > 100, "{summary}");
    }
    // Every line on standard error is an event.
    for line in said.lines() {
        assert!(
            serde_json::from_str::<Value>(line).unwrap()["version"] == 1,
            "{line}"
        );
    }
    assert_nothing_left(folder.path());
}

#[test]
fn an_interrupt_leaves_nothing() {
    let folder = folder();
    let mut child = demo(folder.path(), &["--seconds-before", "600", "--keep", "--quiet"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let application = |folder: &Path| {
        let mut servers = fs::read_dir(folder).unwrap().filter_map(Result::ok);
        servers.any(|server| {
            let log = fs::read_to_string(server.path().join("data/postmaster.pid"));
            log.is_ok_and(|log| log.lines().nth(7).is_some_and(|line| line.trim() == "ready"))
        })
    };
    wait_until("the server is ready", || {
        assert_eq!(child.try_wait().unwrap(), None);
        application(folder.path())
    });
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    assert_eq!(ended(child), 130);
    wait_until("the supervisor has cleaned up", || {
        fs::read_dir(folder.path()).unwrap().next().is_none()
    });
    assert_nothing_left(folder.path());
}

#[test]
fn a_kept_server_can_be_looked_at_and_stopped() {
    let folder = folder();
    let output = demo(
        folder.path(),
        &["--seconds-before", "1", "--keep", "--format", "json"],
    )
    .output()
    .unwrap();
    assert!(output.status.success(), "{output:?}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let run = |command: String| Command::new("sh").args(["-c", &command]).output().unwrap();
    let psql = summary["kept"]["psql"].as_str().unwrap();
    let type_of = "SELECT atttypid::regtype FROM pg_attribute \
                   WHERE attrelid = 'investment_lots'::regclass AND attname = 'version'";
    let looked = run(format!("{psql} -XAtc \"{type_of}\""));
    assert_eq!(
        String::from_utf8_lossy(&looked.stdout).trim(),
        "bigint",
        "{looked:?}"
    );
    let stopped = run(summary["kept"]["stop"].as_str().unwrap().to_owned());
    assert!(stopped.status.success(), "{stopped:?}");
    assert_nothing_left(folder.path());
}
