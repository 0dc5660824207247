//! The sessions that fill at the same time: as many as are asked for at the moment, as far as they can be opened.

use super::Hand;
use super::walk::Walk;
use crate::error::{Error, ErrorKind};
use crate::executor::Runner;
use crate::executor::session::WATCH_BRIEF;
use crate::units;
use deadpool_postgres::Object;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::time::{Duration, Instant};

/// How often it is looked whether more sessions are asked for.
const MUSTER_EVERY: Duration = Duration::from_millis(100);

/// After so long it is tried again to open those that could not be opened.
const OPEN_AGAIN_AFTER: Duration = Duration::from_secs(30);

const VACUUM_LOOK_EVERY: Duration = Duration::from_millis(200);

/// How a session ended that was to fill.
enum Ended {
    /// There is nothing more to take, or fewer sessions are asked for.
    Left,
    NotOpened(Error),
}

/// Sessions that could not be opened.
#[derive(Default)]
struct Shortage {
    met: Option<(Instant, Error)>,
    told: Option<usize>,
}

impl Shortage {
    fn met(&mut self, error: Error) {
        self.met = Some((Instant::now(), error));
    }

    /// It is time to try again.
    fn is_over(&mut self) -> bool {
        let over = matches!(&self.met, Some((at, _)) if at.elapsed() >= OPEN_AGAIN_AFTER);
        if over {
            self.met = None;
        }
        over
    }

    /// Once all that can be opened are, and not every time that it is tried again.
    fn news(&mut self, opened: u32, sessions: usize) -> Option<String> {
        let (_, error) = self.met.as_ref()?;
        let settled = usize::try_from(opened) == Ok(sessions);
        if !settled || self.told.replace(sessions) == Some(sessions) {
            return None;
        }
        Some(format!(
            "no further session can be opened, and it is tried again later; it goes on with {}: {}",
            units::counted(sessions, "session"),
            error.message
        ))
    }
}

impl Runner {
    pub(super) async fn fill(&self, walk: &Walk<'_>) -> Result<(), Error> {
        let mut crew = FuturesUnordered::new();
        let mut failed = Ok(());
        let mut shortage = Shortage::default();
        loop {
            if shortage.is_over() {
                walk.limit_to(None);
            }
            while walk.join() {
                crew.push(self.fill_stretches(walk));
            }
            if let Some(what) = shortage.news(walk.opened(), crew.len()) {
                self.note(walk, what);
            }
            tokio::select! {
                ended = crew.next() => match ended {
                    None => break,
                    Some(Ok(Ended::Left)) => {}
                    Some(Ok(Ended::NotOpened(error))) => {
                        if crew.is_empty() {
                            return Err(error);
                        }
                        walk.limit_to(u32::try_from(crew.len()).ok());
                        shortage.met(error);
                    }
                    Some(Err(error)) => failed = failed.and(Err(error)),
                },
                () = tokio::time::sleep(MUSTER_EVERY) => {}
            }
        }
        failed?;
        if walk.is_stopped() {
            return Ok(());
        }
        self.visit_deferred(walk).await
    }

    /// One worker.
    async fn fill_stretches(&self, walk: &Walk<'_>) -> Result<Ended, Error> {
        let mut hand = match self.hand().await {
            Ok(hand) => hand,
            Err(error) => {
                walk.stay_away();
                return match error.kind {
                    ErrorKind::Connection => Ok(Ended::NotOpened(error)),
                    _ => Err(error).inspect_err(|_| walk.stop()),
                };
            }
        };
        walk.joined();
        // The others end with their batches after a failure: their sessions must not be given back at work.
        let too_many = self
            .fill_while_wanted(walk, &mut hand)
            .await
            .inspect_err(|_| walk.stop())?;
        if too_many {
            // Out of the pool, that the server has one session less.
            drop(Object::take(hand.session));
        } else {
            walk.leave();
        }
        Ok(Ended::Left)
    }

    /// Tells whether it stopped because there are more than were asked for.
    async fn fill_while_wanted(&self, walk: &Walk<'_>, hand: &mut Hand) -> Result<bool, Error> {
        loop {
            if walk.leave_if_too_many() {
                return Ok(true);
            }
            self.stand_aside(walk, hand).await?;
            let Some((range, shape)) = walk.take() else {
                return Ok(false);
            };
            if self.fill_stretch(walk, hand, range, shape).await? {
                return Ok(true);
            }
        }
    }

    /// Where rows leave their pages, makes the room that they leave usable now and then, until the walk is over. Only
    /// there: among passes it would give the room of one pass to other rows.
    pub(super) async fn keep_vacuuming(&self, walk: &Walk<'_>) {
        loop {
            tokio::select! {
                () = walk.ended() => return,
                () = tokio::time::sleep(VACUUM_LOOK_EVERY) => {}
            }
            if walk.vacuum_is_due() {
                // It only saves room: without it the rows are filled all the same.
                let _ = self.vacuum(walk).await;
            }
        }
    }

    async fn vacuum(&self, walk: &Walk<'_>) -> Result<(), Error> {
        let (session, pid) = self.worker().await?;
        let failed = |error| Error::postgres(ErrorKind::StepFailed, "vacuuming", error);
        let timeout = self.long_statement_ms;
        let settings = format!("SET lock_timeout = '1s'; SET statement_timeout = {timeout}");
        session.batch_execute(&settings).await.map_err(failed)?;
        let table = walk.job.table();
        // The indexes are left to the VACUUM after the walk, and truncating would take ACCESS EXCLUSIVE.
        let sql = format!("VACUUM (INDEX_CLEANUP OFF, TRUNCATE OFF, SKIP_LOCKED) {table}");
        let mut blockers = Vec::new();
        let sent = session.batch_execute(&sql);
        let mut sent = std::pin::pin!(self.watch(walk.key, pid, WATCH_BRIEF, sent, &mut blockers));
        tokio::select! {
            result = &mut sent => result.map_err(failed),
            () = walk.ended() => {
                self.cancel(pid).await;
                sent.await.map_err(failed)
            }
        }
    }
}
