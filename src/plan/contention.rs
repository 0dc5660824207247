//! How a run behaves where its locks and those of the application meet.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What happens to a session that has been holding a lock in our way for long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBlocked {
    /// It is waited for.
    #[default]
    Wait,
    /// Its running statement is cancelled.
    Cancel,
    /// Its session is ended.
    Terminate,
}

impl OnBlocked {
    pub const ALL: [Self; 3] = [Self::Wait, Self::Cancel, Self::Terminate];

    pub fn name(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Cancel => "cancel",
            Self::Terminate => "terminate",
        }
    }
}

impl fmt::Display for OnBlocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for OnBlocked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|known| known.name() == text);
        found.ok_or_else(|| "one of wait, cancel, terminate".into())
    }
}

/// Of a whole plan. Times that others waited are sums over their sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Contention {
    /// How long others may wait behind one attempt to do a work.
    pub stall_budget_ms: u64,
    /// How long others may wait behind all attempts of one call.
    pub stall_budget_per_run_ms: u64,
    pub on_blocked: OnBlocked,
    /// How old a transaction must be before it is cancelled or terminated.
    pub on_blocked_after_ms: u64,
}

impl Default for Contention {
    fn default() -> Self {
        Self {
            stall_budget_ms: 5_000,
            stall_budget_per_run_ms: 120_000,
            on_blocked: OnBlocked::Wait,
            on_blocked_after_ms: 30_000,
        }
    }
}

impl Contention {
    /// As plans have it that say nothing, those that were recorded earlier among them: their digests stay the same.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// With what was asked for instead.
    #[must_use]
    pub fn with(self, asked: Asked) -> Self {
        Self {
            stall_budget_ms: asked.stall_budget_ms.unwrap_or(self.stall_budget_ms),
            stall_budget_per_run_ms: asked
                .stall_budget_per_run_ms
                .unwrap_or(self.stall_budget_per_run_ms),
            on_blocked: asked.on_blocked.unwrap_or(self.on_blocked),
            on_blocked_after_ms: asked.on_blocked_after_ms.unwrap_or(self.on_blocked_after_ms),
        }
    }
}

/// What one call has instead of what the plan says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    pub stall_budget_ms: Option<u64>,
    pub stall_budget_per_run_ms: Option<u64>,
    pub on_blocked: Option<OnBlocked>,
    pub on_blocked_after_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_goes_before_what_the_plan_says() {
        let plan = Contention {
            stall_budget_ms: 300,
            ..Contention::default()
        };
        let asked = Asked {
            on_blocked: Some("cancel".parse().unwrap()),
            ..Asked::default()
        };
        let both = plan.with(asked);
        assert_eq!((both.stall_budget_ms, both.on_blocked), (300, OnBlocked::Cancel));
        assert!("kill".parse::<OnBlocked>().is_err());
    }

    #[test]
    fn every_name_is_that_of_the_plan_file() {
        for one in OnBlocked::ALL {
            assert_eq!(one.name().parse(), Ok(one));
            assert_eq!(serde_json::to_value(one).unwrap(), one.name());
        }
    }
}
