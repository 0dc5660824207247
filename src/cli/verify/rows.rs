//! The comparisons of a plan, once more: rows that somebody changed behind the triggers are found here.

use super::judge;
use crate::error::{Error, ErrorKind};
use crate::executor::ledger::{Run, StepState};
use crate::executor::matching::{self, Asks, Progress};
use crate::plan::{Action, ExecutionPlan, Match, Phase, Step};
use crate::report::verification::{Finding, FindingKind};
use tokio_postgres::{Client, SimpleQueryMessage};

struct Observer<'a> {
    client: &'a Client,
    name: &'a str,
    timeout_ms: u64,
}

impl Asks for Observer<'_> {
    async fn ask(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
        let asked = self
            .client
            .simple_query(&matching::bounded(sql, self.timeout_ms))
            .await;
        let failed = |error| {
            Error::postgres(
                ErrorKind::Precondition,
                format!("comparing: {}", self.name),
                error,
            )
        };
        match asked {
            Ok(messages) => Ok(messages),
            Err(error) => {
                let _ = self.client.batch_execute("ROLLBACK").await;
                Err(failed(error))
            }
        }
    }

    fn progress(&self, _progress: Progress) -> Result<(), Error> {
        Ok(())
    }
}

/// Comparisons that must hold now: those that were made and after which no later phase was begun; all of them while
/// the plan keeps both sides alike.
pub(super) fn due<'a>(plan: &'a ExecutionPlan, run: Option<&Run>) -> Vec<(&'a Step, &'a Match)> {
    let Some(run) = run else {
        return Vec::new();
    };
    let done = |step: &&Step| judge::state(run, step) == StepState::Done;
    let last = plan.steps.iter().filter(done).map(|step| step.phase).max();
    let syncs = |phase: fn(Phase) -> bool| {
        let mut steps = plan.steps.iter().filter(done);
        steps.any(|step| step.operation == "sync" && phase(step.phase))
    };
    let synced = syncs(|phase| phase < Phase::Contract) && !syncs(|phase| phase == Phase::Contract);
    if !synced && last > Some(Phase::Validate) {
        return Vec::new();
    }
    let comparison = |step: &'a Step| match &step.work.action {
        Action::Match(it) => Some((step, &**it)),
        _ => None,
    };
    plan.steps.iter().filter(done).filter_map(comparison).collect()
}

pub(super) async fn findings(
    client: &Client,
    plan: &ExecutionPlan,
    run: Option<&Run>,
) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for (step, it) in due(plan, run) {
        let observer = Observer {
            client,
            name: &it.name,
            timeout_ms: step.work.timeouts.statement_ms,
        };
        let (found, details) = match matching::compare(it, &observer).await {
            Ok(found) if found.is_empty() => continue,
            Ok(found) => (found.summary(it), found.lines(it)),
            // That it cannot be compared any more is a finding too.
            Err(error) if error.kind == ErrorKind::Precondition => (error.message, error.details),
            Err(error) => return Err(error),
        };
        findings.push(Finding {
            kind: FindingKind::Rows,
            object: format!("step {}", step.id),
            expected: Some(it.name.clone()),
            found: Some(found),
            remedy: it.help.clone(),
            details,
        });
    }
    Ok(findings)
}
