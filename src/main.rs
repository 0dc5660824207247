//! Parses, runs, exits with the code; nothing else ends the process.

use std::process::ExitCode;

fn main() -> ExitCode {
    pgmorph::cli::main()
}
