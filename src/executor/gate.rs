//! Steps that must not be done before a time: the safety period of a retired table.

use super::Runner;
use super::ledger::{Run, StepState};
use crate::error::{Error, ErrorKind};
use crate::plan::{NotBefore, Phase, Step};
use crate::units;
use jiff::{SignedDuration, Timestamp};

impl Runner {
    /// Refuses the whole of contract while the time of any of its due steps has not come, so that nothing of it is
    /// half done. The server's clock counts, which also recorded when the period began.
    pub(super) async fn refuse_early(&self, run: i64, due: &[&Step]) -> Result<(), Error> {
        for step in due.iter().filter(|step| step.phase == Phase::Contract) {
            let Some(gate) = &step.work.not_before else {
                continue;
            };
            let sql = "SELECT finished_at, clock_timestamp() FROM pgmorph.steps \
                       WHERE run_id = $1 AND step_id = $2 AND state = 'done'";
            let row = self.lock.client.query_opt(sql, &[&run, &gate.step]).await;
            let row = row.map_err(|error| {
                Error::postgres(ErrorKind::StepFailed, "asking when a safety period began", error)
            })?;
            let times = row.map(|row| (row.get::<_, Option<Timestamp>>(0), row.get::<_, Timestamp>(1)));
            let Some((Some(began), now)) = times else {
                let message = format!(
                    "{}: its safety period begins with step {}, which is not done; nothing of contract was changed",
                    step.work.summary, gate.step
                );
                return Err(Error::new(ErrorKind::Precondition, message));
            };
            if opens(gate, began).is_none_or(|opens| now < opens) {
                return Err(too_early(step, gate, began));
            }
        }
        Ok(())
    }
}

/// From when on it may be done; `None` is never, beyond the end of the calendar.
fn opens(gate: &NotBefore, began: Timestamp) -> Option<Timestamp> {
    let period = SignedDuration::from_millis(i64::try_from(gate.ms).ok()?);
    began.checked_add(period).ok()
}

/// To the minute.
pub fn shown(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

fn when(gate: &NotBefore, began: Timestamp) -> String {
    let opens = opens(gate, began).map_or("never".to_owned(), |at| format!("from {} on", shown(at)));
    format!(
        "{opens}: the safety period of {} began {}",
        units::millis(gate.ms),
        shown(began)
    )
}

fn too_early(step: &Step, gate: &NotBefore, began: Timestamp) -> Error {
    let message = format!(
        "{}: allowed {}; nothing of contract was changed",
        step.work.summary,
        when(gate, began)
    );
    Error::new(ErrorKind::Precondition, message)
        .help("until then pgmorph rollback brings the name back; run the same command again afterwards")
}

/// The steps of a run that wait for their time and are not done, each with when its time began. Those whose period has
/// not begun are left out.
fn gated(run: &Run) -> impl Iterator<Item = (&Step, &NotBefore, Timestamp)> {
    let record = move |id: &str| run.steps.iter().find(|record| record.id == id);
    let is_done = move |id: &str| record(id).is_some_and(|record| record.state == StepState::Done);
    let open = run.plan.steps.iter().filter(move |step| !is_done(&step.id));
    open.filter_map(move |step| {
        let gate = step.work.not_before.as_ref().filter(|gate| is_done(&gate.step))?;
        Some((step, gate, record(&gate.step)?.finished_at?))
    })
}

/// From when on the steps of a run that wait for their time may be done, in a line each.
pub fn dates(run: &Run) -> Vec<String> {
    gated(run)
        .map(|(step, gate, began)| format!("{}: allowed {}", step.work.summary, when(gate, began)))
        .collect()
}

/// Until when the whole contract of a run is refused; a time that never comes is the end of the calendar.
pub fn closed_until(run: &Run, now: Timestamp) -> Option<Timestamp> {
    let opening = gated(run).map(|(_, gate, began)| opens(gate, began).unwrap_or(Timestamp::MAX));
    opening.max().filter(|at| now < *at)
}

/// By the server's clock, which counts for all of these.
///
/// # Errors
/// Lost connections.
pub async fn now(client: &tokio_postgres::Client) -> Result<Timestamp, Error> {
    let row = client.query_one("SELECT clock_timestamp()", &[]).await;
    let failed = |error| Error::postgres(ErrorKind::Connection, "asking for the server's time", error);
    Ok(row.map_err(failed)?.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_when() {
        let gate = NotBefore {
            step: "01-retire_table-rename".into(),
            ms: 30 * 86_400_000,
        };
        let began = "2026-11-22T14:00:30Z".parse().unwrap();
        insta::assert_snapshot!(when(&gate, began), @"from 2026-12-22 14:00 UTC on: the safety period of 30d began 2026-11-22 14:00 UTC");
        let forever = NotBefore { ms: u64::MAX, ..gate };
        assert_eq!(opens(&forever, began), None);
    }
}
