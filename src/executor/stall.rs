//! Counts who waits behind an attempt of ours, and for how long. Pure: times are passed in.

use crate::event::Stall;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A session of somebody else that waits behind us at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) pid: i32,
    /// When it began to wait, in the server's microseconds: one session may wait several times.
    pub(super) since: i64,
    /// Since it began, or since the attempt did if that was later.
    pub(super) waited_ms: u64,
    pub(super) application: String,
}

/// Why an attempt is given up for the sake of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// The waiting behind this attempt has used up its budget.
    Attempt,
    /// That behind all attempts of this call.
    Run,
    /// It cannot be seen who waits.
    Blind,
}

impl Cut {
    /// As events have it: the setting that it is about, or `blind`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Attempt => "stall_budget",
            Self::Run => "stall_budget_per_run",
            Self::Blind => "blind",
        }
    }
}

/// The waiting behind one attempt.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    budget_ms: u64,
    /// What is left for all attempts.
    left_ms: u64,
    /// By session and wait, as last seen.
    waits: BTreeMap<(i32, i64), u64>,
    /// Those of the last look.
    now: Vec<(i32, i64)>,
    applications: BTreeSet<String>,
    pub(super) cut: Option<Cut>,
}

impl Meter {
    pub(super) fn new(budget_ms: u64, left_ms: u64) -> Self {
        Self {
            budget_ms,
            left_ms,
            waits: BTreeMap::new(),
            now: Vec::new(),
            applications: BTreeSet::new(),
            cut: None,
        }
    }

    /// Takes down a look. Tells whether the attempt is to be given up.
    pub(super) fn see(&mut self, waits: Vec<Wait>) -> Option<Cut> {
        self.now.clear();
        for wait in waits {
            let key = (wait.pid, wait.since);
            let known = self.waits.entry(key).or_default();
            *known = wait.waited_ms.max(*known);
            self.now.push(key);
            if !wait.application.is_empty() {
                self.applications.insert(wait.application);
            }
        }
        let sum = self.sum_ms();
        if sum >= self.left_ms {
            self.cut = Some(Cut::Run);
        } else if sum >= self.budget_ms {
            self.cut = Some(Cut::Attempt);
        }
        self.cut
    }

    /// The attempt has ended, so long after the last look: until then those who waited went on waiting.
    pub(super) fn close(&mut self, since_look: Duration) {
        let more = u64::try_from(since_look.as_millis()).unwrap_or(u64::MAX);
        for key in self.now.drain(..) {
            if let Some(waited) = self.waits.get_mut(&key) {
                *waited = waited.saturating_add(more);
            }
        }
    }

    /// When to look again: as often as asked for, and no later than the budget is used up by those who wait now.
    pub(super) fn next_look(&self, every: Duration) -> Duration {
        let waiting = u64::try_from(self.now.len()).unwrap_or(u64::MAX).max(1);
        let left = self.budget_ms.min(self.left_ms).saturating_sub(self.sum_ms());
        // Rounded up: it is used up then, not just before.
        every.min(Duration::from_millis(left / waiting + 1))
    }

    fn sum_ms(&self) -> u64 {
        self.waits
            .values()
            .fold(0, |sum: u64, waited| sum.saturating_add(*waited))
    }

    pub(super) fn stall(&self) -> Stall {
        let sessions: BTreeSet<i32> = self.waits.keys().map(|(pid, _)| *pid).collect();
        Stall {
            sessions: sessions.len(),
            applications: self.applications.iter().cloned().collect(),
            backend_ms: self.sum_ms(),
            worst_ms: self.waits.values().copied().max().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(pid: i32, since: i64, waited_ms: u64) -> Wait {
        Wait {
            pid,
            since,
            waited_ms,
            application: format!("app {}", pid % 2),
        }
    }

    #[test]
    fn waits_add_up_over_sessions_and_over_time() {
        let mut meter = Meter::new(1_000, 60_000);
        assert_eq!(meter.see(vec![wait(1, 0, 10), wait(2, 5, 5)]), None);
        // The first went on, the second has got its lock and waits anew.
        assert_eq!(meter.see(vec![wait(1, 0, 110), wait(2, 90, 20)]), None);
        meter.close(Duration::from_millis(7));
        let stall = meter.stall();
        assert_eq!((stall.sessions, stall.backend_ms, stall.worst_ms), (2, 149, 117));
        assert_eq!(stall.applications, ["app 0", "app 1"]);
        // Nobody waits any more.
        meter.close(Duration::from_secs(9));
        assert_eq!(meter.stall().backend_ms, 149);
    }

    #[test]
    fn the_smaller_budget_cuts() {
        for (budget, left, expected) in [
            (100, 1_000, Some(Cut::Attempt)),
            (1_000, 100, Some(Cut::Run)),
            (100, 100, Some(Cut::Run)),
            (101, 101, None),
        ] {
            let mut meter = Meter::new(budget, left);
            assert_eq!(meter.see(vec![wait(1, 0, 60), wait(2, 0, 40)]), expected);
        }
    }

    #[test]
    fn many_who_wait_make_it_look_sooner() {
        let every = Duration::from_millis(10);
        let mut meter = Meter::new(1_000, 60_000);
        assert_eq!(meter.next_look(every), every);
        meter.see((0..200).map(|pid| wait(pid, 0, 4)).collect());
        assert_eq!(meter.next_look(every), Duration::from_millis(2));
    }
}
