//! The embedded server: it works, and whatever happens to us it leaves nothing behind.

use std::fs;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgmorph::postgres::embedded::{EmbeddedError, Installation, Options, Server};

/// Makes this test executable the process whose death the tests below watch.
const CHILD_REPORTS_TO: &str = "PGMORPH_TEST_EMBEDDED_CHILD";

fn start(options: &Options) -> Server {
    Server::start(&Installation::find(None).unwrap(), options).unwrap()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "still not so after a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Processes that work in this directory or below: the server, its backends, the supervisor.
fn processes_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory)))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn assert_nothing_left(directory: &Path) {
    assert!(!directory.exists(), "{} is left behind", directory.display());
    assert_eq!(processes_in(directory), Vec::<String>::new());
}

fn shared_memory_exists(id: &str) -> bool {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    table
        .lines()
        .any(|line| line.split_whitespace().nth(1) == Some(id))
}

fn query(url: &str, sql: &str) -> Result<String, tokio_postgres::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
        let driver = tokio::spawn(connection);
        let answer = client.simple_query(sql).await;
        drop(client);
        driver.await.unwrap().ok();
        let row = answer?.into_iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok(row.unwrap_or_default())
    })
}

#[test]
fn answers_with_the_settings_asked_for_and_leaves_nothing() {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let settings = vec![
        setting("work_mem", "5MB"),
        setting("cluster_name", r"it's a \ name"),
    ];
    let server = start(&Options {
        settings,
        ..Options::default()
    });
    let url = server.url("postgres");

    assert_eq!(query(&url, "SHOW work_mem").unwrap(), "5MB");
    assert_eq!(query(&url, "SHOW cluster_name").unwrap(), r"it's a \ name");
    assert_eq!(query(&url, "SHOW fsync").unwrap(), "off");
    assert_eq!(query(&url, "SHOW timezone").unwrap(), "UTC");
    assert_eq!(query(&url, "SHOW server_encoding").unwrap(), "UTF8");
    assert_eq!(query(&url, "SHOW listen_addresses").unwrap(), "");
    assert_eq!(query(&url, "SELECT current_user").unwrap(), "postgres");
    let version = query(&url, "SHOW server_version").unwrap();
    assert!(version.starts_with(&server.version().to_string()), "{version}");

    query(&url, "CREATE DATABASE \"odd name/?&é\"").unwrap();
    let odd = server.url("odd name/?&é");
    assert_eq!(query(&odd, "SELECT current_database()").unwrap(), "odd name/?&é");
    let psql = Command::new(server.bindir().join("psql"))
        .args(["-X", "-A", "-t", "-d", &odd, "-c", "SELECT current_database()"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&psql.stdout).trim(),
        "odd name/?&é",
        "{psql:?}"
    );

    let directory = server.socket_dir().to_path_buf();
    assert!(processes_in(&directory).len() > 1);
    drop(server);
    assert_nothing_left(&directory);
}

#[test]
fn every_installation_found_works() {
    let installations = Installation::all();
    assert!(!installations.is_empty());
    for installation in installations {
        let server = Server::start(
            &installation,
            &Options {
                durable: true,
                ..Options::default()
            },
        )
        .unwrap();
        let url = server.url("postgres");
        let version = query(&url, "SHOW server_version").unwrap();
        assert!(
            version.starts_with(&installation.version.to_string()),
            "{version} {installation:?}"
        );
        assert_eq!(query(&url, "SHOW fsync").unwrap(), "on");
        server.stop().unwrap();
    }
}

#[test]
fn restarts_with_its_data_after_being_killed() {
    let server = start(&Options::default());
    let url = server.url("postgres");
    query(&url, "CREATE TABLE kept AS SELECT 42 AS answer").unwrap();
    for _ in 0..3 {
        server.kill_immediately().unwrap();
        assert!(query(&url, "SELECT 1").is_err());
        server.restart().unwrap();
        assert_eq!(query(&url, "SELECT answer FROM kept").unwrap(), "42");
    }
    // Without a kill it shuts down first.
    server.restart().unwrap();
    assert_eq!(query(&url, "SELECT answer FROM kept").unwrap(), "42");

    let directory = server.socket_dir().to_path_buf();
    let lock_file = fs::read_to_string(server.data_dir().join("postmaster.pid")).unwrap();
    let segment = lock_file
        .lines()
        .nth(6)
        .and_then(|line| line.split_whitespace().nth(1))
        .unwrap();
    assert!(shared_memory_exists(segment) || cfg!(not(target_os = "linux")));
    server.kill_immediately().unwrap();
    server.kill_immediately().unwrap();
    server.stop().unwrap();
    assert_nothing_left(&directory);
    assert!(!shared_memory_exists(segment));
}

#[test]
fn a_server_that_died_by_itself_is_restarted() {
    let server = start(&Options::default());
    let pid = fs::read_to_string(server.data_dir().join("postmaster.pid")).unwrap();
    let pid = pid.lines().next().unwrap();
    assert!(
        Command::new("kill")
            .args(["-KILL", pid])
            .status()
            .unwrap()
            .success()
    );
    wait_until("it refuses connections", || {
        query(&server.url("postgres"), "SELECT 1").is_err()
    });
    server.restart().unwrap();
    assert_eq!(query(&server.url("postgres"), "SELECT 1").unwrap(), "1");
}

#[test]
fn stopping_takes_busy_sessions_along() {
    let server = start(&Options::default());
    let (directory, url) = (server.socket_dir().to_path_buf(), server.url("postgres"));
    let busy = std::thread::spawn({
        let url = url.clone();
        move || query(&url, "SELECT count(*) FROM generate_series(1, 1000000000000)")
    });
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%generate_series(1, 10%' \
                   AND pid <> pg_backend_pid()";
    wait_until("the session is busy", || {
        query(&url, running).is_ok_and(|count| count == "1")
    });
    drop(server);
    assert!(busy.join().unwrap().is_err());
    assert_nothing_left(&directory);
}

#[test]
fn a_panic_leaves_nothing() {
    let mut directory = PathBuf::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let server = start(&Options::default());
        directory = server.socket_dir().to_path_buf();
        assert!(directory.as_os_str().is_empty(), "on purpose");
    }));
    assert!(outcome.is_err());
    assert_nothing_left(&directory);
}

/// Not a test of its own: the tests below run it in a process that they then kill.
#[test]
fn child_that_holds_a_server() {
    let Some(report) = std::env::var_os(CHILD_REPORTS_TO).map(PathBuf::from) else {
        return;
    };
    let server = start(&Options::default());
    let unfinished = report.with_extension("unfinished");
    fs::write(&unfinished, server.socket_dir().as_os_str().as_encoded_bytes()).unwrap();
    fs::rename(&unfinished, &report).unwrap();
    loop {
        std::thread::park();
    }
}

fn spawn_child(report: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::child_that_holds_a_server"])
        .env(CHILD_REPORTS_TO, report)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn signal_leaves_nothing(signal: &str) {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("directory");
    let mut child = spawn_child(&report);
    wait_until("the child has a server", || report.exists());
    let directory = PathBuf::from(fs::read_to_string(&report).unwrap());
    assert!(directory.join("data/postmaster.pid").exists());

    let group = format!("-{}", child.id());
    assert!(
        Command::new("kill")
            .args([signal, "--", &group])
            .status()
            .unwrap()
            .success()
    );
    child.wait().unwrap();
    wait_until("the directory is gone", || !directory.exists());
    wait_until("the processes are gone", || processes_in(&directory).is_empty());
}

#[test]
fn our_death_by_sigkill_leaves_nothing() {
    signal_leaves_nothing("-KILL");
}

#[test]
fn an_interrupt_from_the_terminal_leaves_nothing() {
    signal_leaves_nothing("-INT");
}

#[test]
fn our_death_while_the_server_starts_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // A directory of its own, so that whatever is made is seen, whichever moment is hit.
    let base = tempfile::Builder::new()
        .prefix("pgmorph-test-")
        .tempdir_in("/tmp")
        .unwrap();
    fs::set_permissions(base.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let is_empty = || fs::read_dir(base.path()).unwrap().next().is_none();
    for stage in ["", "data/PG_VERSION", "data/postmaster.pid"] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded::child_that_holds_a_server"])
            .env(CHILD_REPORTS_TO, folder.path().join("directory"))
            .env("TMPDIR", base.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("it got that far", || {
            fs::read_dir(base.path())
                .unwrap()
                .filter_map(Result::ok)
                .any(|entry| entry.path().join(stage).exists())
        });
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("the directory is gone", is_empty);
        assert_eq!(processes_in(base.path()), Vec::<String>::new());
    }
}

#[test]
fn a_kept_server_stays_until_its_stop_command_is_run() {
    let server = start(&Options {
        keep: true,
        ..Options::default()
    });
    let (directory, url, stop) = (
        server.socket_dir().to_path_buf(),
        server.url("postgres"),
        server.stop_command(),
    );
    assert!(matches!(server.restart(), Err(EmbeddedError::Released)));
    drop(server);
    assert_eq!(query(&url, "SELECT 1").unwrap(), "1");
    let output = Command::new("sh").args(["-c", &stop]).output().unwrap();
    assert!(output.status.success(), "{stop}: {output:?}");
    wait_until("the directory is gone", || !directory.exists());
    wait_until("the processes are gone", || processes_in(&directory).is_empty());
}

#[test]
fn a_server_that_cannot_start_says_why_and_leaves_nothing() {
    let settings = vec![("shared_buffers".to_owned(), "lots".to_owned())];
    let error = Server::start(
        &Installation::find(None).unwrap(),
        &Options {
            settings,
            ..Options::default()
        },
    )
    .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("shared_buffers") && text.contains("lots"), "{text}");
    assert!(!error.hint().is_empty());
}

#[test]
fn settings_that_would_change_other_settings_are_refused() {
    for (name, value) in [
        ("work_mem = 1\nport", "1"),
        ("", "1"),
        ("work_mem", "1\nport = 2"),
    ] {
        let options = Options {
            settings: vec![(name.to_owned(), value.to_owned())],
            ..Options::default()
        };
        let error = Server::start(&Installation::find(None).unwrap(), &options).unwrap_err();
        assert!(matches!(error, EmbeddedError::InvalidSetting { .. }), "{error}");
    }
}

#[test]
fn a_folder_without_server_programs_is_refused_by_name() {
    let error = Installation::find(Some(Path::new("/bin/nowhere"))).unwrap_err();
    assert!(error.to_string().contains("/bin/nowhere"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = Installation::at(empty.path()).unwrap_err();
    assert!(error.to_string().contains("postgres: No such file"), "{error}");
}
