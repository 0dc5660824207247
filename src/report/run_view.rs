//! A run as the ledger has it, put together for reports: the same figures for people, pages and machines.

use crate::event::LockTotals;
use crate::executor::ledger::requests::Requests;
use crate::executor::ledger::stats::Recorded;
use crate::executor::ledger::{AttemptRecord, Cursor, Run, StepRecord, StepState};
use crate::executor::stats::{Aside, StepStats};
use crate::plan::{Lock, Phase, Step};
use crate::report::plan_view;
use crate::report::verification::Verification;
use jiff::Timestamp;
use serde_json::{Value, json};

pub struct RunReport {
    pub run: Run,
    pub stats: Vec<Recorded>,
    /// Attempts that did not succeed, the latest 200.
    pub attempts: Vec<AttemptRecord>,
    pub asked: Requests,
    pub fills: Vec<(String, Cursor)>,
    /// As of the moment of the report; `None` where it was not asked for, or speaks of a later run.
    pub verification: Option<Verification>,
    pub now: Timestamp,
}

/// A step with its record.
pub struct Line<'a> {
    pub step: &'a Step,
    pub record: &'a StepRecord,
    pub stats: Option<&'a StepStats>,
    /// Of its undoing.
    pub undone: Option<&'a StepStats>,
}

impl Line<'_> {
    /// From its first begin to its end, pauses between calls included; `now` counts for one at work.
    pub fn took_ms(&self, now: Timestamp) -> Option<u64> {
        let (from, to) = self.span(now)?;
        u64::try_from(to.duration_since(from).as_millis()).ok()
    }

    pub fn span(&self, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let from = self.record.started_at?;
        let to = match (self.record.state, self.record.finished_at) {
            (StepState::Running, _) => now,
            // It ended when it was undone: how long it took itself only its own figures tell.
            (StepState::Undone, _) => {
                let worked = self.stats.map_or(0, |stats| stats.worked_ms);
                let worked = jiff::SignedDuration::from_millis(i64::try_from(worked).unwrap_or(0));
                from.checked_add(worked).unwrap_or(from)
            }
            (_, finished) => finished?,
        };
        Some((from, to.max(from)))
    }

    pub fn lock(&self) -> Option<&Lock> {
        plan_view::strongest(&[self.step])
    }

    /// Those that were given up because somebody held a lock, too.
    pub fn attempts(&self) -> u64 {
        let given_up: u64 = self.both().map(|stats| stats.locks.gave_up).sum();
        u64::try_from(self.record.attempts).unwrap_or_default() + given_up
    }

    pub fn both(&self) -> impl Iterator<Item = &StepStats> {
        self.stats.into_iter().chain(self.undone)
    }
}

/// Sums over the steps.
#[derive(Debug, Default)]
pub struct Totals {
    pub locks: LockTotals,
    pub aside_ms: u64,
    pub reconnects: u64,
    pub batches: u64,
    pub rows: u64,
    pub lag_ms: Option<u64>,
}

impl RunReport {
    pub fn lines(&self) -> Vec<Line<'_>> {
        let stats = |id: &str, undo: bool| {
            let found = self.stats.iter().find(|it| it.step == id && it.undo == undo);
            found.map(|it| &it.stats)
        };
        let line = |record| {
            let record: &StepRecord = record;
            let step = self.run.plan.steps.iter().find(|step| step.id == record.id)?;
            Some(Line {
                step,
                record,
                stats: stats(&record.id, false),
                undone: stats(&record.id, true),
            })
        };
        self.run.steps.iter().filter_map(line).collect()
    }

    pub fn phases(&self) -> Vec<(Phase, Vec<Line<'_>>)> {
        let mut phases: Vec<(Phase, Vec<Line<'_>>)> = Vec::new();
        for line in self.lines() {
            match phases.last_mut() {
                Some((phase, lines)) if *phase == line.step.phase => lines.push(line),
                _ => phases.push((line.step.phase, vec![line])),
            }
        }
        phases
    }

    pub fn done(&self) -> usize {
        let states = self.run.steps.iter().map(|step| step.state);
        states.filter(|state| *state == StepState::Done).count()
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for stats in self.stats.iter().map(|it| &it.stats) {
            totals.locks = totals.locks.plus(&stats.locks);
            totals.aside_ms += stats.aside.iter().map(|aside| aside.ms).sum::<u64>();
            totals.reconnects += stats.reconnects;
            let lag = stats.lag.iter().map(|lag| lag.ms).max();
            totals.lag_ms = totals.lag_ms.max(lag);
        }
        for (_, cursor) in &self.fills {
            totals.batches += u64::try_from(cursor.batches).unwrap_or(0);
            totals.rows += u64::try_from(cursor.rows_done).unwrap_or(0);
        }
        totals
    }

    /// From the first begin of a step to the last end of one.
    pub fn took_ms(&self) -> Option<u64> {
        let spans: Vec<_> = self
            .lines()
            .iter()
            .filter_map(|line| line.span(self.now))
            .collect();
        let from = spans.iter().map(|(from, _)| *from).min()?;
        let to = spans.iter().map(|(_, to)| *to).max()?;
        u64::try_from(to.duration_since(from).as_millis()).ok()
    }

    pub fn json(&self) -> Value {
        let run = &self.run;
        let step = |line: &Line<'_>| {
            let failed = self
                .attempts
                .iter()
                .filter(|attempt| attempt.step == line.record.id);
            json!({
                "id": line.record.id,
                "phase": line.step.phase,
                "operation": line.step.operation,
                "summary": line.step.work.summary,
                "state": line.record.state.name(),
                "attempts": line.record.attempts,
                "attempts_given_up": failed.count(),
                "started_at": line.record.started_at,
                "finished_at": line.record.finished_at,
                "elapsed_ms": line.took_ms(self.now),
                "locks": line.step.work.locks,
                "blocks": line.lock().map_or("nothing", |lock| lock.mode.blocks()),
                "error": line.record.error,
                "stats": line.stats,
                "undo_stats": line.undone,
            })
        };
        let totals = self.totals();
        let fill = |(step, cursor): &(String, Cursor)| json!({"step": step, "cursor": cursor});
        json!({
            "plan": run.plan.name,
            "description": run.plan.description,
            "digest": run.plan.digest,
            "run": run.id,
            "state": run.state.name(),
            "baseline": run.baseline,
            "server_version_num": run.plan.server_version_num,
            "started_by": run.started_by,
            "client": run.client,
            "started_at": run.started_at,
            "updated_at": run.updated_at,
            "finished_at": run.finished_at,
            "reported_at": self.now,
            "elapsed_ms": self.took_ms(),
            "steps_done": self.done(),
            "totals": {
                "locks": totals.locks,
                "stood_aside_ms": totals.aside_ms,
                "reconnects": totals.reconnects,
                "batches": totals.batches,
                "rows": totals.rows,
                "lag_max_ms": totals.lag_ms,
            },
            "steps": self.lines().iter().map(step).collect::<Vec<_>>(),
            "attempts": self.attempts,
            "requests": self.asked.json(),
            "backfills": self.fills.iter().map(fill).collect::<Vec<_>>(),
            "verification": self.verification,
        })
    }
}

/// For what all of these stood aside, the longest first.
pub fn asides<'a>(stats: impl Iterator<Item = &'a StepStats>) -> Vec<Aside> {
    let mut sums: Vec<Aside> = Vec::new();
    for aside in stats.flat_map(|stats| &stats.aside) {
        match sums.iter_mut().find(|known| known.cause == aside.cause) {
            Some(known) => {
                known.ms += aside.ms;
                known.times += aside.times;
            }
            None => sums.push(aside.clone()),
        }
    }
    sums.sort_by_key(|sum| std::cmp::Reverse(sum.ms));
    sums
}

/// How the run is, in words.
pub fn state(run: &Run) -> &'static str {
    use crate::executor::ledger::RunState;
    match run.state {
        RunState::Completed if run.baseline => "baseline, recorded as applied",
        RunState::Completed => "completed",
        RunState::Started => "started, not finished",
        RunState::RollingBack => "being rolled back, not finished",
        RunState::RolledBack => "rolled back",
    }
}
