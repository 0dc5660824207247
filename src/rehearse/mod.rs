//! `rehearse`: a plan on a server that is thrown away, with everything looked at that its statements do.

use crate::catalog::model::CatalogSnapshot;
use crate::catalog::{load, probe};
use crate::change_plan::ChangePlan;
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind};
use crate::executor::ledger;
use crate::executor::{Executor, Interrupt, Loss};
use crate::plan::{ExecutionPlan, Phase};
use crate::planner::{self, Numbers};
use crate::postgres::settings::ConnectionSettings;
use crate::sql::ident;
use std::path::PathBuf;
use std::sync::Arc;
use tap::Tap;
use temporary::Log;
use tokio::sync::watch;
use tokio_postgres::Client;
use trace::{Statement, Trace};

pub mod compare;
pub mod durations;
mod line;
pub mod observe;
pub mod rebuild;
pub mod rows;
pub mod sample;
pub mod schema;
mod tap;
pub mod temporary;
pub mod trace;
mod watched;

use compare::Difference;

/// The server that is thrown away.
#[derive(Debug, Clone)]
pub struct Site {
    pub socket_directory: PathBuf,
    pub port: u16,
}

/// Why there is no rehearsal.
pub enum Refused {
    /// The plan does not fit the schema.
    Plan(Vec<Diagnostic>),
    Error(Box<Error>),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Error(Box::new(error))
    }
}

/// What is rehearsed.
pub enum Script<'a> {
    /// Compiled on the server that is thrown away. With a catalog, for tables as large as those.
    File(&'a ChangePlan, Option<&'a CatalogSnapshot>),
    /// As `plan -o` saved it.
    Saved(&'a ExecutionPlan),
}

/// What was seen.
#[derive(Debug)]
pub struct Rehearsal {
    pub plan: ExecutionPlan,
    /// All phases, and then, on another copy, the way back.
    pub statements: Vec<Statement>,
    /// Why there was no way back.
    pub no_way_back: Option<String>,
    pub differences: Vec<Difference>,
    pub notes: Vec<String>,
    /// Of the whole run there and back, all sessions together, by the server's own count.
    pub temporary_bytes: u64,
}

impl Site {
    fn url(&self, database: &str) -> String {
        let host = self.socket_directory.display();
        format!("postgresql://postgres@/{database}?host={host}&port={}", self.port)
    }

    /// # Errors
    /// When the server does not answer.
    pub async fn connect(&self, database: &str) -> Result<Client, Error> {
        Ok(settings(&self.url(database))?
            .connect("pgmorph rehearsal")
            .await?
            .client)
    }

    async fn execute(&self, sql: &str) -> Result<(), Error> {
        let client = self.connect("postgres").await?;
        let done = client.batch_execute(sql).await;
        done.map_err(|error| Error::postgres(ErrorKind::StepFailed, "preparing the rehearsal", error))
    }

    async fn copy(&self, template: &str, name: &str) -> Result<(), Error> {
        let (name, template) = (ident(name), ident(template));
        self.execute(&format!("CREATE DATABASE {name} TEMPLATE {template}"))
            .await
    }

    async fn drop(&self, name: &str) -> Result<(), Error> {
        self.execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", ident(name)))
            .await
    }

    /// Runs the plan on a copy of the database through all its phases; applies and rolls it back on another one.
    ///
    /// # Errors
    /// What stops the run, as on any other server; and where the plan does not fit the schema, why.
    pub async fn rehearse(&self, template: &str, script: Script<'_>) -> Result<Rehearsal, Refused> {
        let (there, back) = (format!("{template}_there"), format!("{template}_back"));
        self.copy(template, &there).await?;
        let plan = match script {
            Script::File(file, catalog) => self.compiled(&there, file, catalog).await?,
            Script::Saved(plan) => plan.clone(),
        };
        let returns = plan.steps.iter().any(|step| step.phase < Phase::Contract);
        if returns {
            self.copy(template, &back).await?;
        }
        let mut log = self.log().await?.and_then(|path| Log::open(&path).ok());
        let trace = Trace::default();
        self.run(&there, &plan, &trace, Phase::Contract).await?;
        let mut temporary_bytes = self.temporary_bytes(log.as_mut(), &there).await?;
        self.drop(&there).await?;
        let mut no_way_back = None;
        if returns {
            no_way_back = self.there_and_back(&back, &plan, &trace).await?;
            temporary_bytes += self.temporary_bytes(log.as_mut(), &back).await?;
            self.drop(&back).await?;
        }
        let statements = trace.statements();
        let differences = compare::differences(&plan, &statements, &trace.there());
        Ok(Rehearsal {
            statements,
            no_way_back,
            differences,
            notes: trace.notes(),
            temporary_bytes,
            plan,
        })
    }

    async fn compiled(
        &self,
        database: &str,
        file: &ChangePlan,
        sizes: Option<&CatalogSnapshot>,
    ) -> Result<ExecutionPlan, Refused> {
        let client = self.connect(database).await?;
        let mut catalog = load::snapshot(&client).await.map_err(Error::from)?;
        for (name, table) in &mut catalog.tables {
            if let Some(known) = sizes.and_then(|sizes| sizes.tables.get(name)) {
                table.size = known.size;
            }
        }
        let conditions = planner::conditions(file, &Numbers::new());
        probe::ask_conditions(&client, &mut catalog, &conditions)
            .await
            .map_err(Error::from)?;
        let questions = |catalog: &_| planner::questions(file, catalog);
        probe::ask_all(&client, &mut catalog, questions)
            .await
            .map_err(Error::from)?;
        planner::plan(file, &catalog).map_err(Refused::Plan)
    }

    /// Through this phase, by the executor, with the tap in its line.
    async fn run(
        &self,
        database: &str,
        plan: &ExecutionPlan,
        trace: &Trace,
        through: Phase,
    ) -> Result<(), Error> {
        let waits = plan.steps.iter().any(|step| step.work.not_before.is_some());
        if waits && through == Phase::Contract {
            Box::pin(self.apply(database, plan, trace, Phase::Cutover)).await?;
            self.time_passes(database, plan).await?;
        }
        Box::pin(self.apply(database, plan, trace, through)).await
    }

    async fn apply(
        &self,
        database: &str,
        plan: &ExecutionPlan,
        trace: &Trace,
        through: Phase,
    ) -> Result<(), Error> {
        let client = self.connect(database).await?;
        let run = match ledger::exists(&client).await? {
            true => ledger::latest_run(&client, &plan.name).await?,
            false => None,
        };
        drop(client);
        let (executor, _line) = self.executor(database, trace).await?;
        let plan = run.as_ref().map_or(plan, |run| &run.plan);
        Box::pin(executor.apply(plan, run.as_ref(), through))
            .await
            .map(drop)
    }

    /// With the tap in its line, which must be kept until it is done.
    async fn executor(
        &self,
        database: &str,
        trace: &Trace,
    ) -> Result<(Executor, (Tap, watch::Sender<Interrupt>)), Error> {
        let tap = self.tap(database, trace).await?;
        let (keep, interrupts) = watch::channel(Interrupt::None);
        let settings = settings(&tap.url(database))?;
        let executor = Executor::open(&settings, Arc::new(trace.clone()), interrupts).await?;
        Ok((executor, (tap, keep)))
    }

    async fn tap(&self, database: &str, trace: &Trace) -> Result<Tap, Error> {
        let log = self.log().await?;
        Tap::new(&self.socket_directory, self.port, database, trace, log).map_err(|error| {
            Error::new(
                ErrorKind::Connection,
                "there is no place for the socket of the rehearsal",
            )
            .source(error)
        })
    }

    /// Through the cutover and all the way back. Where there is none, why.
    async fn there_and_back(
        &self,
        database: &str,
        plan: &ExecutionPlan,
        trace: &Trace,
    ) -> Result<Option<String>, Error> {
        // The way there has been seen.
        self.run(database, plan, &Trace::default(), Phase::Cutover)
            .await?;
        let client = self.connect(database).await?;
        let Some(run) = ledger::latest_run(&client, &plan.name).await? else {
            return Ok(Some("the ledger has no run".into()));
        };
        drop(client);
        if let Some((step, reason)) = crate::executor::irreversible(&run) {
            return Ok(Some(format!("step {} cannot be undone: {reason}", step.id)));
        }
        let (executor, _line) = self.executor(database, trace).await?;
        Box::pin(executor.rollback(&run, Loss::Refused)).await?;
        Ok(None)
    }

    /// What waits for a time is shown that it has passed.
    async fn time_passes(&self, database: &str, plan: &ExecutionPlan) -> Result<(), Error> {
        let waits = plan.steps.iter().filter_map(|step| step.work.not_before.as_ref());
        let longest = waits.map(|gate| gate.ms).max().unwrap_or_default();
        let client = self.connect(database).await?;
        let sql = format!(
            "UPDATE pgmorph.steps SET finished_at = finished_at - {longest} * interval '1 millisecond' - interval '1 day'"
        );
        let done = client.batch_execute(&sql).await;
        done.map_err(|error| Error::postgres(ErrorKind::StepFailed, "letting time pass", error))
    }

    /// The server's log, where it tells of every temporary file.
    async fn log(&self) -> Result<Option<PathBuf>, Error> {
        let client = self.connect("postgres").await?;
        let row = client.query_one(&temporary::is_told_sql(), &[]).await;
        let is_told: bool = row
            .map(|row| row.get(0))
            .map_err(|error| Error::postgres(ErrorKind::StepFailed, "asking what the server logs", error))?;
        Ok(is_told.then(|| temporary::log_path(&self.socket_directory)))
    }

    /// Where the log does not tell, the statistics do, of what has reached them.
    async fn temporary_bytes(&self, log: Option<&mut Log>, database: &str) -> Result<u64, Error> {
        if let Some(bytes) = log.and_then(|log| log.of_database(database)) {
            return Ok(bytes);
        }
        let client = self.connect("postgres").await?;
        let sql =
            "SELECT coalesce(sum(temp_bytes), 0)::int8 FROM pg_catalog.pg_stat_database WHERE datname = $1";
        let row = client.query_one(sql, &[&database]).await;
        row.map(|row| u64::try_from(row.get::<_, i64>(0)).unwrap_or_default())
            .map_err(|error| Error::postgres(ErrorKind::StepFailed, "asking for temporary files", error))
    }
}

fn settings(url: &str) -> Result<ConnectionSettings, Error> {
    // Nothing of the user's environment belongs to this server.
    Ok(ConnectionSettings::resolve(Some(url), &|_| None)?)
}
