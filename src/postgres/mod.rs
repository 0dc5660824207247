//! Servers: how to reach one.

pub mod settings;
