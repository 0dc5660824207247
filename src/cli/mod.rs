//! The command line: one file per command.

use crate::diagnostic::{self, Diagnostic};
use crate::error::{Error, ErrorKind};
use crate::ops::MANUALS;
use crate::postgres::settings::{Bounds, ConnectionSettings, Session, patiently};
use crate::report::passing::Passing;
use crate::report::{Reporter, out, screen};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

mod apply;
mod baseline;
mod completions;
mod confirm;
mod contention;
mod demo;
mod diff;
mod explain;
mod history;
mod input;
mod interrupts;
mod lint;
mod man;
mod new;
mod permit;
mod plan;
mod rehearse;
mod report;
mod resolve;
mod rollback;
mod schema;
mod set;
mod snapshot;
mod status;
mod tune;
mod untested;
mod verify;
mod watch;

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
7 another run holds the database; 130 interrupted. In all of them the state is saved.
More: pgmorph explain exit_codes";

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
    /// Act as this role in every session, as after SET ROLE: it owns what is made, and its privileges count
    #[arg(long, global = true, env = "PGMORPH_ROLE", value_name = "ROLE")]
    pub role: Option<String>,
    /// The URL stands on the command line: it is meant by this very call.
    #[arg(skip)]
    pub url_given: bool,
    /// The form of results
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    pub format: Format,
    /// The form of what is told meanwhile, on standard error: `json` is one object a line; as --format where not given
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        env = "PGMORPH_LOG_FORMAT"
    )]
    pub log_format: Option<LogFormat>,
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
    /// For the review of a pull request (`plan` and `rehearse` only)
    Markdown,
    /// SARIF 2.1.0, for code scanning (`lint` of SQL only)
    Sarif,
    /// Annotations of a GitHub workflow (`lint` of SQL only)
    Github,
    /// A page of one file (`plan` and `report` only)
    Html,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Human,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Apply(apply::Apply),
    Baseline(baseline::Baseline),
    Completions(completions::Completions),
    Demo(demo::Demo),
    Explain(explain::Explain),
    Lint(lint::Lint),
    Man(man::Man),
    New(new::New),
    Pause(tune::Pause),
    Plan(plan::Plan),
    Rehearse(rehearse::Rehearse),
    Report(report::Report),
    Resume(tune::Resume),
    Rollback(rollback::Rollback),
    Schema(schema::Schema),
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
    /// Complaints about several of them, or about how they stand to each other.
    Plans(Vec<InvalidPlan>),
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

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Error(error) => error.kind.exit_code(),
            Self::Plan(plan) => kind_of(&plan.diagnostics).exit_code(),
            Self::Plans(_) => ErrorKind::Usage.exit_code(),
        }
    }

    /// As the value of `error` in a JSON result.
    fn json(&self) -> serde_json::Value {
        let plans = match self {
            Self::Error(error) => return crate::report::error::json(error),
            Self::Plan(plan) => std::slice::from_ref(&**plan),
            Self::Plans(plans) => plans,
        };
        let kind = match self {
            Self::Plan(plan) => kind_of(&plan.diagnostics),
            _ => ErrorKind::Usage,
        };
        let message = match plans {
            [plan] => format!("{}: the plan is refused", plan.path),
            _ => "the plans are refused".into(),
        };
        let found = plans.iter().flat_map(|plan| &plan.diagnostics);
        let messages = found.map(|complaint| complaint.message.clone());
        let mut error = crate::report::error::json(&Error::new(kind, message).details(messages));
        error["diagnostics"] = plans.iter().flat_map(InvalidPlan::json).collect();
        error
    }

    fn human(&self, chain: bool) -> String {
        match self {
            Self::Error(error) => crate::report::error::human(error, chain),
            Self::Plan(plan) => plan.human(),
            Self::Plans(plans) => plans.iter().map(InvalidPlan::human).collect(),
        }
    }
}

impl InvalidPlan {
    fn human(&self) -> String {
        let text = diagnostic::render(&self.diagnostics, &self.path, &self.source, true);
        let mut text = crate::report::safe::marked(&text);
        let spans = self.diagnostics.iter().filter_map(|found| found.span);
        let mut operations: Vec<&str> = spans
            .filter_map(|span| operation_at(&self.source, span.start))
            .collect();
        operations.sort_unstable();
        operations.dedup();
        if !operations.is_empty() {
            text.push_str(&format!("more: pgmorph explain {}\n", operations.join(", ")));
        }
        text
    }

    fn json(&self) -> impl Iterator<Item = serde_json::Value> {
        self.diagnostics.iter().map(|found| {
            let mut found = crate::report::error::diagnostic_json(found, &self.source);
            found["file"] = self.path.as_str().into();
            found
        })
    }
}

fn arguments() -> Result<Cli, clap::Error> {
    let matches = Cli::command().try_get_matches()?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    cli.global.url_given = names_url(&matches);
    Ok(cli)
}

/// Before the command or after it.
fn names_url(matches: &ArgMatches) -> bool {
    matches.value_source("url") == Some(ValueSource::CommandLine)
        || matches.subcommand().is_some_and(|(_, inner)| names_url(inner))
}

/// Parses the arguments, runs the command, reports how it ended.
pub fn main() -> ExitCode {
    let cli = match arguments() {
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
        let is_page = global.format == Format::Html && matches!(self, Self::Report(_));
        let is_told = global.format == Format::Markdown && matches!(self, Self::Rehearse(_));
        if matches!(global.format, Format::Sql | Format::Markdown | Format::Html)
            && !matches!(self, Self::Plan(_))
            && !is_page
            && !is_told
        {
            return Err(Error::new(
                ErrorKind::Usage,
                "only `plan` has all formats; `report` has html, `rehearse` has markdown",
            )
            .help("use --format human or --format json")
            .into());
        }
        if matches!(global.format, Format::Sarif | Format::Github) && !matches!(self, Self::Lint(_)) {
            return Err(
                Error::new(ErrorKind::Usage, "only `lint` has the formats sarif and github")
                    .help("use --format human or --format json")
                    .into(),
            );
        }
        match self {
            Self::Apply(command) => command.run(global).await,
            Self::Baseline(command) => command.run(global).await,
            Self::Completions(command) => command.run(),
            Self::Demo(command) => command.run(global).await,
            Self::Explain(command) => command.run(global),
            Self::Lint(command) => command.run(global).await,
            Self::Man(command) => command.run(),
            Self::New(command) => command.run(global),
            Self::Pause(command) => command.run(global).await,
            Self::Plan(command) => command.run(global).await,
            Self::Rehearse(command) => Box::pin(command.run(global)).await,
            Self::Report(command) => Box::pin(command.run(global)).await,
            Self::Resume(command) => command.run(global).await,
            Self::Rollback(command) => command.run(global).await,
            Self::Schema(command) => command.run(),
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

    /// Whether what is told meanwhile is for machines.
    fn logs_json(&self) -> bool {
        self.log_format
            .map_or(self.is_json(), |format| format == LogFormat::Json)
    }

    fn settings(&self) -> Result<ConnectionSettings, Error> {
        let env = |name: &str| std::env::var(name).ok();
        let role = self.role.as_deref().filter(|role| !role.is_empty());
        Ok(ConnectionSettings::resolve(self.url.as_deref(), &env)?.acting_as(role))
    }

    /// A session that only looks: nothing it does may wait for long.
    async fn observer(&self, settings: &ConnectionSettings) -> Result<Session, Error> {
        patiently(|| Box::pin(settings.refuse_transaction_pooling())).await?;
        let bounds = Bounds {
            statement: Duration::from_secs(60),
            lock: Duration::from_secs(1),
            idle_in_transaction: Duration::from_secs(60),
            idle: Duration::ZERO,
        };
        Ok(patiently(|| Box::pin(settings.bounded("pgmorph", bounds))).await?)
    }

    /// Something to know, besides the result.
    fn note(&self, text: &str) {
        if self.quiet {
            return;
        }
        if self.log_format == Some(LogFormat::Json) {
            crate::report::json::JsonReporter.note(text);
        } else {
            out::line(text);
        }
    }

    /// What is only of interest while it goes on.
    fn passing(&self) -> Passing {
        if self.quiet {
            Passing::silent()
        } else if self.logs_json() {
            Passing::lines(|text| crate::report::json::JsonReporter.note(text))
        } else if self.verbose == 0 && screen::can_be_drawn_on(&std::io::stderr()) {
            Passing::bar()
        } else {
            Passing::lines(out::line)
        }
    }

    /// Bars where somebody watches and no log lines get between them.
    fn reporter(&self) -> Arc<dyn Reporter> {
        if self.quiet {
            Arc::new(crate::report::Silent)
        } else if self.logs_json() {
            Arc::new(crate::report::json::JsonReporter)
        } else if self.verbose == 0 && screen::can_be_drawn_on(&std::io::stderr()) {
            Arc::new(crate::report::human::BarReporter::new())
        } else {
            Arc::new(crate::report::human::LineReporter::default())
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
        let _ = if self.logs_json() {
            logger.json().try_init().err()
        } else {
            logger.with_target(false).try_init().err()
        };
    }

    /// Reports a failure, and gives the exit code.
    fn ended(&self, outcome: Outcome) -> ExitCode {
        ExitCode::from(match outcome {
            Ok(code) => code,
            Err(failure) if self.is_json() => {
                let _ = out::json(&serde_json::json!({"error": failure.json()}));
                failure.exit_code()
            }
            Err(failure) if self.log_format == Some(LogFormat::Json) => {
                crate::report::json::JsonReporter::failed(&failure.json());
                failure.exit_code()
            }
            Err(failure) => {
                out::message(&failure.human(self.verbose > 0));
                failure.exit_code()
            }
        })
    }
}

/// The operation whose entry the place is in: the last line at or before it that begins one.
fn operation_at(source: &str, offset: usize) -> Option<&'static str> {
    let end = source[offset.min(source.len())..]
        .find('\n')
        .map_or(source.len(), |length| offset + length);
    source.get(..end)?.lines().rev().find_map(|line| {
        let entry = line.trim_start().strip_prefix("- ")?;
        let (name, _) = entry.split_once(':')?;
        MANUALS
            .iter()
            .map(|(known, _)| *known)
            .find(|known| *known == name.trim())
    })
}

/// The plan is invalid, unless it is only the server or the role that does not fit it.
fn kind_of(diagnostics: &[Diagnostic]) -> ErrorKind {
    const ABOUT_THE_SERVER: [&str; 6] = [
        "not_owner",
        "server_too_old",
        "may_not_create",
        "schema_denied",
        "missing_privilege",
        "not_grantable",
    ];
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
    fn a_complaint_knows_its_operation() {
        let source = "name: x\nchanges:\n  - add_check:\n      table: t\n  - create_index: {table: é}\n";
        let at = |text: &str| operation_at(source, source.find(text).unwrap());
        assert_eq!(at("name"), None);
        assert_eq!(at("table: t"), Some("add_check"));
        assert_eq!(at("create_index"), Some("create_index"));
        assert_eq!(operation_at(source, source.len()), Some("create_index"));
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
