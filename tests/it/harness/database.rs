//! A database of its own for a case, and what the program does with it.

use super::TestServer;
use pgmorph::catalog::model::CatalogSnapshot;
use pgmorph::catalog::{load, probe};
use pgmorph::change_plan;
use pgmorph::diagnostic::Diagnostic;
use pgmorph::error::Error;
use pgmorph::event::{Event, Listener};
use pgmorph::executor::ledger::{self, PlanRelation, Run, RunState};
use pgmorph::executor::{Executor, Interrupt, Loss, Outcome};
use pgmorph::plan::{ExecutionPlan, Phase};
use pgmorph::planner::{self, Numbers};
use pgmorph::postgres::settings::ConnectionSettings;
use pgmorph::sql::QualifiedName;
use pgmorph::verifier::{self, Tables};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tokio_postgres::Client;

/// Keeps every event of a run.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<Event>>>);

impl Listener for Recorder {
    fn tell(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Recorder {
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    pub fn any(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.0.lock().unwrap().iter().any(wanted)
    }
}

pub struct Database<'s> {
    pub server: &'s TestServer,
    pub name: String,
    /// A superuser's session.
    pub admin: Client,
    /// The role that runs plans.
    pub user: String,
    pub recorder: Recorder,
}

impl<'s> Database<'s> {
    pub async fn create(server: &'s TestServer, setup: &str) -> Self {
        let name = server.next_database();
        let postgres = server.connect("postgres").await;
        // From PostgreSQL 15 on the default writes every page to the WAL, which takes a case half of its time.
        let strategy = if server.major() >= 15 {
            " STRATEGY file_copy"
        } else {
            ""
        };
        postgres
            .batch_execute(&format!("CREATE DATABASE {name}{strategy}"))
            .await
            .unwrap();
        let admin = server.connect(&name).await;
        if let Err(error) = admin.batch_execute(setup).await {
            panic!("the setup fails: {error}: {:?}", error.as_db_error());
        }
        Self {
            server,
            name,
            admin,
            user: "postgres".into(),
            recorder: Recorder::default(),
        }
    }

    /// One that is there already.
    pub async fn open(server: &'s TestServer, name: &str) -> Self {
        Self {
            server,
            admin: server.connect(name).await,
            name: name.to_owned(),
            user: "postgres".into(),
            recorder: Recorder::default(),
        }
    }

    /// Another one, like this, to which nobody may be connected.
    pub async fn copy(server: &'s TestServer, original: &str) -> Self {
        let name = server.next_database();
        let postgres = server.connect("postgres").await;
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{original}'; \
             CREATE DATABASE {name} TEMPLATE {original}"
        );
        for statement in sql.split("; ") {
            postgres.batch_execute(statement).await.unwrap();
        }
        Self {
            server,
            admin: server.connect(&name).await,
            name,
            user: "postgres".into(),
            recorder: Recorder::default(),
        }
    }

    /// A directory full of databases would be gigabytes at the end of a walk.
    pub async fn drop(self) {
        let postgres = self.server.connect("postgres").await;
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        postgres.batch_execute(&sql).await.unwrap();
    }

    pub fn settings(&self) -> ConnectionSettings {
        let url = self.server.url(&self.name, &self.user);
        ConnectionSettings::resolve(Some(&url), &|_| None).unwrap()
    }

    pub async fn session(&self) -> Client {
        self.server.connect_as(&self.name, &self.user).await
    }

    /// Snapshot and answers to the probes of this plan.
    pub async fn snapshot(&self, source: &str) -> Result<CatalogSnapshot, Vec<Diagnostic>> {
        let plan = change_plan::parse(source)?;
        let client = self.session().await;
        let mut snapshot = load::snapshot(&client).await.unwrap();
        let conditions = planner::conditions(&plan, &Numbers::new());
        probe::ask_conditions(&client, &mut snapshot, &conditions)
            .await
            .unwrap();
        let questions = |snapshot: &_| planner::questions(&plan, snapshot);
        probe::ask_all(&client, &mut snapshot, questions).await.unwrap();
        Ok(snapshot)
    }

    pub async fn plan(&self, source: &str) -> Result<ExecutionPlan, Vec<Diagnostic>> {
        let snapshot = self.snapshot(source).await?;
        planner::plan(&change_plan::parse(source)?, &snapshot)
    }

    /// The plan, which must have nothing to complain about.
    pub async fn planned(&self, source: &str) -> ExecutionPlan {
        self.plan(source)
            .await
            .unwrap_or_else(|found| panic!("the plan is refused: {found:#?}"))
    }

    pub async fn run(&self, plan: &ExecutionPlan) -> Option<Run> {
        match ledger::exists(&self.admin).await.unwrap() {
            true => ledger::latest_run(&self.admin, &plan.name).await.unwrap(),
            false => None,
        }
    }

    /// As the command does: goes on with the recorded run where there is one of the same plan that was not rolled back.
    pub async fn apply(&self, plan: &ExecutionPlan, through: Phase) -> Result<Outcome, Error> {
        let (_keep, interrupts) = watch::channel(Interrupt::None);
        self.apply_until(plan, through, interrupts).await
    }

    pub async fn apply_until(
        &self,
        plan: &ExecutionPlan,
        through: Phase,
        interrupts: watch::Receiver<Interrupt>,
    ) -> Result<Outcome, Error> {
        let run = self.run(plan).await;
        let run = run.filter(|run| run.state != RunState::RolledBack);
        if let Some(run) = &run {
            let relation = ledger::relation(&run.plan.changes, &plan.changes);
            assert_eq!(relation, PlanRelation::Same, "a run of another plan is recorded");
        }
        let listener = Arc::new(self.recorder.clone());
        let executor = Executor::open(&self.settings(), listener, interrupts).await?;
        let plan = run.as_ref().map_or(plan, |run| &run.plan);
        Box::pin(executor.apply(plan, run.as_ref(), through)).await
    }

    pub async fn rollback(&self, plan: &ExecutionPlan) -> Result<Outcome, Error> {
        self.roll_back(plan, Loss::Refused).await
    }

    pub async fn roll_back(&self, plan: &ExecutionPlan, loss: Loss) -> Result<Outcome, Error> {
        let run = self.run(plan).await.unwrap();
        let (_keep, interrupts) = watch::channel(Interrupt::None);
        let listener = Arc::new(self.recorder.clone());
        let executor = Executor::open(&self.settings(), listener, interrupts).await?;
        Box::pin(executor.rollback(&run, loss)).await
    }

    /// What was done was done 31 days ago.
    pub async fn time_passes(&self) {
        let sql = "UPDATE pgmorph.steps SET finished_at = finished_at - interval '31 days'";
        self.admin.batch_execute(sql).await.unwrap();
    }

    pub async fn tables(&self, names: impl Iterator<Item = &QualifiedName>) -> Tables {
        let names: Vec<QualifiedName> = names.cloned().collect();
        load::tables(&self.admin, &names).await.unwrap()
    }

    /// In what the tables differ from these predicted ones.
    pub async fn differences(&self, predicted: &CatalogSnapshot, also: &CatalogSnapshot) -> Vec<String> {
        let names = predicted.tables.keys().chain(also.tables.keys());
        let tables = self.tables(names).await;
        let found = verifier::differences(predicted, &tables);
        found.iter().map(ToString::to_string).collect()
    }

    /// Objects of ours that should be gone, and indexes that nobody can use.
    pub async fn leftovers(&self) -> Vec<String> {
        let sql = "SELECT 'function ' || oid::regprocedure FROM pg_proc \
                   WHERE pronamespace = to_regnamespace('pgmorph') \
                   UNION ALL SELECT 'relation ' || oid::regclass FROM pg_class \
                   WHERE relnamespace = to_regnamespace('pgmorph') AND relkind IN ('r', 'v') \
                    AND relname NOT IN ('ledger', 'runs', 'steps', 'attempts', 'backfills', 'requests', \
                      'step_stats') \
                   UNION ALL SELECT 'invalid index ' || indexrelid::regclass FROM pg_index \
                   WHERE NOT indisvalid OR NOT indisready \
                   UNION ALL SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass FROM pg_trigger \
                   WHERE tgname LIKE '%pgmorph%' \
                   UNION ALL SELECT 'constraint ' || conname || ' on ' || conrelid::regclass FROM pg_constraint \
                   WHERE conname LIKE '%pgmorph%' \
                   UNION ALL SELECT 'column ' || attname || ' of ' || attrelid::regclass FROM pg_attribute \
                   WHERE attname LIKE '%pgmorph%' AND attnum > 0 AND NOT attisdropped \
                   UNION ALL SELECT 'relation ' || oid::regclass FROM pg_class \
                   WHERE relname LIKE '~pgmorph%' \
                   UNION ALL SELECT 'session ' || application_name FROM pg_stat_activity \
                   WHERE datname = current_database() AND application_name LIKE 'pgmorph%' AND state <> 'idle'";
        let rows = self.admin.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Rows that violate a foreign key, by the key and the values that refer to nothing.
    pub async fn dangling(&self) -> Vec<String> {
        let questions = "SELECT format('SELECT %L || (%s)::text FROM %s AS c WHERE (%s) AND NOT EXISTS \
                          (SELECT FROM %s AS p WHERE %s)', \
                          conname || ' ', string_agg(format('c.%I', c.attname), ', ' ORDER BY n), \
                          conrelid::regclass, \
                          string_agg(format('c.%I IS NOT NULL', c.attname), \
                           CASE confmatchtype WHEN 'f' THEN ' OR ' ELSE ' AND ' END), \
                          confrelid::regclass, \
                          string_agg(format('p.%I = c.%I', p.attname, c.attname), ' AND ')) \
                         FROM pg_constraint, generate_subscripts(conkey, 1) AS n, \
                          pg_attribute AS c, pg_attribute AS p \
                         WHERE contype = 'f' AND c.attrelid = conrelid AND c.attnum = conkey[n] \
                          AND p.attrelid = confrelid AND p.attnum = confkey[n] \
                         GROUP BY pg_constraint.oid";
        // What is asked is the rows, not the indexes.
        let plainly =
            "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off";
        self.admin.batch_execute(plainly).await.unwrap();
        let mut found = Vec::new();
        for question in self.admin.query(questions, &[]).await.unwrap() {
            let rows = self.admin.query(question.get::<_, &str>(0), &[]).await.unwrap();
            found.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        }
        self.admin
            .batch_execute("RESET enable_indexscan; RESET enable_indexonlyscan; RESET enable_bitmapscan")
            .await
            .unwrap();
        found.sort();
        found
    }
}
