//! The systems of `plans/`, each through its whole life on real data, while old and new versions of its application work
//! the way its functions use the tables.

use crate::harness::{Chance, Database, Ended, TestServer, patience, pgmorph};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{RwLock, watch};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

mod consolidation;
mod fifo;
mod tenants;
mod users;

/// So many statements of each application between two stages.
const STATEMENTS: u64 = 30;

/// A database of one system, and its plans.
struct Stage<'s> {
    database: Database<'s>,
    plans: PathBuf,
    url: String,
}

impl<'s> Stage<'s> {
    /// With its schema alone.
    async fn bare(server: &'s TestServer, system: &str) -> Self {
        let plans = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans").join(system);
        let schema = std::fs::read_to_string(plans.join("schema.sql")).unwrap();
        let database = Database::create(server, &schema).await;
        Self {
            url: server.url(&database.name, "postgres"),
            database,
            plans,
        }
    }

    /// With this many rows of its data.
    async fn set(server: &'s TestServer, system: &str, rows: u64) -> Self {
        let stage = Self::bare(server, system).await;
        let data = std::fs::read_to_string(stage.plans.join("data.sql")).unwrap();
        stage.sql(&data.replace(":rows", &rows.to_string())).await;
        stage.sql("ANALYZE").await;
        stage
    }

    /// Plan files are named by their place in the directory of the system.
    async fn pgmorph(&self, arguments: &[&str]) -> Ended {
        let place = |argument: &&str| match argument.ends_with(".yaml") {
            true => self.plans.join(argument).display().to_string(),
            false => (*argument).to_owned(),
        };
        let arguments: Vec<String> = arguments.iter().map(place).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        pgmorph(&self.url, &arguments).await
    }

    async fn apply(&self, plan: &str, more: &[&str]) -> Ended {
        self.pgmorph(&[&["apply", plan, "--yes"], more].concat()).await
    }

    async fn verify(&self, plan: &str, more: &[&str]) -> (i32, Value) {
        let ended = self
            .pgmorph(&[&["verify", plan, "--format", "json"], more].concat())
            .await;
        (ended.code.unwrap(), ended.json())
    }

    #[track_caller]
    fn holds(found: &(i32, Value), verdict: &str) {
        assert_eq!(
            (found.0, found.1["verdict"].as_str()),
            (0, Some(verdict)),
            "{:#}",
            found.1
        );
    }

    async fn sql(&self, sql: &str) {
        if let Err(error) = self.database.admin.batch_execute(sql).await {
            panic!("{error}: {:?}\n{sql}", error.as_db_error());
        }
    }

    async fn number(&self, sql: &str) -> i64 {
        self.database.admin.query_one(sql, &[]).await.unwrap().get(0)
    }
}

/// One version of an application: what it does next. A statement that fails is a failure of ours.
trait Actor: Send + 'static {
    fn act(&mut self, chance: &mut Chance) -> impl Future<Output = Result<(), tokio_postgres::Error>> + Send;
}

/// An application at work.
struct Work<A> {
    task: JoinHandle<A>,
    stop: watch::Sender<bool>,
    acts: watch::Receiver<u64>,
    gate: Arc<RwLock<()>>,
}

impl<A: Actor> Work<A> {
    fn start(mut actor: A, seed: u64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (counter, acts) = watch::channel(0);
        let gate = Arc::new(RwLock::new(()));
        let open = Arc::clone(&gate);
        let task = tokio::spawn(async move {
            let mut chance = Chance(seed);
            while !*stopped.borrow() {
                let _open = open.read().await;
                if let Err(error) = actor.act(&mut chance).await {
                    panic!(
                        "the application's statement fails: {error}: {:?}",
                        error.as_db_error()
                    );
                }
                counter.send_modify(|count| *count += 1);
            }
            actor
        });
        Self {
            task,
            stop,
            acts,
            gate,
        }
    }

    async fn go_on(&mut self, acts: u64) {
        let goal = *self.acts.borrow() + acts;
        let reached = tokio::time::timeout(patience(), self.acts.wait_for(|count| *count >= goal)).await;
        if !reached.is_ok_and(|reached| reached.is_ok()) {
            let task = std::mem::replace(&mut self.task, tokio::spawn(std::future::pending()));
            self.stop.send_replace(true);
            match task.await {
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
                Ok(_) => panic!("the application stands still"),
            }
        }
    }

    /// Nobody writes while the guard lives.
    async fn quiet(&self) -> tokio::sync::OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.gate).write_owned().await
    }

    async fn stop(self) -> A {
        self.stop.send_replace(true);
        match self.task.await {
            Ok(actor) => actor,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

/// Each statement is a transaction of its own, as over an API that has no others.
async fn each(client: &Client, statements: &[String]) -> Result<(), tokio_postgres::Error> {
    for statement in statements {
        client.batch_execute(statement).await?;
    }
    Ok(())
}
