//! The integration tests: one binary, real servers.

mod catalog;
mod settings;
