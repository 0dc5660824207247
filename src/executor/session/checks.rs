//! Questions: whether a promise holds, and which rows break it.

use super::{Key, Runner, Tries, WATCH_LONG, interrupted};
use crate::catalog::load;
use crate::error::{Error, ErrorKind, remedy};
use crate::executor::Interrupt;
use crate::plan::{Check, Expectation, Work};
use crate::sql::QualifiedName;
use crate::units;
use crate::verifier::{self, Standing};
use deadpool_postgres::Object;
use std::collections::BTreeSet;

/// Offending rows shown at most.
const SAMPLE_ROWS: usize = 10;

impl Runner {
    /// How far the effect of these expectations is there, the user's own questions included.
    pub(in crate::executor) async fn standing(
        &self,
        expectations: &[Expectation],
    ) -> Result<Standing, Error> {
        let mut tries = Tries::new(self.deadline);
        loop {
            match self.standing_once(expectations).await {
                Err(error) if matches!(error.kind, ErrorKind::Connection | ErrorKind::Exhausted) => {
                    match tries.delay() {
                        Some(delay) => self.pause(delay).await?,
                        None => return Err(error),
                    }
                }
                result => return result,
            }
        }
    }

    async fn standing_once(&self, expectations: &[Expectation]) -> Result<Standing, Error> {
        let names: Vec<QualifiedName> = tables_of(expectations).into_iter().collect();
        let (session, _) = self.worker().await?;
        let tables = load::tables(&**session, &names).await.map_err(Error::from)?;
        for expectation in expectations {
            let holds = match expectation {
                Expectation::Query { query } => self.answers_true(&session, query).await?,
                Expectation::IndexAbsent { index } => is_absent(&session, index).await?,
                _ => true,
            };
            if !holds {
                return Ok(Standing::Absent);
            }
        }
        Ok(verifier::standing_of(expectations, &tables))
    }

    /// DROP INDEX CONCURRENTLY that was cut off leaves an index that nobody can use.
    pub(in crate::executor) async fn left_an_index_half_dropped(
        &self,
        expectations: &[Expectation],
    ) -> Result<bool, Error> {
        let (session, _) = self.worker().await?;
        for expectation in expectations {
            let Expectation::IndexAbsent { index } = expectation else {
                continue;
            };
            let sql = "SELECT FROM pg_catalog.pg_index WHERE indexrelid = to_regclass($1) \
                       AND NOT (indisvalid AND indisready AND indislive)";
            let half = session.query_opt(sql, &[&index.to_string()]).await;
            let failed =
                |error| Error::postgres(ErrorKind::StepFailed, format!("looking for {index}"), error);
            if half.map_err(failed)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) async fn answers_true(&self, session: &Object, query: &str) -> Result<bool, Error> {
        let rows = session
            .query(&format!("SELECT ({query})::boolean"), &[])
            .await
            .map_err(|error| Error::postgres(ErrorKind::StepFailed, "asking the expectation query", error))?;
        Ok(rows
            .first()
            .and_then(|row| row.get::<_, Option<bool>>(0))
            .unwrap_or(false))
    }

    /// What a step promises must hold right after it.
    pub(super) async fn expect(&self, step: &str, expectations: &[Expectation]) -> Result<(), Error> {
        if self.standing(expectations).await? == Standing::Holds {
            return Ok(());
        }
        Err(unmet(step, expectations, "it is recorded as done"))
    }

    /// Asks a question that must have no rows as answer.
    pub(in crate::executor) async fn check(&self, check: &Check) -> Result<(), Error> {
        let rows = self.offending_rows(check).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let message = format!("{}: the check found {}", check.name, how_many(&rows));
        Err(Error::new(ErrorKind::StepFailed, message)
            .details(sample(rows))
            .help(if check.help.is_empty() {
                "repair these rows, then run again"
            } else {
                &check.help
            }))
    }

    pub(in crate::executor) async fn offending_rows(&self, check: &Check) -> Result<Vec<String>, Error> {
        let key = Key {
            run: 0,
            step: &check.name,
            token: 0,
            undo: None,
        };
        let mut tries = Tries::new(self.deadline);
        loop {
            match self.asked_for_rows(key, check).await {
                Err(error) if error.kind == ErrorKind::Connection => {
                    self.reconnect(key, &mut tries, error).await?;
                }
                answer => return answer,
            }
        }
    }

    async fn asked_for_rows(&self, key: Key<'_>, check: &Check) -> Result<Vec<String>, Error> {
        let (session, pid) = self.worker().await?;
        let failed =
            |error| Error::postgres(ErrorKind::StepFailed, format!("checking {}", check.name), error);
        let timeout = self.long_statement_ms;
        session
            .batch_execute(&format!(
                "BEGIN READ ONLY; SET LOCAL statement_timeout = {timeout}"
            ))
            .await
            .map_err(failed)?;
        let sql = format!(
            "SELECT row_to_json(q)::text FROM ({}\n) AS q LIMIT {}",
            check.query,
            SAMPLE_ROWS + 1
        );
        let result = self
            .watch(key, pid, WATCH_LONG, session.query(&sql, &[]), &mut Vec::new())
            .await;
        let _ = session.batch_execute("ROLLBACK").await;
        match result {
            Ok(rows) => Ok(rows.iter().map(|row| row.get(0)).collect()),
            Err(_) if self.interrupted() == Interrupt::Now => Err(interrupted()),
            Err(error) => self.check_run_lock().and(Err(failed(error))),
        }
    }

    pub(super) async fn with_offending_rows(&self, error: Error, work: &Work) -> Error {
        let Some(check) = &work.on_violation else {
            return error;
        };
        let rows = self.offending_rows(check).await.unwrap_or_default();
        let help = if check.help.is_empty() {
            None
        } else {
            Some(check.help.as_str())
        };
        let help = help
            .or_else(|| error.sqlstate.as_deref().and_then(remedy))
            .unwrap_or_default()
            .to_owned();
        let error = error.details(sample(rows));
        if help.is_empty() { error } else { error.help(help) }
    }
}

async fn is_absent(session: &Object, relation: &QualifiedName) -> Result<bool, Error> {
    session
        .query_one("SELECT to_regclass($1) IS NULL", &[&relation.to_string()])
        .await
        .map(|row| row.get(0))
        .map_err(|error| Error::postgres(ErrorKind::StepFailed, format!("looking for {relation}"), error))
}

pub(super) fn unmet(step: &str, expectations: &[Expectation], recorded: &str) -> Error {
    let message = format!("step {step} ran, but what it promises does not hold; {recorded}");
    Error::new(ErrorKind::StepFailed, message)
        .details(expectations.iter().map(verifier::describe))
        .help("somebody else may be changing the schema: look at the objects named, then run the same command again")
}

fn tables_of(expectations: &[Expectation]) -> BTreeSet<QualifiedName> {
    let tables = expectations.iter().filter_map(Expectation::table);
    tables.cloned().collect()
}

pub(in crate::executor) fn how_many(offending: &[String]) -> String {
    let shown = units::counted(offending.len().min(SAMPLE_ROWS), "row");
    let more = offending.len() > SAMPLE_ROWS;
    format!("{shown}{}", if more { " (the first ones)" } else { "" })
}

pub(in crate::executor) fn sample(mut offending: Vec<String>) -> Vec<String> {
    offending.truncate(SAMPLE_ROWS);
    offending
}
