//! How late the machine itself makes a statement: the whole suite shares a few cores with its servers, so that a
//! statement may be late although nothing holds it.

use super::PATIENCE;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls};

const THINK_TIME: Duration = Duration::from_millis(5);

/// Connects, to a server that may be starting again.
pub async fn connect(config: &Config) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match config.connect(NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(error) => assert!(
                Instant::now() < deadline,
                "the application cannot connect: {error}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Writes to the WAL and touches nothing: what makes it wait is the machine or its disk.
const NOTHING: &str = "SELECT pg_logical_emit_message(true, 'noise', '')";

/// Measures the longest time that a statement took which nobody can make wait.
pub fn measure(config: Config, stopped: watch::Receiver<bool>) -> JoinHandle<Duration> {
    tokio::spawn(async move {
        let mut client = connect(&config).await;
        let mut longest = Duration::ZERO;
        while !*stopped.borrow() {
            let began = Instant::now();
            match client.simple_query(NOTHING).await {
                Ok(_) => longest = longest.max(began.elapsed()),
                Err(_) => client = connect(&config).await,
            }
            tokio::time::sleep(THINK_TIME).await;
        }
        longest
    })
}

/// Statements that were late if nothing but the plan made them wait.
#[derive(Debug, Default, Clone)]
pub struct Late(Vec<(Duration, String)>);

impl Late {
    pub fn note(&mut self, took: Duration, longest: Duration, sql: &str) {
        if took > longest {
            self.0.push((took, sql.to_owned()));
        }
    }

    pub fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Complaints about what was later than the delay that everybody suffered explains. A statement that writes is put
    /// off more often than one that does nothing: twice, say.
    pub fn complaints(self, longest: Duration, noise: Duration) -> impl Iterator<Item = String> {
        let late = self
            .0
            .into_iter()
            .filter(move |(took, _)| *took > longest + 2 * noise);
        late.map(move |(took, sql)| {
            format!("waited {took:?}, which is more than {longest:?} and twice {noise:?}: {sql}")
        })
    }
}
