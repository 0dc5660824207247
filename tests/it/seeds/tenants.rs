//! A directory of plans on an empty database: its order, its references, its replay, and reports beside the application.

use super::{Actor, STATEMENTS, Stage, Work};
use crate::harness::{Chance, TestServer, pgmorph, schema_dump};
use std::path::Path;
use tempfile::TempDir;
use tokio_postgres::Client;

const SYSTEM: &str = "tenant_metrics";
const COSTS: &str = "20260101000000_llm_cost_tracking.yaml";
const ROWS: u64 = 300;

/// The application: calls of models, with their costs in millionths.
struct Calls {
    client: Client,
    spent: i64,
}

impl Actor for Calls {
    async fn act(&mut self, chance: &mut Chance) -> Result<(), tokio_postgres::Error> {
        let user = 1 + i64::try_from(chance.below(ROWS)).unwrap();
        let millionths = i64::try_from(chance.below(900_000)).unwrap();
        let sql = "INSERT INTO copilot_internal.llm_calls (user_id, model, cost_usd) \
                   VALUES (md5('user ' || $1::bigint)::uuid, 'large', $2::bigint / 1000000.0)";
        self.client.execute(sql, &[&user, &millionths]).await?;
        self.spent += millionths;
        Ok(())
    }
}

/// The new version: it makes users with their tenants, and looks at quotas.
struct Tenants {
    client: Client,
    made: i64,
}

impl Actor for Tenants {
    async fn act(&mut self, chance: &mut Chance) -> Result<(), tokio_postgres::Error> {
        if chance.below(2) == 0 {
            let sql = "SELECT count(*) FROM metrics.quota_status WHERE status = 'exceeded'";
            return self.client.query_one(sql, &[]).await.map(drop);
        }
        self.made += 1;
        let email = format!("tenant{}@example.com", self.made);
        let sql = "WITH u AS (INSERT INTO copilot_internal.users (email) VALUES ($1) RETURNING id, email), \
                   t AS (INSERT INTO copilot_internal.tenants (kind, name, personal_of) SELECT 'personal', email, id FROM u RETURNING id, personal_of) \
                   INSERT INTO copilot_internal.tenant_members (tenant_id, user_id, role) SELECT id, personal_of, 'owner' FROM t";
        self.client.execute(sql, &[&email]).await?;
        Ok(())
    }
}

async fn stage(server: &TestServer) -> Stage<'_> {
    let stage = Stage::bare(server, SYSTEM).await;
    stage.apply(COSTS, &["--through", "contract"]).await.expect(0);
    let data = std::fs::read_to_string(stage.plans.join("data.sql")).unwrap();
    stage.sql(&data.replace(":rows", &ROWS.to_string())).await;
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_is_applied_in_order_and_reports_see_what_the_application_does() {
    let server = TestServer::start(&[]);
    let stage = stage(&server).await;
    let before = schema_dump(&stage.database).await;
    let spent_before = stage
        .number("SELECT (sum(cost_usd) * 1000000)::bigint FROM copilot_internal.llm_calls")
        .await;
    let client = stage.database.session().await;
    let mut calls = Work::start(Calls { client, spent: 0 }, 7);
    let directory = stage.plans.display().to_string();
    stage
        .pgmorph(&["apply", &directory, "--yes", "--through", "contract"])
        .await
        .expect(0);
    let client = stage.database.session().await;
    let mut tenants = Work::start(Tenants { client, made: 0 }, 8);
    calls.go_on(STATEMENTS).await;
    tenants.go_on(STATEMENTS).await;
    {
        let (_calls, _tenants) = (calls.quiet().await, tenants.quiet().await);
        for view in ["all_costs", "cost_by_tenant", "cost_by_user"] {
            let sql = format!(
                "SELECT ((SELECT sum(cost_usd) FROM metrics.{view}) - (SELECT sum(cost_usd) FROM copilot_internal.llm_calls) \
                 - (SELECT sum(cost_usd) FROM copilot_internal.e2b_sandboxes))::bigint"
            );
            assert_eq!(stage.number(&sql).await, 0, "{view}");
        }
    }
    reports_only_read(&stage).await;
    let status = stage
        .pgmorph(&["status", &directory, "--format", "json"])
        .await
        .expect(0);
    let text = status.stdout.clone();
    assert_eq!(text.matches("\"applied\"").count(), 6, "{text}");
    stage.pgmorph(&["verify", &directory]).await.expect(0);

    // All but the first go back, and come again.
    tenants.stop().await;
    let mut plans: Vec<String> = std::fs::read_dir(&stage.plans)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
        .filter(|name| name.ends_with(".yaml") && name != COSTS)
        .collect();
    plans.sort();
    for plan in plans.iter().rev() {
        stage.pgmorph(&["rollback", plan, "--yes"]).await.expect(0);
    }
    assert_eq!(before, schema_dump(&stage.database).await);
    stage
        .pgmorph(&["apply", &directory, "--yes", "--through", "contract"])
        .await
        .expect(0);
    let calls = calls.stop().await;
    let spent = stage
        .number("SELECT (sum(cost_usd) * 1000000)::bigint FROM copilot_internal.llm_calls")
        .await;
    assert_eq!(spent, spent_before + calls.spent);
}

async fn reports_only_read(stage: &Stage<'_>) {
    let reader = stage.database.session().await;
    reader.batch_execute("SET ROLE metrics_reader").await.unwrap();
    reader
        .query("SELECT * FROM metrics.quota_status", &[])
        .await
        .unwrap();
    for sql in [
        "SELECT * FROM copilot_internal.llm_calls",
        "DELETE FROM metrics.llm_model_usage",
        "CREATE TABLE metrics.mine ()",
    ] {
        let refused = reader.query(sql, &[]).await.unwrap_err();
        let code = refused.code().unwrap().code().to_owned();
        assert!(["42501", "55000"].contains(&code.as_str()), "{sql}: {refused:?}");
    }
}

/// As the files were before somebody noticed: the policies before the tenants, and tenants looked for in `public`.
fn original(plans: &Path) -> TempDir {
    let directory = TempDir::new().unwrap();
    for entry in std::fs::read_dir(plans).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let (name, text) = match name.contains("tenant_llm_policies") {
            true => (
                "20251229000000_tenant_llm_policies.yaml".to_owned(),
                text.replace("depends_on: [multi_tenant_user_model]\n", ""),
            ),
            false => (name, text),
        };
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn the_original_mistake_is_found_before_anything_runs() {
    let server = TestServer::start(&[]);
    let stage = Stage::bare(&server, SYSTEM).await;
    let before = schema_dump(&stage.database).await;
    let directory = original(&stage.plans);
    let path = directory.path().display().to_string();
    let lint = stage.pgmorph(&["lint", &path]).await.expect(1);
    for text in [
        "20251229000000_tenant_llm_policies.yaml:17",
        "copilot_internal.tenants",
        "20260105000000_multi_tenant_user_model.yaml",
        "depends_on",
    ] {
        assert!(lint.stdout.contains(text), "no {text:?} in {}", lint.stdout);
    }
    let refused = pgmorph(&stage.url, &["apply", &path, "--yes"]).await;
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert_eq!(before, schema_dump(&stage.database).await);

    let file = stage.plans.join("20260105000003_tenant_llm_policies.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    let wrong = directory.path().join("20251229000000_tenant_llm_policies.yaml");
    std::fs::remove_file(wrong).unwrap();
    let wrong = directory.path().join("20260105000003_tenant_llm_policies.yaml");
    std::fs::write(
        wrong,
        text.replace(
            "references: copilot_internal.tenants",
            "references: public.tenants",
        ),
    )
    .unwrap();
    let lint = stage.pgmorph(&["lint", &path]).await.expect(1);
    for text in [
        "20260105000003_tenant_llm_policies.yaml",
        "public.tenants",
        "did you mean `copilot_internal.tenants`",
    ] {
        assert!(lint.stdout.contains(text), "no {text:?} in {}", lint.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_is_replayed_on_an_empty_server() {
    let server = TestServer::start(&[]);
    let stage = Stage::bare(&server, SYSTEM).await;
    let directory = stage.plans.display().to_string();
    let schema = stage.plans.join("schema.sql").display().to_string();
    let ended = stage
        .pgmorph(&["lint", "--replay", "--schema", &schema, &directory])
        .await
        .expect(0);
    assert!(ended.stdout.contains("metrics_schema"), "{}", ended.stdout);
}
