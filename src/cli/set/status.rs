//! `status DIR`: every plan of a directory, and what of the ledger has no file there.

use super::standing::{self, Standing, Standings, State};
use crate::cli::{Global, Outcome};
use crate::executor;
use crate::executor::ledger::Run;
use crate::report::status::time;
use crate::report::{out, plan_human};
use serde_json::{Value, json};

pub async fn run(directory: &str, global: &Global) -> Outcome {
    let set = super::read(directory)?;
    let session = global.observer(&global.settings()?).await?;
    let standings = standing::of(&session.client, &set).await?;
    if global.is_json() {
        let runner = executor::runner(&session.client).await?;
        let mut plans: Vec<Value> = standings.plans.iter().map(json_of).collect();
        plans.extend(standings.missing.iter().map(missing_json));
        out::json(&json!({"directory": directory, "runner": runner, "plans": plans}))?;
    } else {
        out::result(&human(&standings))?;
    }
    Ok(0)
}

fn human(standings: &Standings) -> String {
    let mut table = plan_human::table(&["Plan", "State", "Run", "Last written", "Note"]);
    for plan in &standings.plans {
        let run = plan.run.as_ref();
        table.add_row([
            plan.name().to_owned(),
            words(plan.state),
            run.map_or(String::new(), |run| run.id.to_string()),
            run.map_or(String::new(), |run| time(run.updated_at)),
            plan.note.clone().unwrap_or_default(),
        ]);
    }
    for run in &standings.missing {
        table.add_row([
            run.plan.name.clone(),
            words(State::Missing),
            run.id.to_string(),
            time(run.updated_at),
            "recorded, but no file here has it".into(),
        ]);
    }
    plan_human::lines(&table)
}

fn words(state: State) -> String {
    state.name().replace('_', " ")
}

fn json_of(plan: &Standing) -> Value {
    let run = plan.run.as_ref();
    json!({
        "plan": plan.name(),
        "file": plan.file.path,
        "state": plan.state.name(),
        "run": run.map(|run| run.id),
        "updated_at": run.map(|run| run.updated_at),
        "recorded_as": plan.renamed.as_ref().map(|_| &plan.file.plan.name),
        "note": plan.note,
    })
}

fn missing_json(run: &Run) -> Value {
    json!({
        "plan": run.plan.name,
        "file": null,
        "state": State::Missing.name(),
        "run": run.id,
        "updated_at": run.updated_at,
        "recorded_as": null,
        "note": null,
    })
}
