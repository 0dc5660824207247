//! The fixtures as owners run them: no superuser, nothing but their own tables, on servers of their own and on managed ones.
//!
//! A sample of each operation's cases; `PGMORPH_OWNER_CASES=all` takes all of them.

use crate::harness::{Database, TestServer, schema_dump};
use pgmorph::plan::{ExecutionPlan, Phase};
use std::path::{Path, PathBuf};

struct Owner {
    name: &'static str,
    /// What makes it, by the release.
    made: fn(u32) -> String,
    /// So many cases of each operation.
    sample: usize,
}

/// An owner as plain as can be.
const PLAIN: Owner = Owner {
    name: "plain_owner",
    made: |_| "CREATE ROLE plain_owner LOGIN".to_owned(),
    sample: 1,
};

/// The administrator of a managed service: it may make roles and databases, and from PostgreSQL 15 on keep triggers
/// from firing, but is no superuser.
const MANAGED: Owner = Owner {
    name: "managed_admin",
    made: |major| {
        let role = "CREATE ROLE managed_admin LOGIN CREATEROLE CREATEDB BYPASSRLS; \
                    GRANT pg_monitor, pg_signal_backend TO managed_admin";
        let parameter = if major >= 15 {
            "; GRANT SET ON PARAMETER session_replication_role TO managed_admin"
        } else {
            ""
        };
        format!("{role}{parameter}")
    },
    sample: 1,
};

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    There,
    ThereAndBack,
    /// The schema itself takes a superuser to make.
    SetupRefused,
    /// The planner says what an owner cannot do.
    PlanRefused(String),
}

async fn owned<'s>(server: &'s TestServer, owner: &str, before: &str) -> Option<Database<'s>> {
    let mut database = Database::create(server, "").await;
    let name = &database.name;
    let handed = format!(
        "ALTER DATABASE {name} OWNER TO {owner}; GRANT ALL ON SCHEMA public TO {owner}; SET ROLE {owner}"
    );
    database.admin.batch_execute(&handed).await.unwrap();
    let made = database.admin.batch_execute(before).await;
    database.admin.batch_execute("RESET ROLE").await.unwrap();
    database.user = owner.to_owned();
    if let Err(error) = made {
        let code = error.code().unwrap().code().to_owned();
        // A role that an earlier case made, too.
        assert!(["42501", "42710"].contains(&code.as_str()), "{error:?}");
        database.drop().await;
        return None;
    }
    Some(database)
}

async fn apply(database: &Database<'_>, plan: &ExecutionPlan, through: Phase) {
    if let Err(error) = database.apply(plan, through).await {
        panic!("apply through {through}: {error:#?}");
    }
}

async fn live(server: &TestServer, owner: &str, case: &Path) -> Verdict {
    let read = |name: &str| std::fs::read_to_string(case.join(name)).unwrap();
    let (before, source) = (read("before.sql"), read("plan.yaml"));
    let Some(database) = owned(server, owner, &before).await else {
        return Verdict::SetupRefused;
    };
    let schema = schema_dump(&database).await;
    let plan = match database.plan(&source).await {
        Ok(plan) => plan,
        Err(found) => {
            database.drop().await;
            return Verdict::PlanRefused(format!("{}: {}", found[0].code, found[0].message));
        }
    };
    let goes_back = !case.join("case.yaml").exists();
    apply(&database, &plan, Phase::Cutover).await;
    if goes_back {
        if let Err(error) = database.rollback(&plan).await {
            panic!("rollback: {error:#?}");
        }
        assert_eq!(
            schema_dump(&database).await,
            schema,
            "the rollback does not restore before.sql"
        );
        let plan = database.planned(&source).await;
        apply(&database, &plan, Phase::Cutover).await;
    }
    database.time_passes().await;
    apply(&database, &plan, Phase::Contract).await;
    assert_eq!(
        database.differences(&plan.after, &plan.before).await,
        Vec::<String>::new()
    );
    assert_eq!(database.leftovers().await, Vec::<String>::new());
    database.drop().await;
    if goes_back {
        Verdict::ThereAndBack
    } else {
        Verdict::There
    }
}

async fn walk(owner: &'static Owner) {
    let server = TestServer::start(&[]);
    let admin = server.connect("postgres").await;
    admin.batch_execute(&(owner.made)(server.major())).await.unwrap();
    let all = std::env::var("PGMORPH_OWNER_CASES").is_ok_and(|text| text == "all");
    let sample = if all { usize::MAX } else { owner.sample };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let (mut ran, mut operations, mut failed) = (0, 0, Vec::new());
    let mut refused = Vec::new();
    for operation in directories(&root) {
        let mut here = 0;
        let of_success = directories(&operation).into_iter().filter(|case| {
            let particulars = std::fs::read_to_string(case.join("case.yaml")).unwrap_or_default();
            case.join("after.sql").exists() && !particulars.contains("from_major")
        });
        for case in of_success {
            if here >= sample {
                break;
            }
            let name = case.strip_prefix(&root).unwrap().display().to_string();
            let server = &server;
            let result = std::panic::AssertUnwindSafe(live(server, owner.name, &case));
            match futures_util::FutureExt::catch_unwind(result).await {
                Ok(Verdict::SetupRefused) => {}
                Ok(Verdict::PlanRefused(why)) => refused.push(format!("{name}: {why}")),
                Ok(Verdict::There | Verdict::ThereAndBack) => here += 1,
                Err(_) => failed.push(name),
            }
        }
        ran += here;
        operations += usize::from(here > 0);
        if here == 0 {
            refused.push(format!("no case of {operation:?} ran"));
        }
    }
    println!(
        "{ran} cases of {operations} operations as {}; refused: {refused:#?}",
        owner.name
    );
    assert!(failed.is_empty(), "these fail: {failed:?}");
    assert!(
        operations >= 30,
        "{operations} operations were run as {}",
        owner.name
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_owner_runs_every_operation() {
    Box::pin(walk(&PLAIN)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_administrator_of_a_managed_service_runs_every_operation() {
    Box::pin(walk(&MANAGED)).await;
}
