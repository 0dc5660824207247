//! `verify`: compares what was promised with what is there; changes nothing.

mod differences;
mod judge;
mod rows;

use super::apply::PhaseArg;
use super::input::{self, Input};
use super::{Failure, Global, Outcome, resolve};
use crate::change_plan;
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind};
use crate::executor::ledger::{self, PlanRelation, Run, RunState};
use crate::plan::{Check, ExecutionPlan, Expectation, Phase};
use crate::report::out;
use crate::report::verification::{Finding, FindingKind, Verdict, Verification};
use crate::sql::QualifiedName;
use clap::Args;
use judge::{Facts, Stage};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio_postgres::Client;

/// So many rows of a question that must have none are shown.
const SAMPLE_ROWS: usize = 10;
/// As long as the executor gives a check of a whole table by default would be too long for a look.
const QUESTION_TIMEOUT: &str = "10min";

/// Compare the database with what the plan promised; read only
#[derive(Debug, Args)]
pub struct Verify {
    /// The plan file, or an execution plan saved by `plan -o`; `-` is standard input
    plan: String,
    /// Be content when everything through this phase is done and holds
    #[arg(long, value_enum, value_name = "PHASE")]
    through: Option<PhaseArg>,
    /// Look again and again, with this much time in between (30s, 5min), until something is found or Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = interval)]
    watch: Option<Duration>,
}

fn interval(text: &str) -> Result<Duration, String> {
    let ms = change_plan::duration_ms(text).filter(|ms| *ms > 0);
    ms.map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is not a time such as 30s or 5min"))
}

/// What to compare with.
struct Subject {
    plan: ExecutionPlan,
    run: Option<Run>,
    notes: Vec<String>,
}

impl Verify {
    pub async fn run(&self, global: &Global) -> Outcome {
        let input = input::read(&self.plan)?;
        let session = global.observer(&global.settings()?).await?;
        let client = &session.client;
        let through = self.through.map(Phase::from);
        let mut verification = Box::pin(verification(client, &input, through)).await?;
        while let Some(interval) = self.watch
            && verification.findings.is_empty()
        {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                _ = tokio::signal::ctrl_c() => break,
            }
            verification = Box::pin(self::verification(client, &input, through)).await?;
        }
        if global.is_json() {
            out::json(&verification)?;
        } else {
            out::result(&verification.human())?;
        }
        Ok(if verification.passes() {
            0
        } else {
            ErrorKind::Findings.exit_code()
        })
    }
}

pub(super) async fn verification(
    client: &Client,
    input: &Input,
    through: Option<Phase>,
) -> Result<Verification, Failure> {
    match Box::pin(subject(client, input)).await {
        Ok(subject) => Box::pin(verify(client, subject, through)).await,
        Err(Failure::Plan(plan)) => Ok(not_compiled(input.name(), through, &plan.diagnostics)),
        Err(failure) => Err(failure),
    }
}

/// The recorded plan where the ledger has a run of the same changes, else the given one.
async fn subject(client: &Client, input: &Input) -> Result<Subject, Failure> {
    let mut notes = Vec::new();
    let mut recorded = 0;
    if let Some(run) = resolve::recorded(client, input.name()).await? {
        match ledger::relation(&run.plan.changes, &input.changes()) {
            PlanRelation::Same => {
                return Ok(Subject {
                    plan: run.plan.clone(),
                    run: Some(run),
                    notes,
                });
            }
            _ => {
                recorded = resolve::in_place(&run, &input.changes());
                notes.push(format!(
                    "run {} was made from another version of this plan file",
                    run.id
                ));
            }
        }
    }
    if recorded > 0 {
        notes.push(format!(
            "the first {} of this plan are in place already",
            crate::units::counted(recorded, "change")
        ));
    }
    let plan = match input {
        Input::Saved(plan) => (**plan).clone(),
        Input::File(_) => resolve::begin(client, input, recorded).await?,
    };
    Ok(Subject {
        plan,
        run: None,
        notes,
    })
}

async fn verify(client: &Client, subject: Subject, through: Option<Phase>) -> Result<Verification, Failure> {
    let Subject { plan, run, notes } = subject;
    let run = run.as_ref();
    let actual = resolve::tables(client, &plan).await?;
    let mut answers = BTreeMap::new();
    for (_, expectation) in judge::expected_now(&plan, run) {
        if let Expectation::Query { query } = expectation {
            answers.insert(query.clone(), truth(client, query).await?);
        }
    }
    let mut postconditions = Vec::new();
    // Before the cutover the plan's own questions may name what is not there yet.
    let stage = judge::stage(&plan, run);
    if matches!(
        stage,
        Stage::Finished | Stage::Untouched | Stage::Underway(Phase::Contract)
    ) {
        for check in &plan.postconditions {
            postconditions.extend(postcondition(client, check).await?);
        }
    }
    postconditions.extend(Box::pin(rows::findings(client, &plan, run)).await?);
    let others = unfinished_others(client, &plan.name).await?;
    let objects = if others.is_empty() {
        objects(client).await?
    } else {
        Vec::new()
    };
    let tables = |run: &Run| {
        run.plan
            .before
            .tables
            .keys()
            .chain(run.plan.after.tables.keys())
            .cloned()
            .collect()
    };
    let busy = others
        .iter()
        .flat_map(|run| -> BTreeSet<QualifiedName> { tables(run) })
        .collect();
    Ok(judge::judge(Facts {
        plan: &plan,
        run,
        actual,
        objects,
        busy,
        answers,
        postconditions,
        through,
        notes,
    }))
}

/// A plan that was never applied and does not fit the catalog: perhaps somebody did by hand what it says.
fn not_compiled(name: &str, through: Option<Phase>, diagnostics: &[Diagnostic]) -> Verification {
    let finding = |diagnostic: &Diagnostic| Finding {
        kind: FindingKind::Plan,
        object: format!("plan {name}"),
        expected: Some("a plan that fits the catalog".into()),
        found: Some(diagnostic.message.clone()),
        remedy: diagnostic
            .help
            .clone()
            .unwrap_or_else(|| "change the plan file".into()),
        details: Vec::new(),
    };
    Verification {
        plan: name.to_owned(),
        run: None,
        verdict: Verdict::NotApplied,
        through,
        reached: false,
        findings: diagnostics.iter().map(finding).collect(),
        notes: vec!["no run is recorded, and the plan cannot be made against this catalog".into()],
        steps: Vec::new(),
    }
}

async fn unfinished_others(client: &Client, name: &str) -> Result<Vec<Run>, Error> {
    if !ledger::exists(client).await? {
        return Ok(Vec::new());
    }
    let mut runs = ledger::latest_runs(client).await?;
    runs.retain(|run| {
        run.plan.name != name && matches!(run.state, RunState::Started | RunState::RollingBack)
    });
    Ok(runs)
}

/// Functions and views of ours, each with its kind.
async fn objects(client: &Client) -> Result<Vec<String>, Error> {
    let sql = "SELECT format('function %I.%I(%s)', n.nspname, p.proname, \
                 pg_catalog.pg_get_function_identity_arguments(p.oid)) \
               FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
               WHERE n.nspname = 'pgmorph' \
               UNION ALL SELECT format('view %I.%I', n.nspname, c.relname) \
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = 'pgmorph' AND c.relkind = 'v' ORDER BY 1";
    let rows = client.query(sql, &[]).await.map_err(|error| {
        Error::postgres(ErrorKind::Precondition, "looking for functions and views", error)
    })?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Whether a question with one row and one column says true. A refusal of the server is an answer too.
async fn truth(client: &Client, query: &str) -> Result<Result<bool, String>, Error> {
    let rows = ask(client, query).await?;
    Ok(rows.map(|rows| match rows.as_slice() {
        [row] => row
            .as_object()
            .is_some_and(|row| row.len() == 1 && row.values().all(|value| *value == true)),
        _ => false,
    }))
}

async fn postcondition(client: &Client, check: &Check) -> Result<Option<Finding>, Error> {
    let (found, details) = match ask(client, &check.query).await? {
        Ok(rows) if rows.is_empty() => return Ok(None),
        Ok(rows) => {
            let more = if rows.len() > SAMPLE_ROWS {
                "more than "
            } else {
                ""
            };
            let shown = rows.len().min(SAMPLE_ROWS);
            let sample = rows.iter().take(SAMPLE_ROWS).map(ToString::to_string).collect();
            (format!("{more}{}", crate::units::counted(shown, "row")), sample)
        }
        Err(why) => (why, Vec::new()),
    };
    Ok(Some(Finding {
        kind: FindingKind::Postcondition,
        object: format!("postcondition {}", check.name),
        expected: Some("no rows".into()),
        found: Some(found),
        remedy: if check.help.is_empty() {
            "repair these rows".into()
        } else {
            check.help.clone()
        },
        details,
    }))
}

/// The first rows of a question of the user's, in a transaction that cannot write.
async fn ask(client: &Client, query: &str) -> Result<Result<Vec<serde_json::Value>, String>, Error> {
    let begin = format!("BEGIN READ ONLY; SET LOCAL statement_timeout = '{QUESTION_TIMEOUT}'");
    let failed = |error| Error::postgres(ErrorKind::Precondition, "asking a question of the plan", error);
    client.batch_execute(&begin).await.map_err(failed)?;
    let limit = SAMPLE_ROWS + 1;
    // On lines of its own, so that a comment at its end does not swallow the rest.
    let sql = format!("SELECT row_to_json(answer) FROM (\n{query}\n) AS answer LIMIT {limit}");
    let answer = client.query(&sql, &[]).await;
    let ended = client.batch_execute("ROLLBACK").await;
    match answer {
        Ok(rows) => {
            ended.map_err(failed)?;
            Ok(Ok(rows.iter().map(|row| row.get(0)).collect()))
        }
        Err(error) => match error.as_db_error() {
            Some(refusal) if ended.is_ok() => Ok(Err(format!(
                "the server refuses: {} (SQLSTATE {})",
                refusal.message(),
                refusal.code().code()
            ))),
            _ => Err(failed(error)),
        },
    }
}
