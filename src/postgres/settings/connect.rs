//! Opening sessions: which host, with or without TLS, and who drives the connection afterwards.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use rand::seq::SliceRandom;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode as Negotiated, SslNegotiation};
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Config, Connection};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::arrival::{self, Role};
use super::auth::{Guard, Guarded, Inside};
use super::cancel::CancelHandle;
use super::doctor;
use super::error::{ConnectError, ConnectErrorKind};
use super::files::reason;
use super::line::{Encrypt, Line, Watched};
use super::pool::backend;
use super::socket::Socket;
use super::{ConnectionSettings, Endpoint, Host, SslMode, Wanted};
use crate::release::{self, Standing};
use crate::units;

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
        let route = Route {
            connector: self.clone(),
            address: address.clone(),
            endpoint: endpoint.clone(),
            mode,
            target: target.to_owned(),
            wanted,
        };
        // A server, database or role may allow a session less time than it takes to say that it needs more.
        for _ in 1..OPENED_AGAIN {
            let mut logged_in = false;
            match route.open(&mut logged_in).await {
                Err(error) if logged_in && is_out_of_time(&error) => {}
                result => return result,
            }
        }
        route.open(&mut false).await
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

/// How often a session is opened that the server ends at once.
pub(super) const OPENED_AGAIN: u32 = 10;

/// `query_canceled`, `idle_session_timeout`, `idle_in_transaction_session_timeout`, `transaction_timeout`.
const OUT_OF_TIME: [&str; 4] = ["57014", "57P05", "25P03", "25P04"];

/// The server has ended a session that it had opened. It does not say why when nothing was asked at that moment.
pub(super) fn is_out_of_time(error: &ConnectError) -> bool {
    match error.sqlstate() {
        Some(code) => OUT_OF_TIME.contains(&code),
        None => error.kind() == ConnectErrorKind::Unreachable,
    }
}

/// The way to one server, on which a session was opened and another one may be.
#[derive(Clone)]
pub(super) struct Route {
    connector: Connector,
    address: Address,
    endpoint: Endpoint,
    mode: Negotiated,
    target: String,
    wanted: Wanted,
}

/// What is said goes through a guard of the login, and is counted below it.
type Way = Guarded<Watched>;
type Tls = Inside<Encrypt<<MakeRustlsConnect as MakeTlsConnect<Way>>::TlsConnect>>;
type Spoken = Connection<Way, <Tls as TlsConnect<Way>>::Stream>;

impl Route {
    /// Tells whether it got as far as the login.
    async fn open(&self, logged_in: &mut bool) -> Result<(Opened, Role), ConnectError> {
        let timeout = self.connector.settings.connect_timeout;
        let timed_out = || ConnectError::new(ConnectErrorKind::Unreachable, &self.target, "timed out");
        let (client, connection, line) = within(timeout, Box::pin(self.dial()))
            .await
            .ok_or_else(timed_out)??;
        *logged_in = true;
        let cancel = CancelHandle::new(
            client.cancel_token(),
            self.connector.tls.clone(),
            self.address.clone(),
            self.connector.settings.tcp,
            timeout,
            &self.target,
        );
        supported(&connection, &self.target)?;
        let role = Role::of(&connection);
        let notices = Notices::default();
        let (tell, told) = oneshot::channel();
        let driver = tokio::spawn(drive(connection, notices.clone(), line, self.clone(), told));
        // A pooler of sessions says another process number at login than the server has.
        let pid = within(timeout, backend(&client))
            .await
            .ok_or_else(|| {
                *logged_in = false;
                timed_out()
            })?
            .map_err(|error| ConnectError::from_postgres(&error, &self.target))?;
        let _ = tell.send(pid);
        let role = within(timeout, role.completed(&client, self.wanted))
            .await
            .ok_or_else(timed_out)?
            .map_err(|error| ConnectError::from_postgres(&error, &self.target))?;
        let session = Session {
            client,
            cancel,
            notices,
        };
        Ok((Opened { session, driver }, role))
    }

    /// A session that nobody watches over.
    pub(super) async fn plainly(&self) -> Result<Client, ConnectError> {
        let (client, connection, _) = self.dial().await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn dial(&self) -> Result<(Client, Spoken, Line), ConnectError> {
        let refused = |kind, why: String| ConnectError::new(kind, &self.target, why);
        let settings = &self.connector.settings;
        let socket = Socket::open(&self.address, settings.tcp)
            .await
            .map_err(|error| refused(ConnectErrorKind::Unreachable, reason(&error)))?;
        self.connector.refuse_other_peer(&socket, &self.target)?;
        let mut tls = self.connector.tls.clone();
        let tls = MakeTlsConnect::<Way>::make_tls_connect(&mut tls, self.name())
            .map_err(|error| refused(ConnectErrorKind::Tls, error.to_string()))?;
        let negotiates =
            self.mode != Negotiated::Disable && settings.tls.negotiation == SslNegotiation::Postgres;
        let line = Line::new(negotiates);
        let encrypt = Encrypt {
            tls,
            line: line.clone(),
        };
        let allowed = settings.allowed.as_ref();
        let guard = allowed.map(|allowed| Guard::new(allowed, &self.target, negotiates));
        let config = self.connector.config(&self.endpoint, self.mode);
        let (client, connection) = config
            .connect_raw(
                Guarded::new(Watched::plain(socket, line.clone()), guard),
                Inside(encrypt),
            )
            .await
            .map_err(|error| ConnectError::from_postgres(&error, &self.target))?;
        line.logged_in();
        Ok((client, connection, line))
    }

    fn name(&self) -> &str {
        match &self.address {
            Address::Tcp { name, .. } => name,
            // Never spoken over TLS.
            Address::Unix { .. } => "localhost",
        }
    }
}

/// The result, or `None` when the time was up.
pub(super) async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        None => Some(future.await),
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
    }
}

/// Looks at the release that the server reported at login. Of one that is newer than what we know there is a word in the
/// log, once.
fn supported(connection: &Spoken, target: &str) -> Result<(), ConnectError> {
    static TOLD: Once = Once::new();
    let reported = connection.parameter("server_version");
    let Some(number) = reported.and_then(release::version_num) else {
        return Ok(());
    };
    let (name, oldest, newest) = (release::name(number), release::OLDEST, release::NEWEST);
    match release::standing(number) {
        Standing::Supported => {}
        Standing::Newer => TOLD.call_once(|| {
            tracing::warn!(
                "the server is PostgreSQL {name}; this pgmorph was tested with {oldest} to {newest}"
            );
        }),
        Standing::Older => {
            return Err(ConnectError::new(
                ConnectErrorKind::UnsupportedRelease,
                target,
                format!("it is PostgreSQL {name}, and pgmorph works with {oldest} to {newest}"),
            ));
        }
    }
    Ok(())
}

/// Drives the connection until it ends, or is found to be lost. That it ended reaches whoever waits for an answer of
/// the client.
async fn drive(
    mut connection: Spoken,
    notices: Notices,
    line: Line,
    route: Route,
    pid: oneshot::Receiver<String>,
) {
    let lost = async {
        match pid.await {
            Ok(pid) => doctor::watch(&line, &pid, &route).await,
            Err(_) => std::future::pending().await,
        }
    };
    let mut lost = std::pin::pin!(lost);
    loop {
        let message = tokio::select! {
            message = poll_fn(|context| connection.poll_message(context)) => message,
            (verdict, silent) = &mut lost => {
                tracing::warn!("gave up a connection after {}: {}", units::duration(silent), verdict.text());
                return;
            }
        };
        let Some(message) = message else { return };
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
