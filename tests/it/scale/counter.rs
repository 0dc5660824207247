//! Counts what a client asks of the server: a wire between the two that reads along.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;

/// Every message after which a client waits for an answer is one: Query and Sync. What is sent at once, without
/// waiting in between, counts for as many, so that this is never less than the round trips. A Sync after nothing but
/// Close is none: nobody waits for it, and whether a prepared statement is still closed before its session ends is chance.
pub struct Counter {
    asked: Arc<AtomicU64>,
    port: u16,
    wire: JoinHandle<()>,
}

impl Counter {
    /// In front of the server at this socket.
    pub async fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::<AtomicU64>::default();
        let count = Arc::clone(&asked);
        let wire = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (socket, count) = (socket.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    // An end of either side is the end of the wire.
                    let _ = relay(client, &socket, &count).await;
                });
            }
        });
        Self { asked, port, wire }
    }

    pub fn url(&self, database: &str) -> String {
        format!(
            "postgresql://postgres@127.0.0.1:{}/{database}?sslmode=disable",
            self.port
        )
    }

    /// Since the last time this was asked.
    pub fn take(&self) -> u64 {
        self.asked.swap(0, Ordering::SeqCst)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.wire.abort();
    }
}

async fn relay(client: TcpStream, socket: &PathBuf, count: &AtomicU64) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let server = UnixStream::connect(socket).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let mut reader = Reader::default();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = from_client.read(&mut buffer).await?;
            if read == 0 {
                return to_server.shutdown().await;
            }
            count.fetch_add(reader.read(&buffer[..read]), Ordering::SeqCst);
            to_server.write_all(&buffer[..read]).await?;
        }
    };
    let down = tokio::io::copy(&mut from_server, &mut to_client);
    tokio::try_join!(up, async { down.await.map(drop) }).map(drop)
}

/// Follows the messages of one client.
#[derive(Default)]
struct Reader {
    started: bool,
    header: Vec<u8>,
    skip: usize,
    /// Something was sent since the last Sync that has an answer.
    awaits: bool,
}

impl Reader {
    fn read(&mut self, mut bytes: &[u8]) -> u64 {
        let mut asked = 0;
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = if self.started { 5 } else { 4 };
            let taken = (wanted - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.header.len() < wanted {
                continue;
            }
            let length = &self.header[wanted - 4..];
            let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
            self.skip = usize::try_from(length).unwrap() - 4;
            asked += u64::from(self.started && self.is_asked(self.header[0]));
            // Without TLS the first message is the startup.
            self.started = true;
            self.header.clear();
        }
        asked
    }
    fn is_asked(&mut self, message: u8) -> bool {
        match message {
            b'Q' => true,
            b'S' => std::mem::take(&mut self.awaits),
            b'C' | b'X' => false,
            _ => {
                self.awaits = true;
                false
            }
        }
    }
}
