//! Whether somebody's old snapshot keeps row versions for so long that passes over a page find no room. Pure: times
//! are passed in.

use std::time::Duration;

/// A stretch is over sooner; what keeps versions for less is gone before the next pass.
const HELD_AFTER: Duration = Duration::from_secs(1);

/// The oldest transaction that somebody's snapshot may still see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Oldest {
    pub(super) xmin: String,
    /// For how long its holder has had that snapshot, as far as the server tells.
    pub(super) held_ms: i64,
    /// Who that is, in words.
    pub(super) who: String,
}

#[derive(Debug, Default)]
pub(super) struct Horizon {
    seen: Option<(String, Duration)>,
}

impl Horizon {
    /// Who holds it, once it has stood still for long enough.
    pub(super) fn sampled(&mut self, now: Duration, oldest: Option<&Oldest>) -> Option<String> {
        let Some(oldest) = oldest else {
            self.seen = None;
            return None;
        };
        let known = Duration::from_millis(u64::try_from(oldest.held_ms).unwrap_or(0));
        let since = match &self.seen {
            Some((xmin, since)) if *xmin == oldest.xmin => *since,
            _ => now,
        };
        let held = now.saturating_sub(since).max(known);
        self.seen = Some((oldest.xmin.clone(), since));
        (held >= HELD_AFTER).then(|| oldest.who.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn oldest(xmin: &str, held_ms: i64) -> Oldest {
        Oldest {
            xmin: xmin.into(),
            held_ms,
            who: "pid 7".into(),
        }
    }

    #[test]
    fn snapshots_that_come_and_go_hold_nothing() {
        let mut horizon = Horizon::default();
        for round in 0..10 {
            let now = MS(round * 500);
            let seen = oldest(&round.to_string(), 400);
            assert_eq!(horizon.sampled(now, Some(&seen)), None);
        }
    }

    #[test]
    fn one_that_stays_is_found_by_itself() {
        let mut horizon = Horizon::default();
        let mut at = |ms, seen: Option<&Oldest>| horizon.sampled(MS(ms), seen).is_some();
        let stays = oldest("100", 0);
        assert!(!at(0, Some(&stays)));
        assert!(!at(500, Some(&stays)));
        assert!(at(1_000, Some(&stays)));
        assert!(at(9_000, Some(&stays)));
        assert!(!at(9_500, None));
        assert!(!at(10_000, Some(&stays)));
    }

    #[test]
    fn an_old_one_is_known_at_the_first_look() {
        let found = Horizon::default().sampled(MS(0), Some(&oldest("100", 60_000)));
        assert_eq!(found.as_deref(), Some("pid 7"));
    }
}
