//! What the demo changes a schema under: a temporary server with three tables, and an application that uses them all
//! the time, remembers what it was told is written, and times every statement.

pub mod account;
pub mod felt;
pub mod stage;
mod statements;
pub mod summary;
pub mod traffic;

/// The plan that the demo applies, and what its users call it.
pub const PLAN: &str = include_str!("../../plans/portfolio_hardening/plan.yaml");
pub const PLAN_PATH: &str = "plans/portfolio_hardening/plan.yaml";
