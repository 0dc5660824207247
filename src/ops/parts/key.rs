//! UNIQUE and PRIMARY KEY constraints on a concurrently built index.

use super::index::IndexSpec;
use super::index_build::{Build, drop_concurrently, free_index_name};
use super::not_null::{NotNull, needs_proof};
use super::{brief, index_build};
use crate::catalog::model::{CatalogSnapshot, Constraint, ConstraintKind, Index, Probe, Table, TableKind};
use crate::diagnostic::{Diagnostic, Located, Span};
use crate::document::Fields;
use crate::ops::{Context, Named, StepDraft};
use crate::plan::{Action, Estimate, Expectation, Lock, LockMode, Phase, Settings, Undo, Work};
use crate::sql::{self, QualifiedName, ident, idents};

/// A key constraint as the plan file describes it.
#[derive(Debug, Clone)]
pub struct KeySpec {
    kind: ConstraintKind,
    table: Located<QualifiedName>,
    name: Option<Located<String>>,
    source: Source,
    deferrable: bool,
    initially_deferred: bool,
    span: Span,
}

#[derive(Debug, Clone)]
enum Source {
    Columns(Box<IndexSpec>),
    /// An index that is there already.
    Index(Located<String>),
}

/// A key constraint that passed all questions.
pub struct KeyTarget {
    table: QualifiedName,
    name: String,
    constraint: Constraint,
    not_null: Vec<NotNull>,
    index: KeyIndex,
}

enum KeyIndex {
    New(Build),
    /// The name and definition before it became the constraint's.
    Existing {
        name: String,
        index: Box<Index>,
        /// What a rollback builds to have it back.
        twin: Build,
    },
}

impl KeySpec {
    pub fn table(&self) -> Named {
        Named::relation(&self.table)
    }

    pub fn read(fields: &Fields<'_>, kind: ConstraintKind) -> Option<Self> {
        let table = fields.qualified("table");
        let name = fields.optional_identifier("name");
        let index = fields.optional_identifier("index");
        let include = fields.optional_identifiers("include");
        let nulls_not_distinct = kind == ConstraintKind::Unique && fields.flag("nulls_not_distinct", false);
        let initially_deferred = fields.flag("initially_deferred", false);
        let deferrable = fields.optional_flag("deferrable");
        if initially_deferred && deferrable == Some(false) {
            fields.report(
                Diagnostic::new(
                    "not_deferrable",
                    "a constraint that is initially deferred is deferrable",
                )
                .at(fields.span()),
            );
        }
        let source = if let Some(index) = index {
            if fields.optional("columns").is_some() || include.is_some() || nulls_not_distinct {
                fields.report(
                    Diagnostic::new(
                        "index_or_columns",
                        "`index` already says which columns and options",
                    )
                    .at(index.span)
                    .help("keep either `index` or `columns`"),
                );
            }
            Source::Index(index)
        } else {
            let columns = fields.identifiers("columns");
            Source::Columns(Box::new(IndexSpec::for_key(
                table.clone()?,
                name.clone(),
                columns?,
                include.unwrap_or_default(),
                nulls_not_distinct,
                fields.span(),
            )))
        };
        Some(Self {
            kind,
            table: table?,
            name,
            source,
            deferrable: deferrable.unwrap_or(initially_deferred),
            initially_deferred,
            span: fields.span(),
        })
    }

    /// The constraint's name, which is its index's too.
    fn final_name(&self) -> String {
        match (&self.name, &self.source) {
            (Some(name), _) => name.value.clone(),
            (None, Source::Index(index)) => index.value.clone(),
            (None, Source::Columns(_)) if self.kind == ConstraintKind::PrimaryKey => {
                sql::derived_name(&[&self.table.value.name], "pkey")
            }
            (None, Source::Columns(spec)) => spec.name_or("key"),
        }
    }

    pub fn probes(&self) -> Vec<Probe> {
        match &self.source {
            Source::Columns(spec) => vec![spec.probe(&self.final_name())],
            Source::Index(_) => Vec::new(),
        }
    }

    pub fn preflight(&self, context: &Context<'_>) -> Result<KeyTarget, Vec<Diagnostic>> {
        let table = context.table(&self.table).map_err(|complaint| vec![complaint])?;
        let mut complaints = self.table_complaints(table);
        if !complaints.is_empty() {
            // The rest would only follow from these: names that are taken, columns that a partition key needs.
            return Err(complaints);
        }
        let name = Located {
            value: self.final_name(),
            span: self.name.as_ref().map_or(self.span, |name| name.span),
        };
        complaints.extend(context.free_constraint_name(&self.table.value, &name).err());
        let index = match &self.source {
            Source::Columns(spec) => spec
                .resolve(context, table, &name.value)
                .and_then(|resolved| Build::plan(context, spec, &name.value, &resolved))
                .map(KeyIndex::New),
            Source::Index(index) => self.existing(context, table, index, &name),
        };
        let index = match index {
            Ok(index) if complaints.is_empty() => index,
            index => {
                complaints.extend(index.err().into_iter().flatten());
                return Err(complaints);
            }
        };
        let definition = match &index {
            KeyIndex::New(build) => build.index(),
            KeyIndex::Existing { index, .. } => Some(&**index),
        };
        let columns: Vec<String> = definition
            .iter()
            .flat_map(|index| index.keys.iter().filter_map(|key| key.column.clone()))
            .collect();
        let unproven = columns.iter().filter(|column| {
            self.kind == ConstraintKind::PrimaryKey && table.column(column).is_some_and(needs_proof)
        });
        Ok(KeyTarget {
            table: self.table.value.clone(),
            not_null: unproven
                .map(|column| NotNull::plan(context.catalog, &self.table.value, column))
                .collect(),
            constraint: self.constraint(&name.value, columns.clone(), definition),
            name: name.value,
            index,
        })
    }

    fn table_complaints(&self, table: &Table) -> Vec<Diagnostic> {
        let mut complaints = Vec::new();
        let name = &self.table.value;
        let mut complain = |code, message: String, help: &str| {
            complaints.push(Diagnostic::new(code, message).at(self.table.span).help(help));
        };
        match table.kind {
            TableKind::Table => {}
            TableKind::Partitioned => complain(
                "partitioned_table",
                format!(
                    "{name} is partitioned; PostgreSQL cannot base its constraints on an index built before"
                ),
                "create_index with `unique: true` keeps the rows as distinct, without a lock",
            ),
            TableKind::Foreign => complain(
                "foreign_table",
                format!("{name} is a foreign table; it cannot have keys"),
                "add the key on the server where the table lives",
            ),
        }
        if let (ConstraintKind::PrimaryKey, Some((existing, key))) = (self.kind, table.primary_key()) {
            complain(
                "has_primary_key",
                format!(
                    "{name} has the primary key {} {}",
                    ident(existing),
                    key.definition
                ),
                "a table has one primary key; add_unique adds further keys",
            );
        }
        complaints
    }

    /// Whether PostgreSQL would take the index, and whether a rollback could give it back.
    fn existing(
        &self,
        context: &Context<'_>,
        table: &Table,
        wanted: &Located<String>,
        name: &Located<String>,
    ) -> Result<KeyIndex, Vec<Diagnostic>> {
        let table_name = &self.table.value;
        let Some(index) = table.indexes.get(&wanted.value) else {
            let message = format!("{table_name} has no index `{}`", wanted.value);
            return Err(vec![
                Diagnostic::new("unknown_index", message)
                    .at(wanted.span)
                    .suggest(&wanted.value, table.indexes.keys().map(String::as_str)),
            ]);
        };
        let plain = index.keys.iter().all(|key| {
            key.column.is_some()
                && key.opclass.is_none()
                && key.collation.is_none()
                && !key.descending
                && !key.nulls_first
        });
        let referenced = index_build::referencing_key(context.catalog, table_name, &wanted.value);
        let obstacles = [
            (!index.unique, "is not unique"),
            (!index.valid, "is not valid"),
            (index.method != "btree", "is not a btree index"),
            (index.predicate.is_some(), "covers only part of the rows"),
            (
                !plain,
                "has keys other than plain columns in their default order, operator class and collation",
            ),
            (index.constraint.is_some(), "belongs to a constraint already"),
            (index.replica_identity, "is the replica identity of the table"),
            (referenced.is_some(), "is what a foreign key rests on"),
        ];
        let mut complaints: Vec<Diagnostic> = obstacles
            .into_iter()
            .filter(|(stands, _)| *stands)
            .map(|(_, what)| {
                Diagnostic::new(
                    "index_not_fit",
                    format!("the index {} {what}", ident(&wanted.value)),
                )
                .at(wanted.span)
                .help("give `columns` instead, and a fitting index is built")
            })
            .collect();
        if wanted.value != name.value {
            let renamed = table_name.sibling(name.value.clone());
            complaints.extend(free_index_name(context, &renamed, name.span).err());
        }
        let twin_name = sql::own_name(&[&wanted.value], "pgmorph_twin");
        let twin = table_name.sibling(twin_name.clone());
        complaints.extend(free_index_name(context, &twin, wanted.span).err());
        if !complaints.is_empty() {
            return Err(complaints);
        }
        Ok(KeyIndex::Existing {
            name: wanted.value.clone(),
            index: Box::new(index.clone()),
            twin: Build::of_existing(context.catalog, table_name, &wanted.value).renamed(&twin_name),
        })
    }

    /// As the server will print it.
    fn constraint(&self, name: &str, columns: Vec<String>, index: Option<&Index>) -> Constraint {
        let mut definition = match self.kind {
            ConstraintKind::PrimaryKey => "PRIMARY KEY",
            _ => "UNIQUE",
        }
        .to_owned();
        if index.is_some_and(|index| index.nulls_not_distinct) {
            definition += " NULLS NOT DISTINCT";
        }
        definition += &format!(" ({})", idents(&columns));
        if let Some(index) = index.filter(|index| !index.include.is_empty()) {
            definition += &format!(" INCLUDE ({})", idents(&index.include));
        }
        definition += self.deferral();
        Constraint {
            kind: self.kind,
            definition,
            columns,
            validated: true,
            deferrable: self.deferrable,
            initially_deferred: self.initially_deferred,
            no_inherit: false,
            inherited: false,
            index: Some(name.to_owned()),
            references: None,
            comment: None,
        }
    }

    fn deferral(&self) -> &'static str {
        deferral(self.deferrable, self.initially_deferred)
    }
}

fn deferral(deferrable: bool, initially_deferred: bool) -> &'static str {
    match (deferrable, initially_deferred) {
        (_, true) => " DEFERRABLE INITIALLY DEFERRED",
        (true, false) => " DEFERRABLE",
        (false, false) => "",
    }
}

impl KeyTarget {
    pub fn steps(&self, settings: &Settings) -> Vec<StepDraft> {
        let mut steps = Vec::new();
        for (number, proof) in self.not_null.iter().enumerate() {
            let prefix = if self.not_null.len() > 1 {
                format!("not-null-{}-", number + 1)
            } else {
                "not-null-".into()
            };
            steps.extend(proof.steps(&prefix, settings));
        }
        let undo = match &self.index {
            KeyIndex::New(build) => {
                steps.extend(build.steps(Phase::Expand, "", settings));
                vec![self.drop(settings)]
            }
            KeyIndex::Existing { name, twin, .. } => self.give_back(name, twin, settings),
        };
        steps.push(StepDraft {
            id: "attach".into(),
            phase: Phase::Cutover,
            work: self.attach(settings),
            hazards: Vec::new(),
            undo: Undo::Work(undo),
            estimate: Estimate::INSTANT,
        });
        steps
    }

    fn index_name(&self) -> &str {
        match &self.index {
            KeyIndex::New(_) => &self.name,
            KeyIndex::Existing { name, .. } => name,
        }
    }

    fn kind(&self) -> &'static str {
        match self.constraint.kind {
            ConstraintKind::PrimaryKey => "PRIMARY KEY",
            _ => "UNIQUE",
        }
    }

    fn attach(&self, settings: &Settings) -> Work {
        let table = &self.table;
        let index = table.sibling(self.index_name());
        let name = ident(&self.name);
        brief(
            settings,
            format!("make {index} the {} constraint {name} of {table}", self.kind()),
            vec![format!(
                "ALTER TABLE {table} ADD CONSTRAINT {name} {} USING INDEX {}{}",
                self.kind(),
                ident(self.index_name()),
                deferral(self.constraint.deferrable, self.constraint.initially_deferred)
            )],
            vec![
                Lock::new(table, LockMode::AccessExclusive),
                Lock::new(&index, LockMode::ShareUpdateExclusive),
            ],
            vec![Expectation::Constraint {
                table: table.clone(),
                name: self.name.clone(),
                exact: true,
                constraint: Box::new(self.constraint.clone()),
            }],
        )
    }

    fn drop_statement(&self) -> String {
        format!(
            "ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}",
            self.table,
            ident(&self.name)
        )
    }

    fn absent(&self) -> Expectation {
        Expectation::ConstraintAbsent {
            table: self.table.clone(),
            name: self.name.clone(),
        }
    }

    fn drop(&self, settings: &Settings) -> Work {
        brief(
            settings,
            format!(
                "drop the constraint {} of {} with its index",
                ident(&self.name),
                self.table
            ),
            vec![self.drop_statement()],
            vec![Lock::new(&self.table, LockMode::AccessExclusive)],
            vec![self.absent()],
        )
    }

    /// The constraint takes its index along, so a twin is built first: no moment is without one.
    fn give_back(&self, old_name: &str, twin: &Build, settings: &Settings) -> Vec<Work> {
        let table = &self.table;
        let twin_name = table.sibling(sql::own_name(&[old_name], "pgmorph_twin"));
        let mut works = twin.works(settings);
        // The constraint itself keeps duplicates out until the twin is there.
        works.retain(|work| !matches!(work.action, Action::Check(_)));
        let back = twin.clone().renamed(old_name);
        let mut expect = vec![
            self.absent(),
            Expectation::IndexAbsent {
                index: twin_name.clone(),
            },
        ];
        expect.extend(back.built());
        works.push(brief(
            settings,
            format!(
                "drop the constraint {} and put the plain index back",
                ident(&self.name)
            ),
            vec![
                self.drop_statement(),
                format!("ALTER INDEX {twin_name} RENAME TO {}", ident(old_name)),
            ],
            vec![
                Lock::new(table, LockMode::AccessExclusive),
                Lock::new(&twin_name, LockMode::ShareUpdateExclusive),
            ],
            expect,
        ));
        // A rollback that died behind its last commit builds a second twin before it learns that all is done.
        works.push(drop_concurrently(table, &twin_name, settings));
        works
    }

    pub fn apply(&self, catalog: &mut CatalogSnapshot) {
        for proof in &self.not_null {
            proof.apply(catalog);
        }
        if let KeyIndex::New(build) = &self.index {
            build.apply(catalog);
        }
        let Some(table) = catalog.tables.get_mut(&self.table) else {
            return;
        };
        if let Some(mut index) = table.indexes.remove(self.index_name()) {
            index.constraint = Some(self.name.clone());
            table.indexes.insert(self.name.clone(), index);
        }
        table
            .constraints
            .insert(self.name.clone(), self.constraint.clone());
    }
}
