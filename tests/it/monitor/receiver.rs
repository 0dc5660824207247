//! A server of HTTP that keeps what is posted to it.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// With this status.
    Answers(u16),
    /// Takes everything and says nothing.
    Silent,
    /// Hangs up at once.
    HangsUp,
    /// Sends elsewhere.
    Redirects,
}

#[derive(Debug, Clone)]
pub struct Posted {
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

impl Posted {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

pub struct Receiver {
    pub port: u16,
    posted: Arc<Mutex<Vec<Posted>>>,
}

impl Receiver {
    pub fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let posted = Arc::<Mutex<Vec<Posted>>>::default();
        let kept = posted.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                std::thread::spawn(move || serve(stream, manner, &kept));
            }
        });
        Self { port, posted }
    }

    pub fn posted(&self) -> Vec<Posted> {
        self.posted.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, manner: Manner, posted: &Mutex<Vec<Posted>>) -> Option<()> {
    if manner == Manner::HangsUp {
        return None;
    }
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut answers = stream;
    // A client may send several on one connection.
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        let path = line.split(' ').nth(1)?.to_owned();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let length = headers
            .iter()
            .find(|(name, _)| name == "content-length")?
            .1
            .parse()
            .ok()?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body = serde_json::from_slice(&body).ok()?;
        posted.lock().unwrap().push(Posted { path, headers, body });
        match manner {
            Manner::Answers(status) => {
                write!(answers, "HTTP/1.1 {status} So\r\nContent-Length: 2\r\n\r\n{{}}").ok()?;
            }
            Manner::Redirects => {
                write!(
                    answers,
                    "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
                )
                .ok()?;
            }
            Manner::Silent => std::thread::sleep(std::time::Duration::from_secs(60)),
            Manner::HangsUp => {}
        }
    }
}
