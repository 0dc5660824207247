//! The catalog: what the database looks like, as a plain value, and how it is loaded.

mod check;
pub mod load;
pub mod model;
pub mod probe;
pub mod types;
