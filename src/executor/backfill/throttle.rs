//! When a backfill stands aside for others, and what it says then. Pure: signals and times are passed in.

use super::horizon::Oldest;
use crate::plan::Limits;
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
    /// How much WAL was ever written.
    pub(super) wal_position: i64,
    /// The replication slot that keeps most WAL.
    pub(super) slot: String,
    pub(super) retained_bytes: i64,
    /// How much it may keep before it is given up (`max_slot_wal_keep_size`), where somebody reads it.
    pub(super) slot_keeps_bytes: Option<i64>,
    /// Full segments that the archiver has not got yet.
    pub(super) archive_backlog_bytes: i64,
    pub(super) oldest: Option<Oldest>,
}

/// Times are counted from the beginning of the walk.
#[derive(Debug)]
pub(super) struct Throttle {
    limits: Limits,
    signals: Option<(Duration, Signals)>,
    aside_since: Option<Duration>,
    free_until: Duration,
    /// Bytes of WAL a second between the last two looks.
    wal_rate: u64,
}

impl Throttle {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            signals: None,
            aside_since: None,
            free_until: Duration::ZERO,
            wal_rate: 0,
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
        if let Some((before, last)) = &self.signals {
            self.wal_rate = rate(
                signals.wal_position - last.wal_position,
                now.saturating_sub(*before),
            );
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
        self.lag(signals)
            .or_else(|| self.wal(signals))
            .or_else(|| self.waiters(signals))
    }

    fn lag(&self, signals: &Signals) -> Option<String> {
        let standby = &signals.standby;
        let delay = Duration::from_millis(u64::try_from(signals.delay_ms).unwrap_or(0));
        let limit = Duration::from_millis(self.limits.replica_lag_ms);
        if delay > limit {
            let (delay, limit) = (units::duration(delay), units::duration(limit));
            return Some(format!(
                "standby {standby} is {delay} behind, above {limit} (replica_lag)"
            ));
        }
        (signals.distance_bytes > DISTANCE_MAX_BYTES).then(|| {
            let distance = units::size(u64::try_from(signals.distance_bytes).unwrap_or(0));
            format!("standby {standby} has {distance} of WAL still to replay")
        })
    }

    fn wal(&self, signals: &Signals) -> Option<String> {
        let Limits {
            wal_rate_bytes,
            wal_retained_bytes,
            archive_backlog_bytes,
            ..
        } = self.limits;
        let above = |bytes: i64, limit: u64| {
            let bytes = u64::try_from(bytes).unwrap_or(0);
            (bytes > limit).then(|| format!("{}, above {}", units::size(bytes), units::size(limit)))
        };
        if let Some(much) = above(signals.retained_bytes, wal_retained_bytes) {
            let slot = &signals.slot;
            return Some(format!(
                "replication slot {slot} keeps WAL of {much} (wal_retained)"
            ));
        }
        // The last quarter is for others.
        let safe = signals
            .slot_keeps_bytes
            .and_then(|bytes| u64::try_from(bytes).ok());
        if let Some(much) = safe.and_then(|bytes| above(signals.retained_bytes, bytes / 4 * 3)) {
            let slot = &signals.slot;
            return Some(format!(
                "replication slot {slot} keeps WAL of {much} (three quarters of max_slot_wal_keep_size)"
            ));
        }
        if let Some(much) = above(signals.archive_backlog_bytes, archive_backlog_bytes) {
            return Some(format!("WAL that is not archived yet: {much} (archive_backlog)"));
        }
        let limit = wal_rate_bytes?;
        (self.wal_rate > limit).then(|| {
            let (rate, limit) = (units::size(self.wal_rate), units::size(limit));
            format!("the server writes {rate} of WAL a second, above {limit} (wal_rate)")
        })
    }

    fn waiters(&self, signals: &Signals) -> Option<String> {
        self.aside_since?;
        let waited = units::millis(u64::try_from(signals.waited_ms).unwrap_or(0));
        Some(format!("somebody has waited {waited} for a row of the table"))
    }
}

fn rate(bytes: i64, time: Duration) -> u64 {
    let bytes = u128::try_from(bytes).unwrap_or(0);
    u64::try_from(bytes * 1_000 / time.as_millis().max(1)).unwrap_or(u64::MAX)
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
        let mut throttle = Throttle::new(Limits::default());
        assert!(throttle.hindrance(S(0)).unwrap().contains("yet"));
        throttle.sampled(S(1), Signals::default());
        assert_eq!(throttle.hindrance(S(2)), None);
        assert!(throttle.hindrance(S(7)).unwrap().contains("any more"));
    }

    #[test]
    fn a_standby_is_waited_for_as_long_as_it_takes() {
        let mut throttle = Throttle::new(Limits::default());
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
    fn wal_that_piles_up_is_waited_for() {
        let reason = |signals| {
            let mut throttle = Throttle::new(Limits::default());
            throttle.sampled(S(0), signals);
            throttle.hindrance(S(0)).unwrap_or_default()
        };
        let kept = |gigabytes: i64| Signals {
            slot: "feed".into(),
            retained_bytes: gigabytes << 30,
            ..Signals::default()
        };
        assert_eq!(reason(kept(16)), "");
        let nearly_lost = Signals {
            slot_keeps_bytes: Some(4 << 30),
            ..kept(5)
        };
        insta::assert_snapshot!(reason(nearly_lost), @"replication slot feed keeps WAL of 5 GB, above 3 GB (three quarters of max_slot_wal_keep_size)");
        insta::assert_snapshot!(reason(kept(20)), @"replication slot feed keeps WAL of 20 GB, above 16 GB (wal_retained)");
        let late = |gigabytes: i64| Signals {
            archive_backlog_bytes: gigabytes << 30,
            ..Signals::default()
        };
        assert_eq!(reason(late(1)), "");
        insta::assert_snapshot!(reason(late(3)), @"WAL that is not archived yet: 3 GB, above 1 GB (archive_backlog)");
    }

    #[test]
    fn wal_may_be_written_at_a_limited_rate() {
        let mut throttle = Throttle::new(Limits {
            wal_rate_bytes: Some(10 << 20),
            ..Limits::default()
        });
        let mut at = |second, megabytes: i64| {
            let wal_position = megabytes << 20;
            let signals = Signals {
                wal_position,
                ..Signals::default()
            };
            throttle.sampled(S(second), signals);
            throttle.hindrance(S(second)).unwrap_or_default()
        };
        assert_eq!(at(1, 50_000), "");
        assert_eq!(at(2, 50_010), "");
        insta::assert_snapshot!(at(3, 50_040), @"the server writes 30 MB of WAL a second, above 10 MB (wal_rate)");
        assert_eq!(at(4, 50_041), "");
    }

    #[test]
    fn waiters_that_stay_do_not_stop_it_for_good() {
        let mut throttle = Throttle::new(Limits::default());
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
