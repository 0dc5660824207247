//! A tap in the line between the program and the server. It counts what the program sends, statement by statement over
//! all of its sessions, and can strike at exactly one of them.
//!
//! A program acts upon the world by what it sends alone. If nothing is passed on from some statement on, and all lines
//! are cut, then the server has seen a program that died there, to the statement: no code of the program has to take
//! part, and none can be forgotten.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

/// What the program sent in one go and awaits one answer for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// `application_name` of the session.
    pub session: String,
    pub text: String,
}

impl Sent {
    /// Whether a program that dies before it leaves the same behind as one that dies after it: it only reads, or
    /// changes what ends with its session.
    pub fn leaves_nothing(&self) -> bool {
        let text = self.text.to_ascii_uppercase();
        let mut parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
        parts.all(only_reads)
    }
}

/// When in doubt, no: that makes one point more.
fn only_reads(statement: &str) -> bool {
    let statement = match statement.split_once("*/") {
        Some((comment, rest)) if comment.starts_with("/*") => rest.trim_start(),
        _ => statement,
    };
    let starts = [
        "SELECT",
        "WITH",
        "SHOW ",
        "SET ",
        "RESET ",
        "ROLLBACK",
        "CLOSE ",
        "UNLISTEN ",
        "DISCARD ",
    ];
    let writes = [
        "INSERT INTO",
        "DELETE FROM",
        "UPDATE ONLY",
        "FOR UPDATE",
        "FOR NO KEY UPDATE",
        "FOR SHARE",
        "FOR KEY SHARE",
        "ADVISORY_LOCK",
        "NEXTVAL(",
        "SETVAL(",
    ];
    let reads = starts.iter().any(|start| statement.starts_with(start))
        || (statement.starts_with("BEGIN") && statement.contains("READ ONLY"));
    reads && !writes.iter().any(|word| statement.contains(word))
}

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stroke {
    /// The program dies: nothing is passed on from here, and all lines are cut.
    Death,
    /// As [`Stroke::Death`], but the statement has been passed on, and the server is at work.
    DeathAtWork,
    /// Nothing is passed on from here, and the lines stay: for a program that is killed then.
    Halt,
    /// This session's line breaks, and the statement has not arrived.
    LostRequest,
    /// This session's line breaks while the server is at work.
    LostLine,
    /// This session's line breaks when the statement is done, and its answer has not arrived.
    LostAnswer,
}

#[derive(Default)]
struct State {
    sent: Vec<Sent>,
    /// Those of what was sent that leave something: before each of them, there is a point.
    points: usize,
    wanted: Option<(usize, Stroke)>,
    struck: Option<Sent>,
    dead: bool,
}

impl Stroke {
    fn is_death(self) -> bool {
        matches!(self, Self::Death | Self::DeathAtWork | Self::Halt)
    }

    fn passes_on(self) -> bool {
        matches!(self, Self::DeathAtWork | Self::LostLine | Self::LostAnswer)
    }
}

struct Shared {
    /// Held while something is passed on, so that what comes before a point has been passed on when it is reached.
    state: Mutex<State>,
    /// Whose end is the end of its sessions.
    life: watch::Sender<u64>,
    dead: watch::Sender<bool>,
    server: PathBuf,
}

/// Listens like the server.
pub struct Tap {
    directory: TempDir,
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.end_of_life();
    }
}

impl Tap {
    pub fn new(socket_directory: &Path, port: u16) -> Self {
        let directory = TempDir::new().unwrap();
        let name = format!(".s.PGSQL.{port}");
        let listener = UnixListener::bind(directory.path().join(&name)).unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            life: watch::Sender::new(0),
            dead: watch::Sender::new(false),
            server: socket_directory.join(name),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            directory,
            port,
            shared,
            accepting,
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join(format!(".s.PGSQL.{}", self.port))
    }

    pub fn url(&self, database: &str, user: &str) -> String {
        let host = self.directory.path().display();
        format!("postgresql://{user}@/{database}?host={host}&port={}", self.port)
    }

    /// Begins to count anew, with a new life, to be struck at this point of it (from 1).
    pub async fn arm(&self, wanted: Option<(usize, Stroke)>) {
        let mut state = self.shared.state.lock().await;
        self.shared.end_of_life();
        *state = State {
            wanted,
            ..State::default()
        };
        self.shared.dead.send_replace(false);
    }

    /// Returns once the program is dead, or is to be killed.
    pub async fn death(&self) {
        let mut dead = self.shared.dead.subscribe();
        dead.wait_for(|dead| *dead).await.unwrap();
    }

    /// What was sent since it was armed.
    pub async fn sent(&self) -> Vec<Sent> {
        self.shared.state.lock().await.sent.clone()
    }

    pub async fn points(&self) -> usize {
        self.shared.state.lock().await.points
    }

    /// The statement that was struck, if it came to that.
    pub async fn struck(&self) -> Option<Sent> {
        self.shared.state.lock().await.struck.clone()
    }
}

impl Shared {
    fn end_of_life(&self) {
        self.life.send_modify(|life| *life += 1);
    }
}

impl State {
    fn judge(&mut self, sent: Sent) -> Option<Stroke> {
        let leaves_something = !sent.leaves_nothing();
        self.points += usize::from(leaves_something);
        let here = |(point, _): &(usize, Stroke)| leaves_something && self.points == *point;
        let strike = self.wanted.filter(here).map(|(_, strike)| strike);
        if let Some(strike) = strike {
            self.struck = Some(sent.clone());
            self.dead = strike.is_death();
        }
        self.sent.push(sent);
        strike
    }
}

async fn accept(listener: UnixListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut life = shared.life.subscribe();
            if !*shared.dead.borrow() {
                tokio::select! {
                    biased;
                    _ = life.changed() => {}
                    _ = session(client, &shared) => {}
                }
            }
        });
    }
}

/// How far the server is with one session.
struct Progress {
    /// So many answers are awaited from the beginning.
    expected: watch::Sender<u64>,
    answered: watch::Sender<u64>,
    /// Answers are no longer passed on.
    lost: watch::Sender<bool>,
}

async fn session(client: UnixStream, shared: &Shared) -> io::Result<()> {
    let server = UnixStream::connect(&shared.server).await?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let progress = Progress {
        expected: watch::Sender::new(1),
        answered: watch::Sender::new(0),
        lost: watch::Sender::new(false),
    };
    tokio::select! {
        result = requests(from_client, to_server, shared, &progress) => result,
        result = answers(from_server, to_client, &progress) => result,
    }
}

/// A message with its type and length in front.
async fn message(from: &mut OwnedReadHalf) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    from.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let mut whole = head.to_vec();
    whole.resize(1 + length, 0);
    from.read_exact(&mut whole[5..]).await?;
    Ok((head[0], whole))
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, progress: &Progress) -> io::Result<()> {
    loop {
        let (kind, whole) = message(&mut from).await?;
        if !*progress.lost.borrow() {
            to.write_all(&whole).await?;
        }
        if kind == b'Z' {
            progress.answered.send_modify(|answered| *answered += 1);
        }
    }
}

fn text(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let rest = bytes.get(end + 1..).unwrap_or_default();
    (String::from_utf8_lossy(&bytes[..end]).into_owned(), rest)
}

/// The first message of a session has no type. Gives its `application_name`.
async fn startup(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> io::Result<String> {
    let mut head = [0; 4];
    from.read_exact(&mut head).await?;
    let mut whole = head.to_vec();
    whole.resize(u32::from_be_bytes(head) as usize, 0);
    from.read_exact(&mut whole[4..]).await?;
    to.write_all(&whole).await?;
    let mut words = Vec::new();
    let mut rest = whole.get(8..).unwrap_or_default();
    while !rest.is_empty() {
        let (word, after) = text(rest);
        words.push(word);
        rest = after;
    }
    let name = words.chunks(2).find(|pair| pair[0] == "application_name");
    Ok(name.and_then(|pair| pair.get(1).cloned()).unwrap_or_default())
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    progress: &Progress,
) -> io::Result<()> {
    let session = startup(&mut from, &mut to).await?;
    let mut statements: HashMap<String, String> = HashMap::new();
    let mut portals: HashMap<String, String> = HashMap::new();
    let (mut gathered, mut texts) = (Vec::new(), Vec::new());
    loop {
        let (kind, whole) = message(&mut from).await?;
        let body = &whole[5..];
        match kind {
            b'Q' => texts.push(text(body).0),
            b'P' => {
                let (name, rest) = text(body);
                statements.insert(name, text(rest).0);
            }
            b'B' => {
                let (portal, rest) = text(body);
                let statement = statements.get(&text(rest).0).cloned().unwrap_or_default();
                portals.insert(portal, statement);
            }
            b'E' => texts.extend(portals.get(&text(body).0).cloned()),
            _ => {}
        }
        gathered.extend(whole);
        if !matches!(kind, b'Q' | b'S' | b'X' | b'p') {
            continue;
        }
        let sent = std::mem::take(&mut texts).join("; ");
        let go = Go {
            bytes: std::mem::take(&mut gathered),
            answered: matches!(kind, b'Q' | b'S'),
            sent: (!sent.is_empty()).then(|| Sent {
                session: session.clone(),
                text: sent,
            }),
        };
        if let Some(strike) = pass_on(go, &mut to, shared, progress).await? {
            if strike == Stroke::LostAnswer {
                let expected = *progress.expected.borrow();
                let mut answered = progress.answered.subscribe();
                let _ = answered.wait_for(|answered| *answered >= expected).await;
            }
            if *shared.dead.borrow() {
                // The end of its life ends it.
                std::future::pending::<()>().await;
            }
            return Ok(());
        }
    }
}

struct Go {
    bytes: Vec<u8>,
    answered: bool,
    sent: Option<Sent>,
}

async fn pass_on(
    go: Go,
    to: &mut OwnedWriteHalf,
    shared: &Shared,
    progress: &Progress,
) -> io::Result<Option<Stroke>> {
    let mut state = shared.state.lock().await;
    if state.dead {
        return Ok(Some(Stroke::Death));
    }
    let strike = go.sent.and_then(|sent| state.judge(sent));
    if strike.is_some() {
        progress.lost.send_replace(true);
    }
    if strike.is_none_or(Stroke::passes_on) {
        if go.answered {
            progress.expected.send_modify(|expected| *expected += 1);
        }
        to.write_all(&go.bytes).await?;
    }
    if state.dead {
        shared.dead.send_replace(true);
        if strike != Some(Stroke::Halt) {
            shared.end_of_life();
        }
    }
    Ok(strike)
}
