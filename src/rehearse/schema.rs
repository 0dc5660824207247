//! The schema on the server that is thrown away: from `pg_dump` of the live database, or from a file.

use super::Site;
use crate::error::{Error, ErrorKind};
use crate::sql::{ident, literal};
use std::collections::BTreeSet;
use std::path::Path;
use tokio_postgres::Client;

/// What `pg_dump --schema-only` says of the database that these variables lead to.
///
/// # Errors
/// When there is no pg_dump, or it cannot read the schema: the message is its own.
pub async fn dumped(
    bindir: &Path,
    major: u32,
    variables: &[(&'static str, String)],
) -> Result<String, Error> {
    let program = bindir.join("pg_dump");
    let program = if program.exists() {
        program
    } else {
        "pg_dump".into()
    };
    let output = tokio::process::Command::new(&program)
        .args([
            // Never a row of anybody's data.
            "--schema-only",
            "--exclude-schema=pgmorph",
            // What copies to or from other servers has no place on this one.
            "--no-publications",
            "--no-subscriptions",
            // Nor are their tablespaces here.
            "--no-tablespaces",
            // Its locks let everybody through, but they queue like all others.
            "--lock-wait-timeout=2000",
        ])
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .map_err(|error| {
            Error::new(ErrorKind::Precondition, format!("cannot run {}", program.display()))
                .source(error)
                .help(format!("install the client programs of PostgreSQL {major}, or give the schema with --schema or --catalog"))
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(
        Error::new(ErrorKind::Precondition, "pg_dump could not read the schema")
            .details(said.lines().map(ToOwned::to_owned))
            .help(format!(
                "{} must be of PostgreSQL {major} or newer: name its folder with --pg-bindir; or give the schema with --schema \
                 FILE.sql, or --catalog FILE.json as `pgmorph snapshot` writes it",
                program.display()
            )),
    )
}

/// Without what only psql understands and pg_dump writes: `\restrict`, `\connect`.
fn plain(sql: &str) -> String {
    let is_ours = |line: &&str| {
        !["\\restrict ", "\\unrestrict ", "\\connect ", "\\encoding "]
            .iter()
            .any(|word| line.starts_with(word))
    };
    sql.lines().filter(is_ours).collect::<Vec<_>>().join("\n")
}

/// The roles that a script names as owners and grantees.
fn roles(sql: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in sql.lines().map(str::trim) {
        let upper = line.to_ascii_uppercase();
        let names = match upper.find(" OWNER TO ") {
            Some(at) => line.get(at + 10..),
            None if upper.starts_with("GRANT ") || upper.starts_with("REVOKE ") => [" TO ", " FROM "]
                .iter()
                .find_map(|word| upper.rfind(word).and_then(|at| line.get(at + word.len()..))),
            None => None,
        };
        let Some(names) = names else { continue };
        for name in names.trim_end_matches(';').split(',') {
            let name = name.trim();
            let name = match name.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next().unwrap_or_default().to_owned(),
                None => name
                    .split_whitespace()
                    .next()
                    .unwrap_or_default()
                    .to_ascii_lowercase(),
            };
            let special = [
                "public",
                "postgres",
                "current_user",
                "session_user",
                "current_role",
                "",
            ];
            if !special.contains(&name.as_str()) && !name.starts_with("pg_") {
                found.insert(name);
            }
        }
    }
    found
}

impl Site {
    /// Makes a database with this schema.
    ///
    /// # Errors
    /// When the server refuses a statement of it: an extension that is not installed here, a role that nobody names.
    pub async fn create(&self, name: &str, sql: &str) -> Result<(), Error> {
        self.execute(&format!("CREATE DATABASE {} TEMPLATE template0", ident(name)))
            .await?;
        for role in roles(sql) {
            let (text, role) = (literal(&role), ident(&role));
            self.execute(&format!(
                "DO $$BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {text}) \
                 THEN CREATE ROLE {role}; END IF; END$$"
            ))
            .await?;
        }
        let client = self.connect(name).await?;
        client.batch_execute(&plain(sql)).await.map_err(|error| {
            let at = position(&error, sql);
            let mut refused = Error::postgres(ErrorKind::Precondition, format!("building the schema{at}"), error);
            refused.help.get_or_insert_with(|| {
                "the server that is thrown away must have the extensions and roles of the schema; leave out what the plan \
                 does not touch"
                    .into()
            });
            refused
        })
    }

    /// Statistics, so that plans are estimated and queries are planned as on a database in use.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn analyze(&self, name: &str) -> Result<(), Error> {
        let client: Client = self.connect(name).await?;
        let done = client.batch_execute("VACUUM ANALYZE").await;
        done.map_err(|error| Error::postgres(ErrorKind::StepFailed, "gathering statistics", error))
    }
}

/// ` in line 12`, where the server tells.
fn position(error: &tokio_postgres::Error, sql: &str) -> String {
    use tokio_postgres::error::ErrorPosition;
    let at = match error.as_db_error().and_then(|db| db.position()) {
        Some(ErrorPosition::Original(at)) => usize::try_from(*at).unwrap_or_default(),
        _ => return String::new(),
    };
    let before: String = plain(sql).chars().take(at).collect();
    format!(", near line {}", before.lines().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_found_where_a_dump_names_them() {
        let sql = "ALTER TABLE public.t OWNER TO app;\nGRANT SELECT ON TABLE public.t TO \"Read Only\";\n\
                   GRANT ALL ON TABLE t TO PUBLIC;\nREVOKE ALL ON SCHEMA x FROM writer;\n-- TO nobody\n\
                   ALTER TABLE public.u OWNER TO postgres;\nGRANT USAGE ON SCHEMA x TO a, b WITH GRANT OPTION;";
        let found: Vec<String> = roles(sql).into_iter().collect();
        assert_eq!(found, ["Read Only", "a", "app", "b", "writer"]);
    }

    #[test]
    fn what_only_psql_understands_is_left_out() {
        assert_eq!(
            plain("\\restrict abc\nSELECT 1;\n\\unrestrict abc\n"),
            "SELECT 1;"
        );
    }
}
