//! A server that says it is of another release: everything else about it stays what it is.

use crate::harness::TestServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;

pub struct Disguise {
    port: u16,
    acceptor: JoinHandle<()>,
}

impl Drop for Disguise {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

impl Disguise {
    /// In front of the server, with these two digits for the number of its major release.
    pub async fn of(server: &TestServer, major: u32) -> Self {
        let own = server.major().to_string();
        let other = major.to_string();
        assert_eq!(own.len(), other.len(), "what is answered keeps its length");
        let minor = server.version().minor;
        let replacements = [
            // As at the login, and as `SHOW server_version_num`.
            (
                format!("server_version\0{own}."),
                format!("server_version\0{other}."),
            ),
            (format!("{own}{minor:04}"), format!("{other}{minor:04}")),
        ];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = server.socket();
        let acceptor = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&socket).await.unwrap();
                tokio::spawn(pass_on(client, server, replacements.clone()));
            }
        });
        Self { port, acceptor }
    }

    pub fn url(&self, database: &str) -> String {
        format!(
            "postgresql://postgres@127.0.0.1:{}/{database}?sslmode=disable",
            self.port
        )
    }
}

async fn pass_on(client: TcpStream, server: UnixStream, replacements: [(String, String); 2]) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let asked = tokio::spawn(async move {
        let _ = copy(&mut from_client, &mut to_server).await;
    });
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
        let answer = &mut buffer[..read];
        for (from, to) in &replacements {
            replace(answer, from.as_bytes(), to.as_bytes());
        }
        if to_client.write_all(answer).await.is_err() {
            break;
        }
    }
    asked.abort();
}

fn replace(text: &mut [u8], from: &[u8], to: &[u8]) {
    let mut at = 0;
    while at + from.len() <= text.len() {
        if &text[at..at + from.len()] == from {
            text[at..at + from.len()].copy_from_slice(to);
        }
        at += 1;
    }
}
