//! What is asked and set right after the login: whether it is a server of the wanted kind, whether the startup options
//! arrived, and the role to act as.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{Client, Connection, Error, SimpleQueryMessage};

use super::Wanted;
use super::error::{ConnectError, ConnectErrorKind};
use crate::sql::{ident, literal};

/// What the server reported about itself at login (PostgreSQL 14 and later do, unless a proxy keeps it to itself).
pub(super) struct Role {
    standby: Option<bool>,
    read_only: Option<bool>,
}

impl Role {
    pub(super) fn of<S, T>(connection: &Connection<S, T>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin,
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let flag = |name| connection.parameter(name).map(|value| value == "on");
        Self {
            standby: flag("in_hot_standby"),
            read_only: flag("default_transaction_read_only"),
        }
    }

    /// Asks for what was not reported, where it matters.
    pub(super) async fn completed(self, client: &Client, wanted: Wanted) -> Result<Self, Error> {
        let known = self.standby.is_some() && self.read_only.is_some();
        if known || matches!(wanted, Wanted::Any | Wanted::PreferStandby) {
            return Ok(self);
        }
        let sql = "SELECT pg_catalog.pg_is_in_recovery(), \
                   pg_catalog.current_setting('default_transaction_read_only') = 'on'";
        let row = first_row(client, sql).await?;
        let flag = |at: usize| row.get(at).map(|value| value.as_deref() == Some("t"));
        Ok(Self {
            standby: self.standby.or(flag(0)),
            read_only: self.read_only.or(flag(1)),
        })
    }

    pub(super) fn is(&self, wanted: Wanted) -> bool {
        let writable = match (self.standby, self.read_only) {
            (Some(true), _) | (_, Some(true)) => Some(false),
            (Some(false), Some(false)) => Some(true),
            _ => None,
        };
        match wanted {
            Wanted::Any | Wanted::PreferStandby => true,
            Wanted::ReadWrite => writable == Some(true),
            Wanted::ReadOnly => writable == Some(false),
            Wanted::Primary => self.standby == Some(false),
            Wanted::Standby => self.standby == Some(true),
        }
    }

    pub(super) fn mismatch(&self) -> &'static str {
        match (self.standby, self.read_only) {
            (None, _) => "it does not say whether it is a standby, which target_session_attrs asks for",
            (Some(true), _) => "it is a standby, not what target_session_attrs asks for",
            (_, Some(true)) => "it is read only by default, not what target_session_attrs asks for",
            _ => "it is a primary, not what target_session_attrs asks for",
        }
    }
}

async fn first_row(client: &Client, sql: &str) -> Result<Vec<Option<String>>, Error> {
    let messages = client.simple_query(sql).await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(row.map_or_else(Vec::new, |row| {
        (0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()
    }))
}

/// `SET ROLE`, or back to what the login itself has set.
pub(super) fn role_sql(role: Option<&str>) -> String {
    match role {
        Some(role) => format!("SET ROLE {}", ident(role)),
        None => "RESET ROLE".to_owned(),
    }
}

pub(super) async fn act_as(client: &Client, role: &str, target: &str) -> Result<(), ConnectError> {
    let Err(error) = client.batch_execute(&role_sql(Some(role))).await else {
        return Ok(());
    };
    // The member without the right to SET ROLE, the stranger, and the name that nobody has.
    let refused = error
        .code()
        .is_some_and(|code| ["42501", "22023", "42704"].contains(&code.code()));
    let error = ConnectError::from_postgres(&error, target);
    Err(if refused {
        error.of_kind(ConnectErrorKind::RoleRefused)
    } else {
        error
    })
}

/// Options of the startup packet that did not arrive: a proxy may drop them without a word.
pub(super) async fn refuse_lost_options(
    client: &Client,
    text: &str,
    target: &str,
) -> Result<(), ConnectError> {
    let names = parameters(text);
    if names.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
    // Neither `role` nor what extensions may bring is in pg_settings.
    let sql = format!(
        "SELECT pg_catalog.string_agg(n, ', ' ORDER BY n) FROM pg_catalog.unnest(ARRAY[{}]) AS n \
         WHERE CASE WHEN pg_catalog.lower(n) = 'role' THEN pg_catalog.current_setting('role') = 'none' \
         ELSE pg_catalog.coalesce((SELECT s.source IN ('default', 'configuration file', 'database', 'user', \
          'database user', 'global') FROM pg_catalog.pg_settings s WHERE pg_catalog.lower(s.name) = pg_catalog.lower(n)), \
          pg_catalog.current_setting(n, true) IS NULL) END",
        names.join(", ")
    )
    .replace("pg_catalog.coalesce", "coalesce");
    let row = first_row(client, &sql).await;
    let row = row.map_err(|error| ConnectError::from_postgres(&error, target))?;
    match row.first() {
        Some(Some(lost)) => Err(ConnectError::new(
            ConnectErrorKind::OptionsLost,
            target,
            format!("a proxy did not pass on what `options` sets: {lost}"),
        )),
        _ => Ok(()),
    }
}

/// The names of the settings in `-c name=value` and `--name=value`.
fn parameters(options: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        let Some(last) = words.last_mut() else { break };
        match c {
            '\\' => last.extend(chars.next()),
            c if c.is_whitespace() => words.push(String::new()),
            c => last.push(c),
        }
    }
    let mut names = Vec::new();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let setting = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(setting), _) => Some(setting.to_owned()),
            (None, Some("")) => words.next(),
            (None, setting) => setting.map(str::to_owned),
        };
        if let Some((name, _)) = setting.as_deref().and_then(|setting| setting.split_once('=')) {
            // The server reads a dash in a name as an underscore.
            names.push(name.trim().replace('-', "_"));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_as_the_server_finds_them() {
        let found = parameters(r"-c geqo=off  -cwork_mem=4MB --lock-timeout=5s -c role=a\ b -B 5 -c nothing");
        assert_eq!(found, ["geqo", "work_mem", "lock_timeout", "role"]);
        assert!(parameters("").is_empty());
    }

    #[test]
    fn the_role_is_quoted() {
        assert_eq!(
            role_sql(Some("a\"; DROP ROLE b")),
            "SET ROLE \"a\"\"; DROP ROLE b\""
        );
        assert_eq!(role_sql(None), "RESET ROLE");
    }
}
