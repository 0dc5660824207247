//! How far behind the standbys are, and which of them is gone. Pure: what the server says and times are passed in.

use crate::plan::Limits;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Looks that are remembered; a standby that has replayed less than the first of them is at least so late.
const LOOKS_MAX: usize = 2_400;

/// What a receiver is called that was given no name.
const NAMELESS: &str = "walreceiver";

/// Who receives WAL, as the server shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Receiver {
    /// `application_name`.
    pub(super) name: String,
    pub(super) address: String,
    /// It decodes for subscribers: whether it is there is their business.
    pub(super) logical: bool,
    /// The role may not see how far it is.
    pub(super) hidden: bool,
    /// Up to where it has replayed, in bytes; a mere archive of the WAL replays nothing.
    pub(super) replayed: Option<i64>,
    /// As the standby reported last. It stays at that when it does not replay any more.
    pub(super) reported_ms: i64,
}

/// A standby that counts, or a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Behind {
    /// In words: what it is and what it is called.
    pub(super) who: String,
    pub(super) delay: Duration,
    pub(super) bytes: u64,
}

/// What was found at one look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) behind: Vec<Behind>,
    /// The one that has been gone for longest.
    pub(super) gone: Option<(String, Duration)>,
    /// Standbys that would count if the role could see how far they are.
    pub(super) hidden: Vec<String>,
}

/// What is remembered from look to look, over all backfills of a call.
#[derive(Debug, Default)]
pub(in crate::executor) struct Standbys {
    /// When at the latest so much WAL was written.
    written: VecDeque<(Duration, i64)>,
    /// By name: since when it is gone, if it is.
    known: BTreeMap<String, Option<Duration>>,
}

impl Standbys {
    pub(super) fn look(
        &mut self,
        now: Duration,
        position: i64,
        receivers: &[Receiver],
        limits: &Limits,
    ) -> Findings {
        if self.written.back().is_none_or(|(_, last)| *last < position) {
            self.written.push_back((now, position));
        }
        if self.written.len() > LOOKS_MAX {
            self.written.pop_front();
        }
        let counts = |receiver: &&Receiver| match &limits.replicas {
            Some(names) => names.contains(&receiver.name),
            None => true,
        };
        let counting: Vec<&Receiver> = receivers.iter().filter(counts).collect();
        Findings {
            behind: counting
                .iter()
                .filter_map(|receiver| self.behind(now, position, receiver))
                .collect(),
            gone: self.gone(now, &counting, limits),
            hidden: counting
                .iter()
                .filter(|receiver| receiver.hidden)
                .map(|receiver| receiver.name.clone())
                .collect(),
        }
    }

    fn behind(&self, now: Duration, position: i64, receiver: &Receiver) -> Option<Behind> {
        let replayed = receiver.replayed?;
        let bytes = u64::try_from(position - replayed).unwrap_or(0);
        let reported = Duration::from_millis(u64::try_from(receiver.reported_ms).unwrap_or(0));
        let delay = match bytes {
            0 => Duration::ZERO,
            _ => reported.max(self.waiting_since(now, replayed)),
        };
        let what = if receiver.logical { "subscriber" } else { "standby" };
        Some(Behind {
            who: format!("{what} {}", receiver.shown()),
            delay,
            bytes,
        })
    }

    /// For how long at least there has been something to replay.
    fn waiting_since(&self, now: Duration, replayed: i64) -> Duration {
        let ahead = self
            .written
            .partition_point(|(_, position)| *position <= replayed);
        let (at, _) = self.written.get(ahead).copied().unwrap_or((now, 0));
        now.saturating_sub(at)
    }

    /// A standby counts as known once it was there, and from the beginning where the plan names it.
    fn gone(&mut self, now: Duration, counting: &[&Receiver], limits: &Limits) -> Option<(String, Duration)> {
        for name in limits.replicas.iter().flatten() {
            let named = counting.iter().any(|receiver| receiver.name == *name);
            if !named {
                self.known.entry(name.clone()).or_insert(Some(now));
            }
        }
        // What does not replay only looks like a standby; what is hidden was one before it was, as far as anybody knows.
        let replays = |receiver: &&&Receiver| {
            !receiver.logical && (receiver.replayed.is_some() || self.known.contains_key(&receiver.shown()))
        };
        let there: Vec<String> = counting
            .iter()
            .filter(replays)
            .map(|receiver| receiver.shown())
            .chain(
                limits
                    .replicas
                    .iter()
                    .flatten()
                    .filter(|name| counting.iter().any(|receiver| receiver.name == **name))
                    .cloned(),
            )
            .collect();
        for (name, since) in &mut self.known {
            match there.contains(name) {
                true => *since = None,
                false => _ = since.get_or_insert(now),
            }
        }
        for name in there {
            self.known.entry(name).or_insert(None);
        }
        let gone = self.known.iter().filter(|(name, _)| match &limits.replicas {
            Some(names) => names.iter().any(|counts| *name == counts),
            None => true,
        });
        gone.filter_map(|(name, since)| Some((name.clone(), now.saturating_sub((*since)?))))
            .max_by_key(|(_, time)| *time)
    }
}

impl Receiver {
    /// Those without a name of their own are told apart by where they are.
    fn shown(&self) -> String {
        match self.name == NAMELESS && !self.address.is_empty() {
            true => format!("{} at {}", self.name, self.address),
            false => self.name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn standby(name: &str, replayed: i64) -> Receiver {
        Receiver {
            name: name.into(),
            replayed: Some(replayed),
            ..Receiver::default()
        }
    }

    fn delays(findings: &Findings) -> Vec<u64> {
        let delays = findings.behind.iter().map(|it| it.delay.as_secs());
        delays.collect()
    }

    #[test]
    fn one_that_stands_still_is_later_with_every_look() {
        let mut standbys = Standbys::default();
        let limits = Limits::default();
        for second in 0..100 {
            let written = i64::try_from(second).unwrap() * 1_000;
            // It reports what it was when it still replayed.
            let paused = Receiver {
                reported_ms: 3,
                ..standby("east", 10_000)
            };
            let found = standbys.look(S(second), written, &[paused], &limits);
            let expected = second.saturating_sub(11);
            assert_eq!(delays(&found), [expected], "{second}");
        }
        let found = standbys.look(S(100), 99_000, &[standby("east", 99_000)], &limits);
        assert_eq!(delays(&found), [0]);
    }

    #[test]
    fn what_it_reports_counts_where_it_is_more() {
        let late = Receiver {
            reported_ms: 7_000,
            ..standby("east", 10)
        };
        let found = Standbys::default().look(S(0), 20, &[late], &Limits::default());
        assert_eq!(delays(&found), [7]);
        assert_eq!(found.behind[0].bytes, 10);
    }

    #[test]
    fn a_standby_that_was_there_is_missed() {
        let mut standbys = Standbys::default();
        let limits = Limits::default();
        let mut gone = |second, names: &[&str]| {
            let there: Vec<Receiver> = names.iter().map(|name| standby(name, 5)).collect();
            let found = standbys.look(S(second), 5, &there, &limits);
            found.gone.map(|(name, time)| (name, time.as_secs()))
        };
        assert_eq!(gone(0, &["east", "west"]), None);
        assert_eq!(gone(5, &["east"]), Some(("west".into(), 0)));
        assert_eq!(gone(9, &["east"]), Some(("west".into(), 4)));
        assert_eq!(gone(10, &[]), Some(("west".into(), 5)));
        assert_eq!(gone(11, &["west"]), Some(("east".into(), 1)));
        assert_eq!(gone(12, &["west", "east"]), None);
        assert_eq!(gone(13, &["west"]), Some(("east".into(), 0)));
    }

    #[test]
    fn named_ones_are_missed_from_the_beginning_and_others_never() {
        let mut standbys = Standbys::default();
        let limits = Limits {
            replicas: Some(vec!["east".into()]),
            ..Limits::default()
        };
        let mut look = |second, names: &[&str]| {
            let there: Vec<Receiver> = names.iter().map(|name| standby(name, 0)).collect();
            let found = standbys.look(S(second), 5, &there, &limits);
            (
                found.behind.len(),
                found.gone.map(|(name, time)| (name, time.as_secs())),
            )
        };
        assert_eq!(look(0, &["west"]), (0, Some(("east".into(), 0))));
        assert_eq!(look(3, &["west"]), (0, Some(("east".into(), 3))));
        assert_eq!(look(4, &["west", "east"]), (1, None));
        assert_eq!(look(5, &["east"]), (1, None));
        assert_eq!(look(6, &[]), (0, Some(("east".into(), 0))));
    }

    #[test]
    fn whoever_only_collects_or_decodes_may_leave() {
        let mut standbys = Standbys::default();
        let archive = Receiver {
            replayed: None,
            ..standby("pg_receivewal", 0)
        };
        let subscriber = Receiver {
            logical: true,
            ..standby("feed", 1)
        };
        let found = standbys.look(S(0), 5, &[archive, subscriber], &Limits::default());
        assert_eq!(found.behind.len(), 1);
        assert_eq!(found.behind[0].who, "subscriber feed");
        assert_eq!(standbys.look(S(1), 5, &[], &Limits::default()).gone, None);
    }

    #[test]
    fn a_role_may_see_that_it_is_there_but_not_how_far() {
        let mut standbys = Standbys::default();
        let limits = Limits {
            replicas: Some(vec!["east".into()]),
            ..Limits::default()
        };
        let hidden = Receiver {
            name: "east".into(),
            hidden: true,
            ..Receiver::default()
        };
        let found = standbys.look(S(0), 5, &[hidden], &limits);
        assert_eq!(
            (found.behind, found.gone, found.hidden),
            (Vec::new(), None, vec!["east".to_owned()])
        );
    }

    #[test]
    fn nameless_ones_are_told_apart_by_their_address() {
        let mut standbys = Standbys::default();
        let at = |address: &str| Receiver {
            address: address.into(),
            ..standby("walreceiver", 5)
        };
        let limits = Limits::default();
        standbys.look(S(0), 5, &[at("10.0.0.1"), at("10.0.0.2")], &limits);
        let found = standbys.look(S(1), 5, &[at("10.0.0.2")], &limits);
        assert_eq!(found.gone.unwrap().0, "walreceiver at 10.0.0.1");
    }
}
