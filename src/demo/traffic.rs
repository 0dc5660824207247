//! The application: a few connections that read, insert, update and delete all the time, each as fast as its share of
//! the load asks for, and that write down what they were told.

use super::account::Writes;
use super::felt::Sample;
use super::stage::panicked;
use super::statements::{Kind, Prepared, TABLES};
use crate::error::{Error, ErrorKind};
use crate::postgres::settings::{ConnectionSettings, Session};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

const NAME: &str = "portfolio-api";
/// Connections that serve requests, and requests in a second of all of them.
pub const CONNECTIONS: u32 = 6;
pub const REQUESTS_PER_SECOND: u32 = 200;
/// One more connection shows a dashboard: a transaction that stays open while somebody looks.
const DASHBOARD_EVERY: Duration = Duration::from_secs(5);
const DASHBOARD_LOOKS: Duration = Duration::from_millis(300);
/// Rows that all connections update.
const SHARED_ROWS: i64 = 2_000;
const RECONNECT_AFTER: Duration = Duration::from_millis(100);
const FAILURES_KEPT: usize = 20;

/// What the application wrote down.
#[derive(Default)]
pub struct Record {
    pub samples: Vec<Sample>,
    pub writes: [Writes; 3],
    pub failed: u64,
    /// The first of them.
    pub failures: Vec<Failure>,
}

/// A statement that ended with an error.
pub struct Failure {
    pub sample: Sample,
    pub sqlstate: Option<String>,
    pub message: String,
}

impl Record {
    fn add(&mut self, other: Self) {
        self.samples.extend(other.samples);
        for (sum, more) in self.writes.iter_mut().zip(&other.writes) {
            sum.add(more);
        }
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.failures.sort_by_key(|failure| failure.sample.began);
        self.failures.truncate(FAILURES_KEPT);
    }
}

/// Running traffic; it ends when this is dropped.
pub struct Traffic {
    stop: watch::Sender<bool>,
    clients: JoinSet<Record>,
}

impl Traffic {
    /// Connects and begins.
    ///
    /// # Errors
    /// When a connection cannot be opened, or a statement cannot be prepared.
    pub async fn start(settings: &ConnectionSettings) -> Result<Self, Error> {
        let rows = Arc::new(shared_rows(settings).await?);
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for number in 0..=CONNECTIONS {
            let client = Client::connect(settings, number, rows.clone()).await?;
            clients.spawn(client.run(stopped.clone()));
        }
        Ok(Self { stop, clients })
    }

    /// Lets every request come to its end, and gives what was written down.
    ///
    /// # Errors
    /// When a connection's task panicked.
    pub async fn stop(mut self) -> Result<Record, Error> {
        // Nobody listens only when all have ended.
        let _ = self.stop.send(true);
        let mut record = Record::default();
        while let Some(ended) = self.clients.join_next().await {
            record.add(ended.map_err(panicked)?);
        }
        Ok(record)
    }
}

type Rows = [Vec<String>; 3];

async fn shared_rows(settings: &ConnectionSettings) -> Result<Rows, Error> {
    let client = settings.connect(NAME).await?.client;
    let mut rows = Rows::default();
    for (ids, table) in rows.iter_mut().zip(&TABLES) {
        let sql = format!("SELECT id::text FROM {} ORDER BY random() LIMIT $1", table.name);
        let found = client.query(&sql, &[&SHARED_ROWS]).await.map_err(cannot_start)?;
        ids.extend(found.iter().map(|row| row.get::<_, String>(0)));
    }
    Ok(rows)
}

fn cannot_start(error: tokio_postgres::Error) -> Error {
    Error::postgres(ErrorKind::StepFailed, "starting the application", error)
}

/// One connection of the application.
struct Client {
    settings: ConnectionSettings,
    number: u32,
    session: Session,
    prepared: Vec<Prepared>,
    shared: Arc<Rows>,
    /// Rows that this connection inserted and may delete.
    own: [VecDeque<String>; 3],
    /// Makes keys.
    serial: u64,
    /// Writes of the open transaction, which count when it is committed.
    pending: Option<[Writes; 3]>,
    record: Record,
}

/// A statement failed; it is written down.
struct Failed;

type Requested<T = ()> = Result<T, Failed>;

impl Client {
    async fn connect(settings: &ConnectionSettings, number: u32, shared: Arc<Rows>) -> Result<Self, Error> {
        let (session, prepared) = connect(settings).await?;
        Ok(Self {
            settings: settings.clone(),
            number,
            session,
            prepared,
            shared,
            own: Default::default(),
            serial: 0,
            pending: None,
            record: Record::default(),
        })
    }

    async fn run(mut self, mut stopped: watch::Receiver<bool>) -> Record {
        let is_dashboard = self.number == CONNECTIONS;
        let pause = if is_dashboard {
            DASHBOARD_EVERY
        } else {
            Duration::from_secs(1) * CONNECTIONS / REQUESTS_PER_SECOND
        };
        // One after the other, not all in the same instant.
        let first = tokio::time::Instant::now() + pause * self.number / CONNECTIONS;
        let mut ticks = interval_at(first, pause);
        // The users do not go away while the application waits: what was held up is sent afterwards.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => return self.record,
                _ = ticks.tick() => {}
            }
            let done = if is_dashboard {
                self.dashboard().await
            } else {
                self.request().await
            };
            if let Err(Failed) = done {
                self.recover().await;
            }
        }
    }

    async fn request(&mut self) -> Requested {
        let table = rand::random_range(0..TABLES.len());
        match rand::random_range(0..100) {
            0..35 => self.change(table).await,
            35..50 => self.insert(table, false).await,
            50..65 => self.insert(table, true).await,
            65..77 => self.delete(table).await,
            77..92 => self.pages(table).await,
            _ => self.insert_together().await,
        }
    }

    /// Reads a row's version and writes the row, if it is still of that version.
    async fn change(&mut self, table: usize) -> Requested {
        let shared = self.shared.clone();
        let id = &shared[table][rand::random_range(0..shared[table].len())];
        for _ in 0..3 {
            let read = self.send(Kind::ReadVersion, table, &[id]).await?;
            let Some(version) = read.first().map(|row| row.get::<_, i64>(0)) else {
                return Ok(());
            };
            let updated = self.send(Kind::Update, table, &[id, &version]).await?;
            if !updated.is_empty() {
                self.book(table, Writes::updated);
                break;
            }
        }
        Ok(())
    }

    async fn insert(&mut self, table: usize, with_key: bool) -> Requested {
        let key = with_key.then(|| self.key());
        let parent = self.insert_one(table, key.as_deref()).await?;
        if with_key && rand::random_range(0..4) == 0 {
            // The network lost the answer, and the same request comes again.
            self.insert_of(table, parent, key.as_deref()).await?;
        }
        Ok(())
    }

    async fn insert_one(&mut self, table: usize, key: Option<&str>) -> Requested<i64> {
        let parent = rand::random_range(0..TABLES[table].parents);
        if let Some(id) = self.insert_of(table, parent, key).await? {
            self.own[table].push_back(id);
        }
        Ok(parent)
    }

    async fn insert_of(&mut self, table: usize, parent: i64, key: Option<&str>) -> Requested<Option<String>> {
        let rows = self.send(Kind::Insert, table, &[&parent, &key]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let version = row.get(1);
        self.book(table, |writes| writes.inserted(version));
        Ok(Some(row.get(0)))
    }

    fn key(&mut self) -> String {
        self.serial += 1;
        format!("demo-{}-{}", self.number, self.serial)
    }

    /// Deletes the oldest row of this connection's own.
    async fn delete(&mut self, table: usize) -> Requested {
        let Some(id) = self.own[table].pop_front() else {
            return self.insert(table, true).await;
        };
        let rows = self.send(Kind::Delete, table, &[&id]).await?;
        if let Some(row) = rows.first() {
            let version = row.get(0);
            self.book(table, |writes| writes.deleted(version));
        }
        Ok(())
    }

    async fn pages(&mut self, table: usize) -> Requested {
        let parent = rand::random_range(0..TABLES[table].parents);
        let page = self.send(Kind::Page, table, &[&parent]).await?;
        if let Some(last) = page.last() {
            let (id, time): (String, String) = (last.get(0), last.get(1));
            self.send(Kind::NextPage, table, &[&parent, &time, &id]).await?;
        }
        Ok(())
    }

    /// One transaction that writes to two tables.
    async fn insert_together(&mut self) -> Requested {
        let key = self.key();
        let parent = rand::random_range(0..TABLES[0].parents);
        self.begin().await?;
        self.insert_of(0, parent, Some(&key)).await?;
        self.insert_of(2, parent, Some(&key)).await?;
        self.insert_of(2, parent, None).await?;
        self.commit().await
    }

    async fn dashboard(&mut self) -> Requested {
        self.begin().await?;
        for (table, known) in TABLES.iter().enumerate() {
            let parent = rand::random_range(0..known.parents);
            self.send(Kind::Total, table, &[&parent]).await?;
            tokio::time::sleep(DASHBOARD_LOOKS).await;
        }
        self.commit().await
    }

    async fn begin(&mut self) -> Requested {
        self.control(Kind::Begin).await?;
        self.pending = Some(Default::default());
        Ok(())
    }

    async fn commit(&mut self) -> Requested {
        self.control(Kind::Commit).await?;
        for (sum, more) in self
            .record
            .writes
            .iter_mut()
            .zip(self.pending.take().iter().flatten())
        {
            sum.add(more);
        }
        Ok(())
    }

    fn book(&mut self, table: usize, write: impl FnOnce(&mut Writes)) {
        let writes = self.pending.as_mut().unwrap_or(&mut self.record.writes);
        write(&mut writes[table]);
    }

    async fn send(
        &mut self,
        kind: Kind,
        table: usize,
        params: &[&(dyn ToSql + Sync)],
    ) -> Requested<Vec<Row>> {
        let began = Instant::now();
        let result = match self.prepared[table].get(kind) {
            Some(statement) => self.session.client.query(statement, params).await,
            None => return self.control(kind).await.map(|()| Vec::new()),
        };
        self.note(kind, table, began, result)
    }

    async fn control(&mut self, kind: Kind) -> Requested {
        let began = Instant::now();
        let result = self.session.client.batch_execute(&kind.to_string()).await;
        self.note(kind, 0, began, result)
    }

    fn note<T>(
        &mut self,
        kind: Kind,
        table: usize,
        began: Instant,
        result: Result<T, tokio_postgres::Error>,
    ) -> Requested<T> {
        let sample = Sample {
            kind,
            table,
            began,
            took: began.elapsed(),
        };
        self.record.samples.push(sample);
        result.map_err(|error| {
            self.record.failed += 1;
            if self.record.failures.len() < FAILURES_KEPT {
                let db = error.as_db_error();
                self.record.failures.push(Failure {
                    sample,
                    sqlstate: db.map(|db| db.code().code().to_owned()),
                    message: db.map_or_else(|| error.to_string(), |db| db.message().to_owned()),
                });
            }
            Failed
        })
    }

    /// Goes on after a failure as applications do: the transaction is given up, a lost connection opened again.
    async fn recover(&mut self) {
        self.pending = None;
        if !self.session.client.is_closed() && self.session.client.batch_execute("ROLLBACK").await.is_ok() {
            return;
        }
        tokio::time::sleep(RECONNECT_AFTER).await;
        // When there is still no server, the next request fails, is counted, and comes here again.
        if let Ok((session, prepared)) = connect(&self.settings).await {
            (self.session, self.prepared) = (session, prepared);
        }
    }
}

async fn connect(settings: &ConnectionSettings) -> Result<(Session, Vec<Prepared>), Error> {
    let session = settings.connect(NAME).await?;
    let mut prepared = Vec::new();
    for table in &TABLES {
        prepared.push(table.prepare(&session.client).await.map_err(cannot_start)?);
    }
    Ok((session, prepared))
}
