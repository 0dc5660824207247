//! `schema`: the JSON Schema of the plan file, for editors and for who writes plans by program.

use super::Outcome;
use crate::report::out;
use clap::Args;

/// Made by a test from what the reader asks for: `UPDATE_SCHEMA=1 cargo test --test it schema::`.
const SCHEMA: &str = include_str!("../plan.schema.json");

/// Print the JSON Schema of the plan file
#[derive(Debug, Args)]
pub struct Schema {}

impl Schema {
    #[allow(clippy::unused_self, reason = "as every command")]
    pub fn run(&self) -> Outcome {
        out::result(SCHEMA)?;
        Ok(0)
    }
}
