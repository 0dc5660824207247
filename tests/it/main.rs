//! The integration tests: one binary, real servers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod catalog;
mod cli;
mod crash;
mod disk;
mod embedded;
mod fixtures;
mod harness;
mod portfolio;
mod refusals;
mod server_log;
mod settings;
mod tidy;
mod types;
