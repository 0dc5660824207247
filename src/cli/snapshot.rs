//! `snapshot`: the catalog as JSON, for planning without a server.

use super::{Global, Outcome, input};
use crate::catalog::load;
use crate::report::out;
use clap::Args;
use std::path::PathBuf;

/// Write the catalog as JSON, for `plan --catalog`
#[derive(Debug, Args)]
pub struct Snapshot {
    /// Write to this file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Snapshot {
    pub async fn run(&self, global: &Global) -> Outcome {
        let session = global.observer(&global.settings()?).await?;
        let snapshot = load::snapshot(&session.client).await?;
        let text = out::pretty(&snapshot);
        match &self.output {
            Some(path) => input::write(path, &text)?,
            None => out::result(&crate::report::safe::json(&text))?,
        }
        Ok(0)
    }
}
