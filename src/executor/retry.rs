//! What to do about an error of the server, and how long to wait before another attempt. Pure: chance is passed in.

use crate::sqlstate::ends_session;

/// What an error asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Reaction {
    /// Somebody else has the lock: try again after a while.
    Contention,
    /// The session is gone: connect again and look what was done.
    Lost,
    /// Rows are in the way: show which.
    Integrity,
    /// The statement was cancelled, by us or by a timeout.
    Cancelled,
    /// Trying again would not help.
    Fatal,
}

/// Classifies by SQLSTATE, never by text; without one it was the connection that failed.
pub fn reaction(sqlstate: Option<&str>) -> Reaction {
    let Some(code) = sqlstate else {
        return Reaction::Lost;
    };
    match code {
        // lock_not_available, deadlock_detected, serialization_failure.
        "55P03" | "40P01" | "40001" => Reaction::Contention,
        "57014" => Reaction::Cancelled,
        _ if ends_session(code) => Reaction::Lost,
        _ if code.starts_with("23") => Reaction::Integrity,
        _ => Reaction::Fatal,
    }
}

/// Exponential backoff with full jitter: uniformly between nothing and a bound that doubles up to a cap
/// (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).
#[derive(Debug, Clone)]
pub struct Backoff {
    attempt: u32,
    base_ms: u64,
    cap_ms: u64,
}

impl Backoff {
    pub fn new(base_ms: u64, cap_ms: u64) -> Self {
        Self {
            attempt: 0,
            base_ms,
            cap_ms,
        }
    }

    /// The next delay in milliseconds, `jitter` being uniform in 0..1; never under a tenth of the base, so that
    /// nothing spins.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    pub fn next_ms(&mut self, jitter: f64) -> u64 {
        let bound = self
            .base_ms
            .saturating_mul(1 << self.attempt.min(20))
            .min(self.cap_ms);
        self.attempt += 1;
        ((bound as f64 * jitter.clamp(0.0, 1.0)) as u64).max(self.base_ms / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classifies_by_sqlstate() {
        for (code, expected) in [
            (Some("55P03"), Reaction::Contention),
            (Some("40P01"), Reaction::Contention),
            (Some("57P01"), Reaction::Lost),
            (Some("25P03"), Reaction::Lost),
            (Some("08006"), Reaction::Lost),
            (None, Reaction::Lost),
            (Some("23505"), Reaction::Integrity),
            (Some("57014"), Reaction::Cancelled),
            (Some("42501"), Reaction::Fatal),
        ] {
            assert_eq!(reaction(code), expected, "{code:?}");
        }
    }

    #[test]
    fn delays_double_up_to_the_cap_and_never_vanish() {
        let mut backoff = Backoff::new(50, 1_000);
        let bounds: Vec<u64> = (0..7).map(|_| backoff.next_ms(1.0)).collect();
        assert_eq!(bounds, [50, 100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(backoff.next_ms(0.0), 5);
    }
}
