//! When a backfill stands aside for others, and what it says then. Pure: signals and times are passed in.

use super::horizon::Oldest;
use super::standbys::Findings;
use crate::error::ErrorKind;
use crate::event::Lag;
use crate::plan::Limits;
use crate::units;
use std::time::Duration;

/// A wait of the application for a row of the table that is worth standing aside for.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Waits that the backfill has nothing to do with may never end: it stands aside for them that long, and then goes on
/// for as long.
const FOR_WAITERS: Duration = Duration::from_secs(5);

/// Older signals say nothing about the present.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// What the server tells about others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Signals {
    /// How long somebody has waited for a row of the table.
    pub(super) waited_ms: i64,
    pub(super) standbys: Findings,
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

/// Why a run stops instead of waiting on, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GivenUp {
    pub(super) kind: ErrorKind,
    pub(super) why: String,
    pub(super) help: &'static str,
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
        let limit = Duration::from_millis(self.limits.replica_lag_ms);
        let bytes = self.limits.replica_lag_bytes;
        if let Some((name, time)) = &signals.standbys.gone {
            let grace = units::millis(self.limits.replica_grace_ms);
            let time = units::duration(*time);
            return Some(format!(
                "standby {name} has been gone for {time}; after {grace} (replica_grace) the run stops"
            ));
        }
        let latest = signals.standbys.behind.iter().max_by_key(|it| it.delay)?;
        if latest.delay > limit {
            let (who, delay, limit) = (&latest.who, units::duration(latest.delay), units::duration(limit));
            return Some(format!("{who} is {delay} behind, above {limit} (replica_lag)"));
        }
        let farthest = signals.standbys.behind.iter().max_by_key(|it| it.bytes)?;
        (farthest.bytes > bytes).then(|| {
            let (who, much, limit) = (&farthest.who, units::size(farthest.bytes), units::size(bytes));
            format!("{who} has {much} of WAL still to replay, above {limit} (replica_lag_bytes)")
        })
    }

    /// At the last look.
    pub(super) fn farthest_behind(&self) -> Option<Lag> {
        let behind = self.signals.iter().flat_map(|(_, it)| &it.standbys.behind);
        let latest = behind.max_by_key(|it| (it.delay, it.bytes))?;
        Some(Lag {
            who: latest.who.clone(),
            ms: u64::try_from(latest.delay.as_millis()).unwrap_or(u64::MAX),
            bytes: latest.bytes,
        })
    }

    /// A standby is half as late as it may be: it is worth looking more often.
    pub(super) fn is_close(&self) -> bool {
        let half = Duration::from_millis(self.limits.replica_lag_ms / 2);
        let bytes = self.limits.replica_lag_bytes / 2;
        let mut behind = self.signals.iter().flat_map(|(_, it)| &it.standbys.behind);
        behind.any(|it| it.delay > half || it.bytes > bytes)
    }

    /// What waiting does not help against, and what does.
    pub(super) fn given_up(&self) -> Option<GivenUp> {
        let (_, signals) = self.signals.as_ref()?;
        let Findings { gone, hidden, .. } = &signals.standbys;
        if let (Some(_), [name, ..]) = (&self.limits.replicas, hidden.as_slice()) {
            let why = format!("the role may not see how far standby {name} is, which `replicas` names");
            return Some(GivenUp {
                kind: ErrorKind::StepFailed,
                why,
                help: "grant it pg_read_all_stats (pg_monitor has that too), then run the same command again",
            });
        }
        let (name, time) = gone.as_ref()?;
        let grace = Duration::from_millis(self.limits.replica_grace_ms);
        if *time < grace {
            return None;
        }
        let (time, grace) = (units::duration(*time), units::duration(grace));
        Some(GivenUp {
            kind: ErrorKind::Exhausted,
            why: format!("standby {name} has been gone for {time}, above {grace} (replica_grace)"),
            help: match self.limits.replicas {
                None => {
                    "what is filled stays filled: bring it back and run the same command again; without it, the same \
                     command goes on for the standbys that are there then"
                }
                Some(_) => {
                    "what is filled stays filled: bring it back and run the same command again, or say by --replicas \
                     which standbys count"
                }
            },
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
    use super::super::standbys::Behind;
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
        let behind = |delay_ms, bytes| Signals {
            standbys: Findings {
                behind: vec![Behind {
                    who: "standby east".into(),
                    delay: Duration::from_millis(delay_ms),
                    bytes,
                }],
                ..Findings::default()
            },
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
        insta::assert_snapshot!(reason, @"standby east has 2 GB of WAL still to replay, above 1 GB (replica_lag_bytes)");
        assert!(throttle.is_close() && throttle.given_up().is_none());
    }

    #[test]
    fn one_that_is_gone_is_waited_for_until_the_grace_time_is_over() {
        let mut throttle = Throttle::new(Limits::default());
        let gone = |seconds| Signals {
            standbys: Findings {
                gone: Some(("east".into(), S(seconds))),
                ..Findings::default()
            },
            ..Signals::default()
        };
        throttle.sampled(S(100), gone(59));
        insta::assert_snapshot!(throttle.hindrance(S(100)).unwrap(), @"standby east has been gone for 59s; after 1m (replica_grace) the run stops");
        assert_eq!(throttle.given_up(), None);
        throttle.sampled(S(101), gone(60));
        insta::assert_snapshot!(throttle.given_up().unwrap().why, @"standby east has been gone for 1m, above 1m (replica_grace)");
    }

    #[test]
    fn a_standby_that_is_named_must_be_visible() {
        let hidden = Signals {
            standbys: Findings {
                hidden: vec!["east".into()],
                ..Findings::default()
            },
            ..Signals::default()
        };
        let mut throttle = Throttle::new(Limits::default());
        throttle.sampled(S(1), hidden.clone());
        assert_eq!((throttle.hindrance(S(1)), throttle.given_up()), (None, None));
        let mut throttle = Throttle::new(Limits {
            replicas: Some(vec!["east".into()]),
            ..Limits::default()
        });
        throttle.sampled(S(1), hidden);
        insta::assert_snapshot!(throttle.given_up().unwrap().why, @"the role may not see how far standby east is, which `replicas` names");
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
