//! `report`: a run, finished or not, as a page, a text, or JSON; read only.

use super::history::History;
use super::input::{self, Asked, Input};
use super::{Failure, Format, Global, Outcome, set, verify};
use crate::error::{Error, ErrorKind};
use crate::executor::ledger::requests::{self, Requests};
use crate::executor::ledger::{self, Run};
use crate::report::run_view::RunReport;
use crate::report::verification::Verification;
use crate::report::{json, out, run_html, run_human, safe};
use clap::Args;
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use tokio_postgres::Client;

/// Write what a run did: times, attempts, waits for locks, throttling, batches, replica lag, and the verification
#[derive(Debug, Args)]
pub struct Report {
    /// The number of a run, a plan file, or a plan's name: its latest run; without it, the latest run of all
    #[arg(value_name = "PLAN|RUN")]
    run: Option<String>,
    /// Write to this file instead of standard output; one that ends in .html or .json is of that form
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Leave out the verification, which asks the plan's own questions again
    #[arg(long)]
    no_verify: bool,
}

impl Report {
    pub async fn run(&self, global: &Global) -> Outcome {
        let session = global.observer(&global.settings()?).await?;
        let client = &session.client;
        let (run, given) = self.find(client, global).await?;
        let verification = match self.no_verify {
            true => None,
            false => verified(client, &run, given).await?,
        };
        let asked = match requests::exist(client).await? {
            true => requests::requests(client, run.id).await?,
            false => Requests::default(),
        };
        let report = RunReport {
            stats: ledger::stats::read(client, run.id).await?,
            attempts: ledger::attempts(client, run.id).await?,
            fills: ledger::cursors(client, run.id).await?,
            asked,
            verification,
            now: now(client).await?,
            run,
        };
        let text = match self.form(global) {
            Format::Json => json::versioned(&report.json()),
            Format::Html => run_html::run(&report),
            _ => run_human::run(&report),
        };
        match &self.output {
            Some(path) if self.form(global) == Format::Json => input::write(path, &safe::json(&text))?,
            Some(path) => input::write(path, &safe::plain(&text))?,
            None if global.is_json() => out::json(&report.json())?,
            None => out::result(&text)?,
        }
        Ok(0)
    }

    fn form(&self, global: &Global) -> Format {
        let extension = self.output.as_deref().and_then(Path::extension);
        match (global.format, extension.and_then(|end| end.to_str())) {
            (Format::Human, Some("html")) => Format::Html,
            (Format::Human, Some("json")) => Format::Json,
            (format, _) => format,
        }
    }

    async fn find(&self, client: &Client, global: &Global) -> Result<(Run, Option<Input>), Failure> {
        let none = |what: String| Error::new(ErrorKind::Precondition, what).help("see `pgmorph status`");
        if !ledger::exists(client).await? {
            return Err(none("no plan was ever applied to this database".into()).into());
        }
        let Some(given) = &self.run else {
            let latest = ledger::latest_runs(client).await?.into_iter().next();
            let latest = latest.ok_or_else(|| none("no plan was ever applied to this database".into()))?;
            return Ok((latest, None));
        };
        if let Ok(id) = given.parse() {
            let run = ledger::run(client, id).await?;
            return Ok((run.ok_or_else(|| none(format!("there is no run {id}")))?, None));
        }
        let mut asked = input::asked(given)?;
        if let Asked::Plan(input) = &mut asked {
            set::names::recognise(client, global, input).await?;
        }
        let (name, input) = match asked {
            Asked::Name(name) => (name, None),
            Asked::Plan(input) => (input.name().to_owned(), Some(input)),
        };
        let run = ledger::latest_run(client, &name).await?;
        let run = run.ok_or_else(|| none(format!("plan {name} was never applied to this database")))?;
        Ok((run, input))
    }
}

/// Of the plan as it stands; what a later run of it has changed since is not this one's.
async fn verified(client: &Client, run: &Run, given: Option<Input>) -> Result<Option<Verification>, Failure> {
    let history = History::read(client, &run.plan.name).await?;
    let latest = history
        .standing
        .iter()
        .chain(&history.undone)
        .map(|it| it.id)
        .max();
    if latest != Some(run.id) {
        return Ok(None);
    }
    let input = given.unwrap_or_else(|| Input::Saved(Box::new(run.plan.clone())));
    let verification = Box::pin(verify::verification(client, &input, None)).await?;
    Ok(Some(verification))
}

/// By the server's clock, as everything in the ledger.
async fn now(client: &Client) -> Result<Timestamp, Error> {
    let row = client.query_one("SELECT clock_timestamp()", &[]).await;
    let row = row.map_err(|error| Error::postgres(ErrorKind::Connection, "asking for the time", error))?;
    Ok(row.get(0))
}
