//! Sends statements and watches them: who blocks, who waits behind, how far they are, whether the user wants them
//! stopped.

use super::{Failure, Key, Runner, WATCH_LONG, millis, pool_error};
use crate::event::{Blocker, Event, Unit};
use crate::executor::stall::{Cut, Meter, Wait};
use crate::executor::{Interrupt, locks};
use crate::plan::Work;
use deadpool_postgres::Object;
use futures_util::future::{Either, join, select};
use std::future::Future;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout;

/// How often it is counted who waits behind a statement of ours that stands in their way.
const COUNT_EVERY: Duration = Duration::from_millis(10);

/// Without an answer for so long nobody knows who waits behind us.
const BLIND_AFTER: Duration = Duration::from_secs(1);

/// How long one way to cancel a statement is tried before the other.
const CANCEL_WITHIN: Duration = Duration::from_secs(1);

/// After a cancellation that had no effect: the server was between two statements.
const CANCEL_AGAIN: Duration = Duration::from_millis(20);

/// What the watch has seen of an attempt.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) blockers: Vec<Blocker>,
    /// Where locks of ours stand in others' way.
    pub(super) guard: Option<Guard>,
}

impl Seen {
    /// Why the attempt was given up for the sake of others, if it was.
    pub(super) fn cut(&self) -> Option<Cut> {
        self.guard.as_ref().and_then(|guard| guard.meter.cut)
    }
}

/// Counts who waits behind an attempt, on a session of its own.
pub(super) struct Guard {
    pub(super) meter: Meter,
    observer: Option<Object>,
    began: Instant,
    looked: Instant,
}

/// What one look has found; what was not asked is `None`.
struct Look {
    waits: Option<Result<Vec<Wait>, tokio_postgres::Error>>,
    blockers: Option<Vec<Blocker>>,
}

impl Runner {
    /// Whoever cannot look does not begin.
    pub(super) async fn guarded(&self, work: &Work) -> Result<Seen, Failure> {
        let mut seen = Seen::default();
        if work.timeouts.lock_ms.is_some() {
            let observer = self.observers.get().await.map_err(pool_error)?;
            let now = Instant::now();
            seen.guard = Some(Guard {
                meter: Meter::new(self.contention.stall_budget_ms, self.stall_left_ms()),
                observer: Some(observer),
                began: now,
                looked: now,
            });
        }
        Ok(seen)
    }

    /// Sends one text and watches it.
    pub(super) async fn send(
        &self,
        key: Key<'_>,
        session: &Object,
        pid: i32,
        sql: &str,
        every: Duration,
        seen: &mut Seen,
    ) -> Result<(), Failure> {
        let watched = self.watch_seen(key, pid, every, session.batch_execute(sql), seen);
        watched
            .await
            .map_err(|error| Failure::server(error, seen.blockers.clone()))
    }

    /// Watches a statement that stands in nobody's way for long.
    pub(in crate::executor) async fn watch<T>(
        &self,
        key: Key<'_>,
        pid: i32,
        every: Duration,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
        blockers: &mut Vec<Blocker>,
    ) -> Result<T, tokio_postgres::Error> {
        let mut seen = Seen::default();
        let result = self.watch_seen(key, pid, every, statement, &mut seen).await;
        if !seen.blockers.is_empty() {
            *blockers = seen.blockers;
        }
        result
    }

    pub(super) async fn watch_seen<T>(
        &self,
        key: Key<'_>,
        pid: i32,
        every: Duration,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
        seen: &mut Seen,
    ) -> Result<T, tokio_postgres::Error> {
        // Polled all the time, also while a look is under way: looking must not hold up an answer.
        let mut statement = pin!(statement);
        let finished = {
            // Boxed, for it is larger than most of what it watches.
            let looking = Box::pin(self.look_on(key, pid, every, seen));
            // The statement first: it is sent before anything can be cancelled.
            match select(statement.as_mut(), looking).await {
                Either::Left((result, _)) => Ok(result),
                Either::Right((cut, _)) => Err(cut),
            }
        };
        let result = match finished {
            Ok(result) => result,
            Err(cut) => {
                if let Some(guard) = &mut seen.guard {
                    guard.meter.cut = Some(cut);
                }
                Box::pin(self.give_up(pid, statement)).await
            }
        };
        if let Some(guard) = &mut seen.guard {
            guard.meter.close(guard.looked.elapsed());
        }
        self.orphans.note(pid, &result);
        result
    }

    /// Cancels until the statement has ended. Afterwards no request is under way that could hit the next one.
    async fn give_up<T>(
        &self,
        pid: i32,
        mut statement: Pin<&mut impl Future<Output = Result<T, tokio_postgres::Error>>>,
    ) -> Result<T, tokio_postgres::Error> {
        loop {
            match select(statement.as_mut(), pin!(self.cancel(pid))).await {
                Either::Left((result, request)) => {
                    request.await;
                    return result;
                }
                Either::Right(((), _)) => {}
            }
            if let Ok(result) = timeout(CANCEL_AGAIN, statement.as_mut()).await {
                return result;
            }
        }
    }

    /// Looks again and again; ends only when the attempt is to be given up for the sake of others.
    async fn look_on(&self, key: Key<'_>, pid: i32, every: Duration, seen: &mut Seen) -> Cut {
        let mut interrupts = self.interrupts.clone();
        let mut cancelled = false;
        let began = Instant::now();
        let (mut told, mut asked) = (began, began);
        loop {
            let guard = seen.guard.as_ref();
            let pause = guard.map_or(every, |guard| guard.meter.next_look(COUNT_EVERY));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = wanted(&mut interrupts, Interrupt::Now), if !cancelled => {
                    cancelled = true;
                    self.cancel(pid).await;
                }
            }
            // Slower than the counting: it asks for more.
            let who = asked.elapsed() >= every;
            if who {
                asked = Instant::now();
                // Without the run lock another runner may begin: what runs now must not go on beside it. A server that
                // was not at work yet has ignored the first try.
                if self.interrupted() == Interrupt::Now || self.check_run_lock().is_err() {
                    cancelled = true;
                    self.cancel(pid).await;
                }
            } else if seen.guard.is_none() {
                continue;
            }
            let look = tokio::select! {
                look = self.look(key, pid, every, who, seen.guard.as_mut()) => look,
                () = wanted(&mut interrupts, Interrupt::Now), if !cancelled => continue,
            };
            let waits = look.as_ref().and_then(|look| look.waits.as_ref());
            if let Some(guard) = &mut seen.guard {
                let Some(Ok(waits)) = waits else { return Cut::Blind };
                guard.looked = Instant::now();
                if let Some(cut) = guard.meter.see(waits.clone()) {
                    return cut;
                }
            }
            let blockers = look.and_then(|look| look.blockers).unwrap_or_default();
            if blockers.is_empty() {
                continue;
            }
            seen.blockers = blockers;
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                self.tell(Event::Waiting {
                    step: key.step.into(),
                    waited_ms: millis(began.elapsed()),
                    blockers: seen.blockers.clone(),
                });
            }
        }
    }

    /// One look; `None` where there was no answer in time.
    async fn look(
        &self,
        key: Key<'_>,
        pid: i32,
        every: Duration,
        who: bool,
        mut guard: Option<&mut Guard>,
    ) -> Option<Look> {
        let own = guard.as_mut().and_then(|guard| guard.observer.take());
        let observer = match own {
            Some(observer) => observer,
            None => timeout(BLIND_AFTER, self.observers.get()).await.ok()?.ok()?,
        };
        let attempt_ms = guard
            .as_ref()
            .map(|guard| i64::try_from(millis(guard.began.elapsed())).unwrap_or(i64::MAX));
        let waits = async {
            match attempt_ms {
                Some(attempt_ms) => Some(locks::behind(&**observer, pid, attempt_ms).await),
                None => None,
            }
        };
        let blockers = async {
            match who {
                true => self.observe(key, pid, every, &observer).await,
                false => None,
            }
        };
        let Ok((waits, blockers)) = timeout(BLIND_AFTER, join(waits, blockers)).await else {
            // Whatever has become of it, nobody is to wait for its answer.
            drop(Object::take(observer));
            return None;
        };
        if let Some(guard) = guard {
            guard.observer = Some(observer);
        }
        Some(Look { waits, blockers })
    }

    async fn observe(
        &self,
        key: Key<'_>,
        pid: i32,
        every: Duration,
        observer: &Object,
    ) -> Option<Vec<Blocker>> {
        let blockers = locks::blockers_of(&***observer, pid).await.ok()?;
        // While it waits, for whom is the news.
        if every == WATCH_LONG && blockers.is_empty() {
            self.tell_index_progress(key, pid, observer).await;
        }
        Some(blockers)
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
            batch: None,
            lag: None,
        });
    }

    /// By an observing session, or by that of the run lock where those give no answer.
    pub(in crate::executor) async fn cancel(&self, pid: i32) {
        // Our sessions are those of the login, whatever role they act as.
        let sql = format!("SET LOCAL ROLE NONE; SELECT pg_cancel_backend({pid})");
        let observer = timeout(CANCEL_WITHIN, self.observers.get()).await;
        if let Ok(Ok(observer)) = observer {
            match timeout(CANCEL_WITHIN, observer.batch_execute(&sql)).await {
                Ok(Ok(())) => return,
                Ok(Err(_)) => {}
                // Whatever has become of it, nobody is to wait for its answer.
                Err(_) => drop(Object::take(observer)),
            }
        }
        let _ = timeout(CANCEL_WITHIN, self.lock.client.batch_execute(&sql)).await;
    }
}

/// Returns once the user wants that much; never where nobody is left who could want it.
pub(super) async fn wanted(interrupts: &mut watch::Receiver<Interrupt>, at_least: Interrupt) {
    // The guard that `wait_for` gives must not live across an await: it would tie the run to one thread.
    if interrupts.wait_for(|wanted| *wanted >= at_least).await.is_err() {
        std::future::pending::<()>().await;
    }
}
