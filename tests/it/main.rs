//! The integration tests: one binary, real servers.

#![allow(clippy::unwrap_used)]

mod catalog;
mod cli;
mod embedded;
mod settings;
