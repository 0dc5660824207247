//! What steps came to, besides their records: what they waited for, how they were filled, whom they stood aside for.
//! Kept in the ledger, bounded, for `report` and `status --watch`; no decision rests on it.

mod keeper;

use crate::event::{Lag, LockTotals};
use serde::{Deserialize, Serialize};

pub(super) use keeper::{Keeper, WRITE_WAITS_EVERY};

/// Points of a step's progress; where there are more, every other one goes.
const SAMPLES_MAX: usize = 120;
const CAUSES_MAX: usize = 12;
const STANDBYS_MAX: usize = 12;
const NOTES_MAX: usize = 20;
/// Longer texts are cut: some name every standby.
const TEXT_MAX: usize = 400;

/// What one step came to, over all calls that worked at it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepStats {
    /// How long calls were at it.
    pub worked_ms: u64,
    pub locks: LockTotals,
    /// Connections that were lost.
    pub reconnects: u64,
    pub aside: Vec<Aside>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batches: Option<Batches>,
    /// The worst of each standby.
    pub lag: Vec<Lag>,
    pub samples: Vec<Sample>,
    pub notes: Vec<Note>,
    pub notes_left_out: u64,
    /// What it waits for at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<Now>,
}

/// For what it stood aside, and for how long altogether.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aside {
    /// The setting that bounds it (`replica_lag`), `paused`, or words.
    pub cause: String,
    /// As it was told last.
    pub reason: String,
    pub times: u64,
    pub ms: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batches {
    pub number: u64,
    /// Least, most and last number of pages that a batch visited, as seen twice a second.
    pub pages_min: u64,
    pub pages_max: u64,
    pub pages: u64,
    pub passes: u64,
    /// The longest time that one kept its rows locked, among those seen.
    pub held_max_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Time at work.
    pub at_ms: u64,
    pub done: u64,
    pub total: u64,
    pub rows: u64,
    pub per_second: u64,
    /// Pages per batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<u64>,
    /// Of the standby that was farthest behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub at_ms: u64,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    pub reason: String,
    pub waited_ms: u64,
}

impl StepStats {
    /// Nothing that is worth a row.
    pub fn is_empty(&self) -> bool {
        let worked_ms = self.worked_ms;
        *self
            == Self {
                worked_ms,
                ..Self::default()
            }
    }

    fn stands_aside(&mut self, reason: &str, begins: bool, more_ms: u64) {
        let cause = cause(reason);
        if let Some(aside) = self.aside.iter_mut().find(|aside| aside.cause == cause) {
            aside.times += u64::from(begins);
            aside.ms += more_ms;
            aside.reason = cut(reason);
        } else if self.aside.len() < CAUSES_MAX {
            self.aside.push(Aside {
                cause,
                reason: cut(reason),
                times: 1,
                ms: more_ms,
            });
        }
    }

    fn lags(&mut self, lag: &Lag) {
        if let Some(known) = self.lag.iter_mut().find(|known| known.who == lag.who) {
            known.ms = known.ms.max(lag.ms);
            known.bytes = known.bytes.max(lag.bytes);
        } else if self.lag.len() < STANDBYS_MAX {
            self.lag.push(lag.clone());
        }
    }

    fn sample(&mut self, sample: Sample) {
        self.samples.push(sample);
        if self.samples.len() > SAMPLES_MAX {
            let last = self.samples.len() - 1;
            let mut position = 0;
            self.samples.retain(|_| {
                position += 1;
                // The first and the last stay.
                position % 2 == 1 || position == last + 1
            });
        }
    }

    fn note(&mut self, at_ms: u64, text: &str) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(Note {
                at_ms,
                text: cut(text),
            });
        } else {
            self.notes_left_out += 1;
        }
    }
}

/// What a reason is about, without its figures: the setting that it names in the end, or its first words.
fn cause(reason: &str) -> String {
    let named = reason
        .rsplit_once('(')
        .and_then(|(_, rest)| rest.split_once(')'))
        .map(|(name, _)| name)
        .filter(|name| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        });
    match named {
        Some(name) => name.to_owned(),
        None if reason.starts_with("paused") => "paused".into(),
        None => {
            let words = reason
                .split(|c: char| c.is_ascii_digit())
                .next()
                .unwrap_or_default();
            cut(words.trim_end())
        }
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
