//! Connections as psql makes them: the same strings and variables, given to both, lead to the same server, role, database
//! and encryption, or to a refusal by both. Against real servers, with certificates made here.

mod certificates;
mod parity;
mod roles;
mod several;

use crate::settings::Cluster;
use pgmorph::postgres::embedded::Installation;
use pgmorph::postgres::settings::ConnectionSettings;
use std::collections::HashMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

/// One way to connect, and what must become of it.
#[derive(Clone, Copy)]
pub struct Case {
    /// What stands behind `-d` or `--url`; `$…` is replaced as in the variables.
    pub string: &'static str,
    pub variables: &'static [(&'static str, &'static str)],
    /// `user database place encryption`, or a part of what is said of the refusal.
    pub outcome: Result<&'static str, &'static str>,
    /// The oldest psql that knows what it is about.
    pub psql: u32,
}

pub const fn case(
    string: &'static str,
    variables: &'static [(&'static str, &'static str)],
    outcome: Result<&'static str, &'static str>,
) -> Case {
    Case {
        string,
        variables,
        outcome,
        psql: 14,
    }
}

pub const fn since(psql: u32, case: Case) -> Case {
    Case { psql, ..case }
}

/// Who one is in the end. What a connection calls itself is compared as well.
const IDENTITY: &str = "SELECT concat_ws(' ', current_user, current_database(), \
     CASE WHEN inet_server_addr() IS NULL THEN 'socket' ELSE host(inet_server_addr()) END, \
     (SELECT coalesce(version, 'plain') FROM pg_stat_ssl WHERE pid = pg_backend_pid()), \
     CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END, \
     current_setting('application_name'), current_setting('work_mem'))";

/// Tries cases with pgmorph and with the newest psql on the machine.
pub struct Comparison {
    replacements: Vec<(&'static str, String)>,
    psql: Option<(PathBuf, u32)>,
}

impl Comparison {
    pub fn new(cluster: &Cluster) -> Self {
        let installed = Installation::all().into_iter().chain(Installation::find(None));
        let psql = installed
            .map(|found| (found.bindir.join("psql"), found.version.major))
            .filter(|(path, _)| path.exists())
            .max_by_key(|(_, major)| *major);
        let closed = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let uid = crate::settings::server_user();
        let peer = if uid.is_some() {
            "postgres".to_owned()
        } else {
            std::env::var("USER").unwrap_or_default()
        };
        Self {
            replacements: vec![
                ("$PORT", cluster.port.to_string()),
                ("$CLOSED", closed.to_string()),
                (
                    "$DIR",
                    cluster
                        .file("")
                        .display()
                        .to_string()
                        .trim_end_matches('/')
                        .to_owned(),
                ),
                ("$ABSTRACT", format!("@pgmorph-{}", cluster.port)),
                ("$PEER", peer),
            ],
            psql,
        }
    }

    pub fn with(mut self, name: &'static str, value: String) -> Self {
        self.replacements.push((name, value));
        self
    }

    fn replaced(&self, text: &str) -> String {
        let replace = |text: String, (name, value): &(&str, String)| text.replace(name, value);
        self.replacements.iter().fold(text.to_owned(), replace)
    }

    fn environment(&self, case: &Case) -> HashMap<String, String> {
        let always = [
            ("HOME", "$DIR/home"),
            ("USER", "nobody-by-this-name"),
            ("PGSYSCONFDIR", "$DIR/system"),
            ("PGAPPNAME", "parity"),
            ("PGCONNECT_TIMEOUT", "60"),
        ];
        let all = always.iter().chain(case.variables);
        all.map(|(name, value)| ((*name).to_owned(), self.replaced(value)))
            .collect()
    }

    async fn ours(string: &str, environment: &HashMap<String, String>) -> Result<String, String> {
        let url = Some(string).filter(|string| !string.is_empty());
        let settings = ConnectionSettings::resolve(url, &|name| environment.get(name).cloned())
            .map_err(|error| format!("{error}; {}", error.help()))?;
        let session = settings
            .connect("unnamed")
            .await
            .map_err(|error| format!("{error}; {}", error.help()))?;
        let row = session.client.query_one(IDENTITY, &[]).await.unwrap();
        Ok(row.get(0))
    }

    fn psqls(&self, string: &str, environment: &HashMap<String, String>) -> Result<String, String> {
        let (path, _) = self.psql.as_ref().unwrap();
        let mut command = Command::new(path);
        command
            .args(["-X", "-w", "-At", "-c", IDENTITY])
            .env_clear()
            .envs(environment);
        if !string.is_empty() {
            command.args(["-d", string]);
        }
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// Gives the number of cases that psql took part in.
    pub async fn try_all(&self, cases: &[Case]) -> usize {
        let mut compared = 0;
        let mut complaints = Vec::new();
        for case in cases {
            let (string, environment) = (self.replaced(case.string), self.environment(case));
            let ours = Self::ours(&string, &environment).await;
            let as_expected = match (&ours, case.outcome) {
                (Ok(found), Ok(expected)) => found.starts_with(expected),
                (Err(found), Err(part)) => found.contains(part),
                _ => false,
            };
            let what = format!("{} {:?}", case.string, case.variables);
            if !as_expected {
                complaints.push(format!("{what}: expected {:?}, found {ours:?}", case.outcome));
            }
            if self.psql.as_ref().is_some_and(|(_, major)| *major >= case.psql) {
                compared += 1;
                let theirs = self.psqls(&string, &environment);
                if theirs.clone().ok() != ours.clone().ok() {
                    complaints.push(format!("{what}: pgmorph {ours:?}, psql {theirs:?}"));
                }
            }
        }
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
        compared
    }
}
