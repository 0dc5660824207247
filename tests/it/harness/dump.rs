//! The schema of a database as `pg_dump` prints it.

use super::Database;

/// Everything but the ledger, without the comments and settings that frame a dump.
pub async fn schema_dump(database: &Database<'_>) -> String {
    let mut command = database.server.command("pg_dump");
    command
        .args(["--schema-only", "--exclude-schema=pgmorph", "--dbname"])
        .arg(database.server.url(&database.name, "postgres"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    assert!(
        output.status.success(),
        "pg_dump: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let framing = |line: &&str| {
        // Newer releases frame a dump with \restrict and a random key.
        line.is_empty()
            || ["--", "SET ", "SELECT pg_catalog.set_config(", "\\"]
                .iter()
                .any(|start| line.starts_with(start))
    };
    let lines: Vec<&str> = text.lines().filter(|line| !framing(line)).collect();
    lines.join("\n")
}
