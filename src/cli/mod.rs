//! The command line: one file per command.

use crate::diagnostic::{self, Diagnostic};
use crate::error::{Error, ErrorKind};
use crate::postgres::settings::{ConnectionSettings, Session};
use crate::report::{self, Reporter, out};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

mod apply;
mod completions;
mod confirm;
mod demo;
mod explain;
mod history;
mod input;
mod interrupts;
mod plan;
mod resolve;
mod rollback;
mod snapshot;
mod status;
mod tune;
mod verify;

/// Zero-downtime schema changes for PostgreSQL: plan, apply, verify, roll back.
#[derive(Debug, Parser)]
#[command(name = "pgmorph", version, after_help = EXIT_CODES, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done or matches; 1 findings, or not confirmed; 2 usage error or invalid plan; 3 a precondition
failed, nothing changed; 4 lock budget used up, run again later; 5 cannot connect or log in; 6 a step failed;
7 another run holds the database; 130 interrupted. In all of them the state is saved.";

#[derive(Debug, Args)]
pub struct Global {
    /// Where to connect: a URI or `key=value` pairs. Without it libpq's conventions hold: PG* variables, service
    /// file, password file
    #[arg(
        long,
        global = true,
        env = "DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub url: Option<String>,
    /// The form of results
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    pub format: Format,
    /// Say only results and errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Log what happens, on standard error; twice for more
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Human,
    Json,
    /// A script for psql (`plan` only)
    Sql,
    /// For the review of a pull request (`plan` only)
    Markdown,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Apply(apply::Apply),
    Completions(completions::Completions),
    Demo(demo::Demo),
    Explain(explain::Explain),
    Pause(tune::Pause),
    Plan(plan::Plan),
    Resume(tune::Resume),
    Rollback(rollback::Rollback),
    Snapshot(snapshot::Snapshot),
    Status(status::Status),
    Tune(tune::Tune),
    Verify(verify::Verify),
}

/// What ends a command early.
pub enum Failure {
    Error(Box<Error>),
    /// Complaints about a plan file.
    Plan(Box<InvalidPlan>),
}

pub struct InvalidPlan {
    pub path: String,
    pub source: String,
    pub diagnostics: Vec<Diagnostic>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(Box::new(error))
    }
}

impl From<crate::catalog::load::LoadError> for Failure {
    fn from(error: crate::catalog::load::LoadError) -> Self {
        Error::from(error).into()
    }
}

/// The exit code of a command that did its work.
pub type Outcome = Result<u8, Failure>;

/// Parses the arguments, runs the command, reports how it ended.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output, and a reader that went away is no reason to fail.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = Error::new(ErrorKind::Usage, "cannot start threads").source(error);
            return cli.global.ended(Err(error.into()));
        }
    };
    cli.global.start_logging();
    let outcome = runtime.block_on(Box::pin(cli.command.run(&cli.global)));
    runtime.shutdown_background();
    cli.global.ended(outcome)
}

impl Command {
    async fn run(&self, global: &Global) -> Outcome {
        if matches!(global.format, Format::Sql | Format::Markdown) && !matches!(self, Self::Plan(_)) {
            return Err(
                Error::new(ErrorKind::Usage, "only `plan` has the formats sql and markdown")
                    .help("use --format human or --format json")
                    .into(),
            );
        }
        match self {
            Self::Apply(command) => command.run(global).await,
            Self::Completions(command) => command.run(),
            Self::Demo(command) => command.run(global).await,
            Self::Explain(command) => command.run(global),
            Self::Pause(command) => command.run(global).await,
            Self::Plan(command) => command.run(global).await,
            Self::Resume(command) => command.run(global).await,
            Self::Rollback(command) => command.run(global).await,
            Self::Snapshot(command) => command.run(global).await,
            Self::Status(command) => command.run(global).await,
            Self::Tune(command) => command.run(global).await,
            Self::Verify(command) => command.run(global).await,
        }
    }
}

impl Global {
    fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    fn settings(&self) -> Result<ConnectionSettings, Error> {
        let env = |name: &str| std::env::var(name).ok();
        Ok(ConnectionSettings::resolve(self.url.as_deref(), &env)?)
    }

    /// A session that only looks: nothing it does may wait for long.
    async fn observer(&self, settings: &ConnectionSettings) -> Result<Session, Error> {
        let session = settings.connect("pgmorph").await?;
        session
            .client
            .batch_execute("SET statement_timeout = '60s'; SET lock_timeout = '1s'")
            .await
            .map_err(|error| Error::postgres(ErrorKind::Connection, "preparing the session", error))?;
        Ok(session)
    }

    /// Something to know, besides the result.
    fn note(&self, text: &str) {
        if !self.quiet {
            out::line(text);
        }
    }

    /// Bars where somebody watches and no log lines get between them.
    fn reporter(&self) -> Arc<dyn Reporter> {
        if self.quiet {
            Arc::new(report::Silent)
        } else if self.is_json() {
            Arc::new(report::json::JsonReporter)
        } else if self.verbose == 0 && std::io::stderr().is_terminal() {
            Arc::new(report::human::BarReporter::new())
        } else {
            Arc::new(report::human::LineReporter::default())
        }
    }

    fn start_logging(&self) {
        let level = match (self.quiet, self.verbose) {
            (true, _) => "error",
            // What libraries warn of, like a pool's broken session, we report ourselves.
            (false, 0) => "error,pgmorph=warn",
            (false, 1) => "pgmorph=info,warn",
            (false, 2) => "pgmorph=debug,info",
            (false, _) => "trace",
        };
        let logger = tracing_subscriber::fmt()
            .with_env_filter(level)
            .with_writer(std::io::stderr)
            .with_ansi(anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never);
        // Somebody may have set a logger already; then that one is it.
        let _ = if self.is_json() {
            logger.json().try_init().err()
        } else {
            logger.with_target(false).try_init().err()
        };
    }

    /// Reports a failure, and gives the exit code.
    fn ended(&self, outcome: Outcome) -> ExitCode {
        ExitCode::from(match outcome {
            Ok(code) => code,
            Err(Failure::Error(error)) => self.failed(&error),
            Err(Failure::Plan(plan)) => self.refused(&plan),
        })
    }

    fn failed(&self, error: &Error) -> u8 {
        if self.is_json() {
            let _ = out::json(&serde_json::json!({"error": report::error::json(error)}));
        } else {
            out::message(&report::error::human(error, self.verbose > 0));
        }
        error.kind.exit_code()
    }

    fn refused(&self, plan: &InvalidPlan) -> u8 {
        let InvalidPlan {
            path,
            source,
            diagnostics,
        } = plan;
        let kind = kind_of(diagnostics);
        if self.is_json() {
            let complaints = diagnostics.iter().map(|complaint| complaint.message.clone());
            let mut error = report::error::json(
                &Error::new(kind, format!("{path}: the plan is refused")).details(complaints),
            );
            let diagnostics = diagnostics
                .iter()
                .map(|found| report::error::diagnostic_json(found, source));
            error["diagnostics"] = diagnostics.collect();
            let _ = out::json(&serde_json::json!({"error": error}));
        } else {
            out::message(&diagnostic::render(diagnostics, path, source, true));
        }
        kind.exit_code()
    }
}

/// The plan is invalid, unless it is only the server or the role that does not fit it.
fn kind_of(diagnostics: &[Diagnostic]) -> ErrorKind {
    const ABOUT_THE_SERVER: [&str; 2] = ["not_owner", "server_too_old"];
    if diagnostics
        .iter()
        .all(|diagnostic| ABOUT_THE_SERVER.contains(&diagnostic.code))
    {
        ErrorKind::Precondition
    } else {
        ErrorKind::Usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn complaints_about_the_role_alone_are_a_precondition() {
        let role = Diagnostic::new("not_owner", "x");
        assert_eq!(kind_of(std::slice::from_ref(&role)), ErrorKind::Precondition);
        assert_eq!(
            kind_of(&[role, Diagnostic::new("unknown_table", "y")]),
            ErrorKind::Usage
        );
    }
}
