//! Building and dropping indexes without standing in anybody's way, partition trees included.
//!
//! A plain table gets its index concurrently. PostgreSQL refuses that for a partitioned one, so the parents get an
//! empty index first, every leaf is indexed concurrently, and the leaf indexes are attached from the bottom up; the
//! last attachment makes the parent's index valid.

use super::index::{IndexSpec, Placing, Resolved, create_statement, duplicates};
use super::{brief, concurrent, locks};
use crate::catalog::model::{CatalogSnapshot, Index, Table, TableKind, TableSize};
use crate::diagnostic::{Diagnostic, Span};
use crate::ops::{Context, StepDraft};
use crate::plan::{
    Action, Check, Estimate, Expectation, Hazard, Lock, LockMode, Phase, Settings, Transaction, Undo, Work,
};
use crate::sql::{self, QualifiedName, ident, literal};
use std::collections::HashSet;

/// New indexes from this size on are worth a warning.
const LARGE_INDEX_BYTES: i64 = 1 << 30;

/// The indexes that one definition means: one, or one for each table of a partition tree.
#[derive(Debug, Clone)]
pub struct Build {
    /// Parents before children.
    nodes: Vec<Node>,
    exact: bool,
    hazards: Vec<Hazard>,
}

#[derive(Debug, Clone)]
struct Node {
    table: QualifiedName,
    name: String,
    /// As the catalog has it at the end.
    index: Index,
    /// As it is sent.
    written: Index,
    depth: usize,
    /// Has no rows of its own.
    partitioned: bool,
    /// A partitioned table without partitions has a valid index from the start.
    childless: bool,
    size: TableSize,
    index_bytes: i64,
    duplicates: Option<Check>,
}

impl Node {
    fn qualified(&self) -> QualifiedName {
        self.table.sibling(self.name.clone())
    }
}

/// Plans a build while it collects what stands against it.
struct Planner<'a> {
    context: &'a Context<'a>,
    resolved: &'a Resolved,
    label: &'a str,
    span: Span,
    nodes: Vec<Node>,
    /// Names of relations that are there or planned, once they were needed.
    taken: Option<HashSet<QualifiedName>>,
    complaints: Vec<Diagnostic>,
}

impl Planner<'_> {
    fn add(&mut self, table_name: &QualifiedName, name: String, parent: Option<QualifiedName>, depth: usize) {
        let Some(table) = self.context.catalog.tables.get(table_name) else {
            return;
        };
        let qualified = table_name.sibling(name.clone());
        let partitioned = table.kind == TableKind::Partitioned;
        if table.kind == TableKind::Foreign {
            let message = format!("{table_name} is a foreign table; it cannot have indexes");
            self.complaints.push(
                Diagnostic::new("foreign_table", message)
                    .at(self.span)
                    .help("create the index on the server where the table lives"),
            );
        }
        if partitioned && self.resolved.index.unique {
            self.complaints.extend(missing_partition_keys(
                table_name,
                table,
                &self.resolved.index,
                self.span,
            ));
        }
        let schema = self.context.catalog.schemas.get(&table_name.schema);
        if schema.is_some_and(|schema| !schema.may_create) {
            let message = format!(
                "{} may not create objects in schema {}",
                self.context.now.role.name,
                ident(&table_name.schema)
            );
            self.complaints.push(
                Diagnostic::new("may_not_create", message)
                    .at(self.span)
                    .help(format!(
                        "GRANT CREATE ON SCHEMA {} TO {}",
                        ident(&table_name.schema),
                        ident(&self.context.now.role.name)
                    )),
            );
        }
        let duplicates = (self.resolved.index.unique && !partitioned)
            .then(|| duplicates(table_name, table, &self.resolved.written));
        self.nodes.push(Node {
            table: table_name.clone(),
            name,
            index: Index {
                parent,
                ..self.resolved.index.clone()
            },
            written: self.resolved.written.clone(),
            depth,
            partitioned,
            childless: table.children.is_empty(),
            size: table.size,
            index_bytes: guessed_bytes(table, &self.resolved.index),
            duplicates,
        });
        if partitioned {
            for child in &table.children {
                let name = self.free_child_name(child);
                self.add(child, name, Some(qualified.clone()), depth + 1);
            }
        }
    }

    /// The name that PostgreSQL would give to the index of a partition, numbered while it is taken.
    fn free_child_name(&mut self, child: &QualifiedName) -> String {
        // Asked for each of what may be thousands of partitions.
        let taken = self.taken.get_or_insert_with(|| {
            let catalogs = [self.context.catalog, self.context.now];
            let known = catalogs.into_iter().flat_map(CatalogSnapshot::relation_names);
            known.chain(self.nodes.iter().map(Node::qualified)).collect()
        });
        let mut suffix = String::from("idx");
        for number in 1.. {
            let name = sql::derived_name(&[&child.name, self.label], &suffix);
            if taken.insert(child.sibling(name.clone())) {
                return name;
            }
            suffix = format!("idx{number}");
        }
        suffix
    }
}

impl Build {
    /// Plans the build of a resolved definition under a name.
    ///
    /// # Errors
    /// Everything that stands against it: the name is taken, a foreign partition, a missing partition key….
    pub fn plan(
        context: &Context<'_>,
        spec: &IndexSpec,
        name: &str,
        resolved: &Resolved,
    ) -> Result<Self, Vec<Diagnostic>> {
        let table_name = &spec.table.value;
        let root = table_name.sibling(name);
        let label = spec.label();
        let mut planner = Planner {
            context,
            resolved,
            label: &label,
            span: spec.table.span,
            nodes: Vec::new(),
            taken: None,
            complaints: Vec::new(),
        };
        if let Err(complaint) = free_index_name(context, &root, spec.name_span()) {
            let made_up = complaint.code == "name_taken" && spec.name.is_none();
            planner.complaints.push(if made_up {
                complaint.help("give the new one a `name`")
            } else {
                complaint
            });
        }
        if (140_000..140_004).contains(&context.now.server.version_num) {
            planner.complaints.push(
                Diagnostic::new(
                    "server_corrupts_indexes",
                    "PostgreSQL 14.0 to 14.3 can leave rows out of a concurrently built index",
                )
                .at(spec.table.span)
                .help("upgrade the server to the latest 14 first"),
            );
        }
        planner.add(table_name, name.to_owned(), None, 0);
        if !planner.complaints.is_empty() {
            return Err(planner.complaints);
        }
        let mut build = Self {
            nodes: planner.nodes,
            exact: resolved.exact,
            hazards: Vec::new(),
        };
        if let Some(table) = context.catalog.tables.get(table_name) {
            build.hazards = build.hazards(table);
        }
        Ok(build)
    }

    /// The build that would bring back an index that is there now.
    pub fn of_existing(catalog: &CatalogSnapshot, table: &QualifiedName, name: &str) -> Self {
        let mut nodes = Vec::new();
        collect_existing(catalog, table, name, 0, &mut nodes);
        Self {
            nodes,
            exact: true,
            hazards: Vec::new(),
        }
    }

    /// One index on one table, in the server's own spelling.
    pub fn single(table_name: &QualifiedName, table: &Table, name: &str, index: Index) -> Self {
        let node = Node {
            table: table_name.clone(),
            name: name.to_owned(),
            written: index.clone(),
            depth: 0,
            partitioned: false,
            childless: true,
            size: table.size,
            index_bytes: guessed_bytes(table, &index),
            duplicates: index.unique.then(|| duplicates(table_name, table, &index)),
            index,
        };
        Self {
            nodes: vec![node],
            exact: true,
            hazards: Vec::new(),
        }
    }

    /// The same indexes, the topmost under another name.
    pub fn renamed(mut self, name: &str) -> Self {
        let Some(root) = self.nodes.first_mut() else {
            return self;
        };
        root.name = name.to_owned();
        let qualified = root.qualified();
        for node in &mut self.nodes {
            if node.depth == 1 {
                node.index.parent = Some(qualified.clone());
            }
        }
        self
    }

    /// The topmost index as the catalog has it at the end.
    pub fn index(&self) -> Option<&Index> {
        self.nodes.first().map(|node| &node.index)
    }

    /// All tables concerned, parents first.
    pub fn tables(&self) -> impl Iterator<Item = &QualifiedName> {
        self.nodes.iter().map(|node| &node.table)
    }

    pub fn exact(&self) -> bool {
        self.exact
    }

    /// The fact that the topmost index is there and usable.
    pub fn built(&self) -> Vec<Expectation> {
        let root = self.nodes.first();
        root.map(|node| self.expect(node, |_| {})).into_iter().collect()
    }

    fn expect(&self, node: &Node, change: impl FnOnce(&mut Index)) -> Expectation {
        let mut index = node.index.clone();
        change(&mut index);
        Expectation::Index {
            table: node.table.clone(),
            name: node.name.clone(),
            exact: self.exact,
            index: Box::new(index),
        }
    }

    /// The tables from this node down.
    fn tables_below(&self, position: usize) -> impl Iterator<Item = &QualifiedName> {
        let depth = self.nodes[position].depth;
        let below = self.nodes[position + 1..]
            .iter()
            .take_while(move |node| node.depth > depth);
        std::iter::once(&self.nodes[position])
            .chain(below)
            .map(|node| &node.table)
    }

    /// The steps of the build. Ids begin with the prefix.
    pub fn steps(&self, phase: Phase, prefix: &str, settings: &Settings) -> Vec<StepDraft> {
        let id = |word: &str, number: usize, of: usize| {
            if of > 1 {
                format!("{prefix}{word}-{number}")
            } else {
                format!("{prefix}{word}")
            }
        };
        let positions = |partitioned: bool| {
            let all = 0..self.nodes.len();
            all.filter(|position| self.nodes[*position].partitioned == partitioned)
                .collect::<Vec<_>>()
        };
        let (parents, leaves) = (positions(true), positions(false));
        let mut attached: Vec<usize> = (1..self.nodes.len()).collect();
        attached.sort_by_key(|position| std::cmp::Reverse(self.nodes[*position].depth));
        let draft = |id: String, work: Work, undo: Work, estimate: Estimate| StepDraft {
            id,
            phase,
            work,
            hazards: Vec::new(),
            undo: Undo::Work(vec![undo]),
            estimate,
        };
        let mut steps = Vec::new();
        for (number, position) in parents.iter().enumerate() {
            let id = id("parent", number + 1, parents.len());
            let (work, undo) = self.parent(*position, settings);
            steps.push(draft(id, work, undo, Estimate::INSTANT));
        }
        for (number, position) in leaves.iter().enumerate() {
            let node = &self.nodes[*position];
            let estimate = Estimate::scan(node.size.rows, node.size.heap_bytes, node.index_bytes);
            let id = id("build", number + 1, leaves.len());
            let undo = drop_concurrently(&node.table, &node.qualified(), settings);
            steps.push(draft(id, self.leaf(node, settings), undo, estimate));
        }
        for (number, position) in attached.iter().enumerate() {
            let id = id("attach", number + 1, attached.len());
            let last = number + 1 == attached.len();
            let (work, undo) = self.attachment(*position, last, settings);
            steps.push(draft(id, work, undo, Estimate::INSTANT));
        }
        if let Some(first) = steps.first_mut() {
            first.hazards.clone_from(&self.hazards);
        }
        steps
    }

    /// The build as the undoing of a drop: checked for duplicates first, with comment and mark at the end.
    pub fn works(&self, settings: &Settings) -> Vec<Work> {
        let checks = self.nodes.iter().filter_map(|node| {
            Some(Work {
                summary: format!(
                    "look for rows that {} would refuse",
                    node.table.sibling(node.name.clone())
                ),
                action: Action::Check(node.duplicates.clone()?),
                transaction: Transaction::Single,
                locks: vec![Lock::new(&node.table, LockMode::AccessShare)],
                timeouts: settings.patient(),
                expect: Vec::new(),
                on_violation: None,
                guards_values: false,
                part: None,
                not_before: None,
            })
        });
        let mut works: Vec<Work> = checks.collect();
        let steps = self.steps(Phase::Contract, "", settings);
        works.extend(steps.into_iter().map(|step| step.work));
        works.extend(self.marks(settings));
        works
    }

    /// Comments, statistics targets and the CLUSTER mark, which are not part of a definition.
    fn marks(&self, settings: &Settings) -> Option<Work> {
        let mut statements = Vec::new();
        let mut taken = Vec::new();
        let mut expect = Vec::new();
        for node in &self.nodes {
            let index = node.qualified();
            let oid = format!("pg_catalog.to_regclass({})", literal(&index.to_string()));
            if node.index.clustered {
                expect.push(Expectation::Query {
                    query: format!("SELECT indisclustered FROM pg_catalog.pg_index WHERE indexrelid = {oid}"),
                });
                statements.push(format!(
                    "ALTER TABLE {} CLUSTER ON {}",
                    node.table,
                    ident(&node.name)
                ));
                taken.push(Lock::new(&node.table, LockMode::ShareUpdateExclusive));
            }
            for statement in node.index.set_statistics(&index) {
                statements.push(statement);
                taken.push(Lock::new(&index, LockMode::ShareUpdateExclusive));
            }
            if let Some(comment) = &node.index.comment {
                expect.push(Expectation::Query {
                    query: format!(
                        "SELECT pg_catalog.obj_description({oid}, 'pg_class') IS NOT DISTINCT FROM {}",
                        literal(comment)
                    ),
                });
                statements.push(format!("COMMENT ON INDEX {index} IS {}", literal(comment)));
                taken.push(Lock::new(&index, LockMode::ShareUpdateExclusive));
            }
        }
        let root = self.nodes.first()?.qualified();
        let summary = format!("restore comment and marks of {root}");
        (!statements.is_empty()).then(|| brief(settings, summary, statements, taken, expect))
    }

    fn parent(&self, position: usize, settings: &Settings) -> (Work, Work) {
        let node = &self.nodes[position];
        let index = node.qualified();
        let childless = node.childless;
        let work = brief(
            settings,
            format!("create the index {index} of the partitioned table alone, still empty"),
            vec![create_statement(
                &node.written,
                &node.name,
                &node.table,
                Placing::OnlyParent,
            )],
            vec![Lock::new(&node.table, LockMode::Share)],
            vec![self.expect(node, |index| {
                index.valid = childless;
                index.parent = None;
            })],
        );
        (work, self.drop_whole(position, settings))
    }

    fn leaf(&self, node: &Node, settings: &Settings) -> Work {
        let mut work = concurrent(
            settings,
            format!("build {} concurrently", node.qualified()),
            create_statement(&node.written, &node.name, &node.table, Placing::Concurrently),
            &node.table,
            vec![self.expect(node, |index| index.parent = None)],
        );
        work.on_violation.clone_from(&node.duplicates);
        work
    }

    fn attachment(&self, position: usize, last: bool, settings: &Settings) -> (Work, Work) {
        let node = &self.nodes[position];
        let index = node.qualified();
        let above = self.nodes[..position]
            .iter()
            .rposition(|other| other.depth < node.depth)
            .unwrap_or_default();
        let parent = &self.nodes[above];
        let mut expect = vec![self.expect(node, |_| {})];
        if last {
            // Asked of the server: an index that still lacks a partition must not pass for a failed build.
            let root = self.nodes[0].qualified().to_string();
            expect.push(Expectation::Query {
                query: format!(
                    "SELECT indisvalid FROM pg_catalog.pg_index WHERE indexrelid = pg_catalog.to_regclass({})",
                    literal(&root)
                ),
            });
        }
        // The planner of every query locks all indexes of a table, so the lock on the index blocks reads of it.
        let taken = vec![
            Lock::new(&parent.qualified(), LockMode::ShareUpdateExclusive),
            Lock::new(&parent.table, LockMode::AccessShare),
            Lock::new(&node.table, LockMode::AccessShare),
            Lock::new(&index, LockMode::AccessExclusive),
        ];
        let work = brief(
            settings,
            format!("attach {index} to {}", parent.qualified()),
            vec![format!(
                "ALTER INDEX {} ATTACH PARTITION {index}",
                parent.qualified()
            )],
            taken,
            expect,
        );
        // PostgreSQL cannot detach an index: the parent's goes, with all that is attached to it.
        (work, self.drop_whole(above, settings))
    }

    /// Drops a partitioned index and everything attached to it.
    fn drop_whole(&self, position: usize, settings: &Settings) -> Work {
        let index = self.nodes[position].qualified();
        brief(
            settings,
            format!("drop {index} and what is attached to it"),
            vec![format!("DROP INDEX IF EXISTS {index}")],
            locks(self.tables_below(position), LockMode::AccessExclusive),
            vec![Expectation::IndexAbsent { index }],
        )
    }

    /// Drops the whole: concurrently, where PostgreSQL can.
    pub fn drop_work(&self, settings: &Settings) -> Option<Work> {
        let root = self.nodes.first()?;
        Some(if root.partitioned {
            self.drop_whole(0, settings)
        } else {
            drop_concurrently(&root.table, &root.qualified(), settings)
        })
    }

    /// Puts all indexes into the catalog.
    pub fn apply(&self, catalog: &mut CatalogSnapshot) {
        for node in &self.nodes {
            if let Some(table) = catalog.tables.get_mut(&node.table) {
                table.indexes.insert(node.name.clone(), node.index.clone());
            }
        }
    }

    /// Takes all indexes out of the catalog.
    pub fn remove(&self, catalog: &mut CatalogSnapshot) {
        for node in &self.nodes {
            if let Some(table) = catalog.tables.get_mut(&node.table) {
                table.indexes.remove(&node.name);
            }
        }
    }

    fn hazards(&self, table: &Table) -> Vec<Hazard> {
        let mut hazards = vec![Hazard::new(
            "waits_for_old_transactions",
            "a concurrent build ends only when every transaction older than it has ended, on other tables too",
        )];
        let bytes: i64 = self
            .nodes
            .iter()
            .filter(|node| !node.partitioned)
            .map(|node| node.index_bytes)
            .sum();
        if bytes >= LARGE_INDEX_BYTES {
            hazards.push(Hazard::new(
                "disk_space",
                format!("needs about {} GiB of disk, and as much WAL", bytes >> 30),
            ));
        }
        let Some(index) = self.index() else {
            return hazards;
        };
        if let Some((name, _)) = table
            .indexes
            .iter()
            .find(|(_, other)| other.valid && other.same_definition(index))
        {
            hazards.push(Hazard::new(
                "same_index_exists",
                format!("{} is defined alike", ident(name)),
            ));
        }
        let fresh: Vec<&str> = table
            .column_names()
            .into_iter()
            .filter(|column| index.mentions(column))
            .filter(|column| !table.indexes.values().any(|other| other.mentions(column)))
            .collect();
        // A BRIN index is no obstacle to HOT updates since PostgreSQL 16; before, nobody indexes what is updated.
        if !fresh.is_empty() && index.method != "brin" {
            hazards.push(Hazard::new(
                "hot_updates",
                format!(
                    "updates that change {} can no longer be HOT: no index mentioned it before",
                    fresh.join(", ")
                ),
            ));
        }
        hazards
    }
}

fn collect_existing(
    catalog: &CatalogSnapshot,
    table_name: &QualifiedName,
    name: &str,
    depth: usize,
    nodes: &mut Vec<Node>,
) {
    let Some(table) = catalog.tables.get(table_name) else {
        return;
    };
    let Some(index) = table.indexes.get(name) else {
        return;
    };
    let partitioned = table.kind == TableKind::Partitioned;
    nodes.push(Node {
        table: table_name.clone(),
        name: name.to_owned(),
        index: index.clone(),
        written: index.clone(),
        depth,
        partitioned,
        childless: table.children.is_empty(),
        size: table.size,
        index_bytes: guessed_bytes(table, index),
        duplicates: (index.unique && !partitioned).then(|| duplicates(table_name, table, index)),
    });
    let qualified = table_name.sibling(name);
    for child in &table.children {
        let attached = catalog.tables.get(child).and_then(|child| {
            child
                .indexes
                .iter()
                .find(|(_, index)| index.parent.as_ref() == Some(&qualified))
        });
        if let Some((child_index, _)) = attached {
            collect_existing(catalog, child, child_index, depth + 1, nodes);
        }
    }
}

/// Drops one index without standing in anybody's way; nothing happens when it is gone.
pub fn drop_concurrently(table: &QualifiedName, index: &QualifiedName, settings: &Settings) -> Work {
    concurrent(
        settings,
        format!("drop {index} concurrently"),
        format!("DROP INDEX CONCURRENTLY IF EXISTS {index}"),
        table,
        vec![Expectation::IndexAbsent { index: index.clone() }],
    )
}

/// Complains when a new index cannot have this name; a failed build that left it gets its own words.
pub fn free_index_name(context: &Context<'_>, name: &QualifiedName, span: Span) -> Result<(), Diagnostic> {
    if let Err(message) = sql::check_identifier(&name.name) {
        return Err(Diagnostic::new("invalid_value", message).at(span));
    }
    if let Some((table, index)) = context.now.index(name)
        && !index.valid
        && context.catalog.index(name).is_some()
    {
        let message = format!("{name} is there and INVALID: an earlier build of it on {table} failed");
        return Err(Diagnostic::new("invalid_index", message)
            .at(span)
            .help(format!("DROP INDEX CONCURRENTLY {name}; then plan again")));
    }
    context.free_relation_name(name, span)
}

/// PostgreSQL can keep rows of several partitions apart only when the key says which partition a row is in.
fn missing_partition_keys(
    table_name: &QualifiedName,
    table: &Table,
    index: &Index,
    span: Span,
) -> Vec<Diagnostic> {
    let mut complaints: Vec<Diagnostic> = table
        .partition_key_columns
        .iter()
        .filter(|column| {
            !index
                .keys
                .iter()
                .any(|key| key.column.as_deref() == Some(column.as_str()))
        })
        .map(|column| {
            Diagnostic::new(
                "partition_key_missing",
                format!(
                    "a unique index of {table_name} must have the partition key `{column}` among its columns"
                ),
            )
            .at(span)
            .help(format!("add `{column}` to `columns`"))
        })
        .collect();
    if table.partition_key.as_deref().is_some_and(has_expression) {
        let message = format!("{table_name} is partitioned by an expression; it cannot have a unique index");
        complaints.push(
            Diagnostic::new("partition_key_expression", message)
                .at(span)
                .help("create unique indexes on the partitions one by one"),
        );
    }
    complaints
}

/// Whether a partition key such as `RANGE (lower(a), b)` has more than columns in it.
fn has_expression(partition_key: &str) -> bool {
    let inner = partition_key.split_once('(').map_or("", |(_, inner)| inner);
    let mut quoted = false;
    inner.chars().any(|c| {
        quoted ^= c == '"';
        c == '(' && !quoted
    })
}

/// A cautious guess: 16 bytes for each entry, 8 for a key of fixed width, 24 for any other.
fn guessed_bytes(table: &Table, index: &Index) -> i64 {
    let fixed = [
        "smallint",
        "integer",
        "bigint",
        "boolean",
        "date",
        "real",
        "double",
        "timestamp",
        "time",
        "oid",
    ];
    let width = |column: Option<&String>| {
        let column = column.and_then(|name| table.column(name));
        match column {
            Some(column) if fixed.iter().any(|name| column.data_type.starts_with(name)) => 8,
            _ => 24,
        }
    };
    let keys: i64 = index.keys.iter().map(|key| width(key.column.as_ref())).sum();
    let include: i64 = index.include.iter().map(|column| width(Some(column))).sum();
    match table.size.rows {
        // Never analyzed: rows of a hundred bytes.
        ..0 => table.size.heap_bytes / 100 * (16 + keys + include),
        rows => rows.saturating_mul(16 + keys + include),
    }
}

/// The table and name of a foreign key that rests on this unique index.
pub fn referencing_key<'a>(
    catalog: &'a CatalogSnapshot,
    table: &QualifiedName,
    index: &str,
) -> Option<(&'a QualifiedName, &'a str)> {
    catalog
        .incoming_foreign_keys(table)
        .into_iter()
        .find(|(_, _, key)| key.index.as_deref() == Some(index))
        .map(|(table, name, _)| (table, name))
}
