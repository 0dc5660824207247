//! Directories in memory: file names and sources in, order and complaints out.

use super::*;
use crate::change_plan::parse;
use crate::diagnostic::line_and_column;
use crate::ops::testing::{catalog, table};
use std::fmt::Write;

fn file(name: &str, source: &str) -> PlanFile {
    PlanFile {
        path: format!("plans/{name}"),
        source: source.into(),
        plan: parse(source).unwrap(),
    }
}

/// A plan of statements, called like its file.
fn plan(name: &str, head: &str, statements: &[&str]) -> PlanFile {
    let mut source = format!("name: {name}\n{head}changes:\n");
    for sql in statements {
        let _ = writeln!(source, "  - sql: {{run: '{sql}', no_undo: test, phase: expand}}");
    }
    file(&format!("{name}.yaml"), &source)
}

fn empty(name: &str, depends_on: &str) -> PlanFile {
    let head = match depends_on {
        "" => String::new(),
        names => format!("depends_on: [{names}]\n"),
    };
    plan(name, &head, &["SELECT 1"])
}

fn shown(set: &PlanSet, complaints: &[Complaint]) -> String {
    let mut text = String::new();
    for Complaint { file, diagnostic } in complaints {
        let file = &set.files[*file];
        let (line, column) = line_and_column(&file.source, diagnostic.span.unwrap().start);
        let name = file.file_name();
        let _ = writeln!(
            text,
            "{name}:{line}:{column} {}: {}",
            diagnostic.code, diagnostic.message
        );
        let _ = writeln!(text, "  {}", diagnostic.help.as_deref().unwrap_or("no help"));
    }
    text
}

fn arranged(files: Vec<PlanFile>, scope: Scope) -> (String, String) {
    let (set, complaints) = PlanSet::arrange(files, scope);
    let names: Vec<_> = set.files.iter().map(|file| file.plan.name.as_str()).collect();
    (names.join(" "), shown(&set, &complaints))
}

fn references(files: Vec<PlanFile>, catalog: Option<&CatalogSnapshot>) -> String {
    let (set, complaints) = PlanSet::arrange(files, Scope::Whole);
    assert_eq!(complaints, []);
    shown(&set, &set.references(catalog, |_| Turn::ToCome))
}

#[test]
fn plans_come_after_what_they_depend_on_and_else_in_the_order_given() {
    let files = vec![
        empty("a", "c"),
        empty("b", ""),
        empty("c", ""),
        empty("d", "b, a"),
    ];
    assert_eq!(arranged(files, Scope::Whole), ("b c a d".into(), String::new()));
}

#[test]
fn complains_about_names() {
    let mut twin = empty("b", "");
    twin.path = "plans/c.yaml".into();
    let files = || {
        vec![
            empty("a", "B.yaml, nowhere, b.yaml"),
            empty("b", ""),
            twin.clone(),
        ]
    };
    insta::assert_snapshot!(arranged(files(), Scope::Whole).1, @"
    c.yaml:1:7 duplicate_plan: the plan of b.yaml is called `b` too
      the name is the plan's identity in the ledger: give each its own
    a.yaml:2:14 unknown_plan: there is no plan `B.yaml` here
      `depends_on` names plans of the same directory by their `name`
    a.yaml:2:22 unknown_plan: there is no plan `nowhere` here
      `depends_on` names plans of the same directory by their `name`
    a.yaml:2:31 unknown_plan: there is no plan `b.yaml` here
      the plan of that file is called `b`
    ");
    insta::assert_snapshot!(arranged(files(), Scope::Part).1, @"
    c.yaml:1:7 duplicate_plan: the plan of b.yaml is called `b` too
      the name is the plan's identity in the ledger: give each its own
    ");
}

#[test]
fn complains_about_circles() {
    let files = vec![
        empty("x", "a"),
        empty("a", "b"),
        empty("b", "c"),
        empty("c", "a"),
        empty("d", ""),
    ];
    insta::assert_snapshot!(arranged(files, Scope::Whole).1, @"
    a.yaml:2:14 circular: these plans depend on each other: a → b → c → a
      take one of the `depends_on` away
    ");
    insta::assert_snapshot!(arranged(vec![empty("a", "a")], Scope::Whole).1, @"
    a.yaml:2:14 circular: these plans depend on each other: a → a
      take one of the `depends_on` away
    ");
}

const TENANTS: &[&str] = &[
    "CREATE SCHEMA internal",
    "CREATE TABLE internal.tenants (id uuid)",
];

fn policies(schema: &str) -> PlanFile {
    let sql = format!("CREATE TABLE policies (tenant uuid REFERENCES {schema}.tenants (id))");
    plan("20251229_policies", "depends_on: [20260101_costs]\n", &[&sql])
}

#[test]
fn what_a_later_plan_makes_is_an_order_that_does_not_work() {
    let files = || {
        vec![
            policies("internal"),
            plan("20260101_costs", "", &["CREATE TABLE costs (id int)"]),
            plan("20260105_tenants", "", TENANTS),
        ]
    };
    insta::assert_snapshot!(references(files(), None), @"
    20251229_policies.yaml:4:63 order: internal.tenants is made by 20260105_tenants.yaml, which runs after this plan
      declare it in this plan: `depends_on: [20260101_costs, 20260105_tenants]`, or rename the file; the order that works: 20260101_costs.yaml, 20260105_tenants.yaml, 20251229_policies.yaml
    ");
    let mut there = catalog();
    there
        .tables
        .insert("internal.tenants".parse().unwrap(), table(&["id uuid"]));
    assert_eq!(references(files(), Some(&there)), "");
}

#[test]
fn the_other_schema_is_proposed() {
    let files = |last: &str| {
        vec![
            plan("20260101_costs", "", &["CREATE TABLE costs (id int)"]),
            plan(last, "", TENANTS),
        ]
    };
    let mut before = files("20251201_tenants");
    before.push(policies("public"));
    insta::assert_snapshot!(references(before, None), @"
    20251229_policies.yaml:4:63 unresolved: no plan makes public.tenants, but there is internal.tenants
      did you mean `internal.tenants`? If the database has both, show its catalog with --url or --catalog
    ");
    let mut after = files("20260105_tenants");
    after.insert(0, policies("public"));
    insta::assert_snapshot!(references(after, Some(&catalog())), @"
    20251229_policies.yaml:4:63 unresolved: there is no public.tenants, and no plan before this one makes it
      did you mean `internal.tenants`? 20260105_tenants.yaml makes it, which runs after this plan: declare it in this plan: `depends_on: [20260101_costs, 20260105_tenants]`, or rename the file; the order that works: 20260101_costs.yaml, 20260105_tenants.yaml, 20251229_policies.yaml
    ");
}

#[test]
fn what_nobody_makes_is_unresolved_only_where_the_catalog_is_known() {
    let files = || {
        vec![plan(
            "a",
            "",
            &[
                "ALTER TABLE ordrs ADD COLUMN b int",
                "CREATE VIEW metrcs.v AS SELECT * FROM elsewhere",
            ],
        )]
    };
    assert_eq!(references(files(), None), "");
    let mut known = catalog().with("orders", table(&["id int"]));
    let schema = known.schemas["public"].clone();
    known.schemas.insert("metrics".into(), schema);
    insta::assert_snapshot!(references(files(), Some(&known)), @"
    a.yaml:3:29 unresolved: there is no public.ordrs, and no plan before this one makes it
      did you mean `public.orders`?
    a.yaml:4:29 unresolved: there is no schema metrcs, and no plan before this one makes it
      did you mean `schema metrics`?
    ");
    let declared = "name: first\nchanges:\n  - sql: {run: SELECT f(), makes: [ordrs, metrcs.x], no_undo: test, phase: expand}\n";
    let mut told = vec![file("0.yaml", declared)];
    told.extend(files());
    assert!(!references(told, Some(&known)).contains("ordrs"));
}

#[test]
fn points_at_the_name_within_a_long_statement() {
    let long = "name: a\nchanges:\n  - sql:\n      run: |\n        -- costs_old are others\n        ALTER TABLE costs\n          ADD COLUMN b int\n      no_undo: test\n      phase: expand\n";
    let made = plan("b", "", &["CREATE TABLE costs (id int)"]);
    let found = references(vec![file("a.yaml", long), made], None);
    assert!(found.starts_with("a.yaml:6:21 order"), "{found}");
}

#[test]
fn plans_that_need_each_other_have_no_order() {
    let files = vec![
        plan(
            "a",
            "",
            &["CREATE TABLE a (id int)", "ALTER TABLE b ADD COLUMN c int"],
        ),
        plan("b", "", &["CREATE TABLE b (id int REFERENCES a (id))"]),
    ];
    insta::assert_snapshot!(references(files, None), @"
    a.yaml:4:29 order: public.b is made by b.yaml, which runs after this plan
      no order works, for these need each other: a.yaml, b.yaml; move what one of them needs into a plan of its own
    ");
}

#[test]
fn operations_tell_what_they_need() {
    let source = "name: p\nchanges:\n  - add_foreign_key: {table: a, columns: [x], references: s.b}\n  - create_index: {table: c, columns: [x]}\n  - widen_column: {table: d, column: x, type: bigint, also: [e.x]}\n  - drop_index: {name: i, table: f}\n  - add_unique: {table: g, columns: [x]}\n";
    let names: Vec<_> = needs(&parse(source).unwrap())
        .iter()
        .map(|need| need.object.to_string())
        .collect();
    assert_eq!(
        names.join(" "),
        "public.a s.b public.c public.d public.e public.f public.g"
    );
}

#[test]
fn what_makes_something_new_tells_what_and_where() {
    let source = "\
name: p
changes:
  - create_schema: {name: metrics}
  - create_table: {name: metrics.t, columns: {id: bigint, a: bigint}, foreign_keys: [{columns: [a], references: s.b}]}
  - create_view: {name: metrics.v, select: SELECT * FROM costs JOIN metrics.t USING (id)}
  - create_materialized_view: {name: other.m, select: SELECT 1 FROM metrics.v}
  - create_trigger: {name: g, table: u, timing: before, events: [update], function: f}
  - grant: {privileges: [SELECT], tables: ['\"Odd Name\"', w], to: [r]}
  - grant: {privileges: [SELECT], all_tables_in: [Metrics], to: [r]}
";
    let plan = parse(source).unwrap_or_else(|found| panic!("{found:#?}"));
    let shown = |names: Vec<Named>| {
        let names: Vec<_> = names.iter().map(|name| name.object.to_string()).collect();
        names.join(", ")
    };
    let made = plan.changes.iter().flat_map(|change| change.operation.makes());
    assert_eq!(
        shown(made.collect()),
        "schema metrics, metrics.t, metrics.v, other.m"
    );
    insta::assert_snapshot!(shown(needs(&plan)), @r#"schema metrics, metrics.t, s.b, schema metrics, metrics.t, public.costs, schema other, metrics.v, public.u, public."Odd Name", public.w, schema "Metrics""#);
}

/// Plans of one operation each, called by their number.
fn plans(changes: &[&str]) -> Vec<PlanFile> {
    let numbered = changes.iter().enumerate();
    let plan = |(number, change): (usize, &&str)| {
        let source = format!("name: p{number}\nchanges:\n  - {change}\n");
        file(&format!("{number}.yaml"), &source)
    };
    numbered.map(plan).collect()
}

const MADE: &str = "create_table: {name: orders, columns: {id: bigint}}";
const GRANTED: &str = "grant: {privileges: [SELECT], tables: [orders], to: [r]}";

#[test]
fn what_is_taken_away_before_it_is_made_was_there() {
    for taken in [
        "rename_table: {table: orders, to: orders_old}",
        "retire_table: {table: orders}",
        "drop_table: {table: orders}",
        "sql: {run: DROP TABLE orders, no_undo: test, phase: contract}",
        "sql: {run: ALTER TABLE orders RENAME TO orders_old, no_undo: test, phase: expand}",
        "sql: {run: ALTER TABLE orders SET SCHEMA archive, no_undo: test, phase: expand}",
    ] {
        assert_eq!(references(plans(&[GRANTED, taken, MADE]), None), "", "{taken}");
        let both = format!("{taken}\n  - {MADE}");
        assert_eq!(references(plans(&[GRANTED, &both]), None), "", "{taken}");
        // Nobody took it away before it was made.
        let found = references(plans(&[GRANTED, MADE, taken]), None);
        assert!(found.starts_with("0.yaml:3:44 order"), "{taken}: {found}");
        let both = format!("{MADE}\n  - {taken}");
        let found = references(plans(&[GRANTED, &both]), None);
        assert!(found.starts_with("0.yaml:3:44 order"), "{taken}: {found}");
        // A catalog knows better.
        let found = references(plans(&[taken, MADE]), Some(&catalog()));
        assert!(
            found.contains(" order: public.orders is made by 1.yaml"),
            "{taken}: {found}"
        );
    }
    let perhaps = "sql: {run: DROP TABLE IF EXISTS orders, no_undo: test, phase: contract}";
    let found = references(plans(&[GRANTED, perhaps, MADE]), None);
    assert!(found.starts_with("0.yaml:3:44 order"), "{found}");
}

#[test]
fn what_may_be_there_already_makes_no_order() {
    for maker in [
        "create_view: {name: orders, select: SELECT 1, replace: true}",
        "sql: {run: CREATE OR REPLACE VIEW orders AS SELECT 1, no_undo: test, phase: expand}",
        "sql: {run: CREATE TABLE IF NOT EXISTS orders (id bigint), no_undo: test, phase: expand}",
    ] {
        assert_eq!(references(plans(&[GRANTED, maker]), None), "", "{maker}");
        let found = references(plans(&[GRANTED, maker]), Some(&catalog()));
        assert!(found.starts_with("0.yaml:3:44 order"), "{maker}: {found}");
        assert_eq!(references(plans(&[maker, GRANTED]), Some(&catalog())), "");
    }
}

#[test]
fn who_uses_both_names_has_not_mistaken_them() {
    let moved = "create_table: {name: orders, columns: {id: bigint}, foreign_keys: [{columns: [id], references: archive.orders}]}";
    let index = "create_index: {name: i, table: archive.orders, columns: [id]}";
    assert_eq!(references(plans(&[moved, index]), None), "");
    let found = references(plans(&[MADE, index]), None);
    assert!(
        found.contains("unresolved: no plan makes archive.orders"),
        "{found}"
    );
    let found = references(plans(&[moved, index]), Some(&catalog()));
    assert!(
        found.contains("unresolved: there is no archive.orders"),
        "{found}"
    );
}
