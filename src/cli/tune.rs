//! `tune`, `pause` and `resume`: what is asked of a run while it is at work, through the ledger.

use super::{Global, Outcome, input, set};
use crate::error::{Error, ErrorKind};
use crate::executor;
use crate::executor::brake::Brake;
use crate::executor::ledger::requests::{self, Requests};
use crate::executor::ledger::{self, Run, RunState};
use crate::plan::Settings;
use crate::report::{out, status, style};
use clap::Args;
use serde_json::json;
use tokio_postgres::Client;

/// Change how fast a run fills tables, while it runs or before it goes on
#[derive(Debug, Args)]
pub struct Tune {
    #[command(flatten)]
    run: Which,
    #[command(flatten)]
    pace: Pace,
}

/// Let a run stand still after its current batches, until `resume`
#[derive(Debug, Args)]
pub struct Pause {
    #[command(flatten)]
    run: Which,
}

/// Let a paused run go on
#[derive(Debug, Args)]
pub struct Resume {
    #[command(flatten)]
    run: Which,
}

#[derive(Debug, Args)]
struct Which {
    /// A plan file, or a plan's name; may be left out where only one plan is unfinished
    plan: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Pace {
    /// Sessions that fill a table at the same time, 1 to 8
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(Settings::WORKERS_MAX)))]
    workers: Option<u32>,
    /// The share of the time that each session works (`25%`), rows a second of all together (`5000/s`), or `off`
    #[arg(long, value_name = "SHARE|RATE")]
    throttle: Option<Brake>,
}

impl Tune {
    pub async fn run(&self, global: &Global) -> Outcome {
        let asking = Asking::open(global, self.run.plan.as_deref()).await?;
        let (workers, throttle) = (self.pace.workers, self.pace.throttle);
        requests::tune(&asking.client, asking.run.id, workers, throttle).await?;
        asking.report(global, "asked for").await
    }
}

impl Pause {
    pub async fn run(&self, global: &Global) -> Outcome {
        let asking = Asking::open(global, self.run.plan.as_deref()).await?;
        requests::pause(&asking.client, asking.run.id).await?;
        asking.report(global, "asked for").await
    }
}

impl Resume {
    pub async fn run(&self, global: &Global) -> Outcome {
        let asking = Asking::open(global, self.run.plan.as_deref()).await?;
        let was_paused = requests::resume(&asking.client, asking.run.id).await?;
        let what = if was_paused { "goes on" } else { "was not paused" };
        asking.report(global, what).await
    }
}

/// A session, and the run that something is asked of.
struct Asking {
    client: Client,
    run: Run,
}

impl Asking {
    async fn open(global: &Global, plan: Option<&str>) -> Result<Self, super::Failure> {
        let asked = plan.map(input::asked).transpose()?;
        let session = global.observer(&global.settings()?).await?;
        let name = match asked {
            Some(asked) => Some(set::names::of(&session.client, global, asked).await?),
            None => None,
        };
        let run = unfinished(&session.client, name.as_deref()).await?;
        if !requests::exist(&session.client).await? {
            return Err(Error::new(
                ErrorKind::Precondition,
                "the ledger is of an older pgmorph, which takes no requests",
            )
            .help("stop the run, and go on with it by this pgmorph: pgmorph apply PLAN")
            .into());
        }
        Ok(Self {
            client: session.client,
            run,
        })
    }

    async fn report(&self, global: &Global, what: &str) -> Outcome {
        let requests = requests::requests(&self.client, self.run.id).await?;
        let running = executor::runner(&self.client).await?.is_some();
        if global.is_json() {
            out::json(&json!({
                "plan": self.run.plan.name,
                "run": self.run.id,
                "requests": requests.json(),
                "running": running,
            }))?;
        } else {
            out::result(&self.text(what, &requests, running))?;
        }
        Ok(0)
    }

    fn text(&self, what: &str, requests: &Requests, running: bool) -> String {
        let mut text = format!(
            "{} (run {}): {what}\n",
            style::name(&self.run.plan.name),
            self.run.id
        );
        text.push_str(&status::asked(requests, &self.run.plan.name));
        text.push_str(match running {
            true => "it is read within a second, and takes effect after the batches that are under way\n",
            false => "no run holds this database now; it holds from the next `pgmorph apply` on\n",
        });
        text
    }
}

/// The unfinished run of this plan, or the only one there is.
async fn unfinished(client: &Client, name: Option<&str>) -> Result<Run, Error> {
    let refused = |message: String| Error::new(ErrorKind::Precondition, message).help("see: pgmorph status");
    let mut runs = match ledger::exists(client).await? {
        true => ledger::latest_runs(client).await?,
        false => Vec::new(),
    };
    if let Some(name) = name {
        runs.retain(|run| run.plan.name == name);
        return match runs.pop() {
            None => Err(refused(format!("plan {name} was never applied to this database"))),
            Some(run) if run.state == RunState::Started => Ok(run),
            Some(run) => {
                let state = run.state.name().replace('_', " ");
                Err(refused(format!("run {} of plan {name} is {state}", run.id)))
            }
        };
    }
    runs.retain(|run| run.state == RunState::Started);
    let names: Vec<&str> = runs.iter().map(|run| run.plan.name.as_str()).collect();
    match names.as_slice() {
        [] => Err(refused("no run is unfinished".into())),
        [_] => Ok(runs.remove(0)),
        several => Err(Error::new(
            ErrorKind::Usage,
            format!("several plans are unfinished: {}", several.join(", ")),
        )
        .help("name one of them")),
    }
}
