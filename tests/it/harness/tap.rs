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
        let text = self.text.trim_start().to_ascii_uppercase();
        let reads = ["SELECT", "WITH", "SHOW", "SET ", "RESET", "ROLLBACK"]
            .iter()
            .any(|start| text.starts_with(start))
            || (text.starts_with("BEGIN") && text.contains("READ ONLY"));
        let writes = [
            "INSERT ", "UPDATE", "DELETE ", "ADVISORY_LOCK", "COMMIT", "NEXTVAL", "SETVAL", "CREATE ", "ALTER ", "DROP ",
        ];
        reads && !writes.iter().any(|word| text.contains(word))
    }
}

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strike {
    /// The program dies: nothing is passed on from here.
    Death,
    /// This session's line breaks, and the statement has not arrived.
    LostRequest,
    /// This session's line breaks when the statement is done, and its answer has not arrived.
    LostAnswer,
}

#[derive(Default)]
struct State {
    sent: Vec<Sent>,
    /// Those of what was sent that leave something: before each of them, there is a point.
    points: usize,
    wanted: Option<(usize, Strike)>,
    struck: Option<Sent>,
    dead: bool,
}

enum Verdict {
    Pass,
    Break { after: bool },
}

struct Shared {
    /// Held while something is passed on, so that what comes before a point has been passed on when it is reached.
    state: Mutex<State>,
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
        let _ = self.shared.dead.send_replace(true);
    }
}

impl Tap {
    pub fn new(socket_directory: &Path, port: u16) -> Self {
        let directory = TempDir::new().unwrap();
        let name = format!(".s.PGSQL.{port}");
        let listener = UnixListener::bind(directory.path().join(&name)).unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
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

    pub fn url(&self, database: &str, user: &str) -> String {
        let host = self.directory.path().display();
        format!("postgresql://{user}@/{database}?host={host}&port={}", self.port)
    }

    /// Begins to count anew, with a new life, to be struck at this point of it (from 1).
    pub async fn arm(&self, wanted: Option<(usize, Strike)>) {
        *self.shared.state.lock().await = State {
            wanted,
            ..State::default()
        };
        self.shared.dead.send_replace(false);
    }

    /// Returns once the program has died.
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

impl State {
    fn judge(&mut self, sent: Sent) -> Verdict {
        let leaves_something = !sent.leaves_nothing();
        self.points += usize::from(leaves_something);
        let verdict = match self.wanted {
            Some((point, strike)) if leaves_something && self.points == point => {
                self.struck = Some(sent.clone());
                self.dead = strike == Strike::Death;
                Verdict::Break {
                    after: strike == Strike::LostAnswer,
                }
            }
            _ => Verdict::Pass,
        };
        self.sent.push(sent);
        verdict
    }
}

async fn accept(listener: UnixListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut dead = shared.dead.subscribe();
            tokio::select! {
                biased;
                // What is being passed on is passed on first: see `State`.
                _ = dead.wait_for(|dead| *dead) => {}
                _ = session(client, &shared) => {}
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
        if let Verdict::Break { after } = pass_on(go, &mut to, shared, progress).await? {
            if after {
                let expected = *progress.expected.borrow();
                let mut answered = progress.answered.subscribe();
                let _ = answered.wait_for(|answered| *answered >= expected).await;
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
) -> io::Result<Verdict> {
    let mut state = shared.state.lock().await;
    if state.dead {
        return Ok(Verdict::Break { after: false });
    }
    let verdict = go.sent.map_or(Verdict::Pass, |sent| state.judge(sent));
    if let Verdict::Break { after } = verdict {
        progress.lost.send_replace(true);
        if state.dead {
            shared.dead.send_replace(true);
        }
        if !after {
            return Ok(verdict);
        }
    }
    if go.answered {
        progress.expected.send_modify(|expected| *expected += 1);
    }
    to.write_all(&go.bytes).await?;
    Ok(verdict)
}
