//! `completions`: scripts for shells.

use super::{Cli, Outcome};
use crate::report::out;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Print the completion script of a shell
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell that will read it
    shell: Shell,
}

impl Completions {
    pub fn run(&self) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "pgmorph", &mut script);
        out::result(&String::from_utf8_lossy(&script))?;
        Ok(0)
    }
}
