//! The NOT NULL proof: rows are checked under a lock that lets everybody through, and only the result is written
//! under one that does not.
//!
//! Before PostgreSQL 18 a validated CHECK spares SET NOT NULL its scan; from 18 NOT NULL itself is a constraint that
//! can be added NOT VALID.

use super::{SAMPLE_ROWS, brief, locks, updates_fail};
use crate::catalog::model::{
    CatalogSnapshot, Column, Constraint, ConstraintKind, NotNullConstraint, Table, TableKind,
};
use crate::ops::StepDraft;
use crate::plan::{Check, ColumnFacts, Estimate, Expectation, Hazard, LockMode, Phase, Settings, Undo, Work};
use crate::sql::{self, QualifiedName, ident, idents, literal};

/// A column that is to become NOT NULL, with all that the steps need to know.
#[derive(Debug, Clone)]
pub struct NotNull {
    table: QualifiedName,
    column: String,
    how: How,
    /// The table and everything below it: NOT NULL goes down to partitions and inheriting tables.
    tree: Vec<QualifiedName>,
    sample: Check,
    rows: i64,
    bytes: i64,
    /// The name of the constraint, from PostgreSQL 18.
    constraint: Option<String>,
}

#[derive(Debug, Clone)]
enum How {
    /// A validated CHECK is there already.
    Proven,
    /// Through a temporary CHECK of this name.
    Check(String),
    /// Through a NOT NULL constraint that is added NOT VALID.
    Constraint(String),
    /// A NOT NULL constraint is there and only lacks its validation.
    Unvalidated(String),
}

/// Whether nothing guarantees yet that the column is never null.
pub fn needs_proof(column: &Column) -> bool {
    !column.not_null
        || column
            .not_null_constraint
            .as_ref()
            .is_some_and(|constraint| !constraint.validated)
}

impl NotNull {
    /// Finds the cheapest way for the column as the catalog has it.
    pub fn plan(catalog: &CatalogSnapshot, table_name: &QualifiedName, column_name: &str) -> Self {
        let nothing = Vec::new();
        let table = catalog.tables.get(table_name);
        let column = table.and_then(|table| table.column(column_name));
        let tree = catalog.tree(table_name);
        let sizes: Vec<_> = tree
            .iter()
            .filter_map(|name| catalog.tables.get(name))
            .filter(|table| table.kind != TableKind::Partitioned)
            .map(|table| table.size)
            .collect();
        let modern = catalog.server.major() >= 18;
        let present = column.and_then(|column| column.not_null_constraint.as_ref());
        let how = match present {
            Some(constraint) if !constraint.validated => How::Unvalidated(constraint.name.clone()),
            _ if table.is_some_and(|table| is_proven(table, column_name)) => How::Proven,
            Some(constraint) => How::Constraint(constraint.name.clone()),
            None if modern => How::Constraint(free_name(table, table_name, column_name, "not_null")),
            None => How::Check(free_name(table, table_name, column_name, "pgmorph_not_null")),
        };
        let constraint = match &how {
            How::Constraint(name) | How::Unvalidated(name) => Some(name.clone()),
            How::Proven if modern => Some(match present {
                Some(constraint) => constraint.name.clone(),
                None => free_name(table, table_name, column_name, "not_null"),
            }),
            _ => None,
        };
        let keys = table.map_or(nothing, Table::key_columns);
        Self {
            sample: null_rows(table_name, column_name, &keys, tree.len() > 1),
            rows: sizes.iter().map(|size| size.rows.max(0)).sum(),
            bytes: sizes.iter().map(|size| size.heap_bytes).sum(),
            table: table_name.clone(),
            column: column_name.to_owned(),
            how,
            tree,
            constraint,
        }
    }

    /// The proof as steps. Ids begin with the prefix.
    pub fn steps(&self, prefix: &str, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = match &self.how {
            How::Proven => vec![self.set(None, settings)],
            How::Check(name) => vec![
                self.add_check(name, settings),
                self.validate(name, self.check_holds(name, true), settings),
                self.set(Some(name), settings),
            ],
            How::Constraint(name) => vec![
                self.add_constraint(name, settings),
                self.validate(name, self.constraint_holds(name, true), settings),
            ],
            How::Unvalidated(name) => {
                vec![self.validate(name, self.constraint_holds(name, true), settings)]
            }
        };
        for step in &mut steps {
            step.id = format!("{prefix}{}", step.id);
        }
        steps
    }

    /// The proof as the undoing of a DROP NOT NULL.
    pub fn works(&self, settings: &Settings) -> Vec<Work> {
        let steps = self.steps("", settings);
        steps.into_iter().map(|step| step.work).collect()
    }

    /// Writes the result into the catalog.
    pub fn apply(&self, catalog: &mut CatalogSnapshot) {
        for name in &self.tree {
            let table = catalog.tables.get_mut(name);
            let Some(column) = table.and_then(|table| table.column_mut(&self.column)) else {
                continue;
            };
            column.not_null = true;
            if let Some(constraint) = &self.constraint {
                let own = column.not_null_constraint.as_ref();
                column.not_null_constraint = Some(NotNullConstraint {
                    name: own.map_or(constraint, |own| &own.name).clone(),
                    validated: true,
                    local: own.is_none_or(|own| own.local),
                });
            }
        }
    }

    fn alter(&self, what: &str) -> String {
        format!("ALTER TABLE {} {what}", self.table)
    }

    /// The column with its table, for people.
    fn shown(&self) -> String {
        format!("{}.{}", self.table, ident(&self.column))
    }

    fn is_not_null(&self, not_null: bool) -> Expectation {
        Expectation::Column {
            table: self.table.clone(),
            column: self.column.clone(),
            facts: ColumnFacts {
                not_null: Some(not_null),
                ..ColumnFacts::default()
            },
        }
    }

    fn check_holds(&self, name: &str, validated: bool) -> Expectation {
        Expectation::Constraint {
            table: self.table.clone(),
            name: name.to_owned(),
            exact: true,
            constraint: Box::new(Constraint {
                kind: ConstraintKind::Check,
                definition: format!("CHECK (({} IS NOT NULL))", ident(&self.column)),
                columns: vec![self.column.clone()],
                validated,
                deferrable: false,
                initially_deferred: false,
                no_inherit: false,
                inherited: false,
                index: None,
                references: None,
                comment: None,
            }),
        }
    }

    /// NOT NULL constraints are not among the constraints of a table, hence a question to the server.
    fn constraint_holds(&self, name: &str, validated: bool) -> Expectation {
        let validated = if validated { " AND convalidated" } else { "" };
        Expectation::Query {
            query: format!(
                "SELECT count(*) = 1 FROM pg_catalog.pg_constraint WHERE conrelid = pg_catalog.to_regclass({}) \
                 AND contype = 'n' AND conname = {}{validated}",
                literal(&self.table.to_string()),
                literal(name),
            ),
        }
    }

    fn constraint_is_gone(&self, name: &str) -> Expectation {
        Expectation::ConstraintAbsent {
            table: self.table.clone(),
            name: name.to_owned(),
        }
    }

    /// The hazard of the first step: it is from here on that the application feels the constraint.
    fn refused_writes(&self) -> Vec<Hazard> {
        let refused = format!(
            "from this step on, rows without a value for {} are refused",
            ident(&self.column)
        );
        let sqlstate = match self.how {
            How::Constraint(_) => "23502",
            _ => "23514",
        };
        vec![Hazard::new("writes_are_checked", refused), updates_fail(sqlstate)]
    }

    fn add(&self, name: &str, definition: &str, expect: Expectation, settings: &Settings) -> StepDraft {
        let all = || locks(&self.tree, LockMode::AccessExclusive);
        let quoted = ident(name);
        StepDraft {
            id: "add".into(),
            phase: Phase::Expand,
            work: brief(
                settings,
                format!("refuse new rows without a value for {}", self.shown()),
                vec![self.alter(&format!("ADD CONSTRAINT {quoted} {definition} NOT VALID"))],
                all(),
                vec![expect],
            ),
            hazards: self.refused_writes(),
            undo: Undo::Work(vec![brief(
                settings,
                format!("drop the constraint {quoted} of {}", self.table),
                vec![self.alter(&format!("DROP CONSTRAINT IF EXISTS {quoted}"))],
                all(),
                vec![self.constraint_is_gone(name)],
            )]),
            estimate: Estimate::INSTANT,
        }
    }

    fn add_check(&self, name: &str, settings: &Settings) -> StepDraft {
        let definition = format!("CHECK ({} IS NOT NULL)", ident(&self.column));
        self.add(name, &definition, self.check_holds(name, false), settings)
    }

    fn add_constraint(&self, name: &str, settings: &Settings) -> StepDraft {
        let definition = format!("NOT NULL {}", ident(&self.column));
        let mut step = self.add(name, &definition, self.constraint_holds(name, false), settings);
        // The server counts a column as NOT NULL from the unvalidated constraint on.
        step.work.expect.push(self.is_not_null(true));
        if let Undo::Work(works) = &mut step.undo {
            for work in works {
                work.expect = vec![self.is_not_null(false)];
            }
        }
        step
    }

    fn validate(&self, name: &str, expect: Expectation, settings: &Settings) -> StepDraft {
        let mut work = brief(
            settings,
            format!("check that no row of {} is null", self.shown()),
            vec![self.alter(&format!("VALIDATE CONSTRAINT {}", ident(name)))],
            locks(&self.tree, LockMode::ShareUpdateExclusive),
            vec![expect],
        );
        work.timeouts = settings.patient();
        work.on_violation = Some(self.sample.clone());
        StepDraft {
            id: "validate".into(),
            phase: Phase::Validate,
            work,
            hazards: Vec::new(),
            undo: Undo::NotNeeded {
                reason: "a validated constraint asks no more than an unvalidated one".into(),
            },
            estimate: Estimate::scan(self.rows, self.bytes, 0),
        }
    }

    fn set(&self, check: Option<&String>, settings: &Settings) -> StepDraft {
        let column = ident(&self.column);
        let all = || locks(&self.tree, LockMode::AccessExclusive);
        // In one ALTER with the DROP, or after it, SET NOT NULL would scan.
        let mut statements = vec![self.alter(&format!("ALTER COLUMN {column} SET NOT NULL"))];
        statements.extend(check.map(|name| self.alter(&format!("DROP CONSTRAINT {}", ident(name)))));
        let mut expect = vec![self.is_not_null(true)];
        expect.extend(check.map(|name| self.constraint_is_gone(name)));
        StepDraft {
            id: "set".into(),
            phase: Phase::Cutover,
            work: brief(
                settings,
                format!("mark {} NOT NULL: a constraint proves it, no scan", self.shown()),
                statements,
                all(),
                expect,
            ),
            hazards: Vec::new(),
            undo: Undo::Work(vec![brief(
                settings,
                format!("allow nulls in {} again", self.shown()),
                vec![self.alter(&format!("ALTER COLUMN {column} DROP NOT NULL"))],
                all(),
                vec![self.is_not_null(false)],
            )]),
            estimate: Estimate::INSTANT,
        }
    }
}

/// A constraint name that is free on the table, numbered as PostgreSQL would.
fn free_name(table: Option<&Table>, table_name: &QualifiedName, column: &str, label: &str) -> String {
    let taken = |name: &String| {
        table.is_some_and(|table| {
            table.constraints.contains_key(name)
                || table
                    .columns
                    .iter()
                    .filter_map(|column| column.not_null_constraint.as_ref())
                    .any(|constraint| &constraint.name == name)
        })
    };
    let suffixes = std::iter::once(label.to_owned()).chain((1..).map(|number| format!("{label}{number}")));
    suffixes
        .map(|suffix| sql::derived_name(&[&table_name.name, column], &suffix))
        .find(|name| !taken(name))
        .unwrap_or_default()
}

/// Lists the keys of the rows that have no value.
fn null_rows(table: &QualifiedName, column: &str, keys: &[String], tree: bool) -> Check {
    let shown = match (keys.is_empty(), tree) {
        (false, _) => idents(keys),
        (true, true) => "tableoid::pg_catalog.regclass, ctid".to_owned(),
        (true, false) => "ctid".to_owned(),
    };
    let column = ident(column);
    Check {
        name: format!("rows of {table} without a value for {column}"),
        query: format!("SELECT {shown} FROM {table} WHERE {column} IS NULL LIMIT {SAMPLE_ROWS}"),
        help: format!("give these rows a value for {column}, then run the same command again"),
    }
}

/// Whether a validated CHECK of the table says that the column is not null.
fn is_proven(table: &Table, column: &str) -> bool {
    let wanted = format!("{} IS NOT NULL", ident(column));
    table
        .constraints
        .values()
        .filter(|constraint| constraint.kind == ConstraintKind::Check && constraint.validated)
        .filter(|constraint| !constraint.no_inherit || table.children.is_empty())
        .filter_map(|constraint| constraint.definition.strip_prefix("CHECK "))
        .any(|definition| {
            let definition = definition.strip_suffix(" NO INHERIT").unwrap_or(definition);
            has_conjunct(definition, &wanted)
        })
}

/// Whether the expression is `wanted`, or an AND with it as one part.
fn has_conjunct(expression: &str, wanted: &str) -> bool {
    let mut expression = expression.trim();
    while let Some(inner) = without_parentheses(expression) {
        expression = inner.trim();
    }
    let parts = split_conjunction(expression);
    match parts.as_slice() {
        [single] => *single == wanted,
        parts => parts.iter().any(|part| has_conjunct(part, wanted)),
    }
}

/// The inside, when one pair of parentheses encloses the whole.
fn without_parentheses(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    let depths = depths(text);
    let closes_early = depths[..depths.len() - 1].iter().any(|(_, depth)| *depth == 0);
    (!closes_early).then_some(inner)
}

/// The parts between the ANDs that stand in no parentheses; one part when an OR stands there.
fn split_conjunction(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (position, depth) in depths(text) {
        if depth == 0 && text[position..].starts_with(" OR ") {
            return vec![text];
        }
        if depth == 0 && text[position..].starts_with(" AND ") {
            parts.push(&text[start..position]);
            start = position + " AND ".len();
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Every character's place with the depth of parentheses after it; quoted text counts as one deeper.
fn depths(text: &str) -> Vec<(usize, usize)> {
    let mut depth: usize = 0;
    let mut quote = None;
    text.char_indices()
        .map(|(position, c)| {
            match (quote, c) {
                (Some(open), _) if open == c => quote = None,
                (Some(_), _) => {}
                (None, '\'' | '"') => quote = Some(c),
                (None, '(') => depth += 1,
                (None, ')') => depth = depth.saturating_sub(1),
                (None, _) => {}
            }
            (position, depth + usize::from(quote.is_some()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_proof_in_a_conjunction() {
        for (expression, proven) in [
            ("((a IS NOT NULL))", true),
            ("(((a IS NOT NULL) AND (b > 0)))", true),
            ("(((b > 0) AND (c = ' AND ') AND (a IS NOT NULL)))", true),
            ("((((b > 0) AND (a IS NOT NULL)) AND (c > 0)))", true),
            ("(((a IS NOT NULL) OR (b > 0)))", false),
            ("((NOT (a IS NOT NULL)))", false),
            ("((aa IS NOT NULL))", false),
            ("((b = '(a IS NOT NULL) AND '))", false),
        ] {
            assert_eq!(has_conjunct(expression, "a IS NOT NULL"), proven, "{expression}");
        }
        assert!(has_conjunct("((\"a b\" IS NOT NULL))", "\"a b\" IS NOT NULL"));
    }
}
