//! What can be wrong with connection settings, and why a connection did not come about.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;

use rustls::CertificateError;
use tokio_postgres::error::SqlState;

use super::files::reason;

/// The settings themselves are wrong: a usage error, found before anything is contacted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    #[error("{0}")]
    Syntax(String),
    #[error("unknown connection option \"{option}\"")]
    UnknownOption {
        option: String,
        suggestion: Option<&'static str>,
    },
    #[error("invalid value \"{value}\" for connection option \"{option}\"")]
    Invalid {
        option: &'static str,
        value: String,
        expected: String,
        suggestion: Option<&'static str>,
    },
    #[error("this value of connection option \"{option}\" is not supported")]
    Unsupported {
        option: &'static str,
        supported: &'static [&'static str],
    },
    #[error("connection options contradict each other: {0}")]
    Conflict(String),
    #[error("service \"{service}\" is not defined in {searched}")]
    ServiceMissing { service: String, searched: String },
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("no user name to connect as")]
    NoUser,
}

impl SettingsError {
    pub(super) fn syntax(message: impl Into<String>) -> Self {
        Self::Syntax(message.into())
    }

    pub(super) fn invalid(option: &'static str, value: &str, expected: &str) -> Self {
        Self::Invalid {
            option,
            value: value.to_owned(),
            expected: expected.to_owned(),
            suggestion: None,
        }
    }

    /// What to do next.
    pub fn help(&self) -> String {
        match self {
            Self::Syntax(_) => {
                "write postgresql://user@host:5432/database or host=… port=… dbname=… user=…".to_owned()
            }
            Self::UnknownOption {
                suggestion: Some(name),
                ..
            } => format!("did you mean \"{name}\"?"),
            Self::UnknownOption { .. } => {
                "the options are those of libpq, such as host, port, dbname, user, \
                                           sslmode, sslrootcert, service"
                    .to_owned()
            }
            Self::Invalid {
                expected,
                suggestion: Some(word),
                ..
            } => {
                format!("expected {expected}; did you mean \"{word}\"?")
            }
            Self::Invalid { expected, .. } => format!("expected {expected}"),
            Self::Unsupported { supported: [], .. } => {
                "leave the option out, from the environment and service file too".to_owned()
            }
            Self::Unsupported { supported, .. } => {
                format!("leave the option out or use {}", supported.join(" or "))
            }
            Self::Conflict(_) => "change one of the two".to_owned(),
            Self::ServiceMissing { .. } => "define it there or set PGSERVICEFILE".to_owned(),
            Self::File { .. } => "correct the file or name another one".to_owned(),
            Self::NoUser => "name the user in --url or set PGUSER".to_owned(),
        }
    }
}

/// Why there is no connection, as far as it decides what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectErrorKind {
    /// Refused, unreachable, no such socket, name not resolved, timed out, or cut off.
    Unreachable,
    /// Password, role, `pg_hba.conf`, or the right to connect.
    LoginRefused,
    DatabaseMissing,
    TooManyConnections,
    /// Starting up, shutting down or recovering: trying again later helps.
    NotAccepting,
    Tls,
    /// Servers answered, but none is what `target_session_attrs` asks for.
    WrongServer,
    /// The server is older than the oldest supported release.
    UnsupportedRelease,
    /// A proxy that gives each transaction another server session.
    TransactionPooling,
    /// The login may not act as the role that was asked for.
    RoleRefused,
    /// A proxy kept startup options to itself.
    OptionsLost,
    /// The server refused for another reason; the SQLSTATE tells which.
    Refused,
}

/// A connection that did not come about. Its texts hold no password.
#[derive(Debug)]
pub struct ConnectError {
    kind: ConnectErrorKind,
    target: String,
    detail: String,
    sqlstate: Option<String>,
    certificate: Option<CertificateTrouble>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CertificateTrouble {
    UnknownIssuer,
    WrongName,
    Expired,
    Revoked,
    /// No list, or an outdated one, tells whether it is revoked.
    Unrevokable,
    Unusable,
}

impl ConnectError {
    pub(super) fn new(kind: ConnectErrorKind, target: &str, detail: impl Into<String>) -> Self {
        Self {
            kind,
            target: target.to_owned(),
            detail: detail.into(),
            sqlstate: None,
            certificate: None,
        }
    }

    pub(super) fn from_postgres(error: &tokio_postgres::Error, target: &str) -> Self {
        if let Some(server) = error.as_db_error() {
            let mut refused = Self::new(kind_of(server.code()), target, server.message());
            refused.sqlstate = Some(server.code().code().to_owned());
            return refused;
        }
        let cause = error.source();
        if let Some(carried) = cause.and_then(carried_in) {
            return carried.restated();
        }
        if let Some(tls) = cause.and_then(rustls_in) {
            let mut refused = Self::new(ConnectErrorKind::Tls, target, tls_detail(tls));
            refused.certificate = certificate_trouble(tls);
            return refused;
        }
        // The client library keeps the kind of its own errors private; their fixed texts are the only key.
        let kind = match error.to_string().as_str() {
            "error performing TLS handshake" => ConnectErrorKind::Tls,
            "authentication error" | "invalid configuration" => ConnectErrorKind::LoginRefused,
            _ => ConnectErrorKind::Unreachable,
        };
        let detail = match cause {
            Some(cause) => cause
                .downcast_ref::<io::Error>()
                .map_or_else(|| cause.to_string(), reason),
            None => error.to_string(),
        };
        Self::new(kind, target, detail)
    }

    pub(super) fn of_kind(self, kind: ConnectErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// The `ConnectError` behind an error of [`super::ConnectionSettings::pool`]'s pool, if that is its cause.
    pub fn in_chain<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a ConnectError> {
        let mut next = Some(error);
        while let Some(error) = next {
            let found = error.downcast_ref::<ConnectError>().or_else(|| carried_in(error));
            if found.is_some() {
                return found;
            }
            next = error.source();
        }
        None
    }

    fn restated(&self) -> Self {
        Self {
            kind: self.kind,
            target: self.target.clone(),
            detail: self.detail.clone(),
            sqlstate: self.sqlstate.clone(),
            certificate: self.certificate,
        }
    }

    pub fn kind(&self) -> ConnectErrorKind {
        self.kind
    }

    /// The server's SQLSTATE, when it was the server that refused.
    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }

    /// Where the connection was to go, without the password.
    pub fn target(&self) -> &str {
        &self.target
    }

    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// A server does not speak of protocol violations at login; a proxy does.
    fn is_startup_refusal(&self) -> bool {
        self.sqlstate() == Some(SqlState::PROTOCOL_VIOLATION.code())
    }

    /// What to do next.
    pub fn help(&self) -> &'static str {
        use CertificateTrouble as Trouble;
        match self.kind {
            ConnectErrorKind::Unreachable => {
                "check that the server runs and that host and port are right (--url, DATABASE_URL, PGHOST, \
                 PGPORT); behind a firewall connect_timeout=SECONDS gives it longer"
            }
            ConnectErrorKind::LoginRefused => {
                "check user and password (--url, PGUSER, PGPASSWORD, ~/.pgpass) and the server's pg_hba.conf"
            }
            ConnectErrorKind::DatabaseMissing => "name an existing database in --url or PGDATABASE",
            ConnectErrorKind::TooManyConnections => {
                "end idle sessions or raise max_connections, then run the command again"
            }
            ConnectErrorKind::NotAccepting => "wait until the server accepts connections, then run again",
            ConnectErrorKind::Tls => match self.certificate {
                Some(Trouble::UnknownIssuer) => {
                    "name the certificate authority with sslrootcert=FILE, or sslrootcert=system for a public one"
                }
                Some(Trouble::WrongName) => {
                    "connect by a name that the certificate lists, or use sslmode=verify-ca to check only who \
                     issued it"
                }
                Some(Trouble::Revoked) => {
                    "give the server a new certificate; do not connect until you know why this one was revoked"
                }
                Some(Trouble::Unrevokable) => {
                    "bring the lists of sslcrl or sslcrldir up to date: one of each authority in the chain"
                }
                Some(Trouble::Expired) => "renew the server's certificate, and check this machine's clock",
                Some(Trouble::Unusable) => {
                    "issue the server a certificate of X.509 version 3 with a subjectAltName"
                }
                None => "check sslmode, sslrootcert, sslcert and sslkey, and that the server has ssl = on",
            },
            ConnectErrorKind::WrongServer => {
                "list the server that takes writes, or change target_session_attrs"
            }
            ConnectErrorKind::TransactionPooling => {
                "connect to PostgreSQL directly, or through a pool in session mode: locks and settings must \
                 stay with one session"
            }
            ConnectErrorKind::UnsupportedRelease => {
                "upgrade the server first, by pg_upgrade or logical replication; nothing was changed"
            }
            ConnectErrorKind::RoleRefused => {
                "name a role that the login is a member of (--role, PGMORPH_ROLE), or let an administrator run: GRANT \
                 <role> TO <login> (from PostgreSQL 16 on WITH SET TRUE, which is the default)"
            }
            ConnectErrorKind::OptionsLost => {
                "leave them out (PGOPTIONS, options=…), or set them for the role (ALTER ROLE … SET), or connect to \
                 PostgreSQL directly; PgBouncer drops what stands in ignore_startup_parameters"
            }
            ConnectErrorKind::Refused if self.is_startup_refusal() => {
                "a proxy such as PgBouncer does not take every startup parameter: leave out PGOPTIONS or options=…, or \
                 connect to PostgreSQL directly"
            }
            ConnectErrorKind::Refused => "the server's log may say more",
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ConnectErrorKind::Unreachable => "cannot reach the server",
            ConnectErrorKind::LoginRefused => "the login was refused",
            ConnectErrorKind::DatabaseMissing => "no such database",
            ConnectErrorKind::TooManyConnections => "the server has no free connection",
            ConnectErrorKind::NotAccepting => "the server does not accept connections now",
            ConnectErrorKind::Tls => "no secure connection",
            ConnectErrorKind::WrongServer => "no suitable server",
            ConnectErrorKind::UnsupportedRelease => "the server is too old",
            ConnectErrorKind::TransactionPooling => "a transaction-pooling proxy stands before the server",
            ConnectErrorKind::RoleRefused => "the login may not act as the role",
            ConnectErrorKind::OptionsLost => "the connection is not as it was asked for",
            ConnectErrorKind::Refused => "the server refused the connection",
        };
        write!(f, "{what} at {}: {}", self.target, self.detail)
    }
}

impl StdError for ConnectError {}

fn kind_of(code: &SqlState) -> ConnectErrorKind {
    match code {
        code if *code == SqlState::INVALID_PASSWORD
            || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION
            || *code == SqlState::INSUFFICIENT_PRIVILEGE =>
        {
            ConnectErrorKind::LoginRefused
        }
        code if *code == SqlState::INVALID_CATALOG_NAME => ConnectErrorKind::DatabaseMissing,
        code if *code == SqlState::TOO_MANY_CONNECTIONS => ConnectErrorKind::TooManyConnections,
        code if *code == SqlState::CANNOT_CONNECT_NOW
            || *code == SqlState::ADMIN_SHUTDOWN
            || *code == SqlState::CRASH_SHUTDOWN =>
        {
            ConnectErrorKind::NotAccepting
        }
        _ => ConnectErrorKind::Refused,
    }
}

/// The custom error inside an `io::Error`, which `source()` would skip.
fn inside<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<T>()
}

fn carried_in<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a ConnectError> {
    inside(error)
}

fn rustls_in<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    inside(error)
}

fn certificate_trouble(error: &rustls::Error) -> Option<CertificateTrouble> {
    let rustls::Error::InvalidCertificate(error) = error else {
        return None;
    };
    Some(match error {
        CertificateError::UnknownIssuer => CertificateTrouble::UnknownIssuer,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            CertificateTrouble::WrongName
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => CertificateTrouble::Expired,
        CertificateError::Revoked => CertificateTrouble::Revoked,
        CertificateError::UnknownRevocationStatus
        | CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => CertificateTrouble::Unrevokable,
        _ => CertificateTrouble::Unusable,
    })
}

fn tls_detail(error: &rustls::Error) -> String {
    match certificate_trouble(error) {
        Some(CertificateTrouble::UnknownIssuer) => {
            "the server's certificate was not issued by a trusted authority".to_owned()
        }
        Some(CertificateTrouble::WrongName) => "the server's certificate is for another name".to_owned(),
        Some(CertificateTrouble::Expired) => {
            "the server's certificate has expired or is not valid yet".to_owned()
        }
        Some(CertificateTrouble::Revoked) => "the server's certificate has been revoked".to_owned(),
        Some(CertificateTrouble::Unrevokable) => {
            "no current revocation list tells whether the server's certificate is revoked".to_owned()
        }
        Some(CertificateTrouble::Unusable) => format!("the server's certificate cannot be used ({error})"),
        None => error.to_string(),
    }
}
