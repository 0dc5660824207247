//! The examples for GitHub Actions and Kubernetes: read as YAML, and their commands run against a real server.

use super::super::monitor::Stage;
use crate::harness::{Running, TestServer};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn example(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// As a runner does: bash that stops at the first failure.
fn run(directory: &Path, script: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let program = Path::new(env!("CARGO_BIN_EXE_pgmorph")).parent().unwrap();
    let ended = Command::new("bash")
        .args(["--noprofile", "--norc", "-eo", "pipefail", "-c", script])
        .current_dir(directory)
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", program.display()))
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
    (ended.status.code(), said)
}

fn scripts(workflow: &Value, job: &str) -> Vec<(String, String)> {
    let steps = workflow["jobs"][job]["steps"].as_array().unwrap();
    let script = |step: &Value| {
        let text = step["run"].as_str()?;
        Some((step["name"].as_str().unwrap().to_owned(), text.to_owned()))
    };
    steps.iter().filter_map(script).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workflow_reviews_and_applies() {
    let workflow = example("github-actions.yml");
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, 1_000).await;
    let at = stage.directory.path();
    for folder in ["plans", "migrations"] {
        std::fs::create_dir(at.join(folder)).unwrap();
    }
    std::fs::rename(&stage.plan, at.join("plans/1_p.yaml")).unwrap();
    std::fs::write(
        at.join("migrations/1.sql"),
        "CREATE INDEX CONCURRENTLY ON orders (note);\n",
    )
    .unwrap();
    let (code, said) = run(
        at,
        "pgmorph snapshot -o catalog.json",
        &[("DATABASE_URL", &stage.url)],
    );
    assert_eq!(code, Some(0), "{said}");
    let summary = stage.path("summary");
    for (name, script) in scripts(&workflow, "review") {
        // No secret is there for a pull request, and none is needed.
        let (code, said) = run(at, &script, &[("GITHUB_STEP_SUMMARY", &summary)]);
        assert_eq!(code, Some(0), "{name}: {said}");
    }
    assert!(
        std::fs::read_to_string(&summary)
            .unwrap()
            .starts_with("# Plan `p`")
    );
    assert!(at.join("out/1_p.html").exists());
    let variables = [
        ("DATABASE_URL", stage.url.as_str()),
        ("THROUGH", "cutover"),
        ("RETRY_SECONDS", "0"),
    ];
    let applies = scripts(&workflow, "apply");
    for (name, script) in &applies {
        let (code, said) = run(at, script, &variables);
        assert_eq!(code, Some(0), "{name}: {said}");
    }
    assert!(
        std::fs::read_to_string(at.join("out/report.html"))
            .unwrap()
            .contains("Run 1 of p")
    );
    // What nobody can mend by waiting is not tried again.
    std::fs::write(
        at.join("plans/2_q.yaml"),
        "name: q\nchanges:\n  - drop_table: {table: nowhere}\n",
    )
    .unwrap();
    let (code, said) = run(at, &applies[0].1, &variables);
    assert_eq!(code, Some(2), "{said}");
    // A bad migration stops the review, and is named where it stands.
    std::fs::write(at.join("migrations/2.sql"), "CREATE INDEX ON orders (note);\n").unwrap();
    let (_, lint) = &scripts(&workflow, "review")[0];
    let (code, said) = run(at, lint, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("::error file="), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_applies_and_its_exit_codes_are_those_that_want_a_person() {
    let job = example("kubernetes-job.yaml");
    assert_eq!(
        (&job["kind"], &job["apiVersion"]),
        (&"Job".into(), &"batch/v1".into())
    );
    let pod = &job["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let mounts = container["volumeMounts"].as_array().unwrap();
    let volumes = pod["volumes"].as_array().unwrap();
    for mount in mounts {
        assert!(
            volumes.iter().any(|volume| volume["name"] == mount["name"]),
            "{mount}"
        );
    }
    let rule = &job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"];
    assert_eq!(
        (&rule["values"], &rule["containerName"]),
        (&serde_json::json!([1, 2, 3, 6]), &container["name"])
    );
    assert_eq!(
        pod["restartPolicy"], "Never",
        "else Kubernetes refuses the policy"
    );
    assert_eq!(container["command"], serde_json::json!(["pgmorph"]));
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, 1_000).await;
    let metrics = stage.path("");
    let arguments: Vec<String> = container["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            it.as_str()
                .unwrap()
                .replace("/plan/plan.yaml", &stage.plan)
                .replace("/metrics/", &metrics)
        })
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Running::start(&stage.url, &arguments).end().await.expect(0);
    assert!(stage.directory.path().join("pgmorph.prom").exists());
}
