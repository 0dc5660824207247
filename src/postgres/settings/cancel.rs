//! Cancelling a running statement from outside its session.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::CancelToken;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connect::{Address, within};
use super::error::{ConnectError, ConnectErrorKind};
use super::files::reason;
use super::socket::{Socket, TcpOptions};

/// Asks the server to cancel what one session runs, by the address and TLS mode of that session.
#[derive(Clone)]
pub struct CancelHandle {
    token: CancelToken,
    tls: MakeRustlsConnect,
    address: Address,
    tcp: TcpOptions,
    timeout: Option<Duration>,
    target: String,
}

impl fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelHandle")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl CancelHandle {
    pub(super) fn new(
        token: CancelToken,
        tls: MakeRustlsConnect,
        address: Address,
        tcp: TcpOptions,
        timeout: Option<Duration>,
        target: &str,
    ) -> Self {
        Self {
            token,
            tls,
            address,
            tcp,
            timeout,
            target: target.to_owned(),
        }
    }

    /// Sends the request and waits until the server has passed it on. Whether something was cancelled shows
    /// in the session itself: a statement that was still running fails with SQLSTATE 57014.
    ///
    /// The request is completed even if the caller stops waiting: hanging up on PgBouncer 1.18 at the wrong
    /// moment ends its process ("bad client state"), and with it the sessions of everybody.
    pub async fn cancel(&self) -> Result<(), ConnectError> {
        let handle = self.clone();
        let request = tokio::spawn(async move { within(handle.timeout, Box::pin(handle.request())).await });
        let failed = |why: &str| ConnectError::new(ConnectErrorKind::Unreachable, &self.target, why);
        request
            .await
            .map_err(|_| failed("the cancel request was interrupted"))?
            .ok_or_else(|| failed("timed out sending a cancel request"))?
    }

    async fn request(&self) -> Result<(), ConnectError> {
        let unreachable =
            |error: io::Error| ConnectError::new(ConnectErrorKind::Unreachable, &self.target, reason(&error));
        let socket = Socket::open(&self.address, self.tcp).await.map_err(unreachable)?;
        let name = match &self.address {
            Address::Tcp { name, .. } => name,
            Address::Unix { .. } => "localhost",
        };
        self.send(socket, name).await
    }

    async fn send<S>(&self, stream: S, name: &str) -> Result<(), ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut tls = self.tls.clone();
        let tls = MakeTlsConnect::<UntilClosed<S>>::make_tls_connect(&mut tls, name)
            .map_err(|error| ConnectError::new(ConnectErrorKind::Tls, &self.target, error.to_string()))?;
        self.token
            .cancel_query_raw(UntilClosed(stream), tls)
            .await
            .map_err(|error| ConnectError::from_postgres(&error, &self.target))
    }
}

/// A stream whose shutdown waits until the server hangs up. Closing our half first, as the client library
/// would, makes PgBouncer drop the request without passing it on; libpq waits like this as well.
struct UntilClosed<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for UntilClosed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for UntilClosed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.0).poll_flush(context))?;
        loop {
            let mut space = [0; 64];
            let mut buffer = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut self.0).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // Closed, or cut off: either way the server has read the request.
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}
