//! What a call does instead of what the plan says where its locks and those of the application meet.

use crate::plan::{Asked, OnBlocked};
use crate::units;
use clap::Args;

#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Locks, instead of what the plan says")]
pub(super) struct ContentionArgs {
    /// What to do about clients whose transaction holds a lock in the way for long: `wait`, `cancel` or `terminate`;
    /// never about one that has written, or of a superuser
    #[arg(long, value_name = "POLICY")]
    on_blocked: Option<OnBlocked>,
    /// How old such a transaction must be
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    on_blocked_after: Option<u64>,
    /// How long others may wait behind one attempt to get a lock, all sessions together
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    stall_budget: Option<u64>,
    /// How long they may wait behind all attempts of this call; then it stops with exit code 4
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    stall_budget_per_run: Option<u64>,
}

impl From<ContentionArgs> for Asked {
    fn from(given: ContentionArgs) -> Self {
        Self {
            stall_budget_ms: given.stall_budget,
            stall_budget_per_run_ms: given.stall_budget_per_run,
            on_blocked: given.on_blocked,
            on_blocked_after_ms: given.on_blocked_after,
        }
    }
}

fn duration(text: &str) -> Result<u64, String> {
    match units::duration_ms(text) {
        Some(0) => Err("every wait has a bound: more than 0".into()),
        Some(ms) => Ok(ms),
        None => Err("a duration carries its unit: 200ms, 30s, 10min".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_their_unit_and_are_not_nothing() {
        assert_eq!(duration("1.5s"), Ok(1_500));
        assert!(duration("0s").is_err() && duration("5").is_err());
    }
}
