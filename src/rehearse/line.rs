//! One session's line: messages of the frontend/backend protocol, version 3, and questions of our own between them.

use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Asks the server to cancel what another session does; has no answer.
const CANCEL_REQUEST: u32 = 80_877_102;

/// With its type and length in front.
#[derive(Debug)]
pub struct Message(Vec<u8>);

impl Message {
    pub fn kind(&self) -> u8 {
        self.0.first().copied().unwrap_or_default()
    }

    pub fn body(&self) -> &[u8] {
        self.0.get(5..).unwrap_or_default()
    }

    /// Of a ReadyForQuery.
    pub fn set_status(&mut self, status: u8) {
        if let Some(byte) = self.0.get_mut(5) {
            *byte = status;
        }
    }

    async fn read(from: &mut OwnedReadHalf) -> io::Result<Self> {
        let mut head = [0; 5];
        from.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut whole = head.to_vec();
        whole.resize(1 + length.max(4), 0);
        from.read_exact(&mut whole[5..]).await?;
        Ok(Self(whole))
    }
}

/// A simple query.
pub fn query(sql: &str) -> Message {
    let length = u32::try_from(sql.len() + 5).unwrap_or(u32::MAX);
    let mut bytes = vec![b'Q'];
    bytes.extend(length.to_be_bytes());
    bytes.extend(sql.as_bytes());
    bytes.push(0);
    Message(bytes)
}

/// Whether the server answers now: Query, Sync; or whether it is the end.
pub fn is_request(kind: u8) -> bool {
    matches!(kind, b'Q' | b'S' | b'X')
}

/// The text up to the first zero byte, and what comes after it.
pub fn text(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let rest = bytes.get(end + 1..).unwrap_or_default();
    (String::from_utf8_lossy(&bytes[..end]).into_owned(), rest)
}

fn reader(mut from: OwnedReadHalf) -> UnboundedReceiver<Message> {
    let (sender, receiver) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok(message) = Message::read(&mut from).await {
            if sender.send(message).is_err() {
                break;
            }
        }
    });
    receiver
}

pub struct Line {
    client: UnboundedReceiver<Message>,
    server: UnboundedReceiver<Message>,
    to_client: OwnedWriteHalf,
    to_server: OwnedWriteHalf,
    /// Of the session at the server.
    pub pid: i32,
    /// As in the last ReadyForQuery: `I` outside of transactions, `T` in one, `E` in one that has failed.
    pub status: u8,
    /// Whether the last request met an error.
    pub failed: bool,
}

fn ended() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

impl Line {
    /// Passes on what is said in the beginning. Gives the `application_name` too; nothing where it was no session.
    pub async fn open(client: UnixStream, server: UnixStream) -> io::Result<Option<(Self, String)>> {
        let (mut from_client, to_client) = client.into_split();
        let (from_server, mut to_server) = server.into_split();
        let mut head = [0; 4];
        from_client.read_exact(&mut head).await?;
        let mut whole = head.to_vec();
        whole.resize((u32::from_be_bytes(head) as usize).max(8), 0);
        from_client.read_exact(&mut whole[4..]).await?;
        to_server.write_all(&whole).await?;
        if whole[4..8] == CANCEL_REQUEST.to_be_bytes() {
            return Ok(None);
        }
        let mut words = Vec::new();
        let mut rest = whole.get(8..).unwrap_or_default();
        while !rest.is_empty() {
            let (word, after) = text(rest);
            words.push(word);
            rest = after;
        }
        let name = words.chunks(2).find(|pair| pair[0] == "application_name");
        let name = name.and_then(|pair| pair.get(1).cloned()).unwrap_or_default();
        let mut line = Self {
            client: reader(from_client),
            server: reader(from_server),
            to_client,
            to_server,
            pid: 0,
            status: b'I',
            failed: false,
        };
        let ready = line.answer(b'S').await?;
        line.ready(ready).await?;
        Ok(Some((line, name)))
    }

    /// The next message of the client; what the server says meanwhile is passed on. Nothing at the end.
    pub async fn next_request(&mut self) -> io::Result<Option<Message>> {
        loop {
            tokio::select! {
                message = self.client.recv() => return Ok(message),
                message = self.server.recv() => {
                    let Some(Message(bytes)) = message else { return Ok(None) };
                    self.to_client.write_all(&bytes).await?;
                }
            }
        }
    }

    pub async fn send(&mut self, messages: &[Message]) -> io::Result<()> {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| &message.0).copied().collect();
        self.to_server.write_all(&bytes).await
    }

    /// Passes on the answer, all but the ReadyForQuery at its end, which it gives. A client that ends gets none.
    pub async fn answer(&mut self, request: u8) -> io::Result<Option<Message>> {
        self.failed = false;
        if request == b'X' {
            return Ok(None);
        }
        loop {
            let message = self.server.recv().await.ok_or_else(ended)?;
            match message.kind() {
                b'Z' => {
                    self.status = message.body().first().copied().unwrap_or_default();
                    return Ok(Some(message));
                }
                b'K' => {
                    let pid = message.body().first_chunk().copied().unwrap_or_default();
                    self.pid = i32::from_be_bytes(pid);
                }
                b'E' => self.failed = true,
                _ => {}
            }
            self.to_client.write_all(&message.0).await?;
        }
    }

    /// Tells the client that the answer is complete.
    pub async fn ready(&mut self, ready: Option<Message>) -> io::Result<()> {
        match ready {
            Some(Message(bytes)) => self.to_client.write_all(&bytes).await,
            None => Ok(()),
        }
    }

    /// Asks the server something of which the client learns nothing. Gives the first column of the first row.
    pub async fn ask(&mut self, sql: &str) -> io::Result<Option<String>> {
        self.send(&[query(sql)]).await?;
        let mut answer = None;
        loop {
            let message = self.server.recv().await.ok_or_else(ended)?;
            match message.kind() {
                b'Z' => {
                    self.status = message.body().first().copied().unwrap_or_default();
                    return Ok(answer);
                }
                b'D' if answer.is_none() => answer = first_column(message.body()),
                b'E' => {
                    tracing::debug!(
                        "the tap's question failed: {}",
                        String::from_utf8_lossy(message.body())
                    );
                }
                _ => {}
            }
        }
    }
}

fn first_column(row: &[u8]) -> Option<String> {
    let length = i32::from_be_bytes(*row.get(2..)?.first_chunk()?);
    let length = usize::try_from(length).ok()?;
    let bytes = row.get(6..6 + length)?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_apart() {
        let message = query("SELECT 1");
        assert_eq!(
            (message.kind(), text(message.body()).0.as_str()),
            (b'Q', "SELECT 1")
        );
        let row = [&[0, 1, 0, 0, 0, 2][..], b"[]"].concat();
        assert_eq!(first_column(&row).as_deref(), Some("[]"));
        assert_eq!(first_column(&[0, 1, 255, 255, 255, 255]), None);
    }
}
