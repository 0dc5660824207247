//! The way to one server process, before anything is said on it: TCP, or a Unix socket with a file or an abstract name.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::Keepalives;
use super::connect::Address;

/// What is asked of a TCP connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct TcpOptions {
    pub(super) keepalives: Option<Keepalives>,
    pub(super) user_timeout: Option<Duration>,
}

pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(super) async fn open(address: &Address, options: TcpOptions) -> io::Result<Self> {
        match address {
            Address::Tcp { address, port, .. } => {
                let stream = TcpStream::connect((*address, *port)).await?;
                options.put_on(&stream)?;
                Ok(Self::Tcp(stream))
            }
            Address::Unix { directory, port } => {
                let path = directory.join(format!(".s.PGSQL.{port}"));
                Ok(Self::Unix(match path.as_os_str().as_bytes().strip_prefix(b"@") {
                    None => UnixStream::connect(&path).await?,
                    // Without a file there is no queue to wait in either: connecting does not block.
                    Some(name) => {
                        let stream = connect_abstract(name)?;
                        stream.set_nonblocking(true)?;
                        UnixStream::from_std(stream)?
                    }
                }))
            }
        }
    }

    /// The operating system's name of whoever listens on a Unix socket; `None` for TCP.
    pub(super) fn peer(&self) -> Option<io::Result<String>> {
        let Self::Unix(stream) = self else { return None };
        Some(stream.peer_cred().and_then(|peer| user_name(peer.uid())))
    }
}

impl TcpOptions {
    fn put_on(self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        if let Some(keepalives) = self.keepalives {
            let wanted = TcpKeepalive::new()
                .with_time(keepalives.idle)
                .with_interval(keepalives.interval)
                .with_retries(keepalives.count);
            socket.set_tcp_keepalive(&wanted)?;
        }
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(self.user_timeout)?;
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn connect_abstract(name: &[u8]) -> io::Result<StdUnixStream> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::SocketAddr;
    StdUnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)
}

#[cfg(not(target_os = "linux"))]
fn connect_abstract(_: &[u8]) -> io::Result<StdUnixStream> {
    Err(io::Error::other("only Linux has abstract socket names"))
}

fn user_name(uid: u32) -> io::Result<String> {
    let accounts = fs::read_to_string("/etc/passwd")?;
    let uid = uid.to_string();
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    name.ok_or_else(|| io::Error::other(format!("user id {uid} has no name in /etc/passwd")))
}

/// As in libpq: a host that begins so is the directory of a socket, or its abstract name.
pub(super) fn is_unix(host: &str) -> bool {
    host.starts_with(['/', '@'])
}

/// Where a server of that port listens under one of the usual directories, or else the first that is there.
pub(super) fn usual_directory(port: u16) -> Option<PathBuf> {
    let directories = || super::SOCKET_DIRECTORIES.iter().map(Path::new);
    directories()
        .find(|directory| directory.join(format!(".s.PGSQL.{port}")).exists())
        .or_else(|| directories().find(|directory| directory.is_dir()))
        .map(Path::to_owned)
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[tokio::test]
    async fn a_connection_gets_what_was_asked_of_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let address = Address::Tcp {
            name: "localhost".into(),
            address: local.ip(),
            port: local.port(),
        };
        let options = TcpOptions {
            keepalives: Some(Keepalives {
                idle: Duration::from_secs(33),
                interval: Duration::from_secs(7),
                count: 4,
            }),
            user_timeout: Some(Duration::from_millis(12_345)),
        };
        let Socket::Tcp(stream) = Socket::open(&address, options).await.unwrap() else {
            panic!("no TCP");
        };
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
        let times = (
            socket.tcp_keepalive_time().unwrap().as_secs(),
            socket.tcp_keepalive_interval().unwrap().as_secs(),
            socket.tcp_keepalive_retries().unwrap(),
        );
        assert_eq!(times, (33, 7, 4));
        assert_eq!(socket.tcp_user_timeout().unwrap(), options.user_timeout);
        let none = TcpOptions {
            keepalives: None,
            user_timeout: None,
        };
        let Socket::Tcp(stream) = Socket::open(&address, none).await.unwrap() else {
            panic!("no TCP");
        };
        assert!(!SockRef::from(&stream).keepalive().unwrap());
    }
}
