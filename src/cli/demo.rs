//! `demo`: everything, on a server of its own, with an application that must not notice.

use super::input::{Input, PlanFile};
use super::{Failure, Global, InvalidPlan, Outcome, resolve, verify};
use crate::change_plan;
use crate::demo::account::{self, Account, Holding};
use crate::demo::felt::Timeline;
use crate::demo::stage::Stage;
use crate::demo::summary::{self, Kept, Summary, Times};
use crate::demo::traffic::{CONNECTIONS, REQUESTS_PER_SECOND, Record, Traffic};
use crate::demo::{PLAN, PLAN_PATH};
use crate::error::{Error, ErrorKind};
use crate::event::{Event, Unit};
use crate::executor::{Executor, Interrupt};
use crate::plan::{ExecutionPlan, Phase};
use crate::planner::Numbers;
use crate::report::verification::Verification;
use crate::report::{Reporter, out, plan_human, style};
use crate::units;
use clap::{Args, value_parser};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

const LOADING: &str = "load";

/// See it work: change three tables of a temporary server while an application uses them
///
/// Starts a PostgreSQL server of its own, which is gone afterwards, and touches no other. Exits with 0 when no statement
/// of the application failed, none of its acknowledged writes is lost, and `verify` finds what was promised.
#[derive(Debug, Args)]
pub struct Demo {
    /// Rows in each of the three tables
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = value_parser!(u64).range(1_000..))]
    rows: u64,
    /// Leave the server running in the end; says how to look at it and how to stop it
    #[arg(long)]
    keep: bool,
    /// The folder with PostgreSQL's programs initdb and postgres; without it PGMORPH_PG_BINDIR, or else the newest found
    #[arg(long, value_name = "DIR")]
    pg_bindir: Option<PathBuf>,
    /// How long to watch the application first, to compare with
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(1..=600))]
    seconds_before: u64,
}

impl Demo {
    pub async fn run(&self, global: &Global) -> Outcome {
        let reporter = global.reporter();
        let play = Play {
            demo: self,
            global,
            reporter: reporter.clone(),
        };
        let summary = Box::pin(play.run()).await;
        reporter.finish();
        let summary = summary?;
        if global.is_json() {
            out::json(&summary.json())?;
        } else {
            out::result(&summary.human())?;
        }
        Ok(if summary.problems().is_empty() {
            0
        } else {
            ErrorKind::StepFailed.exit_code()
        })
    }
}

async fn interrupted() -> Error {
    let signals = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ]
    .map(signal);
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = signals else {
        // Then a signal ends us as it always does, and the server's supervisor cleans up.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Error::new(
        ErrorKind::Interrupted,
        "interrupted; the demo's server is stopped and its files are removed",
    )
}

struct Play<'a> {
    demo: &'a Demo,
    global: &'a Global,
    reporter: Arc<dyn Reporter>,
}

/// What came out of the plan.
struct Changed {
    steps: usize,
    verification: Verification,
    times: Times,
    timeline: Arc<Timeline>,
    record: Record,
}

impl Play<'_> {
    async fn run(&self) -> Result<Summary, Failure> {
        self.heading("A server of its own");
        let mut interrupted = pin!(interrupted());
        // Nothing here is worth a careful end: what is dropped stops at once.
        let stage = tokio::select! {
            stage = Stage::start(self.demo.pg_bindir.clone()) => stage?,
            error = &mut interrupted => return Err(error.into()),
        };
        self.note(&format!(
            "  PostgreSQL {} in {}, with fsync off, for what is on it is thrown away",
            stage.server.version(),
            stage.server.socket_dir().display()
        ));
        let summary = tokio::select! {
            summary = Box::pin(self.on(&stage)) => summary,
            error = &mut interrupted => {
                stage.stop_after_goodbyes().await?;
                return Err(error.into());
            }
        };
        let kept = self.end(stage).await?;
        match summary {
            Ok(mut summary) => {
                summary.kept = kept;
                Ok(summary)
            }
            Err(failure) => {
                // Whoever keeps it wants to see why.
                if let Some(kept) = kept {
                    self.note(&kept.human());
                }
                Err(failure)
            }
        }
    }

    /// Takes the server away, or leaves it.
    async fn end(&self, stage: Stage) -> Result<Option<Kept>, Error> {
        if !self.demo.keep {
            stage.stop().await?;
            return Ok(None);
        }
        let psql = stage.server.bindir().join("psql");
        let psql = format!("{} '{}'", psql.display(), stage.url());
        let stop = stage.keep().await?;
        Ok(Some(Kept { psql, stop }))
    }

    async fn on(&self, stage: &Stage) -> Result<Summary, Failure> {
        self.load(stage).await?;
        let client = stage.client().await?;
        let before = account::holdings(&client).await?;
        let changed = Box::pin(self.change(stage)).await?;
        let after = account::holdings(&client).await?;
        Ok(self.summary(stage, changed, before, after))
    }

    async fn load(&self, stage: &Stage) -> Result<(), Error> {
        let rows = self.demo.rows;
        self.heading(&format!("Three tables with {} rows each", units::count(rows)));
        let began = Instant::now();
        let reporter = self.reporter.clone();
        let progress = move |done: u64| {
            reporter.tell(&Event::Progress {
                step: LOADING.into(),
                stage: String::new(),
                unit: Unit::Tuples,
                done,
                total: rows * 3,
                rows: 0,
                per_second: done as f64 / began.elapsed().as_secs_f64(),
                batch: None,
                lag: None,
            });
        };
        self.scene(LOADING, "rows, indexes, VACUUM", stage.load(rows, progress))
            .await
    }

    /// Shows as a step what is none of the plan's.
    async fn scene(
        &self,
        name: &str,
        summary: &str,
        work: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        self.reporter.tell(&Event::StepStarted {
            step: name.into(),
            summary: summary.into(),
            undo: false,
        });
        let began = Instant::now();
        work.await?;
        self.reporter.tell(&Event::StepDone {
            step: name.into(),
            elapsed_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            attempts: 1,
            undo: false,
        });
        Ok(())
    }

    /// Lets the application do its work for a while.
    async fn watch(&self, name: &str, time: Duration) -> Result<(), Error> {
        let sleep = async {
            tokio::time::sleep(time).await;
            Ok(())
        };
        self.scene(name, "the application alone, to compare with", sleep)
            .await
    }

    /// Lets the application run, changes the schema beneath it, and stops it a little later.
    async fn change(&self, stage: &Stage) -> Result<Changed, Failure> {
        let watched = Duration::from_secs(self.demo.seconds_before);
        self.heading(&format!(
            "An application on {CONNECTIONS} connections, {REQUESTS_PER_SECOND} requests a second, until the end"
        ));
        let application = Traffic::start(&stage.settings).await?;
        let traffic = Instant::now();
        self.watch("before", watched).await?;

        let began = Instant::now();
        let session = self.global.observer(&stage.settings).await?;
        let input = input()?;
        let plan = resolve::begin(&session.client, &input, &Numbers::new()).await?;
        self.show(&plan);
        self.heading("pgmorph apply, through contract");
        let timeline = Arc::new(Timeline::new(self.reporter.clone()));
        let steps = apply(stage, &plan, timeline.clone()).await?;
        self.heading("pgmorph verify");
        let verification = Box::pin(verify::verification(&session.client, &input, None)).await?;
        self.note(&format!("  {}", verification.human().trim_end()));
        let finished = Instant::now();

        // Plans and pages that the change made cold would show now.
        self.heading("The application on the changed tables");
        self.watch("after", watched / 4).await?;
        let stopped = Instant::now();
        let record = application.stop().await?;
        let times = Times {
            traffic,
            began,
            finished,
            stopped,
        };
        Ok(Changed {
            steps,
            verification,
            times,
            timeline,
            record,
        })
    }

    /// All of it is hundreds of lines, of which a first look sees the overview.
    fn show(&self, plan: &ExecutionPlan) {
        if self.global.is_json() {
            return;
        }
        self.heading(&format!("pgmorph plan {PLAN_PATH}"));
        if self.global.verbose > 0 {
            return self.note(&plan_human::plan(plan));
        }
        self.note(&format!(
            "  {} become {}; demo -v shows each, with its SQL\n\n{}",
            units::counted(plan.changes.len(), "change"),
            units::counted(plan.steps.len(), "step"),
            plan_human::overview(plan).trim_end()
        ));
    }

    fn summary(&self, stage: &Stage, changed: Changed, before: [Holding; 3], after: [Holding; 3]) -> Summary {
        let Changed {
            steps,
            verification,
            times,
            timeline,
            record,
        } = changed;
        let (felt, slowest) = summary::judge(&record, times, &timeline);
        Summary {
            server: format!("PostgreSQL {}", stage.server.version()),
            rows: self.demo.rows,
            steps,
            times,
            felt,
            slowest,
            failed: record.failed,
            failures: summary::failures(&record, &timeline),
            accounts: Account::all(before, record.writes, after),
            verification,
            kept: None,
        }
    }

    fn heading(&self, text: &str) {
        self.note(&format!("\n{}", style::heading(text)));
    }

    fn note(&self, text: &str) {
        if self.global.is_json() {
            self.reporter.note(crate::report::safe::plain(text).trim());
        } else {
            self.reporter.note(text);
        }
    }
}

fn input() -> Result<Input, Failure> {
    let source = PLAN.to_owned();
    let path = PLAN_PATH.to_owned();
    match change_plan::parse(&source) {
        Ok(plan) => Ok(Input::File(Box::new(PlanFile { path, source, plan }))),
        Err(diagnostics) => Err(Failure::Plan(Box::new(InvalidPlan {
            path,
            source,
            diagnostics,
        }))),
    }
}

async fn apply(stage: &Stage, plan: &ExecutionPlan, listener: Arc<Timeline>) -> Result<usize, Error> {
    // Kept, for the executor takes its end for an interrupt.
    let (_sender, interrupts) = watch::channel(Interrupt::None);
    let executor = Executor::open(&stage.settings, listener, interrupts).await?;
    let outcome = Box::pin(executor.apply(plan, None, Phase::Contract)).await?;
    Ok(outcome.steps)
}
