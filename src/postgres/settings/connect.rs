//! Opening sessions: which host, with or without TLS, and who drives the connection afterwards.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::seq::SliceRandom;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode as Negotiated, SslNegotiation};
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, Connection};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::arrival::{self, Role};
use super::auth::{Guard, Guarded, Inside};
use super::cancel::CancelHandle;
use super::error::{ConnectError, ConnectErrorKind};
use super::files::reason;
use super::socket::Socket;
use super::{ConnectionSettings, Endpoint, Host, SslMode, Wanted};

/// So many notices are kept until they are taken; older ones go first.
const NOTICES_KEPT: usize = 256;

/// A connection to one server session. Dropping the client ends it.
#[derive(Debug)]
pub struct Session {
    pub client: Client,
    pub cancel: CancelHandle,
    pub notices: Notices,
}

/// What the server said besides results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// `WARNING`, `NOTICE`, … in the server's language.
    pub severity: String,
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// The latest notices of one session.
#[derive(Debug, Clone, Default)]
pub struct Notices(Arc<Mutex<VecDeque<Notice>>>);

impl Notices {
    /// The notices since the last call, oldest first.
    pub fn take(&self) -> Vec<Notice> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .collect()
    }

    fn push(&self, notice: Notice) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == NOTICES_KEPT {
            kept.pop_front();
        }
        kept.push_back(notice);
    }
}

impl ConnectionSettings {
    /// Opens a session. The user's own `application_name` takes precedence over the one given here.
    pub async fn connect(&self, application_name: &str) -> Result<Session, ConnectError> {
        let opened = Connector::new(self, application_name)?.open().await?;
        Ok(opened.session)
    }
}

/// Where one attempt goes: a name has been looked up.
#[derive(Clone)]
pub(super) enum Address {
    Tcp {
        name: String,
        address: IpAddr,
        port: u16,
    },
    Unix {
        directory: PathBuf,
        port: u16,
    },
}

pub(super) struct Opened {
    pub(super) session: Session,
    pub(super) driver: JoinHandle<()>,
}

/// Settings with the certificates read: opens any number of sessions.
#[derive(Clone)]
pub(super) struct Connector {
    settings: Arc<ConnectionSettings>,
    application_name: String,
    tls: MakeRustlsConnect,
}

impl Connector {
    pub(super) fn new(settings: &ConnectionSettings, application_name: &str) -> Result<Self, ConnectError> {
        let connector = if settings.tls.mode == SslMode::Disable {
            super::TlsSettings::unused()
        } else {
            settings.tls.clone()
        };
        let tls = connector
            .connector()
            .map_err(|why| ConnectError::new(ConnectErrorKind::Tls, &settings.redacted(), why))?;
        Ok(Self {
            application_name: settings
                .application_name
                .as_deref()
                .unwrap_or(application_name)
                .to_owned(),
            settings: Arc::new(settings.clone()),
            tls,
        })
    }

    pub(super) async fn open(&self) -> Result<Opened, ConnectError> {
        let opened = self.found().await?;
        let client = &opened.session.client;
        let target = self.settings.redacted();
        let asked = async {
            if let Some(options) = &self.settings.startup_options {
                arrival::refuse_lost_options(client, options, &target).await?;
            }
            match &self.settings.role {
                Some(role) => arrival::act_as(client, role, &target).await,
                None => Ok(()),
            }
        };
        within(self.settings.connect_timeout, asked)
            .await
            .unwrap_or_else(|| {
                Err(ConnectError::new(
                    ConnectErrorKind::Unreachable,
                    &target,
                    "timed out",
                ))
            })?;
        Ok(opened)
    }

    async fn found(&self) -> Result<Opened, ConnectError> {
        let mut endpoints = self.settings.endpoints.clone();
        if self.settings.shuffled {
            endpoints.shuffle(&mut rand::rng());
        }
        if self.settings.wanted != Wanted::PreferStandby {
            return self.first_of(&endpoints, self.settings.wanted).await;
        }
        match self.first_of(&endpoints, Wanted::Standby).await {
            Err(error) if error.kind() == ConnectErrorKind::WrongServer => {
                self.first_of(&endpoints, Wanted::Any).await
            }
            result => result,
        }
    }

    async fn first_of(&self, endpoints: &[Endpoint], wanted: Wanted) -> Result<Opened, ConnectError> {
        let mut failures: Vec<ConnectError> = Vec::new();
        for endpoint in endpoints {
            match self.endpoint(endpoint, wanted).await {
                Ok(opened) => return Ok(opened),
                // As in libpq the other hosts are for servers that are away, not for refused logins.
                Err(error)
                    if error.sqlstate().is_some() && error.kind() != ConnectErrorKind::NotAccepting =>
                {
                    return Err(error);
                }
                Err(error) => failures.push(error),
            }
        }
        Err(self.summary(failures))
    }

    /// One error for all hosts. A server that answered says more than one that did not.
    fn summary(&self, mut failures: Vec<ConnectError>) -> ConnectError {
        let telling = failures
            .iter()
            .position(|error| error.kind() != ConnectErrorKind::Unreachable);
        if failures.len() == 1 || telling.is_some() {
            return failures.swap_remove(telling.unwrap_or(0));
        }
        let details: Vec<&str> = failures.iter().map(ConnectError::detail).collect();
        let redacted = self.settings.redacted();
        ConnectError::new(ConnectErrorKind::Unreachable, &redacted, details.join("; "))
    }

    async fn endpoint(&self, endpoint: &Endpoint, wanted: Wanted) -> Result<Opened, ConnectError> {
        let target = self.settings.redacted_for(std::slice::from_ref(endpoint));
        let mut last = None;
        for address in self.addresses(endpoint, &target).await? {
            match self.negotiated(&address, endpoint, &target, wanted).await {
                Ok((opened, role)) if role.is(wanted) => return Ok(opened),
                Ok((_, role)) => {
                    last = Some(ConnectError::new(
                        ConnectErrorKind::WrongServer,
                        &target,
                        role.mismatch(),
                    ));
                }
                Err(error) if error.kind() == ConnectErrorKind::Unreachable => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| {
            ConnectError::new(
                ConnectErrorKind::Unreachable,
                &target,
                "the host name has no address",
            )
        }))
    }

    async fn addresses(&self, endpoint: &Endpoint, target: &str) -> Result<Vec<Address>, ConnectError> {
        let port = endpoint.port;
        let unreachable = |why: String| ConnectError::new(ConnectErrorKind::Unreachable, target, why);
        match &endpoint.host {
            Host::Unix(directory) => Ok(vec![Address::Unix {
                directory: directory.clone(),
                port,
            }]),
            Host::Tcp {
                name,
                address: Some(address),
            } => Ok(vec![Address::Tcp {
                name: name.clone(),
                address: *address,
                port,
            }]),
            Host::Tcp { name, address: None } => {
                let found = within(
                    self.settings.connect_timeout,
                    tokio::net::lookup_host((name.as_str(), port)),
                )
                .await
                .ok_or_else(|| unreachable("timed out looking up the host name".to_owned()))?
                .map_err(|error| unreachable(reason(&error)))?;
                let mut addresses: Vec<Address> = found
                    .map(|found| Address::Tcp {
                        name: name.clone(),
                        address: found.ip(),
                        port,
                    })
                    .collect();
                if self.settings.shuffled {
                    addresses.shuffle(&mut rand::rng());
                }
                Ok(addresses)
            }
        }
    }

    /// Tries what `sslmode` allows, in its order; when all fail the first failure is the telling one.
    async fn negotiated(
        &self,
        address: &Address,
        endpoint: &Endpoint,
        target: &str,
        wanted: Wanted,
    ) -> Result<(Opened, Role), ConnectError> {
        let (first, second) = match (address, self.settings.tls.mode) {
            (Address::Unix { .. }, _) | (_, SslMode::Disable) => (Negotiated::Disable, None),
            (_, SslMode::Allow) => (Negotiated::Disable, Some(Negotiated::Require)),
            (_, SslMode::Prefer) => (Negotiated::Prefer, Some(Negotiated::Disable)),
            _ => (Negotiated::Require, None),
        };
        let error = match self.attempt(address, endpoint, first, target, wanted).await {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        // pg_hba.conf may admit only the other way; a wrong password is wrong both ways.
        let other_way_may_help = match error.kind() {
            ConnectErrorKind::Tls => true,
            ConnectErrorKind::LoginRefused => error.sqlstate() != Some(SqlState::INVALID_PASSWORD.code()),
            _ => false,
        };
        match second {
            Some(second) if other_way_may_help => self
                .attempt(address, endpoint, second, target, wanted)
                .await
                .map_err(|_| error),
            _ => Err(error),
        }
    }

    async fn attempt(
        &self,
        address: &Address,
        endpoint: &Endpoint,
        mode: Negotiated,
        target: &str,
        wanted: Wanted,
    ) -> Result<(Opened, Role), ConnectError> {
        let attempt = Box::pin(self.one_attempt(address, endpoint, mode, target, wanted));
        within(self.settings.connect_timeout, attempt)
            .await
            .unwrap_or_else(|| {
                Err(ConnectError::new(
                    ConnectErrorKind::Unreachable,
                    target,
                    "timed out",
                ))
            })
    }

    async fn one_attempt(
        &self,
        address: &Address,
        endpoint: &Endpoint,
        mode: Negotiated,
        target: &str,
        wanted: Wanted,
    ) -> Result<(Opened, Role), ConnectError> {
        let failed = |error| ConnectError::from_postgres(&error, target);
        let socket = Socket::open(address, self.settings.tcp)
            .await
            .map_err(|error| ConnectError::new(ConnectErrorKind::Unreachable, target, reason(&error)))?;
        self.refuse_other_peer(&socket, target)?;
        let negotiates =
            mode != Negotiated::Disable && self.settings.tls.negotiation == SslNegotiation::Postgres;
        let allowed = self.settings.allowed.as_ref();
        let guard = allowed.map(|allowed| Guard::new(allowed, target, negotiates));
        let name = match address {
            Address::Tcp { name, .. } => name.as_str(),
            Address::Unix { .. } => "localhost",
        };
        let mut tls = self.tls.clone();
        let tls = MakeTlsConnect::<Guarded<Socket>>::make_tls_connect(&mut tls, name)
            .map_err(|error| ConnectError::new(ConnectErrorKind::Tls, target, error.to_string()))?;
        let config = self.config(endpoint, mode);
        let (client, connection) = config
            .connect_raw(Guarded::new(socket, guard), Inside(tls))
            .await
            .map_err(failed)?;
        let cancel = CancelHandle::new(
            client.cancel_token(),
            self.tls.clone(),
            address.clone(),
            self.settings.tcp,
            self.settings.connect_timeout,
            target,
        );
        let role = Role::of(&connection);
        let notices = Notices::default();
        let driver = tokio::spawn(drive(connection, notices.clone()));
        let role = role.completed(&client, wanted).await.map_err(failed)?;
        Ok((
            Opened {
                session: Session {
                    client,
                    cancel,
                    notices,
                },
                driver,
            },
            role,
        ))
    }

    /// `requirepeer`: over a Unix socket, whose process it is that listens.
    fn refuse_other_peer(&self, socket: &Socket, target: &str) -> Result<(), ConnectError> {
        let (Some(wanted), Some(found)) = (&self.settings.required_peer, socket.peer()) else {
            return Ok(());
        };
        let refused = |detail| Err(ConnectError::new(ConnectErrorKind::LoginRefused, target, detail));
        match found {
            Ok(name) if name == *wanted => Ok(()),
            Ok(name) => refused(format!(
                "the server runs as {name}, but requirepeer={wanted} was given"
            )),
            Err(error) => refused(format!("who the server runs as is not known: {}", reason(&error))),
        }
    }

    fn config(&self, endpoint: &Endpoint, mode: Negotiated) -> Config {
        let settings = &*self.settings;
        let mut config = Config::new();
        config
            .user(&settings.user)
            .dbname(&settings.dbname)
            .application_name(&self.application_name)
            .channel_binding(settings.channel_binding)
            .ssl_mode(mode)
            .ssl_negotiation(settings.tls.negotiation);
        if let Some(options) = &settings.startup_options {
            config.options(options);
        }
        if let Some(password) = &endpoint.password {
            config.password(&password.0);
        }
        config
    }
}

/// The result, or `None` when the time was up.
pub(super) async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        None => Some(future.await),
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
    }
}

/// Drives the connection until it ends. How it ended reaches whoever waits for an answer of the client.
async fn drive<S, T>(mut connection: Connection<S, T>, notices: Notices)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) => {
                log(&notice);
                notices.push(Notice {
                    severity: notice.severity().to_owned(),
                    code: notice.code().code().to_owned(),
                    message: notice.message().to_owned(),
                    detail: notice.detail().map(str::to_owned),
                    hint: notice.hint().map(str::to_owned),
                });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(error = %describe(&error), "the connection ended");
                return;
            }
        }
    }
}

fn log(notice: &DbError) {
    let (code, detail) = (notice.code().code(), notice.detail());
    // Returning a session to the pool always rolls back, which the server remarks on when there was nothing to.
    let warning = notice.parsed_severity() == Some(tokio_postgres::error::Severity::Warning)
        && *notice.code() != SqlState::NO_ACTIVE_SQL_TRANSACTION;
    if warning {
        tracing::warn!(code, detail, "server: {}", notice.message());
    } else {
        tracing::debug!(code, detail, "server: {}", notice.message());
    }
}

/// The cause too: the client library's own text is only "db error".
fn describe(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
