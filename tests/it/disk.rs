//! A disk that is full while an index is built, or a table filled.

use crate::harness::TestServer;
use std::path::Path;
use std::process::{Command, Output};

/// A file system of its own, so small that it can be filled; unmounted when it goes out of scope.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` where this user may not mount.
    fn mount() -> Option<Self> {
        let folder = tempfile::Builder::new()
            .prefix("pgmorph-disk-")
            .tempdir_in("/tmp")
            .unwrap();
        // The server runs as another user, to which the new file system must belong.
        let options = format!("size=2m,uid={}", owner_of_server_processes());
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self { folder })
    }

    fn grow(&self) {
        let done = Command::new("mount")
            .args(["-o", "remount,size=100m"])
            .arg(self.path())
            .status()
            .unwrap();
        assert!(done.success());
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// As the embedded server chooses it.
fn owner_of_server_processes() -> u32 {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let uid_of = |user: &str| {
        let line = passwd
            .lines()
            .find(|line| line.starts_with(&format!("{user}:")))?;
        line.split(':').nth(2)?.parse().ok()
    };
    uid_of("postgres").or_else(|| uid_of("nobody")).unwrap()
}

fn pgmorph(url: &str, plan: &Path, command: &str) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_pgmorph"));
    program.env_clear().args(["--url", url, command]).arg(plan);
    if command == "apply" {
        program.args(["--yes", "--through", "contract"]);
    }
    program.output().unwrap()
}

/// What the disk is too small for.
struct Full {
    /// Runs with the small tablespace `tiny`.
    setup: &'static str,
    plan: &'static str,
}

const INDEX: Full = Full {
    setup: "CREATE TABLE t (id bigint PRIMARY KEY, word text);
         INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, 100000) n; ANALYZE t;",
    plan: "name: full\nchanges:\n  - create_index: {name: t_word_idx, table: t, columns: word, tablespace: tiny}\n",
};

/// The versions that a backfill leaves behind need room too.
const TABLE: Full = Full {
    setup: "CREATE TABLE t (id bigint PRIMARY KEY, word integer) TABLESPACE tiny;
         INSERT INTO t SELECT n, n FROM generate_series(1, 34000) n; ANALYZE t;",
    plan: "name: full\nsettings: {small_table: 0}\nchanges:\n  - widen_column: {table: t, column: word, type: bigint}\n",
};

async fn stops_until_there_is_room(full: Full) {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("not tested: this user may not mount a file system");
        return;
    };
    let server = TestServer::start(&[]);
    let client = server.connect("postgres").await;
    let space = format!("CREATE TABLESPACE tiny LOCATION '{}'", disk.path().display());
    client.batch_execute(&space).await.unwrap();
    client.batch_execute(full.setup).await.unwrap();
    let plan = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(plan.path(), full.plan).unwrap();
    let url = server.url("postgres", "postgres");

    let stopped = pgmorph(&url, plan.path(), "apply");
    let stderr = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert_eq!(stopped.status.code(), Some(6), "{stderr}");
    assert!(
        stderr.contains("53100") && stderr.contains("free disk space"),
        "{stderr}"
    );
    let left = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
    assert_eq!(
        client.query_one(left, &[]).await.unwrap().get::<_, i64>(0),
        0,
        "{stderr}"
    );

    disk.grow();
    let done = pgmorph(&url, plan.path(), "apply");
    assert_eq!(
        done.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert_eq!(pgmorph(&url, plan.path(), "verify").status.code(), Some(0));
    for statement in ["DROP TABLE t", "DROP TABLESPACE tiny"] {
        client.batch_execute(statement).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_build_and_apply_goes_on_once_there_is_room() {
    stops_until_there_is_room(INDEX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_backfill_and_apply_goes_on_once_there_is_room() {
    stops_until_there_is_room(TABLE).await;
}
