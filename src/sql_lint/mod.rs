//! Raw SQL, judged before it runs: what every statement locks, rewrites and reads, and what takes its place.

pub mod effects;
pub mod fix;
mod ignore;
mod lint;
pub mod parse;
pub mod rules;
pub mod statement;
pub mod world;

pub use effects::{Effects, Refusal, effects};
pub use lint::{Judged, Report, lint};
pub use world::World;
