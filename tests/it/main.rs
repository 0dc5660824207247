//! The integration tests: one binary, real servers.

mod cli;
mod settings;
