//! The way to the server, and for how long an answer has been owed on it: requests and answers are counted as they
//! pass, above TLS. A proxy that acknowledges everything and passes nothing on shows in no other way.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use super::socket::Socket;

/// What has passed on one connection, and what has not.
#[derive(Debug, Clone, Default)]
pub(super) struct Line(Arc<Mutex<Account>>);

#[derive(Debug, Default)]
struct Account {
    encrypted: bool,
    /// Requests are counted from the end of the login on.
    logged_in: bool,
    written: Frames,
    read: Frames,
    unanswered: u64,
    since: Option<Instant>,
}

impl Line {
    /// `negotiates`: the server says in one byte, before its first message, whether it speaks TLS.
    pub(super) fn new(negotiates: bool) -> Self {
        let account = Account {
            read: Frames {
                skipped: usize::from(negotiates),
                ..Frames::default()
            },
            ..Account::default()
        };
        Self(Arc::new(Mutex::new(account)))
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn logged_in(&self) {
        self.account().logged_in = true;
    }

    /// For how long the oldest request has had no complete answer.
    pub(super) fn silent_for(&self) -> Option<Duration> {
        self.account().since.map(|since| since.elapsed())
    }

    fn wrote(&self, encrypted: bool, bytes: &[u8]) {
        let account = &mut *self.account();
        if !account.logged_in || account.encrypted != encrypted {
            return;
        }
        // Query, or Sync at the end of a request of several messages: each is answered by one ReadyForQuery.
        let requests = account.written.count(bytes, b"QS");
        if requests > 0 {
            account.unanswered += requests;
            account.since.get_or_insert_with(Instant::now);
        }
    }

    fn read(&self, encrypted: bool, bytes: &[u8]) {
        let account = &mut *self.account();
        if account.encrypted != encrypted {
            return;
        }
        let answers = account.read.count(bytes, b"Z");
        if !account.logged_in {
            return;
        }
        account.unanswered = account.unanswered.saturating_sub(answers);
        // Rows that arrive are a sign of life too.
        account.since = (account.unanswered > 0).then(Instant::now);
    }
}

/// Messages in a stream of bytes: a type, a length that counts itself, and so many bytes.
#[derive(Debug, Default)]
struct Frames {
    skipped: usize,
    head: [u8; 5],
    have: usize,
    rest: usize,
}

impl Frames {
    /// How many messages of these types have ended in these bytes.
    fn count(&mut self, mut bytes: &[u8], types: &[u8]) -> u64 {
        let mut found = 0;
        let skipped = self.skipped.min(bytes.len());
        self.skipped -= skipped;
        bytes = &bytes[skipped..];
        while !bytes.is_empty() {
            if self.have < self.head.len() {
                let wanted = (self.head.len() - self.have).min(bytes.len());
                self.head[self.have..self.have + wanted].copy_from_slice(&bytes[..wanted]);
                self.have += wanted;
                bytes = &bytes[wanted..];
                if self.have < self.head.len() {
                    break;
                }
                let length = u32::from_be_bytes([self.head[1], self.head[2], self.head[3], self.head[4]]);
                self.rest = usize::try_from(length).unwrap_or(usize::MAX).saturating_sub(4);
            } else {
                let passed = self.rest.min(bytes.len());
                self.rest -= passed;
                bytes = &bytes[passed..];
            }
            if self.rest == 0 {
                found += u64::from(types.contains(&self.head[0]));
                self.have = 0;
            }
        }
        found
    }
}

/// A stream whose messages are counted, unless those of another layer are.
pub(super) struct Counted<S> {
    stream: S,
    line: Line,
    encrypted: bool,
}

/// A socket on which messages are counted as long as nothing is encrypted.
pub(super) type Watched = Counted<Socket>;

impl Watched {
    pub(super) fn plain(stream: Socket, line: Line) -> Self {
        Self {
            stream,
            line,
            encrypted: false,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = polled {
            this.line.read(this.encrypted, &buffer.filled()[before..]);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            this.line.wrote(this.encrypted, &bytes[..written]);
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Counted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

/// Makes the encrypted stream that is counted instead of the one below it.
pub(super) struct Encrypt<C> {
    pub(super) tls: C,
    pub(super) line: Line,
}

impl<S, C> TlsConnect<S> for Encrypt<C>
where
    C: TlsConnect<S>,
    C::Future: Send + 'static,
    C::Stream: Send + 'static,
{
    type Stream = Counted<C::Stream>;
    type Error = C::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        {
            let account = &mut *self.line.account();
            account.encrypted = true;
            account.read = Frames::default();
        }
        let (connecting, line) = (self.tls.connect(stream), self.line);
        Box::pin(async move {
            Ok(Counted {
                stream: connecting.await?,
                line,
                encrypted: true,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let stream = [
            message(b'Z', b"I"),
            message(b'D', &[b'Z'; 20]),
            message(b'Z', b"T"),
            message(b'1', b""),
            message(b'Z', b"E"),
        ]
        .concat();
        for size in 1..stream.len() {
            let mut frames = Frames::default();
            let found: u64 = stream.chunks(size).map(|part| frames.count(part, b"Z")).sum();
            assert_eq!(found, 3, "in parts of {size}");
        }
        let mut frames = Frames {
            skipped: 1,
            ..Frames::default()
        };
        assert_eq!(frames.count(b"N", b"Z") + frames.count(&stream, b"Z"), 3);
    }

    #[test]
    fn silence_is_an_answer_that_is_owed() {
        let line = Line::new(false);
        line.read(false, &message(b'Z', b"I"));
        line.logged_in();
        assert_eq!(line.silent_for(), None);
        // Parse, Bind, Execute, Sync and a simple query: two answers.
        for kind in *b"PBESQ" {
            line.wrote(false, &message(kind, b"x"));
        }
        line.read(false, &message(b'Z', b"I"));
        assert!(line.silent_for().is_some());
        line.read(false, &message(b'C', b"SELECT 1"));
        assert!(line.silent_for().is_some());
        line.read(false, &message(b'Z', b"I"));
        assert_eq!(line.silent_for(), None);
    }

    #[test]
    fn of_two_layers_one_is_counted() {
        let line = Line::new(true);
        line.account().encrypted = true;
        line.logged_in();
        line.wrote(false, &message(b'Q', b"x"));
        assert_eq!(line.silent_for(), None);
        line.wrote(true, &message(b'Q', b"x"));
        assert!(line.silent_for().is_some());
    }
}
