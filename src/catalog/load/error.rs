//! Why loading failed.

use crate::release::{self, Standing};
use crate::sqlstate::ends_session;
use std::error::Error;
use std::fmt;
use tokio_postgres::error::{DbError, SqlState};

/// Why the catalog could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadErrorKind {
    /// The connection failed or was closed.
    Connection,
    /// The role may not read it.
    Denied,
    /// A lock or the statement took too long (something may hold ACCESS EXCLUSIVE on a table), or somebody cancelled it.
    TimedOut,
    /// The server is older than the oldest supported release.
    Unsupported,
    /// The server is newer than the newest release that we know, and what was asked for is not there.
    Unknown,
    /// Objects went away, or changed, while they were read.
    Changed,
    /// A name or text is not in the encoding that the database claims.
    Encoding,
    /// Any other answer of the server.
    Server,
}

impl fmt::Display for LoadErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "the connection failed",
            Self::Denied => "the role may not",
            Self::TimedOut => "it was cancelled or took too long",
            Self::Unsupported => "the server is older than PostgreSQL 14",
            Self::Unknown => "the server is newer than PostgreSQL 18, with catalogs that nobody knew then",
            Self::Changed => "objects changed meanwhile",
            Self::Encoding => {
                "a name or text in it is not UTF-8, and the database (SQL_ASCII) does not say what else"
            }
            Self::Server => "the server refused",
        })
    }
}

/// The catalog could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {subject}: {kind}")]
pub struct LoadError {
    pub kind: LoadErrorKind,
    /// What was being read.
    pub subject: &'static str,
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl LoadError {
    pub(in crate::catalog) fn server(subject: &'static str, error: tokio_postgres::Error) -> Self {
        let kind = match error.code() {
            None => LoadErrorKind::Connection,
            Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => LoadErrorKind::Denied,
            Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE || *code == SqlState::QUERY_CANCELED => {
                LoadErrorKind::TimedOut
            }
            Some(code)
                if [
                    SqlState::INTERNAL_ERROR,
                    SqlState::UNDEFINED_TABLE,
                    SqlState::UNDEFINED_OBJECT,
                    SqlState::UNDEFINED_COLUMN,
                    SqlState::UNDEFINED_FUNCTION,
                ]
                .contains(code) =>
            {
                LoadErrorKind::Changed
            }
            Some(code) if *code == SqlState::CHARACTER_NOT_IN_REPERTOIRE => LoadErrorKind::Encoding,
            Some(code) if ends_session(code.code()) => LoadErrorKind::Connection,
            Some(_) => LoadErrorKind::Server,
        };
        Self {
            kind,
            subject,
            source: Some(Box::new(error)),
        }
    }

    /// What came of reading the catalog of this release: what is not there in a newer one did not go away just now.
    pub(super) fn of_release(self, version_num: u32) -> Self {
        let newer = release::standing(version_num) == Standing::Newer;
        let kind = match self.kind {
            LoadErrorKind::Changed if newer => LoadErrorKind::Unknown,
            kind => kind,
        };
        Self { kind, ..self }
    }

    /// The server's error code, where the server answered at all.
    pub fn sqlstate(&self) -> Option<&str> {
        self.answer().map(|answer| answer.code().code())
    }

    /// What the server said.
    pub fn answer(&self) -> Option<&DbError> {
        let error = self.source.as_ref()?.downcast_ref::<tokio_postgres::Error>()?;
        error.as_db_error()
    }
}
