//! A proxy between the program and the server, whose connections can be made to fail in the ways of networks. It listens
//! on TCP and passes on to the server's socket.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long the server gets to finish what it was asked before a connection is cut whose answer is to be lost.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Both sides are hung up on.
    Cut,
    /// What was asked is passed on and done, its answer is not; then both sides are hung up on.
    AnswerLost,
    /// Everything is accepted, and nothing is passed on towards the server any more; nobody is hung up on.
    RequestsVanish,
    /// As that, towards the client.
    AnswersVanish,
    /// As that, both ways.
    AllVanishes,
    /// Each way takes so many milliseconds longer.
    Delayed(u64),
    /// So many bytes a second each way.
    Throttled(u32),
}

/// Which connections a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The one on which the text was seen.
    This,
    /// All that there are.
    AllOpen,
    /// Those that come later, too.
    All,
}

/// A fault that waits for a text to pass on its way to the server, in a session of that name.
#[derive(Debug, Clone)]
pub struct Strike {
    pub text: String,
    pub session: &'static str,
    pub fault: Fault,
    pub whose: Whose,
}

/// How a session that works is called here.
pub const WORKER: &str = "worker";

#[derive(Default)]
struct State {
    strike: Mutex<Option<Strike>>,
    struck: AtomicU32,
    struck_at: Mutex<Option<Instant>>,
    /// For connections that come later.
    general: Mutex<Option<Fault>>,
    open: Mutex<Vec<watch::Sender<Option<Fault>>>>,
}

pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    listener: JoinHandle<()>,
}

impl Proxy {
    /// Towards the server that listens on this socket.
    pub async fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        let listener = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                client.set_nodelay(true).unwrap();
                let (fault, _) = watch::channel(*shared.general.lock().unwrap());
                shared.open.lock().unwrap().push(fault.clone());
                tokio::spawn(connection(client, socket.clone(), fault, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            state,
            listener,
        }
    }

    pub fn url(&self, database: &str, user: &str) -> String {
        format!("postgresql://{user}@{}/{database}", self.address)
    }

    pub fn arm(&self, strike: Strike) {
        *self.state.strike.lock().unwrap() = Some(strike);
    }

    /// How often the strike happened, or did not yet.
    pub fn struck(&self) -> u32 {
        self.state.struck.load(Ordering::Relaxed)
    }

    /// How long ago the last strike was.
    pub fn struck_for(&self) -> Duration {
        let at = *self.state.struck_at.lock().unwrap();
        at.unwrap().elapsed()
    }

    pub fn strike(&self, fault: Fault, whose: Whose) {
        self.state.strike(fault, whose);
    }

    /// Connections that come from now on are good ones.
    pub fn heal(&self) {
        *self.state.general.lock().unwrap() = None;
        *self.state.strike.lock().unwrap() = None;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.state.strike(Fault::Cut, Whose::AllOpen);
    }
}

impl State {
    fn strike(&self, fault: Fault, whose: Whose) {
        if whose == Whose::All {
            *self.general.lock().unwrap() = Some(fault);
        }
        for open in &*self.open.lock().unwrap() {
            open.send_replace(Some(fault));
        }
    }

    /// What passes may be what a strike waits for.
    fn look(&self, bytes: &[u8], session: &str, own: &watch::Sender<Option<Fault>>) {
        let mut armed = self.strike.lock().unwrap();
        let Some(strike) = armed.take_if(|strike| strike.session == session && contains(bytes, &strike.text))
        else {
            return;
        };
        drop(armed);
        self.struck.fetch_add(1, Ordering::Relaxed);
        *self.struck_at.lock().unwrap() = Some(Instant::now());
        if strike.whose == Whose::This {
            own.send_replace(Some(strike.fault));
        } else {
            self.strike(strike.fault, strike.whose);
        }
    }
}

async fn connection(
    client: TcpStream,
    socket: PathBuf,
    fault: watch::Sender<Option<Fault>>,
    state: Arc<State>,
) {
    let Ok(server) = UnixStream::connect(&socket).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = pass(from_client, to_server, &fault, Some(&state));
    let down = pass(from_server, to_client, &fault, None);
    let mut cut = fault.subscribe();
    tokio::select! {
        _ = async { tokio::join!(up, down) } => {}
        () = async {
            // The guard that `wait_for` gives must not live on.
            let reason = cut.wait_for(|fault| matches!(fault, Some(Fault::Cut | Fault::AnswerLost))).await;
            if reason.is_ok_and(|fault| *fault == Some(Fault::AnswerLost)) {
                tokio::time::sleep(ANSWERED_WITHIN).await;
            }
        } => {}
    }
}

/// One way of a connection, `up` the one towards the server. Ends when its source does.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    fault: &watch::Sender<Option<Fault>>,
    up: Option<&State>,
) {
    let mut session = String::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        let bytes = &buffer[..read];
        if let Some(state) = up {
            if session.is_empty() {
                session = name_in(bytes).unwrap_or_default();
            }
            // One that works has the name of one that looks, and this lock.
            if session == "pgmorph" && contains(bytes, "pg_advisory_lock_shared") {
                session = WORKER.to_owned();
            }
            // A request is lost with what makes it lost; an answer is lost although the request was passed on.
            state.look(bytes, &session, fault);
        }
        let fault = *fault.borrow();
        let vanishes = match fault {
            Some(Fault::RequestsVanish) => up.is_some(),
            Some(Fault::AnswersVanish | Fault::AnswerLost) => up.is_none(),
            Some(Fault::AllVanishes | Fault::Cut) => true,
            _ => false,
        };
        match fault {
            Some(Fault::Delayed(ms)) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Some(Fault::Throttled(rate)) => {
                let bytes = u32::try_from(read).unwrap();
                tokio::time::sleep(Duration::from_secs(1) * bytes / rate).await;
            }
            _ => {}
        }
        if !vanishes && to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    // Whoever is half-open hears nothing of the end of the other side either.
    let fault = *fault.borrow();
    match fault {
        Some(Fault::RequestsVanish | Fault::AnswersVanish | Fault::AllVanishes) => {
            std::future::pending::<()>().await;
        }
        _ => {
            let _ = to.shutdown().await;
        }
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

/// `application_name` in a startup packet.
fn name_in(bytes: &[u8]) -> Option<String> {
    let key = b"application_name\0";
    let at = bytes.windows(key.len()).position(|part| part == key)? + key.len();
    let end = bytes[at..].iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&bytes[at..at + end]).into_owned())
}
