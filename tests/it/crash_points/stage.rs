//! A fixture, and how it ends where nothing strikes.

use super::contents::{self, Columns, Rows};
use crate::fixtures::{Case, contracts};
use crate::harness::{Database, Tap, TestServer, difference, schema_dump, until};
use pgmorph::error::Error;
use pgmorph::event::Listener;
use pgmorph::executor::ledger::{RunState, StepState};
use pgmorph::executor::{Executor, Interrupt, Loss};
use pgmorph::plan::{ExecutionPlan, Phase};
use pgmorph::postgres::settings::ConnectionSettings;
use std::sync::Arc;
use tokio::sync::{OnceCell, watch};

/// Which way is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    There,
    Back,
}

/// What the user does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Apply(Phase),
    TimePasses,
    Rollback,
}

/// A database as it must be found.
pub struct Seen {
    dump: String,
    rows: Rows,
}

/// The end of an undisturbed way.
pub struct Reference {
    /// Where it could have been struck.
    pub points: usize,
    /// What was sent on the way.
    pub statements: usize,
    seen: Seen,
    database: String,
}

pub struct Stage {
    pub name: String,
    pub case: Case,
    pub server: Arc<TestServer>,
    pub tap: Tap,
    pub plan: ExecutionPlan,
    /// A database that every walk begins with a copy of.
    base: String,
    before: Seen,
    there: OnceCell<Reference>,
    back: OnceCell<Reference>,
    /// Columns that differ from one undisturbed run to the next.
    unsteady: OnceCell<Columns>,
    changed_for_good: OnceCell<Columns>,
    numbered: Columns,
}

struct Silent;

impl Listener for Silent {
    fn tell(&self, _: &pgmorph::event::Event) {}
}

impl Stage {
    pub async fn set(name: String, case: Case, server: Arc<TestServer>) -> Self {
        let database = Database::create(&server, &case.before).await;
        let plan = database.planned(&case.plan).await;
        let (base, before) = (database.name.clone(), seen(&database, &Columns::new()).await);
        let columns = contents::all(&database).await;
        drop(database);
        // What a death uses up of a sequence shows where the plan fills a column from one.
        let probe = Database::copy(&server, &base).await;
        let mut stage = Self {
            tap: server.tap(),
            name,
            case,
            plan,
            base,
            before,
            there: OnceCell::new(),
            back: OnceCell::new(),
            unsteady: OnceCell::new(),
            changed_for_good: OnceCell::new(),
            numbered: Columns::new(),
            server: Arc::clone(&server),
        };
        stage.undisturbed(&probe, &stage.there()).await;
        stage.numbered = contents::numbered(&probe)
            .await
            .difference(&columns)
            .cloned()
            .collect();
        let seen = seen(&probe, &stage.numbered).await;
        let (points, sent) = (stage.tap.points().await, stage.tap.sent().await);
        let reference = Reference {
            points,
            statements: sent.len(),
            seen,
            database: probe.name.clone(),
        };
        assert!(stage.there.set(reference).is_ok());
        stage
    }

    fn waits(&self) -> bool {
        self.plan.steps.iter().any(|step| step.work.not_before.is_some())
    }

    /// The calls that lead to the end.
    pub fn there(&self) -> Vec<Call> {
        match self.waits() {
            true => vec![
                Call::Apply(Phase::Cutover),
                Call::TimePasses,
                Call::Apply(Phase::Contract),
            ],
            false => vec![Call::Apply(Phase::Contract)],
        }
    }

    /// The calls after which there is a way back.
    pub fn before_back(&self) -> Vec<Call> {
        match self.plan.point_of_no_return().is_some() && contracts(&self.plan) {
            true => vec![Call::Apply(Phase::Cutover)],
            false => self.there(),
        }
    }

    pub fn goes_back(&self) -> bool {
        self.case.particulars.no_rollback.is_none()
    }

    /// With the tap to count what is sent.
    async fn undisturbed(&self, database: &Database<'_>, calls: &[Call]) {
        self.tap.arm(None).await;
        for call in calls {
            if let Err(error) = self.call(database, *call).await {
                panic!("{}: {call:?} without any strike: {error:#?}", self.name);
            }
        }
    }

    /// Through the tap.
    pub async fn call(&self, database: &Database<'_>, call: Call) -> Result<(), Error> {
        if call == Call::TimePasses {
            database.time_passes().await;
            return Ok(());
        }
        let url = self.tap.url(&database.name, &database.user);
        let settings = ConnectionSettings::resolve(Some(&url), &|_| None).unwrap();
        let (_keep, interrupts) = watch::channel(Interrupt::None);
        let executor = Executor::open(&settings, Arc::new(Silent), interrupts).await?;
        // Under the run lock, as the command does: until then, a worker of a dead run may have finished.
        let run = database.run(&self.plan).await;
        match call {
            Call::Apply(through) => {
                let plan = run.as_ref().map_or(&self.plan, |run| &run.plan);
                Box::pin(executor.apply(plan, run.as_ref(), through)).await?;
            }
            Call::Rollback => {
                Box::pin(executor.rollback(&run.unwrap(), Loss::Refused)).await?;
            }
            Call::TimePasses => {}
        }
        Ok(())
    }

    pub async fn fresh(&self) -> Database<'_> {
        Database::copy(&self.server, &self.base).await
    }

    pub async fn reference(&self, way: Way) -> &Reference {
        match way {
            Way::There => self.there.get().unwrap(),
            Way::Back => self.back.get_or_init(|| self.back_undisturbed()).await,
        }
    }

    async fn back_undisturbed(&self) -> Reference {
        let database = self.fresh().await;
        self.undisturbed(&database, &self.before_back()).await;
        self.undisturbed(&database, &[Call::Rollback]).await;
        let (points, sent) = (self.tap.points().await, self.tap.sent().await);
        Reference {
            points,
            statements: sent.len(),
            seen: seen(&database, &self.numbered).await,
            database: database.name.clone(),
        }
    }

    /// Another undisturbed run, to be compared with the first.
    async fn unsteady(&self) -> Columns {
        let database = self.fresh().await;
        self.undisturbed(&database, &self.there()).await;
        let first = &self.there.get().unwrap().database;
        let found = self.differing(first, &database).await;
        database.drop().await;
        found
    }

    /// What the way back does not restore, by its nature.
    async fn changed_for_good(&self) -> Columns {
        let database = self.fresh().await;
        let back = &self.reference(Way::Back).await.database;
        let found = self.differing(back, &database).await;
        database.drop().await;
        found
    }

    async fn differing(&self, one: &str, other: &Database<'_>) -> Columns {
        let one = Database::copy(&self.server, one).await;
        let (a, b) = (contents::by_column(&one).await, contents::by_column(other).await);
        one.drop().await;
        let differs = |key: &&(String, String)| a.get(*key) != b.get(*key);
        a.keys().chain(b.keys()).filter(differs).cloned().collect()
    }

    /// Without the databases that were only for comparing.
    pub async fn strike_the_set(self) {
        let postgres = self.server.connect("postgres").await;
        let mut names = vec![self.base.clone()];
        names.extend(
            [&self.there, &self.back]
                .into_iter()
                .filter_map(|cell| cell.get())
                .map(|it| it.database.clone()),
        );
        for name in names {
            let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            postgres.batch_execute(&sql).await.unwrap();
        }
    }

    /// As if nothing had struck. With an application at work the rows are its own.
    pub async fn has_arrived(&self, database: &Database<'_>, alone: bool) -> Vec<String> {
        let expected = &self.there.get().unwrap().seen;
        let mut wrong = self.looks(database, expected).await;
        if alone
            && self
                .rows_differ(database, expected, &self.numbered)
                .await
                .is_some()
        {
            let mut without = self.unsteady.get_or_init(|| self.unsteady()).await.clone();
            without.extend(self.numbered.iter().cloned());
            wrong.extend(self.rows_differ(database, expected, &without).await);
        }
        wrong.extend(database.differences(&self.plan.after, &self.plan.before).await);
        let run = database.run(&self.plan).await.unwrap();
        if run.state != RunState::Completed {
            wrong.push(format!("the run is {:?}", run.state));
        }
        let undone = |step: &&pgmorph::executor::ledger::StepRecord| {
            step.state != StepState::Done
                || step.error.is_some()
                || step.finished_at.is_none()
                || step.undone_works != 0
        };
        wrong.extend(
            run.steps
                .iter()
                .filter(undone)
                .map(|step| format!("in the ledger: {step:?}")),
        );
        wrong
    }

    /// As if nothing had been done.
    pub async fn has_returned(&self, database: &Database<'_>, alone: bool) -> Vec<String> {
        let mut wrong = self.looks(database, &self.before).await;
        if alone
            && self
                .rows_differ(database, &self.before, &Columns::new())
                .await
                .is_some()
        {
            let without = self
                .changed_for_good
                .get_or_init(|| self.changed_for_good())
                .await;
            wrong.extend(self.rows_differ(database, &self.before, without).await);
        }
        wrong.extend(database.differences(&self.plan.before, &self.plan.after).await);
        let Some(run) = database.run(&self.plan).await else {
            return wrong;
        };
        if run.state != RunState::RolledBack {
            wrong.push(format!("the run is {:?}", run.state));
        }
        let done = |step: &&pgmorph::executor::ledger::StepRecord| {
            !matches!(step.state, StepState::Pending | StepState::Undone)
        };
        wrong.extend(
            run.steps
                .iter()
                .filter(done)
                .map(|step| format!("in the ledger: {step:?}")),
        );
        wrong
    }

    async fn looks(&self, database: &Database<'_>, expected: &Seen) -> Vec<String> {
        gone(database).await;
        let mut wrong = database.leftovers().await;
        let dump = schema_dump(database).await;
        if dump != expected.dump {
            wrong.push(format!("the schema:\n{}", difference(&expected.dump, &dump)));
        }
        let sql = "SELECT count(*) FROM pgmorph.runs";
        if let Ok(row) = database.admin.query_one(sql, &[]).await
            && row.get::<_, i64>(0) > 1
        {
            wrong.push("more than one run is recorded".into());
        }
        wrong
    }

    async fn rows_differ(
        &self,
        database: &Database<'_>,
        expected: &Seen,
        without: &Columns,
    ) -> Option<String> {
        // What was seen was seen without the columns that never count.
        let (found, expected) = match without == &self.numbered || without.is_empty() {
            true => (contents::rows(database, without).await, expected.rows.clone()),
            false => {
                let other = match std::ptr::eq(expected, &self.before) {
                    true => &self.base,
                    false => &self.there.get().unwrap().database,
                };
                let other = Database::copy(&self.server, other).await;
                let rows = contents::rows(&other, without).await;
                other.drop().await;
                (contents::rows(database, without).await, rows)
            }
        };
        (found != expected)
            .then(|| format!("the rows: expected {expected:#?}, found {found:#?}, not compared: {without:?}"))
    }
}

/// Waits until the server has noticed that our sessions are gone.
pub async fn gone(database: &Database<'_>) {
    until("our sessions are gone", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND application_name LIKE 'pgmorph%'";
        database.admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}

async fn seen(database: &Database<'_>, without: &Columns) -> Seen {
    Seen {
        dump: schema_dump(database).await,
        rows: contents::rows(database, without).await,
    }
}
