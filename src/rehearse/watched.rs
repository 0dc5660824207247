//! What a statement locks that PostgreSQL refuses in a transaction: such a one cannot be held back before its end.
//!
//! So every table is held by a session of ours, first in ACCESS EXCLUSIVE mode: the statement has to ask for each that it
//! wants, which `pg_locks` shows, and then gets it. From then on the table is held in SHARE ROW EXCLUSIVE mode, which lets
//! readers through, and when that is asked for too, in ROW EXCLUSIVE mode, which lets writers through: a stronger mode, or
//! a wait for writers, shows the same way. `pg_locks` is read all the while.

use super::observe::{OF_ANOTHER, World, mode_of};
use crate::plan::LockMode;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls};

/// More tables are not held at once; they are still looked at.
const TABLES_MAX: usize = 40;
/// After so long, nothing is held any more, whatever it is that the statement waits for.
const PATIENCE: Duration = Duration::from_secs(30);
const EVERY: Duration = Duration::from_micros(200);

/// Modes taken one after the other on top of ROW EXCLUSIVE, each behind a savepoint of its own.
const STAGES: [&str; 2] = ["SHARE ROW EXCLUSIVE", "ACCESS EXCLUSIVE"];

pub type Held = BTreeMap<u32, LockMode>;
type Result<T> = std::result::Result<T, tokio_postgres::Error>;

/// A session that holds one table.
struct Holder {
    table: u32,
    session: Client,
    /// The savepoint to go back to next, from the last of [`STAGES`] on; none when it is the transaction.
    stage: usize,
    open: bool,
}

pub struct Watch {
    stop: oneshot::Sender<()>,
    watching: JoinHandle<Held>,
}

async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

impl Watch {
    /// Holds the tables; the statement of the session with this process id may be sent then. One that would rather do
    /// nothing than wait is only looked at.
    pub async fn begin(config: &Config, world: &World, pid: i32, sql: &str) -> Result<Self> {
        let waits = !sql.to_ascii_uppercase().contains("SKIP_LOCKED");
        let tables = world
            .iter()
            .filter(|(_, it)| waits && matches!(it.kind, 'r' | 'p'));
        let mut holders = Vec::new();
        for (table, relation) in tables.take(TABLES_MAX) {
            let session = connect(config).await?;
            let name = &relation.name;
            session
                .batch_execute(&format!(
                    "BEGIN; SET LOCAL lock_timeout = '1s'; LOCK TABLE ONLY {name} IN ROW EXCLUSIVE MODE; SAVEPOINT s0; \
                     LOCK TABLE ONLY {name} IN {} MODE; SAVEPOINT s1; LOCK TABLE ONLY {name} IN {} MODE",
                    STAGES[0], STAGES[1]
                ))
                .await?;
            holders.push(Holder {
                table: *table,
                session,
                stage: STAGES.len(),
                open: true,
            });
        }
        let observer = connect(config).await?;
        let (stop, stopped) = oneshot::channel();
        let watching = tokio::spawn(watch(observer, holders, pid, stopped));
        Ok(Self { stop, watching })
    }

    /// The statement is done.
    pub async fn end(self) -> Held {
        let _ = self.stop.send(());
        self.watching.await.unwrap_or_default()
    }
}

/// What `pg_locks` shows of the statement at one moment.
#[derive(Default)]
struct Look {
    locks: Vec<(u32, LockMode)>,
    /// The tables that it waits for, and whether it waits for something else.
    wanted: Vec<u32>,
    waits: bool,
}

async fn look(observer: &Client, pid: i32) -> Result<Look> {
    let mut look = Look::default();
    for row in observer.query(OF_ANOTHER, &[&pid]).await? {
        let (kind, granted): (String, bool) = (row.get(0), row.get(3));
        let relation = row
            .get::<_, Option<i64>>(1)
            .and_then(|oid| u32::try_from(oid).ok());
        match (kind.as_str(), relation) {
            ("relation", Some(relation)) => {
                look.locks
                    .extend(mode_of(row.get(2)).map(|mode| (relation, mode)));
                look.wanted.extend((!granted).then_some(relation));
            }
            _ => look.waits |= !granted,
        }
    }
    Ok(look)
}

impl Holder {
    /// Lets go of what it holds, by one degree.
    async fn let_go(&mut self) {
        let Some(stage) = self.stage.checked_sub(1) else {
            return self.end().await;
        };
        self.stage = stage;
        let sql = format!("ROLLBACK TO SAVEPOINT s{stage}");
        let _ = self.session.batch_execute(&sql).await;
    }

    async fn end(&mut self) {
        if self.open {
            let _ = self.session.batch_execute("ROLLBACK").await;
            self.open = false;
        }
    }
}

async fn watch(
    observer: Client,
    mut holders: Vec<Holder>,
    pid: i32,
    mut stopped: oneshot::Receiver<()>,
) -> Held {
    let began = Instant::now();
    let mut held = Held::new();
    while stopped.try_recv().is_err() {
        let Ok(look) = look(&observer, pid).await else {
            break;
        };
        for (relation, mode) in look.locks {
            let strongest = held.entry(relation).or_insert(mode);
            *strongest = mode.max(*strongest);
        }
        let patient = began.elapsed() < PATIENCE;
        for holder in holders.iter_mut().filter(|holder| holder.open) {
            let in_the_way =
                look.wanted.contains(&holder.table) || (look.waits && holder.stage < STAGES.len());
            if !patient {
                holder.end().await;
            } else if in_the_way {
                holder.let_go().await;
            }
        }
        tokio::time::sleep(EVERY).await;
    }
    for holder in &mut holders {
        holder.end().await;
    }
    held
}
