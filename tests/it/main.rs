//! The integration tests: one binary, real servers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::too_many_lines,
    reason = "a test fails by panicking, helpers included, tells on its output what it did, and may be a long story"
)]

mod backfill;
mod catalog;
mod change_type;
mod cli;
mod connect;
mod copying;
mod crash;
mod crash_points;
mod demo;
mod disk;
mod dual_write;
mod embedded;
mod faults;
mod fixtures;
mod harness;
mod hostile;
mod injection;
mod lint;
mod locks;
mod made;
mod monitor;
mod partitions;
mod pgbouncer;
mod plan_set;
mod portfolio;
mod prepared;
mod privileges;
mod publications;
mod refusals;
mod rehearse;
mod renames;
mod replicas;
mod scale;
mod schema;
mod seeds;
mod server_log;
mod servers;
mod settings;
mod soak;
mod sql_lint;
mod tidy;
mod together;
mod tune;
mod twin;
mod types;
mod views;
mod watched;
mod when;
