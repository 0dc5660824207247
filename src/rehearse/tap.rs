//! A tap in the line between the executor and the server. The executor runs as it always does; before one of its
//! transactions commits, the tap asks the session, on its own line, what it holds and what it has done.
//!
//! What the executor gets to read is to the byte what it would have read without the tap.

use super::line::{Line, Message, is_request, query, text};
use super::observe::{self, Observation, World};
use super::temporary::Log;
use super::trace::{Evidence, Going, Trace};
use super::watched;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_postgres::Config;

/// The sessions that do the work; the others keep the run lock and look on.
const WORKER: &str = "pgmorph";

const IDLE: u8 = b'I';
const OPEN: u8 = b'T';

/// Listens like the server. Its end is the end of its sessions.
pub struct Tap {
    directory: TempDir,
    port: u16,
    accepting: JoinHandle<()>,
}

struct Shared {
    server: PathBuf,
    trace: Trace,
    /// The server itself, for whoever watches from beside.
    beside: Config,
    /// The server's log, where it tells of temporary files.
    log: Option<PathBuf>,
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Tap {
    /// # Errors
    /// When there is no place for its socket.
    pub fn new(
        socket_directory: &Path,
        port: u16,
        database: &str,
        trace: &Trace,
        log: Option<PathBuf>,
    ) -> io::Result<Self> {
        let directory = TempDir::new()?;
        let name = format!(".s.PGSQL.{port}");
        let listener = UnixListener::bind(directory.path().join(&name))?;
        let mut beside = Config::new();
        beside
            .host_path(socket_directory)
            .port(port)
            .user("postgres")
            .dbname(database)
            .application_name("pgmorph rehearsal");
        let shared = Arc::new(Shared {
            server: socket_directory.join(name),
            trace: trace.clone(),
            beside,
            log,
        });
        let accepting = tokio::spawn(accept(listener, shared));
        Ok(Self {
            directory,
            port,
            accepting,
        })
    }

    pub fn url(&self, database: &str) -> String {
        let host = self.directory.path().display();
        format!("postgresql://postgres@/{database}?host={host}&port={}", self.port)
    }
}

async fn accept(listener: UnixListener, shared: Arc<Shared>) {
    let mut sessions = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        sessions.spawn(async move {
            if let Err(error) = Box::pin(session(client, &shared)).await
                && error.kind() != io::ErrorKind::UnexpectedEof
            {
                tracing::debug!("a session of the rehearsal ended: {error}");
            }
        });
        while sessions.try_join_next().is_some() {}
    }
}

async fn session(client: UnixStream, shared: &Shared) -> io::Result<()> {
    let server = UnixStream::connect(&shared.server).await?;
    let Some((line, application)) = Line::open(client, server).await? else {
        return Ok(());
    };
    let mut session = Session {
        line,
        shared,
        log: shared.log.as_deref().and_then(|path| Log::open(path).ok()),
        statements: HashMap::new(),
        portals: HashMap::new(),
        going: None,
        unseen: application != WORKER,
    };
    loop {
        match session.request().await? {
            Some(request) => Box::pin(session.pass(request)).await?,
            None => return Ok(()),
        }
    }
}

/// What is awaited one answer for.
struct Request {
    messages: Vec<Message>,
    text: String,
    simple: bool,
}

struct Session<'a> {
    line: Line,
    shared: &'a Shared,
    log: Option<Log>,
    statements: HashMap<String, String>,
    portals: HashMap<String, String>,
    /// The open transaction, where it is one that is looked at.
    going: Option<Going>,
    /// Nothing of this session is looked at, or nothing of its open transaction.
    unseen: bool,
}

/// How a text that is not part of an open transaction is looked at.
enum Way {
    Pass,
    /// It begins a transaction.
    Begin,
    /// It is a transaction of its own, and can be one with a beginning and an end.
    Alone,
    /// PostgreSQL refuses it in a transaction.
    Outside,
}

fn way(text: &str) -> Way {
    let upper = text.trim_start().to_ascii_uppercase();
    let starts = |words: &[&str]| words.iter().any(|word| upper.starts_with(word));
    if upper.starts_with("BEGIN") {
        return match upper.starts_with("BEGIN READ ONLY") {
            true => Way::Pass,
            false => Way::Begin,
        };
    }
    let concurrently = upper.contains(" CONCURRENTLY") && !starts(&["REFRESH"]);
    if concurrently
        || starts(&[
            "VACUUM",
            "CLUSTER",
            "REINDEX DATABASE",
            "REINDEX SCHEMA",
            "REINDEX SYSTEM",
        ])
    {
        return Way::Outside;
    }
    let looks = [
        "SELECT", "SET ", "SHOW ", "RESET ", "ROLLBACK", "COMMIT", "DISCARD", "WITH", "DO ",
    ];
    match starts(&looks)
        || upper.contains("PGMORPH.RUNS")
        || upper.contains("PGMORPH.STEPS")
        || upper.is_empty()
    {
        true => Way::Pass,
        false => Way::Alone,
    }
}

/// The text without the COMMIT at its end, if there is one.
fn without_commit(text: &str) -> Option<&str> {
    text.trim_end()
        .strip_suffix("COMMIT")?
        .trim_end()
        .strip_suffix(';')
}

impl Session<'_> {
    async fn request(&mut self) -> io::Result<Option<Request>> {
        let (mut messages, mut texts) = (Vec::new(), Vec::new());
        loop {
            let Some(message) = self.line.next_request().await? else {
                return Ok(None);
            };
            let body = message.body();
            match message.kind() {
                b'Q' => texts.push(text(body).0),
                b'P' => {
                    let (name, rest) = text(body);
                    self.statements.insert(name, text(rest).0);
                }
                b'B' => {
                    let (portal, rest) = text(body);
                    let statement = self.statements.get(&text(rest).0).cloned().unwrap_or_default();
                    self.portals.insert(portal, statement);
                }
                b'E' => texts.extend(self.portals.get(&text(body).0).cloned()),
                _ => {}
            }
            let (ends, simple) = (is_request(message.kind()), message.kind() == b'Q');
            messages.push(message);
            if ends {
                return Ok(Some(Request {
                    messages,
                    text: texts.join("; "),
                    simple,
                }));
            }
        }
    }

    async fn pass(&mut self, request: Request) -> io::Result<()> {
        let Some(step) = self.shared.trace.step().filter(|_| !self.unseen) else {
            return self.plainly(&request).await;
        };
        if self.line.status != IDLE {
            return self.within(request).await;
        }
        match way(&request.text) {
            Way::Pass => self.plainly(&request).await,
            Way::Begin => match self.world().await? {
                Some(world) => {
                    self.going = Some(Going::new(&self.shared.trace, step, world));
                    self.within(request).await
                }
                None => self.plainly(&request).await,
            },
            Way::Alone => self.alone(request, step).await,
            Way::Outside => self.outside(request, step).await,
        }
    }

    async fn plainly(&mut self, request: &Request) -> io::Result<()> {
        self.line.send(&request.messages).await?;
        let ready = self
            .line
            .answer(request.messages.last().map_or(0, Message::kind))
            .await?;
        if self.line.status == IDLE {
            self.going = None;
        }
        self.line.ready(ready).await
    }

    /// Of its temporary files, since this was asked last.
    fn temp_bytes(&mut self) -> Option<u64> {
        self.log.as_mut()?.of_session(self.line.pid)
    }

    async fn world(&mut self) -> io::Result<Option<World>> {
        // What came before is nobody's.
        self.temp_bytes();
        let answer = self.line.ask(&observe::world_sql()).await?;
        Ok(answer.as_deref().and_then(observe::world))
    }

    async fn observation(&mut self) -> io::Result<Option<Observation>> {
        let temp = self.temp_bytes();
        let seen = |answer: Option<String>| {
            let seen = answer.as_deref().and_then(Observation::parse);
            seen.map(|seen| Observation { temp, ..seen })
        };
        let asked = observe::observation_sql();
        if self.line.status != OPEN {
            return Ok(seen(self.line.ask(&asked).await?));
        }
        // The question is not bound by the timeouts of the transaction, and does not end it when it fails.
        let sql = format!("SAVEPOINT pgmorph_rehearsal; SET LOCAL statement_timeout = 0; {asked}");
        let answer = self.line.ask(&sql).await?;
        self.line
            .ask("ROLLBACK TO SAVEPOINT pgmorph_rehearsal; RELEASE SAVEPOINT pgmorph_rehearsal")
            .await?;
        Ok(seen(answer))
    }

    /// One request of a transaction. A COMMIT at its end is held back until the session was asked.
    async fn within(&mut self, request: Request) -> io::Result<()> {
        let began = Instant::now();
        let commits = request.simple.then(|| without_commit(&request.text)).flatten();
        let Some(rest) = commits.map(ToOwned::to_owned) else {
            self.line.send(&request.messages).await?;
            let ready = self
                .line
                .answer(request.messages.last().map_or(0, Message::kind))
                .await?;
            self.look(&request.text, began.elapsed()).await?;
            if self.line.status == IDLE {
                // It was rolled back, or its COMMIT stood alone.
                match self.going.take() {
                    Some(going) if request.text.trim().eq_ignore_ascii_case("COMMIT") => {
                        going.committed(self.temp_bytes());
                    }
                    _ => {}
                }
            }
            return self.line.ready(ready).await;
        };
        self.line.send(&[query(&rest)]).await?;
        let ready = self.line.answer(b'Q').await?;
        if self.line.status != OPEN {
            // It failed, and what comes after a failure is not looked at.
            return self.line.ready(ready).await;
        }
        self.look(&rest, began.elapsed()).await?;
        self.line.send(&[query("COMMIT")]).await?;
        let ready = self.line.answer(b'Q').await?;
        if let Some(going) = self.going.take()
            && !self.line.failed
        {
            going.committed(self.temp_bytes());
        }
        self.line.ready(ready).await
    }

    /// Asks what the transaction has done by now.
    async fn look(&mut self, sql: &str, took: Duration) -> io::Result<()> {
        if self.line.status != OPEN || self.going.is_none() {
            return Ok(());
        }
        let seen = self.observation().await?;
        if let (Some(going), Some(seen)) = (&mut self.going, seen) {
            // A batch is a whole transaction in one text; elsewhere the first one only begins it.
            if going.is_new() && !is_batch(sql) {
                going.begin(&seen);
            } else {
                going.statement(sql, Evidence::Transaction, &seen, took);
            }
        }
        Ok(())
    }

    /// A statement outside of transactions that could stand in one: it does.
    async fn alone(&mut self, request: Request, step: (String, bool)) -> io::Result<()> {
        let Some(world) = self.world().await? else {
            return self.plainly(&request).await;
        };
        self.line.ask("BEGIN").await?;
        let mut going = Going::new(&self.shared.trace, step, world);
        if let Some(seen) = self.observation().await? {
            going.begin(&seen);
        }
        let began = Instant::now();
        self.line.send(&request.messages).await?;
        let mut ready = self
            .line
            .answer(request.messages.last().map_or(0, Message::kind))
            .await?;
        if self.line.status == OPEN {
            if let Some(seen) = self.observation().await? {
                going.statement(&request.text, Evidence::Transaction, &seen, began.elapsed());
            }
            self.line.ask("COMMIT").await?;
            going.committed(self.temp_bytes());
        } else {
            self.line.ask("ROLLBACK").await?;
        }
        if let Some(ready) = &mut ready {
            ready.set_status(IDLE);
        }
        self.line.status = IDLE;
        self.line.ready(ready).await
    }

    async fn outside(&mut self, request: Request, step: (String, bool)) -> io::Result<()> {
        let Some(world) = self.world().await? else {
            return self.plainly(&request).await;
        };
        let mut going = Going::new(&self.shared.trace, step, world);
        if let Some(seen) = self.observation().await? {
            // What the session did earlier may not have been told to the statistics yet: scans are not known here.
            going.begin(&Observation {
                scans: Vec::new(),
                ..seen
            });
        }
        let watch =
            watched::Watch::begin(&self.shared.beside, going.world(), self.line.pid, &request.text).await;
        let watch = match watch {
            Ok(watch) => watch,
            Err(error) => {
                self.shared
                    .trace
                    .note(format!("{}: cannot be watched: {error}", request.text));
                return self.plainly(&request).await;
            }
        };
        let began = Instant::now();
        self.line.send(&request.messages).await?;
        let ready = self
            .line
            .answer(request.messages.last().map_or(0, Message::kind))
            .await?;
        let (took, held) = (began.elapsed(), watch.end().await);
        if !self.line.failed
            && let Some(after) = self.observation().await?
        {
            let seen = Observation {
                scans: Vec::new(),
                ..after
            }
            .with_locks(held);
            going.statement(&request.text, Evidence::Watched, &seen, took);
            going.committed(self.temp_bytes());
        }
        self.line.ready(ready).await
    }
}

/// A batch of a backfill: from BEGIN to COMMIT in one text, which has lost its end here.
fn is_batch(text: &str) -> bool {
    text.starts_with("BEGIN") && text.contains("; /* pgmorph ledger */ SET CONSTRAINTS ALL IMMEDIATE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_told_apart() {
        let is = |text: &str| match way(text) {
            Way::Pass => "pass",
            Way::Begin => "begin",
            Way::Alone => "alone",
            Way::Outside => "outside",
        };
        assert_eq!(is("BEGIN; SET LOCAL lock_timeout = '200ms'"), "begin");
        assert_eq!(is("BEGIN READ ONLY; SET LOCAL statement_timeout = 5"), "pass");
        assert_eq!(is("CREATE INDEX CONCURRENTLY i ON t (a)"), "outside");
        assert_eq!(is("vacuum (truncate off) t"), "outside");
        assert_eq!(is("ALTER TABLE t VALIDATE CONSTRAINT c"), "alone");
        assert_eq!(is("REFRESH MATERIALIZED VIEW CONCURRENTLY m"), "alone");
        assert_eq!(is("SELECT 1"), "pass");
    }

    #[test]
    fn only_a_commit_at_the_end_is_taken_off() {
        assert_eq!(without_commit("UPDATE x; COMMIT"), Some("UPDATE x"));
        assert_eq!(without_commit("COMMIT"), None);
        assert_eq!(without_commit("SELECT 'COMMIT'"), None);
    }
}
