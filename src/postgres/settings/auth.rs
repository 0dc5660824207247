//! `require_auth`: which ways of proving who we are the server may ask for. Looked at in the stream itself, before the
//! client library could answer a request that was not to be answered.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use super::error::{ConnectError, ConnectErrorKind, SettingsError};
use super::options::closest;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Password,
    Md5,
    Gss,
    Sspi,
    Scram,
    Oauth,
    /// The server asks for nothing: trust, peer, or a client certificate.
    None,
}

const METHODS: [(&str, Method); 7] = [
    ("password", Method::Password),
    ("md5", Method::Md5),
    ("gss", Method::Gss),
    ("sspi", Method::Sspi),
    ("scram-sha-256", Method::Scram),
    ("oauth", Method::Oauth),
    ("none", Method::None),
];

/// The methods that may be used.
#[derive(Debug, Clone)]
pub(super) struct Allowed {
    methods: Vec<Method>,
    text: String,
}

impl Allowed {
    /// A list of methods, or of methods with `!` before each, which are the forbidden ones.
    pub(super) fn parse(text: &str) -> Result<Self, SettingsError> {
        let mut named = Vec::new();
        let mut negated = None;
        for word in text.split(',').map(str::trim) {
            let name = word.strip_prefix('!').unwrap_or(word);
            let known = METHODS.iter().find(|(known, _)| *known == name);
            let Some((_, method)) = known else {
                return Err(SettingsError::Invalid {
                    option: "require_auth",
                    value: text.to_owned(),
                    expected: format!("a list of {}", METHODS.map(|(name, _)| name).join(", ")),
                    suggestion: closest(name, METHODS.iter().map(|(name, _)| *name)),
                });
            };
            if *negated.get_or_insert(word.starts_with('!')) != word.starts_with('!') {
                let what = "require_auth names allowed methods and, with \"!\", forbidden ones";
                return Err(SettingsError::Conflict(what.to_owned()));
            }
            if named.contains(method) {
                return Err(SettingsError::Conflict(format!(
                    "require_auth names {name} twice"
                )));
            }
            named.push(*method);
        }
        let allowed = |method: &Method| named.contains(method) != negated.unwrap_or(false);
        let methods = METHODS.map(|(_, method)| method);
        Ok(Self {
            methods: methods.into_iter().filter(allowed).collect(),
            text: text.to_owned(),
        })
    }
}

/// Follows what the server says until it has let us in.
pub(super) struct Guard {
    allowed: Allowed,
    target: String,
    /// Bytes to pass over: an answer about encryption, the rest of a message.
    skip: usize,
    head: Vec<u8>,
    asked: bool,
    over: bool,
}

/// Type, length, and the code of an authentication message.
const HEAD: usize = 9;

impl Guard {
    /// `negotiates`: the first byte answers whether the server encrypts.
    pub(super) fn new(allowed: &Allowed, target: &str, negotiates: bool) -> Self {
        Self {
            allowed: allowed.clone(),
            target: target.to_owned(),
            skip: usize::from(negotiates),
            head: Vec::with_capacity(HEAD),
            asked: false,
            over: false,
        }
    }

    fn look(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !self.over && !bytes.is_empty() {
            let passed = self.skip.min(bytes.len());
            self.skip -= passed;
            bytes = &bytes[passed..];
            let Some((first, rest)) = bytes.split_first() else {
                break;
            };
            self.head.push(*first);
            bytes = rest;
            self.message()?;
        }
        Ok(())
    }

    fn message(&mut self) -> io::Result<()> {
        let number = |at: usize| -> Option<u32> {
            let bytes = self.head.get(at..at + 4)?;
            Some(u32::from_be_bytes(bytes.try_into().ok()?))
        };
        let Some(length) = number(1).and_then(|length| usize::try_from(length).ok()) else {
            return Ok(());
        };
        if self.head[0] != b'R' {
            // After an error the server says nothing more; it refused by itself.
            self.over = self.head[0] == b'E';
            self.skip = length.saturating_sub(4);
            self.head.clear();
            return Ok(());
        }
        let Some(code) = number(5) else { return Ok(()) };
        self.skip = length.saturating_sub(8);
        self.head.clear();
        self.request(code)
    }

    fn request(&mut self, code: u32) -> io::Result<()> {
        let method = match code {
            0 if self.asked => {
                self.over = true;
                return Ok(());
            }
            0 => Method::None,
            3 => Method::Password,
            5 => Method::Md5,
            7 => Method::Gss,
            9 => Method::Sspi,
            10 => Method::Scram,
            // The later messages of an exchange that was begun; what is unknown, the client library refuses.
            _ => return Ok(()),
        };
        self.asked = true;
        self.over = method == Method::None;
        if self.allowed.methods.contains(&method) {
            return Ok(());
        }
        let name = METHODS.iter().find(|(_, known)| *known == method);
        let what = match (method, name) {
            (Method::None, _) => "lets us in without asking who we are".to_owned(),
            (_, Some((name, _))) => format!("asks for {name} authentication"),
            (_, None) => "asks for unknown authentication".to_owned(),
        };
        let detail = format!(
            "the server {what}, but require_auth={} was given",
            self.allowed.text
        );
        Err(io::Error::other(ConnectError::new(
            ConnectErrorKind::LoginRefused,
            &self.target,
            detail,
        )))
    }
}

/// A stream with a guard, or without one.
pub(super) struct Guarded<S> {
    stream: S,
    guard: Option<Guard>,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, guard: Option<Guard>) -> Self {
        Self { stream, guard }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(guard) = &mut self.guard {
            guard.look(&buffer.filled()[before..])?;
            if guard.over {
                self.guard = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Guarded<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

/// Encrypts, and has the guard move to where it can read.
pub(super) struct Inside<T>(pub(super) T);

impl<S, T> TlsConnect<Guarded<S>> for Inside<T>
where
    T: TlsConnect<Guarded<S>>,
    T::Future: Send + 'static,
{
    type Stream = Guarded<T::Stream>;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, mut stream: Guarded<S>) -> Self::Future {
        let guard = stream.guard.take();
        let connecting = self.0.connect(stream);
        Box::pin(async move { Ok(Guarded::new(connecting.await?, guard)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind], &length.to_be_bytes()[..], body].concat()
    }

    fn request(code: u32) -> Vec<u8> {
        message(b'R', &[&code.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat())
    }

    /// What becomes of these messages, in one piece and byte by byte.
    fn judged(allowed: &str, messages: &[Vec<u8>]) -> Result<(), String> {
        let bytes = messages.concat();
        let results = [bytes.len(), 1].map(|size| {
            let mut guard = Guard::new(&Allowed::parse(allowed).unwrap(), "t", false);
            let mut pieces = bytes.chunks(size);
            pieces
                .try_for_each(|piece| guard.look(piece))
                .map_err(|error| error.to_string())
        });
        assert_eq!(results[0], results[1]);
        results[0].clone()
    }

    #[test]
    fn only_what_is_allowed_is_answered() {
        let notice = message(b'N', b"SNOTICE\0\0");
        for (allowed, asked, expected) in [
            (
                "scram-sha-256",
                vec![request(10), request(11), request(12), request(0)],
                None,
            ),
            (
                "scram-sha-256",
                vec![notice, request(3)],
                Some("asks for password"),
            ),
            ("scram-sha-256,md5", vec![request(5), request(0)], None),
            (
                "scram-sha-256",
                vec![request(0)],
                Some("without asking who we are"),
            ),
            ("none", vec![request(0)], None),
            ("none", vec![request(10)], Some("asks for scram-sha-256")),
            ("!password, !md5", vec![request(5)], Some("asks for md5")),
            ("!password,!md5", vec![request(10), request(0)], None),
            ("!none", vec![request(0)], Some("without asking")),
            // What the server says after it let us in is nothing of the guard's.
            ("none", vec![request(0), request(3)], None),
            ("none", vec![message(b'E', b"SFATAL\0\0"), request(3)], None),
        ] {
            let result = judged(allowed, &asked);
            match expected {
                None => assert_eq!(result, Ok(()), "{allowed}"),
                Some(part) => assert!(
                    result.clone().unwrap_err().contains(part),
                    "{allowed}: {result:?}"
                ),
            }
        }
    }

    #[test]
    fn lists_are_checked() {
        for text in ["scram", "md5,", "md5,!none", "md5,md5", "!"] {
            assert!(Allowed::parse(text).is_err(), "{text}");
        }
        let help = Allowed::parse("scram-sha-25").unwrap_err().help();
        assert!(help.contains("did you mean \"scram-sha-256\""), "{help}");
    }
}
