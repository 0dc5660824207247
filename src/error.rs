//! What can end a command: kind + subject + source + what to do next.

use crate::postgres::settings::{ConnectError, ConnectErrorKind, SettingsError};
use crate::sqlstate::ends_session;
use std::error::Error as StdError;
use std::fmt;

/// The kind decides the exit code; the codes are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// `verify` found something, or a confirmation was refused.
    Findings,
    /// Wrong usage or an invalid plan.
    Usage,
    /// A precondition does not hold; nothing was changed.
    Precondition,
    /// The lock budget is used up; the state is saved.
    Exhausted,
    /// The server cannot be reached or refuses the login.
    Connection,
    /// A step failed; the state is saved.
    StepFailed,
    /// Another run holds the database.
    Busy,
    /// Interrupted; the state is saved.
    Interrupted,
}

impl ErrorKind {
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Findings => 1,
            Self::Usage => 2,
            Self::Precondition => 3,
            Self::Exhausted => 4,
            Self::Connection => 5,
            Self::StepFailed => 6,
            Self::Busy => 7,
            Self::Interrupted => 130,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Findings => "findings",
            Self::Usage => "usage",
            Self::Precondition => "precondition",
            Self::Exhausted => "exhausted",
            Self::Connection => "connection",
            Self::StepFailed => "step_failed",
            Self::Busy => "busy",
            Self::Interrupted => "interrupted",
        }
    }
}

#[derive(Debug)]
pub struct Error {
    pub kind: ErrorKind,
    /// What failed, with its subject: a lower-case fragment or sentence without a final stop.
    pub message: String,
    /// Of the server, when it was the server that refused.
    pub sqlstate: Option<String>,
    /// Further lines: offending keys, differences.
    pub details: Vec<String>,
    /// What to do next.
    pub help: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            sqlstate: None,
            details: Vec::new(),
            help: None,
            source: None,
        }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn details(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(details);
        self
    }

    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// An error of the server or of the way to it, met while doing `what`.
    pub fn postgres(kind: ErrorKind, what: impl fmt::Display, error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            return Self::new(ErrorKind::Connection, format!("lost the connection while {what}"))
                .source(error)
                .help("run the same command again: what was done is recorded");
        };
        let lost = ends_session(db.code().code());
        let kind = if lost { ErrorKind::Connection } else { kind };
        let mut made = Self::new(
            kind,
            format!("{what}: {} (SQLSTATE {})", db.message(), db.code().code()),
        );
        made.sqlstate = Some(db.code().code().to_owned());
        made.details.extend(db.detail().map(ToOwned::to_owned));
        made.help = db
            .hint()
            .map(ToOwned::to_owned)
            .or_else(|| remedy(db.code().code()).map(ToOwned::to_owned));
        made
    }
}

/// What to do about the refusals that a schema change typically meets, by SQLSTATE.
pub fn remedy(sqlstate: &str) -> Option<&'static str> {
    Some(match sqlstate {
        "42501" => {
            "connect as the owner of the table, or grant what is missing, and run the same command again"
        }
        "57P01" | "57P02" | "57P03" => "run the same command again: what was done is recorded",
        "25006" => "connect to the primary: this server only reads",
        "53100" => {
            "free disk space on the server, then run the same command again: it goes on where it stopped"
        }
        _ if ends_session(sqlstate) => "run the same command again: what was done is recorded",
        "53200" | "53300" => "wait until the server has resources again, then run the same command again",
        "57014" => {
            "the statement was cancelled or ran into its timeout; raise it in `settings` if the table needs longer"
        }
        "23505" => "remove the duplicates, then run the same command again, or roll back",
        "23514" | "23502" | "23503" => "repair the rows, then run the same command again, or roll back",
        _ => return None,
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        let sqlstate = error.sqlstate().map(ToOwned::to_owned);
        let kind = match error.kind() {
            ConnectErrorKind::UnsupportedRelease => ErrorKind::Precondition,
            _ => ErrorKind::Connection,
        };
        let mut made = Self::new(kind, error.to_string()).help(error.help());
        made.sqlstate = sqlstate;
        made
    }
}

impl From<SettingsError> for Error {
    fn from(error: SettingsError) -> Self {
        let help = error.help();
        Self::new(ErrorKind::Usage, error.to_string()).help(help)
    }
}

impl From<crate::postgres::embedded::EmbeddedError> for Error {
    fn from(error: crate::postgres::embedded::EmbeddedError) -> Self {
        let help = error.hint();
        Self::new(ErrorKind::Precondition, error.to_string())
            .source(error)
            .help(help)
    }
}

impl From<crate::catalog::load::LoadError> for Error {
    fn from(error: crate::catalog::load::LoadError) -> Self {
        use crate::catalog::load::LoadErrorKind;
        let kind = match error.kind {
            LoadErrorKind::Connection => ErrorKind::Connection,
            LoadErrorKind::TimedOut => ErrorKind::Exhausted,
            _ => ErrorKind::Precondition,
        };
        let help = match error.kind {
            LoadErrorKind::Connection | LoadErrorKind::Changed => "run the same command again",
            LoadErrorKind::Denied => "connect as the owner of the tables",
            LoadErrorKind::TimedOut => {
                "run the same command again; if that does not help, look in pg_locks who holds ACCESS EXCLUSIVE"
            }
            LoadErrorKind::Unsupported => "PostgreSQL 14 and later can be read",
            LoadErrorKind::Encoding => {
                "rename what has bytes outside ASCII in its name, or load the dump into a database with an encoding"
            }
            LoadErrorKind::Unknown => "take a newer pgmorph",
            LoadErrorKind::Server => "",
        };
        let mut made = Self::new(kind, error.to_string());
        made.help = (!help.is_empty()).then(|| help.to_owned());
        if let Some(answer) = error.answer() {
            let code = answer.code().code();
            made = made.details([format!("the server: {} (SQLSTATE {code})", answer.message())]);
            made.sqlstate = Some(code.to_owned());
        }
        made.source(error)
    }
}
