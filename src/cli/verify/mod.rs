//! `verify`: compares what was promised with what is there; changes nothing.

mod differences;
mod judge;
mod rows;

use super::apply::PhaseArg;
use super::history::History;
use super::input::{self, Input};
use super::{Failure, Global, Outcome, resolve, set};
use crate::catalog::load;
use crate::diagnostic::Diagnostic;
use crate::error::{Error, ErrorKind};
use crate::executor::gate;
use crate::executor::ledger::{self, PlanRelation, Run, RunState};
use crate::plan::{Check, ExecutionPlan, Expectation, Monitor, Phase, PlannedChange, Step, Undo, Waiting};
use crate::planner::Numbers;
use crate::report::out;
use crate::report::verification::{Answer, Finding, FindingKind, Verdict, Verification};
use crate::sql::QualifiedName;
use crate::units;
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
    /// The plan file, a directory of plan files, or an execution plan saved by `plan -o`; `-` is standard input
    pub(super) plan: String,
    /// Be content when everything through this phase is done and holds
    #[arg(long, value_enum, value_name = "PHASE")]
    pub(super) through: Option<PhaseArg>,
    /// Look again and again, with this much time in between (30s, 5min), until something is found or Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = interval)]
    watch: Option<Duration>,
}

fn interval(text: &str) -> Result<Duration, String> {
    let ms = units::duration_ms(text).filter(|ms| *ms > 0);
    ms.map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is not a time such as 30s or 5min"))
}

/// What to compare with.
struct Subject {
    plan: ExecutionPlan,
    run: Option<Run>,
    notes: Vec<String>,
}

impl Subject {
    /// Leaves tables and other objects to the plans that have changed them since.
    fn leave_out(&mut self, later: &Later) {
        self.leave_out_objects(&later.objects);
        self.leave_out_tables(&later.tables);
    }

    fn leave_out_objects(&mut self, later: &BTreeSet<String>) {
        let mut left = BTreeSet::new();
        for step in &mut self.plan.steps {
            let undo = match &mut step.undo {
                Undo::Work(works) => works.as_mut_slice(),
                _ => &mut [],
            };
            for work in std::iter::once(&mut step.work).chain(undo) {
                work.expect.retain(|expectation| match expectation {
                    Expectation::Text { object, .. } if later.contains(object) => {
                        left.insert(object.clone());
                        false
                    }
                    _ => true,
                });
            }
        }
        self.notes.extend(left.iter().map(left_to_later));
    }

    fn leave_out_tables(&mut self, later: &BTreeSet<QualifiedName>) {
        let plan = &mut self.plan;
        let mut known = plan.before.tables.keys().chain(plan.after.tables.keys());
        let left: BTreeSet<QualifiedName> = known
            .by_ref()
            .filter(|name| later.contains(name))
            .cloned()
            .collect();
        if self.run.is_none() || left.is_empty() {
            return;
        }
        plan.before.tables.retain(|name, _| !left.contains(name));
        plan.after.tables.retain(|name, _| !left.contains(name));
        let touches = |step: &Step| step.work.locks.iter().any(|lock| left.contains(&lock.relation));
        for step in plan.steps.iter_mut().filter(|step| touches(step)) {
            step.work.expect.clear();
        }
        self.notes.extend(left.iter().map(left_to_later));
    }
}

fn left_to_later(name: impl std::fmt::Display) -> String {
    format!("{name} was changed by a later plan, and is compared with that")
}

/// What plans that were applied after a run have made or changed.
struct Later {
    tables: BTreeSet<QualifiedName>,
    /// As [`Expectation::Text`] names them.
    objects: BTreeSet<String>,
}

impl Verify {
    pub async fn run(&self, global: &Global) -> Outcome {
        if set::is_directory(&self.plan) {
            return Box::pin(set::verify::run(self, global)).await;
        }
        let mut input = input::read(&self.plan)?;
        let session = global.observer(&global.settings()?).await?;
        let client = &session.client;
        set::names::recognise(client, global, &mut input).await?;
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
        Ok(mut subject) => {
            if let Some(run) = &subject.run {
                let later = changed_after(client, run).await?;
                subject.leave_out(&later);
            }
            Box::pin(verify(client, subject, through)).await
        }
        Err(Failure::Plan(plan)) => Ok(not_compiled(input.name(), through, &plan.diagnostics)),
        Err(failure) => Err(failure),
    }
}

/// What was changed by plans that were applied after this run: theirs is the last word on it.
async fn changed_after(client: &Client, run: &Run) -> Result<Later, Error> {
    let mut later = Later {
        tables: BTreeSet::new(),
        objects: BTreeSet::new(),
    };
    let others = ledger::latest_runs(client).await?;
    let others = others
        .iter()
        .filter(|other| other.id > run.id && other.plan.name != run.plan.name);
    for other in others {
        // Of a plan that was extended since, the latest run is not all.
        let runs = ledger::standing_runs(client, &other.plan.name).await?;
        let runs = runs.into_iter();
        for run in runs.filter(|it| it.id > run.id && it.state != RunState::RolledBack) {
            let plan = run.plan;
            let expected = plan.steps.into_iter().flat_map(|step| step.work.expect);
            later.objects.extend(expected.filter_map(|it| match it {
                Expectation::Text { object, .. } => Some(object),
                _ => None,
            }));
            let tables = plan.before.tables.into_keys();
            later.tables.extend(tables.chain(plan.after.tables.into_keys()));
        }
    }
    Ok(later)
}

/// The recorded plan where the ledger has runs of the same changes, else the given one.
async fn subject(client: &Client, input: &Input) -> Result<Subject, Failure> {
    let history = History::read(client, input.name()).await?;
    let given = input.changes();
    let in_place = history.in_place(&given);
    let mut notes = history.undone_in_part().into_iter().collect::<Vec<_>>();
    if let Some(run) = history.whole() {
        if ledger::relation(&run.plan.changes, &given) == PlanRelation::Same {
            if run.baseline {
                notes.push("a baseline: recorded as applied, not run".into());
            }
            notes.extend(waiting(client, input, &run, &in_place).await?);
            return Ok(Subject {
                plan: run.plan.clone(),
                run: Some(run),
                notes,
            });
        }
        notes.push(format!(
            "run {} was made from another version of this plan file",
            run.id
        ));
    }
    match in_place.len() {
        0 => {}
        1 => notes.push("1 change of this plan is in place already".into()),
        several => notes.push(format!("{several} changes of this plan are in place already")),
    }
    let plan = match input {
        Input::Saved(plan) => (**plan).clone(),
        Input::File(_) => resolve::begin(client, input, &in_place).await?,
    };
    notes.extend(plan.waiting().iter().map(is_waiting));
    Ok(Subject {
        plan,
        run: None,
        notes,
    })
}

fn is_waiting(waiting: &Waiting) -> String {
    format!(
        "change {} ({}) is waiting: {}",
        waiting.change, waiting.operation, waiting.reason
    )
}

/// What is known of the changes that a recorded run left out. Of a completed one it is asked again: `apply` would.
async fn waiting(
    client: &Client,
    input: &Input,
    run: &Run,
    in_place: &Numbers,
) -> Result<Vec<String>, Failure> {
    let recorded = run.plan.waiting();
    if recorded.is_empty() || matches!(run.state, RunState::RolledBack | RunState::RollingBack) {
        return Ok(Vec::new());
    }
    if run.state != RunState::Completed || matches!(input, Input::Saved(_)) {
        return Ok(recorded.iter().map(is_waiting).collect());
    }
    let plan = match resolve::begin(client, input, in_place).await {
        Ok(plan) => plan,
        Err(Failure::Plan(plan)) => {
            let message = plan.diagnostics.first().map(|found| found.message.as_str());
            let message = message.unwrap_or("the plan is refused");
            return Ok(vec![format!("what was waiting cannot be made now: {message}")]);
        }
        Err(failure) => return Err(failure),
    };
    let numbered = (1..).zip(&plan.changes).filter(|(_, change)| !change.in_place);
    let note = |(number, change): (usize, &PlannedChange)| match &change.waiting {
        Some(reason) => format!("change {number} ({}) is waiting: {reason}", change.operation),
        None => format!(
            "change {number} ({}) has waited and may be made now: pgmorph apply",
            change.operation
        ),
    };
    Ok(numbered.map(note).collect())
}

async fn verify(client: &Client, subject: Subject, through: Option<Phase>) -> Result<Verification, Failure> {
    let Subject { plan, run, mut notes } = subject;
    let run = run.as_ref();
    if let Some(run) = run.filter(|run| run.state == RunState::Started) {
        notes.extend(gate::dates(run));
    }
    let actual = resolve::tables(client, &plan).await?;
    let mut answers = BTreeMap::new();
    let mut texts = BTreeMap::new();
    for (_, expectation) in judge::expected(&plan, run) {
        if let Expectation::Query { query } = expectation {
            answers.insert(query.clone(), truth(client, query).await?);
        }
        if let Expectation::Text { query, .. } = expectation {
            texts.insert(query.clone(), text(client, query).await?);
        }
    }
    let mut postconditions = Vec::new();
    let mut monitors = Vec::new();
    // Before the cutover the plan's own questions may name what is not there yet.
    let stage = judge::stage(&plan, run);
    if matches!(
        stage,
        Stage::Finished | Stage::Untouched | Stage::Underway(Phase::Contract)
    ) {
        for check in &plan.postconditions {
            postconditions.extend(postcondition(client, check).await?);
        }
        for monitor in &plan.monitors {
            monitors.push(answer(client, monitor).await?);
        }
    }
    postconditions.extend(Box::pin(rows::findings(client, &plan, run)).await?);
    let others = unfinished_others(client, &plan.name).await?;
    let mut objects = objects(client).await?;
    objects.retain(|object| !others.iter().any(|run| names(&run.plan, object)));
    let objects = objects.into_iter().map(|object| object.shown).collect();
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
        texts,
        postconditions,
        monitors,
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
        monitors: Vec::new(),
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

/// A function or view of ours.
struct Own {
    /// As in SQL, without arguments.
    name: String,
    /// With its kind and its arguments.
    shown: String,
}

async fn objects(client: &Client) -> Result<Vec<Own>, Error> {
    let sql = "SELECT format('%I.%I', n.nspname, p.proname), format('function %I.%I(%s)', n.nspname, p.proname, \
                 pg_catalog.pg_get_function_identity_arguments(p.oid)) AS shown \
               FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
               WHERE n.nspname = 'pgmorph' \
               UNION ALL SELECT format('%I.%I', n.nspname, c.relname), format('view %I.%I', n.nspname, c.relname) \
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = 'pgmorph' AND c.relkind = 'v' ORDER BY shown";
    let rows = client.query(sql, &[]).await.map_err(|error| {
        Error::postgres(ErrorKind::Precondition, "looking for functions and views", error)
    })?;
    let own = |row: &tokio_postgres::Row| Own {
        name: row.get(0),
        shown: row.get(1),
    };
    Ok(rows.iter().map(own).collect())
}

/// Whether a plan names the object anywhere in its steps or in what undoes them.
fn names(plan: &ExecutionPlan, object: &Own) -> bool {
    fn any(value: &serde_json::Value, found: &dyn Fn(&str) -> bool) -> bool {
        match value {
            serde_json::Value::String(text) => found(text),
            serde_json::Value::Array(items) => items.iter().any(|item| any(item, found)),
            serde_json::Value::Object(items) => items.values().any(|item| any(item, found)),
            _ => false,
        }
    }
    // Another name may begin with this one.
    let goes_on = |next: char| next.is_alphanumeric() || "_$\"".contains(next);
    let found = |text: &str| {
        let mut places = text.match_indices(&object.name);
        places.any(|(at, name)| !text[at + name.len()..].starts_with(goes_on))
    };
    serde_json::to_value(&plan.steps).is_ok_and(|steps| any(&steps, &found))
}

/// Whether a question says true, asked as the executor asks it: an expression, or a query of one value. A refusal of the
/// server is an answer too.
async fn truth(client: &Client, query: &str) -> Result<Result<bool, String>, Error> {
    let rows = ask(client, &format!("SELECT (\n{query}\n)::boolean AS holds")).await?;
    Ok(rows.map(|rows| rows.first().is_some_and(|row| row["holds"] == true)))
}

/// What a query of one text answers. A refusal of the server is an answer too.
async fn text(client: &Client, query: &str) -> Result<Result<Option<String>, String>, Error> {
    match load::texts(client, &[query.to_owned()]).await {
        Ok(texts) => Ok(Ok(texts.into_iter().next().flatten())),
        Err(error) if error.sqlstate().is_some() => Ok(Err(error.to_string())),
        Err(error) => Err(error.into()),
    }
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
            (format!("{more}{}", units::counted(shown, "row")), sample)
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

async fn answer(client: &Client, monitor: &Monitor) -> Result<Answer, Error> {
    let (mut rows, error) = match ask(client, &monitor.query).await? {
        Ok(rows) => (rows, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    let more = rows.len() > SAMPLE_ROWS;
    rows.truncate(SAMPLE_ROWS);
    Ok(Answer {
        name: monitor.name.clone(),
        rows,
        more,
        error,
    })
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
