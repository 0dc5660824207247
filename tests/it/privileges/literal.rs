//! A plan is data: nothing in it is looked up in the environment, given to a shell, or taken for a variable.

use crate::harness::{Database, TestServer, pgmorph};

/// What shells, psql, and template languages would replace. The variable is one that the program is given.
const ODD: &str = "$DATABASE_URL ${DATABASE_URL} $(id) `id` %DATABASE_URL% :DATABASE_URL :{?x} {{ DATABASE_URL }} <%= x %> \\\\gexec";

#[tokio::test(flavor = "multi_thread")]
async fn what_looks_like_a_variable_stays_as_it_stands() {
    let server = TestServer::start(&[]);
    let database = Database::create(
        &server,
        "CREATE TABLE orders (id integer PRIMARY KEY); INSERT INTO orders VALUES (1)",
    )
    .await;
    let url = server.url(&database.name, "postgres");
    let odd = ODD.replace("\\\\", "\\");
    let yaml = |text: &str| serde_json::to_string(text).unwrap();
    let text = format!("'{odd}'");
    let plan = format!(
        "name: p\ndescription: {name}\nbefore:\n  - {{name: {name}, query: {never}}}\nchanges:\n\
         \x20 - add_column: {{table: orders, column: note, type: text, default: {text}, comment: {name}}}\n\
         \x20 - add_check: {{table: orders, name: {name}, expression: {check}}}\n\
         \x20 - create_view: {{name: seen, select: {view}}}\n\
         \x20 - sql: {{summary: {name}, run: {run}, undo: DROP TABLE IF EXISTS made, expect: {expect}, phase: expand}}\n\
         monitor:\n  - {{name: {name}, query: {view}}}\n",
        name = yaml(&odd[..60]),
        never = yaml(&format!("SELECT 1 WHERE {text} = ''")),
        text = yaml(&text),
        check = yaml(&format!("note <> {text} || 'x'")),
        view = yaml(&format!("SELECT {text}::text AS told")),
        run = yaml(&format!("CREATE TABLE made AS SELECT {text}::text AS told")),
        expect = yaml("to_regclass('public.made') IS NOT NULL"),
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("$DATABASE_URL.yaml");
    std::fs::write(&path, &plan).unwrap();
    let path = path.display().to_string();
    for format in ["human", "json", "sql", "markdown"] {
        let planned = pgmorph(&url, &["plan", &path, "--format", format])
            .await
            .expect(0);
        assert!(
            !planned.stdout.contains("uid=") && !planned.stdout.contains(&url),
            "{}",
            planned.stdout
        );
    }
    pgmorph(&url, &["apply", &path, "--yes", "--through", "contract"])
        .await
        .expect(0);
    let found = "SELECT note FROM orders UNION ALL SELECT told FROM seen UNION ALL SELECT told FROM made";
    for row in database.admin.query(found, &[]).await.unwrap() {
        assert_eq!(row.get::<_, String>(0), odd);
    }
    let names = "SELECT conname::text FROM pg_constraint WHERE contype = 'c' AND conrelid = 'orders'::regclass \
                 UNION ALL SELECT col_description('orders'::regclass, 2)";
    let names: Vec<String> = database
        .admin
        .query(names, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(names, vec![odd[..60].to_owned(); 2]);
    let verified = pgmorph(&url, &["verify", &path]).await.expect(0);
    assert!(
        verified.stdout.contains("${DATABASE_URL}") && !verified.stdout.contains(&url),
        "{}",
        verified.stdout
    );
}
