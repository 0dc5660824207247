//! A way to a server that takes its time. Only what these tests need of one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

pub struct Proxy {
    port: u16,
    turns: Arc<AtomicU64>,
}

impl Proxy {
    /// To the server with its socket in that directory; each way takes so long.
    pub async fn start(directory: &Path, way: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let turns = Arc::new(AtomicU64::new(0));
        let (socket, counter) = (directory.join(".s.PGSQL.5432"), Arc::clone(&turns));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                client.set_nodelay(true).unwrap();
                tokio::spawn(connection(client, socket.clone(), way, Arc::clone(&counter)));
            }
        });
        Self { port, turns }
    }

    pub fn url(&self, database: &str) -> String {
        let port = self.port;
        format!("postgresql://postgres@127.0.0.1:{port}/{database}?sslmode=disable")
    }

    /// How many times a client spoke after the server had.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }
}

async fn connection(client: tokio::net::TcpStream, socket: PathBuf, way: Duration, turns: Arc<AtomicU64>) {
    let Ok(server) = UnixStream::connect(socket).await else {
        return;
    };
    let answered = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&answered);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = delayed(from_client, to_server, way, move || {
        if asked.swap(false, Ordering::Relaxed) {
            turns.fetch_add(1, Ordering::Relaxed);
        }
    });
    let back = delayed(from_server, to_client, way, move || {
        answered.store(true, Ordering::Relaxed)
    });
    tokio::join!(there, back);
}

/// Passes on what comes, each piece after the same time.
async fn delayed(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Duration,
    seen: impl Fn(),
) {
    let (sender, mut pieces) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reads = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            seen();
            let _ = sender.send((Instant::now() + way, buffer[..read].to_vec()));
        }
    };
    let writes = async move {
        while let Some((at, piece)) = pieces.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reads, writes);
}
