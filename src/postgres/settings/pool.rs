//! A pool for observers and backfill workers, and the refusal of proxies that pool transactions.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use deadpool_postgres::{Connect, Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::ConnectionSettings;
use super::arrival::role_sql;
use super::connect::{Connector, within};
use super::error::{ConnectError, ConnectErrorKind};

/// Run on a session that returns to the pool. `RecyclingMethod::Fast` would leave behind an open transaction,
/// advisory locks and whatever SET the last user ran; `Clean` forgets the open transaction. The leading
/// ROLLBACK mends both and an aborted transaction too. Prepared statements stay, as the pool caches them.
///
/// `SET SESSION AUTHORIZATION` forgets the role, also one that the login has by itself (`ALTER ROLE … SET role`), and
/// RESET ALL does not bring it back: it follows by itself.
const RECYCLE: &str = "ROLLBACK; CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
                       SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES; ";

impl ConnectionSettings {
    /// A pool of up to `size` sessions. Each runs the statements of `setup`, as one text, when it is opened and, since
    /// recycling resets all settings, again whenever it is reused. Opens nothing yet.
    pub fn pool(
        &self,
        application_name: &str,
        size: usize,
        setup: Vec<String>,
    ) -> Result<Pool, ConnectError> {
        let connector = Connector::new(self, application_name)?;
        // One text: over a long way every statement by itself would take as long as a batch of rows.
        let setup = setup.join("; ");
        let config = ManagerConfig {
            recycling_method: RecyclingMethod::Custom(format!(
                "{RECYCLE}{}; {setup}",
                role_sql(self.role.as_deref())
            )),
        };
        let manager = Manager::from_connect(Config::new(), PoolConnect(connector), config);
        Pool::builder(manager)
            .max_size(size)
            .post_create(setup_hook(setup.into()))
            .build()
            .map_err(|error| {
                ConnectError::new(ConnectErrorKind::Refused, &self.redacted(), error.to_string())
            })
    }

    /// Fails when a proxy hands transactions or statements to changing server sessions: advisory locks and settings would
    /// then land in sessions of others. Opens two sessions and looks whether each keeps its process; asks once.
    pub async fn refuse_transaction_pooling(&self) -> Result<(), ConnectError> {
        if self.keeps_sessions.load(Ordering::Relaxed) {
            return Ok(());
        }
        // Nothing is set in a session that may be somebody else's next.
        let connector = Connector::new(&self.acting_as(None), env!("CARGO_PKG_NAME"))?;
        let sessions = [
            connector.open().await?.session.client,
            connector.open().await?.session.client,
        ];
        let failed = |kind, why: &str| ConnectError::new(kind, &self.redacted(), why);
        let kept = within(self.connect_timeout, keep_their_backends(&sessions))
            .await
            .ok_or_else(|| {
                failed(
                    ConnectErrorKind::Unreachable,
                    "timed out asking which process serves us",
                )
            })?
            .map_err(|error| ConnectError::from_postgres(&error, &self.redacted()))?;
        if kept {
            self.keeps_sessions.store(true, Ordering::Relaxed);
            return Ok(());
        }
        Err(failed(
            ConnectErrorKind::TransactionPooling,
            "two connections do not keep a server process each",
        ))
    }
}

/// Whether each session has a process of its own, alone and while the other one is inside a transaction.
async fn keep_their_backends(sessions: &[Client; 2]) -> Result<bool, tokio_postgres::Error> {
    let own = [backend(&sessions[0]).await?, backend(&sessions[1]).await?];
    if own[0] == own[1] {
        return Ok(false);
    }
    for (holder, other) in [(0, 1), (1, 0)] {
        match sessions[holder].batch_execute("BEGIN READ ONLY").await {
            // A pooler of statements says so by itself.
            Err(error) if error.code() == Some(&SqlState::PROTOCOL_VIOLATION) => return Ok(false),
            result => result?,
        }
        let held = backend(&sessions[holder]).await?;
        let free = backend(&sessions[other]).await?;
        sessions[holder].batch_execute("ROLLBACK").await?;
        if held != own[holder] || free != own[other] {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The process that serves this session now. A simple query, since a proxy may mislay prepared statements.
pub(super) async fn backend(client: &Client) -> Result<String, tokio_postgres::Error> {
    let messages = client.simple_query("SELECT pg_catalog.pg_backend_pid()").await?;
    let pid = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(pid.unwrap_or_default())
}

fn setup_hook(setup: Arc<str>) -> Hook {
    Hook::async_fn(move |client, _| {
        let setup = Arc::clone(&setup);
        Box::pin(async move { client.batch_execute(&setup).await.map_err(HookError::Backend) })
    })
}

struct PoolConnect(Connector);

type Connecting<'a> =
    Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + 'a>>;

impl Connect for PoolConnect {
    fn connect(&self, _: &Config) -> Connecting<'_> {
        Box::pin(async move {
            match self.0.open().await {
                Ok(opened) => Ok((opened.session.client, opened.driver)),
                Err(error) => Err(carry(error).await),
            }
        })
    }
}

/// Wraps our error into the only type the pool lets through; [`ConnectError::in_chain`] takes it out again.
/// The client library offers no constructor, so the error travels as an I/O failure of a stream it reads.
async fn carry(error: ConnectError) -> tokio_postgres::Error {
    let stream = Failing(Some(error));
    match Config::new().user("pgmorph").connect_raw(stream, NoTls).await {
        Err(error) => error,
        Ok(_) => unreachable!("a stream that only fails yields no connection"),
    }
}

struct Failing(Option<ConnectError>);

impl Failing {
    fn fail<T>(&mut self) -> Poll<io::Result<T>> {
        Poll::Ready(Err(match self.0.take() {
            Some(error) => io::Error::other(error),
            None => io::ErrorKind::NotConnected.into(),
        }))
    }
}

impl AsyncRead for Failing {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.fail()
    }
}

impl AsyncWrite for Failing {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        self.fail()
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fail()
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fail()
    }
}
