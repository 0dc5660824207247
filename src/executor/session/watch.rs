//! Sends statements and watches them: who blocks, how far they are, whether the user wants them stopped.

use super::{Failure, Key, Runner, WATCH_LONG, millis};
use crate::event::{Blocker, Event, Unit};
use crate::executor::{Interrupt, locks};
use deadpool_postgres::Object;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A question about a statement that is being watched, or the connection for it, takes no longer.
const OBSERVED_WITHIN: Duration = Duration::from_secs(2);

impl Runner {
    /// Sends one text and watches it: who blocks, how far it is, whether the user wants it stopped.
    pub(super) async fn send(
        &self,
        key: Key<'_>,
        session: &Object,
        pid: i32,
        sql: &str,
        every: Duration,
    ) -> Result<(), Failure> {
        let mut blockers = Vec::new();
        let statement = session.batch_execute(sql);
        let watched = self.watch(key, pid, every, statement, &mut blockers);
        watched.await.map_err(|error| Failure::server(error, blockers))
    }

    pub(in crate::executor) async fn watch<T>(
        &self,
        key: Key<'_>,
        pid: i32,
        every: Duration,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
        blockers: &mut Vec<Blocker>,
    ) -> Result<T, tokio_postgres::Error> {
        let mut interrupts = self.interrupts.clone();
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        let began = Instant::now();
        let mut cancelled = false;
        let mut told = Instant::now();
        let mut statement = std::pin::pin!(statement);
        loop {
            tokio::select! {
                // Sent before anything can be cancelled.
                biased;
                result = &mut statement => {
                    self.orphans.note(pid, &result);
                    return result;
                }
                _ = ticks.tick() => {
                    // Without the run lock another runner may begin: what runs now must not go on beside it. A server that
                    // was not at work yet has ignored the first try.
                    if self.interrupted() == Interrupt::Now || self.check_run_lock().is_err() {
                        cancelled = true;
                        self.cancel(pid).await;
                    }
                    let seen = self.observe(key, pid, every).await;
                    if let Some(seen) = seen && !seen.is_empty() {
                        *blockers = seen;
                        if told.elapsed() >= Duration::from_secs(1) {
                            told = Instant::now();
                            self.tell(Event::Waiting {
                                step: key.step.into(),
                                waited_ms: millis(began.elapsed()),
                                blockers: blockers.clone(),
                            });
                        }
                    }
                }
                () = wanted(&mut interrupts, Interrupt::Now), if !cancelled => {
                    cancelled = true;
                    self.cancel(pid).await;
                }
            }
        }
    }

    async fn observe(&self, key: Key<'_>, pid: i32, every: Duration) -> Option<Vec<Blocker>> {
        let observer = self.observer_soon().await?;
        let asks = async {
            let blockers = locks::blockers_of(&**observer, pid).await.ok()?;
            // While it waits, for whom is the news.
            if every == WATCH_LONG && blockers.is_empty() {
                self.tell_index_progress(key, pid, &observer).await;
            }
            Some(blockers)
        };
        let asked = tokio::time::timeout(OBSERVED_WITHIN, asks).await;
        match asked {
            Ok(blockers) => blockers,
            Err(_) => {
                drop(Object::take(observer));
                None
            }
        }
    }

    /// A statement that is watched must not wait for an observer that hears nothing.
    async fn observer_soon(&self) -> Option<Object> {
        let observer = tokio::time::timeout(OBSERVED_WITHIN, self.observers.get());
        observer.await.ok()?.ok()
    }

    async fn tell_index_progress(&self, key: Key<'_>, pid: i32, observer: &Object) {
        let sql = "SELECT phase, blocks_done, blocks_total, tuples_done, tuples_total \
                   FROM pg_catalog.pg_stat_progress_create_index WHERE pid = $1";
        let Ok(Some(row)) = observer.query_opt(sql, &[&pid]).await else {
            return;
        };
        let count = |name: &str| u64::try_from(row.get::<_, i64>(name)).unwrap_or(0);
        let (unit, done, total) = match count("blocks_total") {
            0 => (Unit::Tuples, count("tuples_done"), count("tuples_total")),
            total => (Unit::Blocks, count("blocks_done"), total),
        };
        self.tell(Event::Progress {
            step: key.step.into(),
            stage: row.get("phase"),
            unit,
            done,
            total,
            rows: 0,
            per_second: 0.0,
        });
    }

    pub(in crate::executor) async fn cancel(&self, pid: i32) {
        let Some(observer) = self.observer_soon().await else {
            return;
        };
        let asked = tokio::time::timeout(
            OBSERVED_WITHIN,
            observer.execute("SELECT pg_cancel_backend($1)", &[&pid]),
        )
        .await;
        if asked.is_err() {
            drop(Object::take(observer));
        }
    }
}

/// Returns once the user wants that much; never where nobody is left who could want it.
pub(super) async fn wanted(interrupts: &mut watch::Receiver<Interrupt>, at_least: Interrupt) {
    // The guard that `wait_for` gives must not live across an await: it would tie the run to one thread.
    if interrupts.wait_for(|wanted| *wanted >= at_least).await.is_err() {
        std::future::pending::<()>().await;
    }
}
