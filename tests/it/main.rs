//! The integration tests: one binary, real servers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, helpers included, and tells on its output what it did"
)]

mod backfill;
mod catalog;
mod change_type;
mod cli;
mod copying;
mod crash;
mod demo;
mod disk;
mod dual_write;
mod embedded;
mod fixtures;
mod harness;
mod lint;
mod made;
mod partitions;
mod plan_set;
mod portfolio;
mod prepared;
mod publications;
mod refusals;
mod renames;
mod schema;
mod seeds;
mod server_log;
mod settings;
mod soak;
mod tidy;
mod together;
mod tune;
mod twin;
mod types;
mod views;
mod when;
