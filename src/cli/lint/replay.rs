//! `lint --replay`: all plans of a directory, run on a database that begins empty.

use super::Lint;
use crate::catalog::load;
use crate::catalog::model::CatalogSnapshot;
use crate::cli::input::{Input, PlanFile};
use crate::cli::verify::verification;
use crate::cli::{Failure, Global, interrupts, resolve};
use crate::error::{Error, ErrorKind};
use crate::executor::Executor;
use crate::plan::Phase;
use crate::plan_set::PlanSet;
use crate::planner::Numbers;
use crate::postgres::embedded::{EmbeddedError, Installation, Options, Server};
use crate::postgres::settings::ConnectionSettings;
use crate::report::Reporter;
use crate::report::style;
use crate::report::verification::Verification;
use crate::units;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What became of the plans of one set, up to the first that failed.
pub struct Replayed {
    server: String,
    plans: Vec<Played>,
    /// Plans after the one that failed.
    left: Vec<String>,
}

struct Played {
    plan: String,
    file: String,
    steps: usize,
    elapsed_ms: u64,
    verification: Option<Verification>,
    failure: Option<Failure>,
}

impl Played {
    fn passes(&self) -> bool {
        self.failure.is_none() && self.verification.as_ref().is_some_and(Verification::passes)
    }
}

/// A database on a server of its own, which is gone afterwards.
pub struct Place {
    server: Server,
    settings: ConnectionSettings,
}

impl Place {
    /// Empty, or with the schema that is given.
    pub async fn begin(lint: &Lint) -> Result<Self, Error> {
        let bindir = lint.pg_bindir.clone();
        let start = move || Server::start(&Installation::find(bindir.as_deref())?, &Options::default());
        let server = blocking(start).await?;
        // Nothing of the user's environment belongs to this server.
        let settings =
            |name| ConnectionSettings::resolve(Some(&server.url(name)), &|_| None).map_err(Error::from);
        execute(
            &settings("postgres")?,
            "CREATE DATABASE replay",
            "creating the database",
        )
        .await?;
        let settings = settings("replay")?;
        if let Some(path) = &lint.schema {
            execute(&settings, &schema(path)?, &format!("loading {}", path.display())).await?;
        }
        Ok(Self { server, settings })
    }

    pub async fn end(self) -> Result<(), Error> {
        blocking(move || self.server.stop()).await
    }

    /// What is there before the first plan.
    pub async fn catalog(&self) -> Result<CatalogSnapshot, Error> {
        let session = self.settings.connect("pgmorph replay").await?;
        Ok(load::snapshot(&session.client).await?)
    }
}

pub async fn replay(place: Place, global: &Global, set: &PlanSet) -> Result<Replayed, Failure> {
    let reporter = global.reporter();
    let stage = Stage {
        global,
        settings: &place.settings,
        reporter: reporter.clone(),
    };
    let mut replayed = Replayed {
        server: format!("PostgreSQL {}", place.server.version()),
        plans: Vec::new(),
        left: Vec::new(),
    };
    for (number, file) in set.files.iter().enumerate() {
        let mut played = Box::pin(stage.play(file)).await;
        if let Some(Failure::Error(error)) = played.failure.take_if(is_interrupt) {
            return Err(Failure::Error(error));
        }
        let passes = played.passes();
        replayed.plans.push(played);
        if !passes {
            let left = set.files[number + 1..].iter();
            replayed.left = left.map(|file| file.plan.name.clone()).collect();
            break;
        }
    }
    reporter.finish();
    place.end().await?;
    Ok(replayed)
}

fn is_interrupt(failure: &mut Failure) -> bool {
    matches!(failure, Failure::Error(error) if error.kind == ErrorKind::Interrupted)
}

/// As pg_dump writes it; what is meant for psql alone is left out.
fn schema(path: &Path) -> Result<String, Error> {
    let text = crate::saved::read_text(path, crate::saved::EXECUTION_PLAN_BYTES_MAX).map_err(|error| {
        Error::new(
            ErrorKind::Usage,
            format!("cannot read {}: {error}", path.display()),
        )
        .source(error)
    })?;
    let for_psql = |line: &&str| line.starts_with("\\restrict") || line.starts_with("\\unrestrict");
    let lines: Vec<&str> = text.lines().filter(|line| !for_psql(line)).collect();
    Ok(lines.join("\n"))
}

async fn execute(settings: &ConnectionSettings, sql: &str, what: &str) -> Result<(), Error> {
    let session = settings.connect("pgmorph replay").await?;
    let failed = |error| Error::postgres(ErrorKind::Precondition, what, error);
    session.client.batch_execute(sql).await.map_err(failed)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EmbeddedError> + Send + 'static,
) -> Result<T, Error> {
    let ended = tokio::task::spawn_blocking(work).await;
    let failed =
        |error| Error::new(ErrorKind::StepFailed, "the temporary server ended unexpectedly").source(error);
    Ok(ended.map_err(failed)??)
}

struct Stage<'a> {
    global: &'a Global,
    settings: &'a ConnectionSettings,
    reporter: Arc<dyn Reporter>,
}

impl Stage<'_> {
    async fn play(&self, file: &PlanFile) -> Played {
        let began = Instant::now();
        let mut played = Played {
            plan: file.plan.name.clone(),
            file: file.path.clone(),
            steps: 0,
            elapsed_ms: 0,
            verification: None,
            failure: None,
        };
        match Box::pin(self.run(file)).await {
            Ok((steps, verification)) => {
                played.steps = steps;
                played.verification = Some(verification);
            }
            Err(failure) => played.failure = Some(failure),
        }
        played.elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        played
    }

    async fn run(&self, file: &PlanFile) -> Result<(usize, Verification), Failure> {
        let input = Input::File(Box::new(file.clone()));
        let session = self.global.observer(self.settings).await?;
        let mut plan = resolve::begin(&session.client, &input, &Numbers::new()).await?;
        // Nobody misses these tables, and nobody has that much time.
        for step in &mut plan.steps {
            step.work.not_before = None;
        }
        plan.digest = plan.computed_digest();
        let interrupts = interrupts::watch(self.reporter.clone())?;
        let executor = Executor::open(self.settings, self.reporter.clone(), interrupts).await?;
        let outcome = Box::pin(executor.apply(&plan, None, Phase::Contract)).await?;
        let verification = Box::pin(verification(&session.client, &input, None)).await?;
        Ok((outcome.steps, verification))
    }
}

impl Replayed {
    pub fn passes(&self) -> bool {
        self.plans.iter().all(Played::passes)
    }

    pub fn json(&self) -> Value {
        let plan = |played: &Played| {
            json!({
                "plan": played.plan,
                "file": played.file,
                "passes": played.passes(),
                "steps": played.steps,
                "elapsed_ms": played.elapsed_ms,
                "verification": played.verification,
                "error": played.failure.as_ref().map(Failure::json),
            })
        };
        json!({
            "server": self.server,
            "passes": self.passes(),
            "plans": self.plans.iter().map(plan).collect::<Vec<_>>(),
            "left": self.left,
        })
    }

    pub fn human(&self) -> String {
        let mut text = format!("Replayed on {}, through contract:\n", self.server);
        for played in &self.plans {
            let steps = units::counted(played.steps, "step");
            let time = units::millis(played.elapsed_ms);
            let name = style::name(&played.plan);
            if played.passes() {
                let _ = writeln!(text, "  {name}: {} ({steps} in {time})", style::good("matches"));
                continue;
            }
            let _ = writeln!(text, "  {name}: {}", style::bad("failed"));
            if let Some(failure) = &played.failure {
                text.push_str(&failure.human(false));
            }
            if let Some(verification) = &played.verification {
                text.push_str(&verification.human());
            }
        }
        if !self.left.is_empty() {
            let _ = writeln!(text, "  not run after that: {}", self.left.join(", "));
        }
        text
    }
}
