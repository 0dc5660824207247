//! What the events of a call come to, step by step, and when that is worth a row of the ledger.

use super::{Batches, Now, Sample, StepStats, cut};
use crate::event::{Event, LockTotals};
use crate::executor::{blocker_line, ledger};
use std::collections::HashMap;
use std::time::Duration;

/// How often somebody who looks on learns what a step waits for.
pub(in crate::executor) const WRITE_WAITS_EVERY: Duration = Duration::from_secs(2);
/// How much of a long step's progress a crash may lose.
const WRITE_EVERY: Duration = Duration::from_secs(30);

/// Of the call: which step is at work, and what of it the ledger does not know yet.
#[derive(Debug, Default)]
pub(in crate::executor) struct Keeper {
    run: i64,
    /// What earlier calls left, by step and whether it is undone.
    earlier: HashMap<(String, bool), StepStats>,
    current: Option<Current>,
    /// What of the locks belongs to steps that are over.
    counted: LockTotals,
}

#[derive(Debug)]
struct Current {
    step: String,
    undo: bool,
    stats: StepStats,
    began: Duration,
    worked_before: u64,
    locks_before: LockTotals,
    /// How long it has stood aside this time.
    aside_ms: Option<u64>,
    written: Option<Duration>,
    is_dirty: bool,
    /// What it waits for began or ended since it was written.
    is_news: bool,
}

impl Keeper {
    pub(in crate::executor) fn begin(&mut self, run: i64, earlier: HashMap<(String, bool), StepStats>) {
        self.run = run;
        self.earlier = earlier;
    }

    fn of(&mut self, now: Duration, step: &str, undo: Option<bool>) -> &mut Current {
        let same = self
            .current
            .as_ref()
            .is_some_and(|current| current.step == step && undo.is_none_or(|undo| undo == current.undo));
        let kept = self.current.take().filter(|_| same);
        let current = kept.unwrap_or_else(|| {
            let undo = undo.unwrap_or(false);
            let stats = self.earlier.remove(&(step.to_owned(), undo)).unwrap_or_default();
            Current {
                step: step.to_owned(),
                undo,
                began: now,
                worked_before: stats.worked_ms,
                locks_before: stats.locks.clone(),
                stats,
                aside_ms: None,
                written: None,
                is_dirty: false,
                is_news: false,
            }
        });
        self.current.insert(current)
    }

    pub(in crate::executor) fn take(&mut self, now: Duration, event: &Event) {
        match event {
            Event::StepStarted { step, undo, .. } => drop(self.of(now, step, Some(*undo)).stats.now.take()),
            Event::StandingAside {
                step,
                reason,
                waited_ms,
            } => self.of(now, step, None).aside(reason, *waited_ms),
            Event::Waiting {
                step,
                waited_ms,
                blockers,
            } => {
                let who = blockers.first().map(blocker_line).unwrap_or_default();
                self.of(now, step, None)
                    .waits(format!("a lock; in the way: {who}"), *waited_ms);
            }
            Event::LockTimeout { step, .. } => {
                let current = self.of(now, step, None);
                current.is_dirty = true;
            }
            Event::Stalled { step, stall, .. } => {
                let current = self.of(now, step, None);
                let worst = &mut current.stats.locks.stalled_worst_ms;
                *worst = stall.worst_ms.max(*worst);
                current.is_dirty = true;
            }
            Event::Reconnecting { step, reason, .. } => {
                let current = self.of(now, step, None);
                current.stats.reconnects += 1;
                current.note(now, &format!("disconnected: {reason}"));
            }
            Event::Progress { step, .. } => self.of(now, step, None).progress(now, event),
            Event::CleanedUp { step, what } | Event::Noted { step, what } => {
                self.of(now, step, None).note(now, what)
            }
            Event::Ended { step, how, blocker } => {
                let what = format!("{how} {}", blocker_line(blocker));
                self.of(now, step, None).note(now, &what);
            }
            _ => {}
        }
    }

    /// The row to write now; `last` where the step is over for this call.
    pub(in crate::executor) fn due(
        &mut self,
        now: Duration,
        totals: &LockTotals,
        last: bool,
    ) -> Option<String> {
        let locks = totals.since(&self.counted);
        let current = self.current.as_mut()?;
        let worst = current.stats.locks.stalled_worst_ms;
        current.stats.locks = current.locks_before.plus(&LockTotals {
            stalled_worst_ms: worst,
            ..locks
        });
        current.stats.worked_ms = current.worked_before + millis(now.saturating_sub(current.began));
        if last {
            current.stats.now = None;
            self.counted = totals.clone();
        } else {
            let patience = if current.is_news {
                WRITE_WAITS_EVERY
            } else {
                WRITE_EVERY
            };
            let since = now.saturating_sub(current.written.unwrap_or(current.began));
            if !current.is_dirty || since < patience {
                return None;
            }
        }
        (current.written, current.is_dirty, current.is_news) = (Some(now), false, false);
        let is_worth_it = !current.stats.is_empty();
        let sql = is_worth_it
            .then(|| ledger::stats::write_sql(self.run, &current.step, current.undo, &current.stats));
        if last {
            self.current = None;
        }
        sql
    }
}

impl Current {
    fn aside(&mut self, reason: &str, waited_ms: u64) {
        // Its time begins anew with each time that it stands aside.
        let before = self.aside_ms.filter(|before| *before <= waited_ms);
        let more = waited_ms - before.unwrap_or(0);
        self.stats.stands_aside(reason, before.is_none(), more);
        self.aside_ms = Some(waited_ms);
        self.waits(reason.to_owned(), waited_ms);
    }

    fn waits(&mut self, reason: String, waited_ms: u64) {
        self.stats.now = Some(Now {
            reason: cut(&reason),
            waited_ms,
        });
        (self.is_dirty, self.is_news) = (true, true);
    }

    fn note(&mut self, now: Duration, what: &str) {
        let at = self.worked(now);
        self.stats.note(at, what);
        self.is_dirty = true;
    }

    fn worked(&self, now: Duration) -> u64 {
        self.worked_before + millis(now.saturating_sub(self.began))
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is a rough figure"
    )]
    fn progress(&mut self, now: Duration, event: &Event) {
        let Event::Progress {
            done,
            total,
            rows,
            per_second,
            batch,
            lag,
            ..
        } = event
        else {
            return;
        };
        if self.stats.now.take().is_some() {
            self.is_news = true;
        }
        self.aside_ms = None;
        self.is_dirty = true;
        if let Some(batch) = batch {
            let known = self.stats.batches.get_or_insert_with(|| Batches {
                pages_min: batch.pages,
                ..Batches::default()
            });
            known.number = batch.number;
            known.pages_min = known.pages_min.min(batch.pages);
            known.pages_max = known.pages_max.max(batch.pages);
            known.held_max_us = known.held_max_us.max(batch.held_us);
            (known.pages, known.passes) = (batch.pages, batch.passes);
        }
        lag.iter().for_each(|lag| self.stats.lags(lag));
        let at_ms = self.worked(now);
        self.stats.sample(Sample {
            at_ms,
            done: *done,
            total: *total,
            rows: *rows,
            per_second: *per_second as u64,
            pages: batch.map(|batch| batch.pages),
            lag_ms: lag.as_ref().map(|lag| lag.ms),
        });
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::{NOTES_MAX, SAMPLES_MAX};
    use super::*;
    use crate::event::{BatchSize, Lag, Stall, Unit};

    fn progress(done: u64, pages: u64) -> Event {
        Event::Progress {
            step: "a".into(),
            stage: String::new(),
            unit: Unit::Pages,
            done,
            total: 1_000,
            rows: done * 10,
            per_second: 99.9,
            batch: Some(BatchSize {
                number: done,
                pages,
                passes: 4,
                held_us: pages * 100,
            }),
            lag: Some(Lag {
                who: "standby s".into(),
                ms: done,
                bytes: 7,
            }),
        }
    }

    fn started() -> Event {
        Event::StepStarted {
            step: "a".into(),
            summary: String::new(),
            undo: false,
        }
    }

    fn aside(reason: &str, waited_ms: u64) -> Event {
        Event::StandingAside {
            step: "a".into(),
            reason: reason.into(),
            waited_ms,
        }
    }

    const AT: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn it_stays_small_however_long_a_step_takes() {
        let mut keeper = Keeper::default();
        keeper.take(AT(0), &started());
        for number in 0..10_000 {
            keeper.take(AT(number * 500), &progress(number, number % 7 + 1));
            let reason = format!(
                "cause {} lasts {number}s",
                "x".repeat(usize::try_from(number % 50).unwrap())
            );
            keeper.take(AT(number * 500), &aside(&reason, 1_000));
            let what = "y".repeat(10_000);
            keeper.take(
                AT(number * 500),
                &Event::Noted {
                    step: "a".into(),
                    what,
                },
            );
        }
        let stats = &keeper.current.as_ref().unwrap().stats;
        assert!(stats.samples.len() <= SAMPLES_MAX && stats.samples.len() >= SAMPLES_MAX / 2);
        assert_eq!(
            (stats.samples[0].done, stats.samples.last().unwrap().done),
            (0, 9_999)
        );
        assert_eq!((stats.notes.len(), stats.notes_left_out), (NOTES_MAX, 9_980));
        let sql = keeper.due(AT(9_000_000), &LockTotals::default(), true).unwrap();
        assert!(sql.len() < 40_000, "{}", sql.len());
    }

    #[test]
    fn times_of_standing_aside_add_up_by_cause() {
        let mut keeper = Keeper::default();
        keeper.take(AT(0), &started());
        for (reason, waited) in [
            ("standby s is 12s behind, above 10s (replica_lag)", 0),
            ("standby s is 13s behind, above 10s (replica_lag)", 1_000),
            ("standby s is 11s behind, above 10s (replica_lag)", 2_000),
        ] {
            keeper.take(AT(0), &aside(reason, waited));
        }
        keeper.take(AT(3_000), &progress(1, 1));
        keeper.take(
            AT(4_000),
            &aside("standby t is 15s behind, above 10s (replica_lag)", 500),
        );
        keeper.take(AT(4_000), &aside("paused since 2026-01-01 by x", 100));
        let stats = &keeper.current.as_ref().unwrap().stats;
        let told: Vec<_> = stats
            .aside
            .iter()
            .map(|it| (it.cause.as_str(), it.times, it.ms))
            .collect();
        assert_eq!(told, [("replica_lag", 2, 2_500), ("paused", 1, 100)]);
        assert_eq!(stats.now.as_ref().unwrap().waited_ms, 100);
    }

    #[test]
    fn only_what_is_new_is_written_and_not_too_often() {
        let mut keeper = Keeper::default();
        let totals = LockTotals::default();
        keeper.take(AT(0), &started());
        assert_eq!(keeper.due(AT(60_000), &totals, false), None, "nothing to say");
        keeper.take(AT(60_000), &progress(1, 1));
        assert!(keeper.due(AT(60_500), &totals, false).is_some());
        keeper.take(AT(61_000), &progress(2, 1));
        assert_eq!(keeper.due(AT(70_000), &totals, false), None, "progress can wait");
        keeper.take(AT(71_000), &aside("paused since then", 0));
        assert!(
            keeper.due(AT(71_000), &totals, false).is_some(),
            "waiting is told"
        );
        assert_eq!(keeper.due(AT(99_000), &totals, false), None);
        assert!(keeper.due(AT(99_000), &totals, true).is_some());
        assert_eq!(keeper.due(AT(99_000), &totals, true), None, "it is over");
    }

    #[test]
    fn locks_belong_to_the_step_that_got_them() {
        let mut keeper = Keeper::default();
        let totals = |gave_up, waited_ms| LockTotals {
            gave_up,
            waited_ms,
            ..LockTotals::default()
        };
        keeper.take(AT(0), &started());
        let stall = Stall {
            worst_ms: 70,
            ..Stall::default()
        };
        let stalled = Event::Stalled {
            step: "a".into(),
            attempt: 1,
            stall,
            cut: None,
        };
        keeper.take(AT(10), &stalled);
        let first = keeper.due(AT(100), &totals(2, 300), true).unwrap();
        assert!(
            first.contains("\"gave_up\":2,\"waited_ms\":300") && first.contains("\"stalled_worst_ms\":70")
        );
        let other = Event::StepStarted {
            step: "b".into(),
            summary: String::new(),
            undo: false,
        };
        keeper.take(AT(200), &other);
        let second = keeper.due(AT(300), &totals(3, 350), true).unwrap();
        assert!(
            second.contains("\"gave_up\":1,\"waited_ms\":50") && second.contains("\"stalled_worst_ms\":0")
        );
        keeper.take(
            AT(400),
            &Event::StepStarted {
                step: "c".into(),
                summary: String::new(),
                undo: true,
            },
        );
        assert_eq!(
            keeper.due(AT(500), &totals(3, 350), true),
            None,
            "nothing to tell of"
        );
    }
}
