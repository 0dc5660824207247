//! pgmorph: zero-downtime schema changes for PostgreSQL.

pub mod catalog;
pub mod change_plan;
pub mod cli;
pub mod demo;
pub mod diagnostic;
pub mod document;
pub mod error;
pub mod event;
pub mod executor;
pub mod ops;
pub mod plan;
pub mod planner;
pub mod postgres;
pub mod report;
pub mod sql;
pub mod units;
pub mod verifier;
