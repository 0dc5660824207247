//! Sessions whose bounds are our own, and servers that take no connection at the moment.

use std::time::{Duration, Instant};

use super::connect::{OPENED_AGAIN, Session, is_out_of_time};
use super::error::{ConnectError, ConnectErrorKind};
use super::{ConnectionSettings, DEFAULT_CONNECT_TIMEOUT};

/// For so long a server is asked again that has no connection free, or is starting or stopping.
const TAKES_NONE_FOR: Duration = Duration::from_secs(30);

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The timeouts of a session. Whatever a server, database or role has set otherwise is meant for applications.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub statement: Duration,
    pub lock: Duration,
    /// An open transaction that waits for us, so that nobody waits for one whose connection is lost; nothing is unlimited.
    pub idle_in_transaction: Duration,
    /// A session that waits for us; nothing is unlimited.
    pub idle: Duration,
}

impl Bounds {
    /// One text, and no transaction of its own. `transaction_timeout` is there from PostgreSQL 17 on.
    pub fn sql(self) -> String {
        let Self {
            statement,
            lock,
            idle_in_transaction,
            idle,
        } = self;
        format!(
            "SET statement_timeout = {}; SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {}; \
             SET idle_session_timeout = {}; SELECT pg_catalog.set_config('transaction_timeout', '0', false) \
             WHERE pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL",
            statement.as_millis(),
            lock.as_millis(),
            idle_in_transaction.as_millis(),
            idle.as_millis()
        )
    }
}

impl ConnectionSettings {
    /// As [`ConnectionSettings::connect`], with these bounds.
    pub async fn bounded(&self, application_name: &str, bounds: Bounds) -> Result<Session, ConnectError> {
        let limit = self.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT);
        let sql = bounds.sql();
        let mut tries = 0;
        loop {
            tries += 1;
            let session = self.connect(application_name).await?;
            match tokio::time::timeout(limit, session.client.batch_execute(&sql)).await {
                Ok(Ok(())) => return Ok(session),
                Ok(Err(error)) => {
                    let error = ConnectError::from_postgres(&error, &self.redacted());
                    if tries == OPENED_AGAIN || !is_out_of_time(&error) {
                        return Err(error);
                    }
                }
                Err(_) => {
                    return Err(ConnectError::new(
                        ConnectErrorKind::Unreachable,
                        &self.redacted(),
                        "timed out setting up the session",
                    ));
                }
            }
        }
    }
}

/// Tries again, with pauses and a word, as long as the server says that it takes no connection now.
///
/// # Errors
/// Those of `open`; that the server takes none, after half a minute.
pub async fn patiently<T, F>(mut open: impl FnMut() -> F) -> Result<T, ConnectError>
where
    F: Future<Output = Result<T, ConnectError>>,
{
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    loop {
        match open().await {
            Err(error) if passes(&error) && began.elapsed() + pause < TAKES_NONE_FOR => {
                if !std::mem::replace(&mut told, true) {
                    let seconds = TAKES_NONE_FOR.as_secs();
                    tracing::warn!("{error}; it is asked again for {seconds} s");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            result => return result,
        }
    }
}

/// `too_many_connections`, which is also what a CONNECTION LIMIT gives, and `cannot_connect_now`.
fn passes(error: &ConnectError) -> bool {
    error
        .sqlstate()
        .is_some_and(|code| ["53300", "57P03"].contains(&code))
}
