//! PostgreSQL as a neighbour: how to reach one, and how to run one.

pub mod embedded;
pub mod settings;
