//! What the application felt: how long its statements took, and during which steps the slow ones were.

use super::statements::{Kind, TABLES};
use crate::event::{Event, Listener};
use crate::report::Reporter;
use serde::{Serialize, Serializer};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One statement of the application.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub kind: Kind,
    /// Position in [`TABLES`].
    pub table: usize,
    pub began: Instant,
    pub took: Duration,
}

impl Sample {
    pub fn ended(&self) -> Instant {
        self.began + self.took
    }

    pub fn words(&self) -> String {
        match self.kind {
            Kind::Begin | Kind::Commit => self.kind.to_string(),
            kind => format!("{kind}, {}", TABLES[self.table].name),
        }
    }
}

/// How long the statements of a period took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Felt {
    pub statements: usize,
    #[serde(rename = "median_ms", serialize_with = "as_millis")]
    pub median: Duration,
    #[serde(rename = "p99_ms", serialize_with = "as_millis")]
    pub p99: Duration,
    #[serde(rename = "p99_9_ms", serialize_with = "as_millis")]
    pub p99_9: Duration,
    #[serde(rename = "slowest_ms", serialize_with = "as_millis")]
    pub slowest: Duration,
}

fn as_millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(millis(*duration))
}

/// Milliseconds with three decimals.
pub fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl Felt {
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |per_mille: usize| {
            // The nearest rank: so many of a thousand took at most this long.
            let rank = (times.len() * per_mille).div_ceil(1_000);
            times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        Self {
            statements: times.len(),
            median: at(500),
            p99: at(990),
            p99_9: at(999),
            slowest: at(1_000),
        }
    }
}

/// Passes events on, and remembers when each step ran.
pub struct Timeline {
    inner: Arc<dyn Reporter>,
    steps: Mutex<Vec<Span>>,
}

struct Span {
    step: String,
    began: Instant,
    ended: Option<Instant>,
}

impl Timeline {
    pub fn new(inner: Arc<dyn Reporter>) -> Self {
        Self {
            inner,
            steps: Mutex::default(),
        }
    }

    fn steps(&self) -> MutexGuard<'_, Vec<Span>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The step that ran when this statement ended; what a step of ours held up ends when the step does.
    pub fn during(&self, sample: &Sample) -> Option<String> {
        let steps = self.steps();
        let overlaps = |span: &&Span| {
            span.began <= sample.ended() && span.ended.is_none_or(|ended| ended >= sample.began)
        };
        let overlap = |span: &&Span| {
            let end = span
                .ended
                .map_or(sample.ended(), |ended| ended.min(sample.ended()));
            end.saturating_duration_since(span.began.max(sample.began))
        };
        let longest = steps.iter().filter(overlaps).max_by_key(overlap);
        longest.map(|span| span.step.clone())
    }
}

impl Listener for Timeline {
    fn tell(&self, event: &Event) {
        match event {
            Event::StepStarted { step, .. } => self.steps().push(Span {
                step: step.clone(),
                began: Instant::now(),
                ended: None,
            }),
            Event::StepDone { step, .. } | Event::StepFailed { step, .. } => {
                let mut steps = self.steps();
                if let Some(span) = steps.iter_mut().rev().find(|span| span.step == *step) {
                    span.ended = Some(Instant::now());
                }
            }
            _ => {}
        }
        self.inner.tell(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Silent;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let felt = Felt::of((1..=1_000).rev().map(Duration::from_millis).collect());
        let shown = [felt.median, felt.p99, felt.p99_9, felt.slowest].map(|time| time.as_millis());
        assert_eq!(shown, [500, 990, 999, 1_000]);
        assert_eq!(Felt::of(Vec::new()), Felt::default());
        assert_eq!(
            Felt::of(vec![Duration::from_secs(1)]).median,
            Duration::from_secs(1)
        );
    }

    #[test]
    fn a_slow_statement_is_put_to_the_step_that_it_overlaps_most() {
        let timeline = Timeline::new(Arc::new(Silent));
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for (step, began, ended) in [("a", 0, Some(100)), ("b", 100, None)] {
            timeline.steps().push(Span {
                step: step.into(),
                began: at(began),
                ended: ended.map(at),
            });
        }
        let during = |began, took| {
            timeline.during(&Sample {
                kind: Kind::Update,
                table: 0,
                began: at(began),
                took: Duration::from_millis(took),
            })
        };
        assert_eq!(during(20, 90).as_deref(), Some("a"));
        assert_eq!(during(80, 90).as_deref(), Some("b"));
    }
}
