//! When a backfill stands aside for others, and what it says then. Pure: signals and times are passed in.

use crate::units;
use std::time::Duration;

/// A wait of the application for a row of the table that is worth standing aside for.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Waits that the backfill has nothing to do with may never end: it stands aside for them that long, and then goes on
/// for as long.
const FOR_WAITERS: Duration = Duration::from_secs(5);

/// A standby that replays nothing at all reports no delay; then it is the distance that tells.
const DISTANCE_MAX_BYTES: i64 = 1 << 30;

/// Older signals say nothing about the present.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// What the server tells about others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Signals {
    /// How long somebody has waited for a row of the table.
    pub(super) waited_ms: i64,
    /// The standby that is farthest behind.
    pub(super) standby: String,
    pub(super) delay_ms: i64,
    pub(super) distance_bytes: i64,
}

/// Times are counted from the beginning of the walk.
#[derive(Debug)]
pub(super) struct Throttle {
    replica_lag: Duration,
    signals: Option<(Duration, Signals)>,
    aside_since: Option<Duration>,
    free_until: Duration,
}

impl Throttle {
    pub(super) fn new(replica_lag_ms: u64) -> Self {
        Self {
            replica_lag: Duration::from_millis(replica_lag_ms),
            signals: None,
            aside_since: None,
            free_until: Duration::ZERO,
        }
    }

    pub(super) fn sampled(&mut self, now: Duration, signals: Signals) {
        let waited = Duration::from_millis(u64::try_from(signals.waited_ms).unwrap_or(0));
        if waited < WAIT_MAX {
            self.aside_since = None;
        } else if now >= self.free_until {
            let since = *self.aside_since.get_or_insert(now);
            if now.saturating_sub(since) >= FOR_WAITERS {
                self.aside_since = None;
                self.free_until = now + FOR_WAITERS;
            }
        }
        self.signals = Some((now, signals));
    }

    /// Why nothing should be written at present.
    pub(super) fn hindrance(&self, now: Duration) -> Option<String> {
        let Some((at, signals)) = &self.signals else {
            return Some("nothing is known about others yet".into());
        };
        if now.saturating_sub(*at) > STALE_AFTER {
            return Some("nothing is known about others any more: the server does not answer".into());
        }
        self.lag(signals).or_else(|| self.waiters(signals))
    }

    fn lag(&self, signals: &Signals) -> Option<String> {
        let standby = &signals.standby;
        let delay = Duration::from_millis(u64::try_from(signals.delay_ms).unwrap_or(0));
        if delay > self.replica_lag {
            let (delay, limit) = (units::duration(delay), units::duration(self.replica_lag));
            return Some(format!(
                "standby {standby} is {delay} behind, above {limit} (replica_lag)"
            ));
        }
        (signals.distance_bytes > DISTANCE_MAX_BYTES).then(|| {
            let distance = units::size(u64::try_from(signals.distance_bytes).unwrap_or(0));
            format!("standby {standby} has {distance} of WAL still to replay")
        })
    }

    fn waiters(&self, signals: &Signals) -> Option<String> {
        self.aside_since?;
        let waited = units::millis(u64::try_from(signals.waited_ms).unwrap_or(0));
        Some(format!("somebody has waited {waited} for a row of the table"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn waited(ms: i64) -> Signals {
        Signals {
            waited_ms: ms,
            ..Signals::default()
        }
    }

    #[test]
    fn without_fresh_signals_nothing_is_written() {
        let mut throttle = Throttle::new(10_000);
        assert!(throttle.hindrance(S(0)).unwrap().contains("yet"));
        throttle.sampled(S(1), Signals::default());
        assert_eq!(throttle.hindrance(S(2)), None);
        assert!(throttle.hindrance(S(7)).unwrap().contains("any more"));
    }

    #[test]
    fn a_standby_is_waited_for_as_long_as_it_takes() {
        let mut throttle = Throttle::new(10_000);
        let behind = |delay_ms, distance_bytes| Signals {
            standby: "east".into(),
            delay_ms,
            distance_bytes,
            ..Signals::default()
        };
        for second in 0..100 {
            throttle.sampled(S(second), behind(12_000, 5));
            let reason = throttle.hindrance(S(second)).unwrap();
            assert_eq!(reason, "standby east is 12s behind, above 10s (replica_lag)");
        }
        throttle.sampled(S(100), behind(10_000, 5));
        assert_eq!(throttle.hindrance(S(100)), None);
        throttle.sampled(S(101), behind(0, 2 << 30));
        let reason = throttle.hindrance(S(101)).unwrap();
        assert!(reason.ends_with("of WAL still to replay"), "{reason}");
    }

    #[test]
    fn waiters_that_stay_do_not_stop_it_for_good() {
        let mut throttle = Throttle::new(10_000);
        let mut aside = Vec::new();
        for second in 0..20 {
            throttle.sampled(S(second), waited(1_500));
            if throttle.hindrance(S(second)).is_some() {
                aside.push(second);
            }
        }
        assert_eq!(aside, [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]);
        throttle.sampled(S(20), waited(300));
        assert_eq!(throttle.hindrance(S(20)), None);
    }
}
