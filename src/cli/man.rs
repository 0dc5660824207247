//! `man`: manual pages, made of the same texts as `--help`.

use super::{Cli, Outcome};
use crate::error::{Error, ErrorKind};
use crate::report::out;
use clap::{Args, CommandFactory};
use clap_mangen::Man as Page;
use std::path::PathBuf;

/// Print the manual page, or write the pages of all commands into a folder
#[derive(Debug, Args)]
pub struct Man {
    /// Write pgmorph.1, pgmorph-apply.1, … there, for instance /usr/local/share/man/man1
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

impl Man {
    pub fn run(&self) -> Outcome {
        if let Some(folder) = &self.dir {
            let failed = |error| {
                let message = format!("cannot write manual pages into {}", folder.display());
                Error::new(ErrorKind::Usage, message).source(error)
            };
            std::fs::create_dir_all(folder).map_err(failed)?;
            clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?;
            return Ok(0);
        }
        let mut page = Vec::new();
        Page::new(Cli::command())
            .render(&mut page)
            .map_err(|error| Error::new(ErrorKind::Usage, "cannot make the manual page").source(error))?;
        out::result(&String::from_utf8_lossy(&page))?;
        Ok(0)
    }
}
