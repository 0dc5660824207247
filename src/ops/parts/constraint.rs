//! CHECK and foreign key constraints: added NOT VALID, validated apart, dropped; always parents' tables first.

use super::{SAMPLE_ROWS, brief, locks, updates_fail};
use crate::catalog::model::{CatalogSnapshot, Constraint, ConstraintKind, Table, TableKind};
use crate::diagnostic::{Diagnostic, Located, Span};
use crate::document::Fields;
use crate::ops::{Context, StepDraft};
use crate::plan::{
    Action, Check, Estimate, Expectation, Lock, LockMode, Phase, Settings, Transaction, Undo, Work,
};
use crate::sql::{QualifiedName, derived_name, ident, literal};

/// The first release with NOT ENFORCED.
pub const UNENFORCED_FROM: u32 = 18;

/// A table and everything that a statement on it locks along with it.
#[derive(Debug, Clone)]
pub struct Reach {
    pub table: QualifiedName,
    /// The table first, then what is below it.
    pub tables: Vec<QualifiedName>,
    /// Tables that inherit are not to be locked along: LOCK TABLE would, the statement does not.
    only: bool,
}

impl Reach {
    /// The table and all below it, partitions and inheriting tables alike.
    pub fn tree(catalog: &CatalogSnapshot, table: &QualifiedName) -> Self {
        Self {
            table: table.clone(),
            tables: catalog.tree(table),
            only: false,
        }
    }

    /// The table and its partitions; tables that inherit in the plain way are left alone.
    pub fn partitions(catalog: &CatalogSnapshot, table: &QualifiedName) -> Self {
        let (partitioned, has_children) = catalog.tables.get(table).map_or((false, false), |table| {
            (table.kind == TableKind::Partitioned, !table.children.is_empty())
        });
        Self {
            table: table.clone(),
            tables: if partitioned {
                catalog.tree(table)
            } else {
                vec![table.clone()]
            },
            only: has_children && !partitioned,
        }
    }

    pub fn locks(&self, mode: LockMode) -> Vec<Lock> {
        locks(&self.tables, mode)
    }

    pub fn lock_statement(&self, mode: LockMode) -> String {
        format!("LOCK TABLE {}{} IN {mode} MODE", self.only_word(), self.table)
    }

    /// `ONLY ` where the statement or query must not see inheriting tables.
    pub fn only_word(&self) -> &'static str {
        if self.only { "ONLY " } else { "" }
    }
}

/// The lock on a partitioned table and its partitions while it adopts their foreign keys. To each partition of the far end
/// those have a constraint of their own, which goes then: dropping one takes the strongest lock, and taking that at once
/// leaves none to be upgraded.
pub fn adopting(to_partitions: bool) -> LockMode {
    match to_partitions {
        true => LockMode::AccessExclusive,
        false => LockMode::ShareRowExclusive,
    }
}

/// `enforced: false`, by its place; for what is enforced, as it is without a word, there is none.
pub fn read_unenforced(fields: &Fields<'_>) -> Option<Span> {
    let stated = fields.optional("enforced").map(|node| node.span);
    stated.filter(|_| !fields.flag("enforced", true))
}

/// Complains where the server knows only constraints that it enforces.
pub fn unenforced(context: &Context<'_>, place: Option<Span>) -> Option<Diagnostic> {
    let major = context.major();
    let place = place.filter(|_| major < UNENFORCED_FROM)?;
    let message = format!(
        "constraints that are not enforced need PostgreSQL {UNENFORCED_FROM}; the server has {major}"
    );
    Some(
        Diagnostic::new("server_too_old", message)
            .at(place)
            .help("leave `enforced: false` out: the constraint is proven while reads and writes go on"),
    )
}

/// Complains about what cannot take a change of its own: a foreign table.
pub fn ordinary(name: &Located<QualifiedName>, table: &Table) -> Option<Diagnostic> {
    (table.kind == TableKind::Foreign).then(|| {
        Diagnostic::new("foreign_table", format!("{} is a foreign table", name.value))
            .at(name.span)
            .help("change the table on its own server")
    })
}

/// Complains when the constraint comes from a parent, where it has to be changed.
pub fn inherited(catalog: &CatalogSnapshot, table: &Table, name: &str, span: Span) -> Option<Diagnostic> {
    let parents = table.partition_of.iter().chain(&table.inherits);
    let from = parents.into_iter().find(|parent| {
        catalog
            .tables
            .get(*parent)
            .and_then(|parent| parent.constraints.get(name))
            .is_some_and(|above| above.kind == ConstraintKind::Check && !above.no_inherit)
    });
    let marked = table
        .constraints
        .get(name)
        .is_some_and(|constraint| constraint.inherited);
    let parent = match (from, marked) {
        (Some(parent), _) => parent.to_string(),
        (None, true) => {
            let parent = table.partition_of.as_ref().or(table.inherits.first());
            parent.map_or_else(|| "its parent".into(), ToString::to_string)
        }
        (None, false) => return None,
    };
    Some(
        Diagnostic::new(
            "inherited_constraint",
            format!("constraint `{name}` comes from {parent}"),
        )
        .at(span)
        .help(format!("change {parent}; the change reaches this table too")),
    )
}

/// A name that is free on all of these tables, made up the way the server does.
pub fn free_name(context: &Context<'_>, tables: &[QualifiedName], parts: &[&str], suffix: &str) -> String {
    let taken = |name: &str| {
        tables.iter().any(|table| {
            [context.catalog, context.now].iter().any(|catalog| {
                catalog
                    .tables
                    .get(table)
                    .is_some_and(|table| table.constraints.contains_key(name))
            })
        })
    };
    let mut name = derived_name(parts, suffix);
    let mut number = 0;
    while taken(&name) {
        number += 1;
        name = derived_name(parts, &format!("{suffix}{number}"));
    }
    name
}

/// Complaints about a chosen name that some table of the tree has already.
pub fn name_complaints(
    context: &Context<'_>,
    tables: &[QualifiedName],
    name: &Located<String>,
) -> Vec<Diagnostic> {
    tables
        .iter()
        .filter_map(|table| context.free_constraint_name(table, name).err())
        .collect()
}

/// Columns by which people find a row again, for a select list.
pub fn key_list(table: &Table, alias: &str) -> String {
    let keys = table.key_columns();
    if keys.is_empty() {
        return match table.children.is_empty() {
            true => format!("{alias}.ctid"),
            false => format!("{alias}.tableoid::pg_catalog.regclass, {alias}.ctid"),
        };
    }
    let keys: Vec<String> = keys.iter().map(|key| format!("{alias}.{}", ident(key))).collect();
    keys.join(", ")
}

/// Reading all rows of these tables.
pub fn scan_estimate(catalog: &CatalogSnapshot, tables: &[QualifiedName]) -> Estimate {
    let stored = || {
        tables
            .iter()
            .filter_map(|name| catalog.tables.get(name))
            .filter(|table| table.kind != TableKind::Partitioned)
    };
    let unknown = stored().any(|table| table.size.rows < 0);
    let rows = if unknown {
        -1
    } else {
        stored().map(|table| table.size.rows).sum()
    };
    Estimate::scan(rows, stored().map(|table| table.size.heap_bytes).sum(), 0)
}

/// Puts the constraint on the table, and as an inherited one on all below it.
pub fn insert(catalog: &mut CatalogSnapshot, tables: &[QualifiedName], name: &str, constraint: &Constraint) {
    for (position, table) in tables.iter().enumerate() {
        if let Some(table) = catalog.tables.get_mut(table) {
            let constraint = Constraint {
                inherited: position > 0,
                comment: constraint.comment.clone().filter(|_| position == 0),
                ..constraint.clone()
            };
            table.constraints.insert(name.to_owned(), constraint);
        }
    }
}

/// Takes the constraint off the table, and off those below it that have it from there only.
pub fn remove(catalog: &mut CatalogSnapshot, tables: &[QualifiedName], name: &str) {
    for (position, table) in tables.iter().enumerate() {
        if let Some(table) = catalog.tables.get_mut(table)
            && table
                .constraints
                .get(name)
                .is_some_and(|constraint| position == 0 || constraint.inherited)
        {
            table.constraints.remove(name);
        }
    }
}

/// Types of different families that no implicit cast from the referencing to the referenced side joins. Types that
/// are not known here are left to the server.
pub fn clearly_incompatible(near: &str, far: &str) -> bool {
    let family = |data_type: &str| {
        let base = data_type.split('(').next().unwrap_or(data_type).trim();
        Some(match base {
            _ if data_type.ends_with("[]") => return None,
            "smallint" | "integer" | "bigint" => 0,
            "numeric" => 1,
            "real" | "double precision" => 2,
            "text" | "character varying" | "character" | "name" => 3,
            "uuid" => 4,
            "boolean" => 5,
            "date" => 6,
            "json" | "jsonb" => 7,
            "bytea" => 8,
            "inet" | "cidr" => 9,
            "interval" => 10,
            _ if base.starts_with("timestamp") => 6,
            _ => return None,
        })
    };
    match (family(near), family(far)) {
        (Some(near), Some(far)) => near != far && !(near < far && far <= 2),
        _ => false,
    }
}

/// A CHECK or foreign key as it must be at the end, and what it takes to get it there.
#[derive(Debug, Clone)]
pub struct NewConstraint {
    pub name: String,
    /// What follows `ADD CONSTRAINT name`, without NOT VALID.
    pub sql: String,
    /// The end state as the server will print it.
    pub constraint: Constraint,
    /// Whether that text is the server's own.
    pub exact: bool,
    /// What ADD, VALIDATE and DROP lock along.
    pub referencing: Reach,
    /// Locked too when it is added: from PostgreSQL 18 tables that inherit are.
    pub also_when_added: Vec<QualifiedName>,
    /// The far end of a foreign key, unless it is the table itself.
    pub referenced: Option<Reach>,
    /// Partitions that must have a foreign key of their own first: before PostgreSQL 18 a partitioned table takes no
    /// NOT VALID one, but adopts those of its partitions without looking at their rows.
    pub leaves: Option<Vec<Leaf>>,
    pub violation: Check,
    pub estimate: Estimate,
}

#[derive(Debug, Clone)]
pub struct Leaf {
    pub table: QualifiedName,
    pub violation: Check,
    pub estimate: Estimate,
}

impl NewConstraint {
    /// The steps that bring it about, each with its undo.
    pub fn steps(&self, settings: &Settings) -> Vec<StepDraft> {
        let Some(leaves) = &self.leaves else {
            return self.pair("", &self.referencing, &self.violation, self.estimate, settings);
        };
        let mut steps = Vec::new();
        for (position, leaf) in leaves.iter().enumerate() {
            let reach = Reach {
                table: leaf.table.clone(),
                tables: vec![leaf.table.clone()],
                only: false,
            };
            let suffix = format!("-{}", position + 1);
            steps.extend(self.pair(&suffix, &reach, &leaf.violation, leaf.estimate, settings));
        }
        steps.sort_by_key(|step| step.phase);
        steps.push(StepDraft {
            id: "adopt".into(),
            phase: Phase::Validate,
            work: self.adopt(settings),
            hazards: Vec::new(),
            undo: Undo::Work(vec![self.removal_from(&self.referencing, settings)]),
            estimate: Estimate::INSTANT,
        });
        steps
    }

    /// Added and validated; one that nobody checks is only added.
    fn pair(
        &self,
        suffix: &str,
        reach: &Reach,
        violation: &Check,
        estimate: Estimate,
        settings: &Settings,
    ) -> Vec<StepDraft> {
        // A foreign key is asked only when an update changes the key.
        let asks_every_update = self.constraint.enforced() && !self.is_foreign_key();
        let add = StepDraft {
            id: format!("add{suffix}"),
            phase: Phase::Expand,
            work: self.add(reach, settings),
            hazards: asks_every_update
                .then(|| updates_fail("23514"))
                .into_iter()
                .collect(),
            undo: Undo::Work(vec![self.removal_from(reach, settings)]),
            estimate: Estimate::INSTANT,
        };
        let validate = || StepDraft {
            id: format!("validate{suffix}"),
            phase: Phase::Validate,
            work: self.validate(reach, violation, settings),
            hazards: Vec::new(),
            undo: Undo::NotNeeded {
                reason: "undoing the step before removes the constraint".into(),
            },
            estimate,
        };
        let validate = self.constraint.enforced().then(validate);
        std::iter::once(add).chain(validate).collect()
    }

    /// The same as one list of works: the way back for who drops it. Validation is left out for a constraint that
    /// was never validated.
    pub fn works(&self, settings: &Settings) -> Vec<Work> {
        let mut works: Vec<Work> = self.steps(settings).into_iter().map(|step| step.work).collect();
        if !self.constraint.validated {
            works.truncate(1);
        }
        works
    }

    pub fn removal(&self, settings: &Settings) -> Work {
        self.removal_from(&self.referencing, settings)
    }

    fn is_foreign_key(&self) -> bool {
        self.constraint.kind == ConstraintKind::ForeignKey
    }

    /// Locks both ends in one order, the referenced one first as the application does, so that neither can be the
    /// deadlock victim.
    fn with_locks(&self, reach: &Reach, mode: LockMode, last: String) -> (Vec<String>, Vec<Lock>) {
        let mut statements = Vec::new();
        let mut locks = Vec::new();
        if self.is_foreign_key() {
            if let Some(referenced) = &self.referenced {
                statements.push(referenced.lock_statement(mode));
                locks.extend(referenced.locks(mode));
            }
            statements.push(reach.lock_statement(mode));
        }
        locks.extend(reach.locks(mode));
        statements.push(last);
        (statements, locks)
    }

    fn expectation(&self, table: &QualifiedName, validated: bool) -> Expectation {
        Expectation::Constraint {
            table: table.clone(),
            name: self.name.clone(),
            exact: self.exact,
            constraint: Box::new(Constraint {
                validated,
                ..self.constraint.clone()
            }),
        }
    }

    fn add(&self, reach: &Reach, settings: &Settings) -> Work {
        let mode = match self.is_foreign_key() {
            true => LockMode::ShareRowExclusive,
            false => LockMode::AccessExclusive,
        };
        // What nobody checks is never validated, and takes no NOT VALID beside it.
        let (not_valid, from_now) = match self.constraint.enforced() {
            true => (" NOT VALID", " for new rows"),
            false => ("", ", not enforced"),
        };
        let add = format!(
            "ALTER TABLE {} ADD CONSTRAINT {} {}{not_valid}",
            reach.table,
            ident(&self.name),
            self.sql
        );
        let (mut statements, mut locks) = self.with_locks(reach, mode, add);
        locks.extend(self.also_when_added.iter().map(|table| Lock::new(table, mode)));
        statements.extend(self.comment(reach));
        brief(
            settings,
            format!("add {} to {}{from_now}", self.what(), reach.table),
            statements,
            locks,
            vec![self.expectation(&reach.table, false)],
        )
    }

    fn validate(&self, reach: &Reach, violation: &Check, settings: &Settings) -> Work {
        let mut locks = reach.locks(LockMode::ShareUpdateExclusive);
        if let Some(referenced) = &self.referenced {
            for (position, table) in referenced.tables.iter().enumerate() {
                let mode = if position == 0 {
                    LockMode::RowShare
                } else {
                    LockMode::AccessShare
                };
                locks.push(Lock::new(table, mode));
            }
        }
        Work {
            summary: format!("validate {} on the rows of {}", self.what(), reach.table),
            action: Action::Sql(vec![format!(
                "ALTER TABLE {} VALIDATE CONSTRAINT {}",
                reach.table,
                ident(&self.name)
            )]),
            transaction: Transaction::Single,
            locks,
            timeouts: settings.patient(),
            expect: vec![self.expectation(&reach.table, true)],
            on_violation: Some(violation.clone()),
            guards_values: false,
            part: None,
            not_before: None,
        }
    }

    /// Adds the foreign key of a partitioned table, which adopts the validated ones of its partitions.
    fn adopt(&self, settings: &Settings) -> Work {
        let to_partitions = self.referenced.as_ref().is_some_and(|it| it.tables.len() > 1);
        let mode = adopting(to_partitions);
        let mut statements = Vec::new();
        let mut locks = Vec::new();
        if let Some(referenced) = &self.referenced {
            // Adopting drops the partitions' own triggers on the referenced table, which takes the strongest lock;
            // taking it at once leaves no lock to be upgraded.
            statements.push(referenced.lock_statement(LockMode::AccessExclusive));
            locks.extend(referenced.locks(LockMode::AccessExclusive));
        }
        statements.push(self.referencing.lock_statement(mode));
        locks.extend(self.referencing.locks(mode));
        statements.extend(self.adoption_guard());
        statements.push(format!(
            "ALTER TABLE {} ADD CONSTRAINT {} {}",
            self.referencing.table,
            ident(&self.name),
            self.sql
        ));
        statements.extend(self.comment(&self.referencing));
        brief(
            settings,
            format!(
                "add {} to {}, adopting those of its partitions",
                self.what(),
                self.referencing.table
            ),
            statements,
            locks,
            vec![self.expectation(&self.referencing.table, true)],
        )
    }

    /// A partition that came after the plan has no key to adopt: its rows would be read under the lock.
    fn adoption_guard(&self) -> Option<String> {
        let constraint = &self.constraint;
        let reference = constraint.references.as_ref()?;
        let columns = |names: &[String]| {
            let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
            format!("ARRAY[{}]::text[]", names.join(", "))
        };
        let named = |key: &str, table: &str| {
            format!(
                "ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(c.{key}) WITH ORDINALITY AS k(n, o) \
                 JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.{table} AND a.attnum = k.n ORDER BY k.o)"
            )
        };
        let regclass =
            |table: &QualifiedName| format!("{}::pg_catalog.regclass", literal(&table.to_string()));
        let body = format!(
            "DECLARE leaf regclass; BEGIN SELECT p.relid INTO leaf FROM pg_catalog.pg_partition_tree({}) AS p \
             WHERE p.isleaf AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS c WHERE c.conrelid = p.relid \
             AND c.contype = 'f' AND c.convalidated AND c.confrelid = {} AND {} = {} AND {} = {} \
             AND c.condeferrable = {} AND c.condeferred = {}) LIMIT 1; \
             IF FOUND THEN RAISE EXCEPTION USING ERRCODE = '55000', \
             MESSAGE = pg_catalog.format('partition %s has no valid foreign key like %s', leaf, {}), \
             HINT = 'It was attached after the plan was made: add the key to it NOT VALID, validate it, run again.'; \
             END IF; END",
            regclass(&self.referencing.table),
            regclass(&reference.table),
            named("conkey", "conrelid"),
            columns(&constraint.columns),
            named("confkey", "confrelid"),
            columns(&reference.columns),
            constraint.deferrable,
            constraint.initially_deferred,
            literal(&ident(&self.name)),
        );
        Some(format!("DO {}", literal(&body)))
    }

    fn comment(&self, reach: &Reach) -> Option<String> {
        let comment = self.constraint.comment.as_ref()?;
        (reach.table == self.referencing.table).then(|| {
            format!(
                "COMMENT ON CONSTRAINT {} ON {} IS {}",
                ident(&self.name),
                reach.table,
                literal(comment)
            )
        })
    }

    fn removal_from(&self, reach: &Reach, settings: &Settings) -> Work {
        // Dropping the constraint of a partitioned table has dropped its partitions' ones already.
        self.removal_of(reach, reach.table != self.referencing.table, settings)
    }

    /// As [`Self::removal`], for one that an earlier undo may have taken along.
    pub fn removal_if_there(&self, settings: &Settings) -> Work {
        self.removal_of(&self.referencing, true, settings)
    }

    fn removal_of(&self, reach: &Reach, may_be_gone: bool, settings: &Settings) -> Work {
        let if_exists = if may_be_gone { "IF EXISTS " } else { "" };
        let drop = format!(
            "ALTER TABLE {} DROP CONSTRAINT {if_exists}{}",
            reach.table,
            ident(&self.name)
        );
        let (statements, locks) = self.with_locks(reach, LockMode::AccessExclusive, drop);
        brief(
            settings,
            format!("drop {} of {}", self.what(), reach.table),
            statements,
            locks,
            vec![Expectation::ConstraintAbsent {
                table: reach.table.clone(),
                name: self.name.clone(),
            }],
        )
    }

    fn what(&self) -> String {
        let kind = if self.is_foreign_key() {
            "foreign key"
        } else {
            "check"
        };
        format!("{kind} {}", ident(&self.name))
    }
}

/// Rows for which a CHECK is false; null passes, as it does there.
pub fn check_violation(reach: &Reach, table: &Table, name: &str, expression: &str) -> Check {
    Check {
        name: format!("rows of {} that violate {}", reach.table, ident(name)),
        query: format!(
            "SELECT {} FROM {}{} WHERE NOT ({expression}) LIMIT {SAMPLE_ROWS}",
            key_list(table, &ident(&reach.table.name)),
            reach.only_word(),
            reach.table,
        ),
        help: "correct these rows, then run again: the constraint already holds for new ones".into(),
    }
}

/// Rows whose foreign key finds nothing.
pub fn orphans(
    referencing: &Reach,
    table: &Table,
    name: &str,
    constraint: &Constraint,
    parent_only: &str,
) -> Check {
    let reference = constraint.references.as_ref();
    let columns: Vec<String> = constraint
        .columns
        .iter()
        .map(|column| format!("child.{}", ident(column)))
        .collect();
    let parents: Vec<String> = reference
        .map(|reference| {
            reference
                .columns
                .iter()
                .map(|column| format!("parent.{}", ident(column)))
                .collect()
        })
        .unwrap_or_default();
    let equal: Vec<String> = parents
        .iter()
        .zip(&columns)
        .map(|(parent, child)| format!("{parent} = {child}"))
        .collect();
    let present: Vec<String> = columns
        .iter()
        .map(|column| format!("{column} IS NOT NULL"))
        .collect();
    let parent = reference
        .map(|reference| reference.table.to_string())
        .unwrap_or_default();
    let mut condition = format!(
        "{} AND NOT EXISTS (SELECT FROM {parent_only}{parent} AS parent WHERE {})",
        present.join(" AND "),
        equal.join(" AND ")
    );
    if columns.len() > 1 && reference.is_some_and(|reference| reference.match_type == "FULL") {
        let absent: Vec<String> = columns.iter().map(|column| format!("{column} IS NULL")).collect();
        condition = format!(
            "({condition}) OR (({}) AND ({}))",
            present.join(" OR "),
            absent.join(" OR ")
        );
    }
    let mut shown = vec![key_list(table, "child")];
    let keys = table.key_columns();
    shown.extend(
        constraint
            .columns
            .iter()
            .filter(|column| !keys.contains(column))
            .map(|column| format!("child.{}", ident(column))),
    );
    Check {
        name: format!("rows of {} that violate {}", referencing.table, ident(name)),
        query: format!(
            "SELECT {} FROM {}{} AS child WHERE {condition} LIMIT {SAMPLE_ROWS}",
            shown.join(", "),
            referencing.only_word(),
            referencing.table,
        ),
        help: format!("delete or correct these rows, or add the missing ones to {parent}, then run again"),
    }
}

/// The recipe of a foreign key, from its end state.
pub fn foreign_key(
    context: &Context<'_>,
    table_name: &QualifiedName,
    table: &Table,
    name: &str,
    constraint: Constraint,
) -> NewConstraint {
    let catalog = context.catalog;
    let referencing = Reach::partitions(catalog, table_name);
    let target = constraint.references.as_ref().map(|reference| &reference.table);
    let referenced = target
        .filter(|target| *target != table_name)
        .map(|target| Reach::partitions(catalog, target));
    let parent_only = match (target, &referenced) {
        (_, Some(referenced)) => referenced.only_word(),
        (_, None) => referencing.only_word(),
    };
    let question = |reach: &Reach, table: &Table| orphans(reach, table, name, &constraint, parent_only);
    let before_18 = context.major() < 18;
    let leaf = |leaf: QualifiedName| {
        let reach = Reach::partitions(catalog, &leaf);
        Some(Leaf {
            violation: question(&reach, catalog.tables.get(&leaf)?),
            estimate: scan_estimate(catalog, &reach.tables),
            table: leaf,
        })
    };
    let leaves = (table.kind == TableKind::Partitioned && before_18)
        .then(|| catalog.leaves(table_name).into_iter().filter_map(leaf).collect());
    let also_when_added = match before_18 {
        true => Vec::new(),
        false => catalog
            .tree(table_name)
            .into_iter()
            .filter(|name| !referencing.tables.contains(name))
            .collect(),
    };
    NewConstraint {
        name: name.to_owned(),
        sql: constraint.definition.clone(),
        violation: question(&referencing, table),
        estimate: scan_estimate(catalog, &referencing.tables),
        exact: true,
        constraint,
        referencing,
        also_when_added,
        referenced,
        leaves,
    }
}

/// The recipe of a CHECK; `expression` is what rows are asked when the validation fails.
pub fn check(
    context: &Context<'_>,
    table_name: &QualifiedName,
    table: &Table,
    name: &str,
    (sql, expression): (String, &str),
    (constraint, exact): (Constraint, bool),
) -> NewConstraint {
    let mut referencing = Reach::tree(context.catalog, table_name);
    let mut also_when_added = Vec::new();
    if constraint.no_inherit {
        let below = referencing.tables.split_off(1);
        referencing.only = !below.is_empty();
        if context.major() >= 18 {
            also_when_added = below;
        }
    }
    NewConstraint {
        name: name.to_owned(),
        sql,
        violation: check_violation(&referencing, table, name, expression),
        estimate: scan_estimate(context.catalog, &referencing.tables),
        exact,
        constraint,
        referencing,
        also_when_added,
        referenced: None,
        leaves: None,
    }
}

/// Whether the text of an expression names the column; words in string literals do not count.
pub fn mentions(expression: &str, column: &str) -> bool {
    let mut chars = expression.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\'' {
            chars.by_ref().find(|c| *c == '\'');
        } else if c == '"' {
            let mut name = String::new();
            while let Some(c) = chars.next() {
                match c {
                    '"' if chars.peek() == Some(&'"') => {
                        chars.next();
                        name.push('"');
                    }
                    '"' => break,
                    c => name.push(c),
                }
            }
            if name == column {
                return true;
            }
        } else if c.is_alphanumeric() || c == '_' {
            let mut word: String = c.to_lowercase().collect();
            while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_' || *c == '$') {
                word.extend(c.to_lowercase());
            }
            if word == column && chars.peek() != Some(&'(') {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::mentions;

    #[test]
    fn finds_columns_in_expressions() {
        assert!(mentions("Length(Code) > 3", "code"));
        assert!(mentions("(\"we\"\"ird\" IS NULL)", "we\"ird"));
        assert!(!mentions("status <> 'code'", "code"));
        assert!(!mentions("code_2 > 0 AND length(x) > 1", "code"));
        assert!(!mentions("length(x) > 1", "length"));
    }
}
