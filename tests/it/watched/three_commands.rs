//! The commands of README that lead from a raw SQL migration to a safe plan, run as they stand there.

use crate::harness::{Database, TestServer, pgmorph};
use std::path::Path;
use std::process::Command;

/// The lines of the first block of commands in a section of README.
fn commands(section: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let text = readme.split(section).nth(1).unwrap();
    let block = text.split("```").nth(1).unwrap();
    let lines = block.lines().filter(|line| line.starts_with("pgmorph "));
    lines.map(str::to_owned).collect()
}

fn shell(directory: &Path, bindir: &Path, url: &str, line: &str) -> (i32, String) {
    let program = Path::new(env!("CARGO_BIN_EXE_pgmorph")).parent().unwrap();
    let ended = Command::new("/bin/sh")
        .args(["-c", line])
        .current_dir(directory)
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", program.display()))
        .env("DATABASE_URL", url)
        .env("PGMORPH_PG_BINDIR", bindir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
    (ended.status.code().unwrap(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn they_lead_from_a_migration_to_an_applied_plan() {
    let server = TestServer::start(&[]);
    let setup = "CREATE TABLE accounts (id int PRIMARY KEY, number int); \
                 INSERT INTO accounts SELECT i, i FROM generate_series(1, 2000) AS i; ANALYZE accounts";
    let database = Database::create(&server, setup).await;
    let directory = tempfile::tempdir().unwrap();
    let migrations = directory.path().join("migrations");
    std::fs::create_dir(&migrations).unwrap();
    let migration = "ALTER TABLE accounts ALTER COLUMN number TYPE bigint;\nCREATE INDEX accounts_number_idx ON accounts (number);\n";
    std::fs::write(migrations.join("0042.sql"), migration).unwrap();
    let url = server.url(&database.name, &database.user);
    let commands = commands("## From a raw SQL migration to a safe plan");
    assert!(commands.len() >= 3, "{commands:?}");
    for command in &commands {
        // Nobody is there to be asked.
        let line = match command.starts_with("pgmorph apply") {
            true => format!("{command} --yes"),
            false => command.clone(),
        };
        let (code, said) = shell(directory.path(), server.bindir(), &url, &line);
        // The migration is found unsafe, which is why the plan is written.
        let expected = i32::from(command.starts_with("pgmorph lint"));
        assert_eq!(code, expected, "{line}\n{said}");
    }
    let plan = directory.path().join("safe.yaml").display().to_string();
    let verified = pgmorph(&url, &["verify", &plan, "--through", "cutover"])
        .await
        .expect(0);
    assert!(verified.stdout.contains("(run 1)"), "{}", verified.stdout);
    let there = "SELECT format_type(a.atttypid, a.atttypmod) = 'bigint' AND to_regclass('accounts_number_idx') IS NOT NULL \
                 FROM pg_attribute a WHERE attrelid = 'accounts'::regclass AND attname = 'number'";
    assert!(
        database
            .admin
            .query_one(there, &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
    );
}
