//! Indexes of a partitioned table that mention the column, with those of its partitions.
//!
//! PostgreSQL makes no partitioned index a constraint, and lets go of no index that is attached to one. So the indexes
//! of the partitions are built one by one beside the old ones, and become a whole within the cutover, which looks at
//! the catalog only: those of keys become keys of their partitions, which the key of the table then adopts; the others
//! are attached to an index of the table that is there, without theirs, from the beginning, so that partitions made in
//! the meantime get one, too.

use super::dressed::Dressed;
use super::indexes::{plain, renamed, spelled, twin_of};
use super::{Printed, Subject};
use crate::catalog::model::{
    CatalogSnapshot, Constraint, ConstraintKind, Index, ReplicaIdentity, Table, TableKind,
};
use crate::diagnostic::Diagnostic;
use crate::ops::parts::index::{Placing, create_statement, storage_parameters};
use crate::ops::parts::index_build::{Build, free_index_name};
use crate::ops::parts::shadow::{self, Names};
use crate::ops::{Context, StepDraft};
use crate::plan::{Expectation, Part, Phase, Settings, Work};
use crate::sql::{IDENTIFIER_BYTES_MAX, OWN_PREFIX, QualifiedName, ident, literal};

/// One index of the old column on every table of a tree, and what takes its place.
#[derive(Debug, Clone)]
pub struct IndexTree {
    /// The topmost first, each before what is attached to it.
    nodes: Vec<Node>,
    names: Names,
    column: String,
    /// Whether a rollback builds the old ones anew; otherwise they stay until contract.
    rebuilt: bool,
}

#[derive(Debug, Clone)]
struct Node {
    table: QualifiedName,
    name: String,
    before: Index,
    after: Index,
    on_shadow: Index,
    constraint: Option<Constraint>,
    replica_identity: bool,
    /// What it is attached to, and how far below the topmost that is.
    parent: Option<usize>,
    depth: usize,
    stored: Option<Stored>,
}

/// Of a table that has rows.
#[derive(Debug, Clone)]
struct Stored {
    build: Build,
    rebuild: Build,
}

/// The three definitions that one index has in the course of things.
#[derive(Clone)]
struct Spelled {
    on_shadow: Index,
    on_old: Index,
    after: Index,
}

impl Spelled {
    fn of(subject: &Subject<'_>, printed: &Printed<'_>, name: &str, index: &Index) -> Option<Self> {
        if plain(index) {
            let moved = subject.moved(|column| index.mentions(column));
            return Some(Self {
                on_shadow: renamed(index, &moved, Names::shadow),
                on_old: renamed(index, &moved, Names::old),
                after: index.clone(),
            });
        }
        let base = twin_of(index);
        Some(Self {
            on_shadow: spelled(&base, printed.as_shadow, name)?,
            on_old: spelled(&base, printed.as_old, name)?,
            after: spelled(index, printed.retyped, name)?,
        })
    }

    /// The same in the frame of a partition's index.
    fn for_index(&self, index: &Index, column: &str) -> Self {
        let texts = |of: &Index, frame: Index| Index {
            keys: of.keys.clone(),
            include: of.include.clone(),
            predicate: of.predicate.clone(),
            expression_columns: of.expression_columns.clone(),
            ..frame
        };
        let mut after = texts(&self.after, index.clone());
        after.expression_columns.clone_from(&index.expression_columns);
        after.expression_columns.sort_by_key(|it| it == column);
        Self {
            on_shadow: texts(&self.on_shadow, twin_of(index)),
            on_old: texts(&self.on_old, twin_of(index)),
            after,
        }
    }
}

/// What is collected while the tree is walked.
struct Walk<'a> {
    context: &'a Context<'a>,
    subject: &'a Subject<'a>,
    spelled: Spelled,
    nodes: Vec<Node>,
}

impl Walk<'_> {
    fn visit(
        &mut self,
        (table_name, table): (&QualifiedName, &Table),
        (name, index): (&str, &Index),
        (parent, depth): (Option<usize>, usize),
    ) -> Result<(), String> {
        let qualified = table_name.sibling(name);
        for kind in ["new", "old"] {
            let twin = table_name.sibling(shadow::name(name, kind));
            free_index_name(self.context, &twin, self.subject.span).map_err(|it| it.message)?;
        }
        let spelled = self.spelled.for_index(index, &self.subject.column.name);
        let constraint = index.constraint.as_ref();
        let stored = (table.kind == TableKind::Table).then(|| {
            let single = |kind, index| Build::single(table_name, table, &shadow::name(name, kind), index);
            Stored {
                build: single("new", spelled.on_shadow.clone()),
                rebuild: single("old", spelled.on_old.clone()),
            }
        });
        self.nodes.push(Node {
            table: table_name.clone(),
            name: name.to_owned(),
            before: index.clone(),
            after: spelled.after,
            on_shadow: spelled.on_shadow,
            constraint: constraint.and_then(|name| table.constraints.get(name)).cloned(),
            replica_identity: index.replica_identity
                || table.replica_identity == ReplicaIdentity::Index(name.to_owned()),
            parent,
            depth,
            stored,
        });
        let position = self.nodes.len() - 1;
        for child in &table.children {
            let Some(below) = self.context.catalog.tables.get(child) else {
                return Err(format!("{child} is unknown"));
            };
            let attached = below
                .indexes
                .iter()
                .find(|(_, index)| index.parent.as_ref() == Some(&qualified));
            let (name, index) = attached.ok_or_else(|| format!("{child} has none that belongs to it"))?;
            self.visit((child, below), (name, index), (Some(position), depth + 1))?;
        }
        Ok(())
    }
}

impl IndexTree {
    pub fn all(
        context: &Context<'_>,
        subject: &Subject<'_>,
        printed: &Printed<'_>,
        complaints: &mut Vec<Diagnostic>,
    ) -> Vec<Self> {
        if subject.table.kind != TableKind::Partitioned {
            return Vec::new();
        }
        let column = &subject.column.name;
        let hanging = subject.table.indexes.iter();
        let hanging = hanging.filter(|(_, it)| it.parent.is_none() && it.mentions(column));
        let mut found = Vec::new();
        for (name, index) in hanging {
            match Self::of(context, subject, printed, (name, index)) {
                Ok(tree) => found.push(tree),
                Err(why) => {
                    let message = format!("a shadow column cannot carry index {}: {why}", ident(name));
                    complaints.push(Diagnostic::new("cannot_widen_yet", message).at(subject.span));
                }
            }
        }
        found
    }

    fn of(
        context: &Context<'_>,
        subject: &Subject<'_>,
        printed: &Printed<'_>,
        (name, index): (&str, &Index),
    ) -> Result<Self, String> {
        if !index.valid {
            return Err("it is INVALID, as partitions lack it".into());
        }
        let mut walk = Walk {
            context,
            subject,
            spelled: Spelled::of(subject, printed, name, index)
                .ok_or("the server could not be asked to spell its expressions")?,
            nodes: Vec::new(),
        };
        walk.visit((subject.table_name, subject.table), (name, index), (None, 0))?;
        let nodes = walk.nodes;
        let root = nodes.first().and_then(|node| node.constraint.as_ref());
        if root.is_some_and(|constraint| constraint.deferrable) {
            return Err("its constraint is deferrable".into());
        }
        let primary = root.is_some_and(|constraint| constraint.kind == ConstraintKind::PrimaryKey);
        // The old column is null where its type ends, and what stays must not refuse such rows.
        let expressions = index.keys.iter().any(|key| key.column.is_none());
        let refuses_nulls = index.unique && (index.predicate.is_some() || index.nulls_not_distinct);
        Ok(Self {
            nodes,
            names: Names::of(&subject.column.name),
            column: subject.column.name.clone(),
            rebuilt: primary || expressions || refuses_nulls,
        })
    }

    fn is_key(&self) -> bool {
        self.nodes.first().is_some_and(|node| node.constraint.is_some())
    }

    /// Whether a partition without one would be indexed, or searched for duplicates, within the cutover.
    pub fn looks_at_newcomers(&self) -> bool {
        self.is_key()
    }

    pub fn has_expressions(&self) -> bool {
        let root = self.nodes.first();
        root.is_some_and(|node| node.before.keys.iter().any(|key| key.column.is_none()))
    }

    /// From the beginning: the indexes of the tables that have no rows of their own.
    pub fn beside(&self) -> Vec<String> {
        if self.is_key() {
            return Vec::new();
        }
        self.parents(|node| (shadow::name(&node.name, "new"), node.on_shadow.clone()))
    }

    /// Empty indexes of the partitioned tables, attached to each other.
    fn parents(&self, called: impl Fn(&Node) -> (String, Index)) -> Vec<String> {
        let mut statements = Vec::new();
        for node in self.nodes.iter().filter(|node| node.stored.is_none()) {
            let (name, index) = called(node);
            let mut these = vec![create_statement(&index, &name, &node.table, Placing::OnlyParent)];
            if let Some(parent) = node.parent.map(|parent| &self.nodes[parent]) {
                these.push(attach(
                    &parent.table.sibling(called(parent).0),
                    &node.table.sibling(name),
                ));
            }
            statements.extend(self.if_there(node, these));
        }
        statements
    }

    pub fn steps(&self, settings: &Settings) -> Vec<StepDraft> {
        let builds = self.nodes.iter().filter_map(|node| node.stored.as_ref());
        let mut steps: Vec<StepDraft> = builds
            .flat_map(|stored| stored.build.steps(Phase::Backfill, "", settings))
            .collect();
        for step in &mut steps {
            step.id = "index".into();
            step.hazards.clear();
        }
        steps
    }

    pub fn rebuild(&self, settings: &Settings) -> Vec<Work> {
        let builds = self.nodes.iter().filter_map(|node| node.stored.as_ref());
        builds
            .filter(|_| self.rebuilt)
            .flat_map(|stored| stored.rebuild.works(settings))
            .collect()
    }

    /// A column of a table's replica identity cannot be made nullable.
    fn release(&self) -> Vec<String> {
        self.for_each(&|node| match node.replica_identity {
            true => vec![alter(&node.table, "REPLICA IDENTITY NOTHING")],
            false => Vec::new(),
        })
    }

    /// The topmost takes the others along.
    fn drop(&self) -> Option<String> {
        let root = self.nodes.first()?;
        Some(match root.constraint {
            Some(_) => alter(&root.table, &format!("DROP CONSTRAINT {}", ident(&root.name))),
            None => format!("DROP INDEX {}", root.table.sibling(root.name.clone())),
        })
    }

    pub fn leave(&self) -> Vec<String> {
        let mut statements = self.release();
        if self.rebuilt {
            statements.extend(self.drop());
        } else {
            let away = |node: &Node| vec![node.rename(&node.name, &shadow::name(&node.name, "old"))];
            statements.extend(self.for_each(&away));
            statements.extend(self.newcomers_away());
        }
        statements
    }

    pub fn leave_back(&self) -> Vec<String> {
        let mut statements = self.release();
        statements.extend(self.drop());
        statements
    }

    /// Gives names and keys to the indexes that were built as `kind` on the column that was called `from` then.
    fn become_whole(&self, kind: &str, from: &str, parents: Vec<String>) -> Vec<String> {
        let mut statements = parents;
        statements.extend(self.for_each(&|node| self.take_over(node, kind, from)));
        let mut upwards: Vec<&Node> = self.nodes.iter().filter(|node| node.stored.is_none()).collect();
        upwards.sort_by_key(|node| std::cmp::Reverse(node.depth));
        for node in upwards {
            if let Some(constraint) = &node.constraint {
                let (name, definition) = (ident(&node.name), &constraint.definition);
                let add = format!("ADD CONSTRAINT {name} {definition}{}", placing(&node.before));
                statements.extend(self.if_there(node, vec![alter(&node.table, &add)]));
            }
        }
        statements.extend(self.for_each(&Node::marks));
        statements
    }

    /// What a table with rows does for it.
    fn take_over(&self, node: &Node, kind: &str, from: &str) -> Vec<String> {
        if node.stored.is_none() {
            return Vec::new();
        }
        let built = shadow::name(&node.name, kind);
        let mut statements = Vec::new();
        match &node.constraint {
            Some(constraint) => {
                let add = format!(
                    "ADD CONSTRAINT {} {} USING INDEX {}",
                    ident(&node.name),
                    word(constraint),
                    ident(&built)
                );
                statements.push(alter(&node.table, &add));
                statements.extend(self.rename_column(node, from));
            }
            None => {
                statements.push(node.rename(&built, &node.name));
                statements.extend(self.rename_column(node, from));
                let above = node.parent.map(|parent| self.nodes[parent].qualified());
                statements.extend(above.map(|above| attach(&above, &node.qualified())));
            }
        }
        statements
    }

    /// In the order of the tree; what is about a partition is left out where that is gone.
    fn for_each(&self, statements: &dyn Fn(&Node) -> Vec<String>) -> Vec<String> {
        let nodes = self.nodes.iter();
        nodes
            .flat_map(|node| self.if_there(node, statements(node)))
            .collect()
    }

    fn if_there(&self, node: &Node, statements: Vec<String>) -> Vec<String> {
        match self.nodes.first() {
            Some(root) if root.table != node.table => {
                let part = Part {
                    table: node.table.clone(),
                    of: root.table.clone(),
                };
                part.statement(&statements).into_iter().collect()
            }
            _ => statements,
        }
    }

    /// Partitions that came in the meantime have theirs, named by the server; what is said of `name` gives the new one.
    fn name_newcomers(
        &self,
        called: impl Fn(&Node) -> String,
        (concerned, wanted): (&str, &str),
    ) -> Vec<String> {
        let one = |node: &Node| {
            if node.stored.is_some() {
                return Vec::new();
            }
            let body = format!(
                "DECLARE found pg_catalog.regclass; name text; near text; number int; suffix text; wanted text; BEGIN \
                 FOR found, name, near IN SELECT c.oid, c.relname, t.relname FROM pg_catalog.pg_inherits AS i \
                 JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid \
                 JOIN pg_catalog.pg_index AS x ON x.indexrelid = c.oid JOIN pg_catalog.pg_class AS t ON t.oid = x.indrelid \
                 WHERE i.inhparent = {index}::pg_catalog.regclass LOOP \
                 CONTINUE WHEN NOT ({concerned}); number := 0; \
                 LOOP suffix := CASE WHEN number = 0 THEN '' ELSE number::text END; wanted := {wanted}; \
                 WHILE pg_catalog.octet_length(wanted || suffix) > {IDENTIFIER_BYTES_MAX} LOOP \
                 wanted := pg_catalog.left(wanted, -1); END LOOP; wanted := wanted || suffix; \
                 EXIT WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.relname = wanted); \
                 number := number + 1; END LOOP; \
                 EXECUTE pg_catalog.format('ALTER INDEX %s RENAME TO %I', found, wanted); END LOOP; END",
                index = literal(&node.table.sibling(called(node)).to_string()),
            );
            vec![format!("DO {}", literal(&body))]
        };
        self.for_each(&one)
    }

    /// Their old ones make room for the names of the new ones.
    fn newcomers_away(&self) -> Vec<String> {
        let ours = literal(OWN_PREFIX);
        let concerned = format!("NOT pg_catalog.starts_with(name, {ours})");
        let (before, behind) = (OWN_PREFIX.len() + 1, "_old".len());
        // What is too long is told apart by a digest.
        let fits = format!(
            "pg_catalog.octet_length(name) <= {}",
            IDENTIFIER_BYTES_MAX - before - behind
        );
        let wanted = format!(
            "{ours} || '_' || CASE WHEN {fits} THEN name ELSE pg_catalog.left(name, 10) || '_' || \
             pg_catalog.substr(pg_catalog.md5(name), 1, 8) END || '_old'"
        );
        let called = |node: &Node| shadow::name(&node.name, "old");
        self.name_newcomers(called, (&concerned, &wanted))
    }

    fn newcomers_back(&self) -> Vec<String> {
        let ours = literal(OWN_PREFIX);
        let (before, behind) = (OWN_PREFIX.len() + 1, "_old".len());
        let concerned = format!("pg_catalog.starts_with(name, {ours})");
        let wanted = format!(
            "pg_catalog.substr(name, {}, pg_catalog.length(name) - {})",
            before + 1,
            before + behind
        );
        self.name_newcomers(|node| node.name.clone(), (&concerned, &wanted))
    }

    /// Named after the column as it was called when they were made.
    fn newcomers_new(&self) -> Vec<String> {
        let (from, to) = (literal(&self.names.shadow), literal(&self.column));
        let concerned = format!("pg_catalog.strpos(name, {}) > 0", literal(OWN_PREFIX));
        // The server cuts a name that is too long anywhere.
        let wanted = format!(
            "CASE WHEN pg_catalog.strpos(name, {from}) > 0 THEN pg_catalog.replace(name, {from}, {to}) \
             ELSE near || '_' || {to} || '_idx' END"
        );
        self.name_newcomers(|node| node.name.clone(), (&concerned, &wanted))
    }

    pub fn arrive(&self) -> Vec<String> {
        let mut parents = Vec::new();
        if !self.is_key() {
            let named = |node: &Node| match node.stored {
                None => vec![node.rename(&shadow::name(&node.name, "new"), &node.name)],
                Some(_) => Vec::new(),
            };
            parents.extend(self.for_each(&named));
            let root = self.nodes.first();
            parents.extend(root.and_then(|root| self.rename_column(root, &self.names.shadow)));
            parents.extend(self.newcomers_new());
        }
        let mut statements = self.become_whole("new", &self.names.shadow, parents);
        statements.extend(self.nodes.first().filter(|_| !self.is_key()).map(whole));
        statements
    }

    pub fn arrive_back(&self) -> Vec<String> {
        if !self.rebuilt {
            let back = |node: &Node| vec![node.rename(&shadow::name(&node.name, "old"), &node.name)];
            let mut statements = self.for_each(&back);
            statements.extend(self.newcomers_back());
            statements.extend(self.for_each(&Node::marks));
            return statements;
        }
        let parents = match self.is_key() {
            true => Vec::new(),
            false => self.parents(|node| (node.name.clone(), twin_of(&node.before))),
        };
        self.become_whole("old", &self.names.old, parents)
    }

    /// An index names its own columns when it is made, after those of the table at that time; what is attached to it
    /// is renamed along.
    fn rename_column(&self, node: &Node, from: &str) -> Option<String> {
        let keys = node.before.keys.iter().filter_map(|key| key.column.as_ref());
        let mut columns = keys.chain(&node.before.include);
        columns.any(|column| *column == self.column).then(|| {
            format!(
                "ALTER TABLE {} RENAME COLUMN {} TO {}",
                node.qualified(),
                ident(from),
                ident(&self.column)
            )
        })
    }

    /// The topmost is valid only while no partition lacks its own.
    pub fn expect(&self) -> Vec<Expectation> {
        let root = self.nodes.iter().take(1);
        root.flat_map(|node| node.dressed(&node.after).expect()).collect()
    }

    pub fn apply(&self, catalog: &mut CatalogSnapshot) {
        for node in &self.nodes {
            if let Some(table) = catalog.tables.get_mut(&node.table) {
                table.indexes.insert(node.name.clone(), node.after.clone());
            }
        }
    }
}

impl Node {
    fn qualified(&self) -> QualifiedName {
        self.table.sibling(self.name.clone())
    }

    fn dressed<'a>(&'a self, index: &'a Index) -> Dressed<'a> {
        Dressed {
            table: &self.table,
            name: &self.name,
            index,
            constraint: self.constraint.as_ref(),
            replica_identity: self.replica_identity,
        }
    }

    fn marks(&self) -> Vec<String> {
        let dressed = self.dressed(&self.before);
        let mut statements = dressed.marks();
        statements.extend(dressed.comments());
        statements
    }

    fn rename(&self, from: &str, to: &str) -> String {
        match self.constraint {
            Some(_) => alter(
                &self.table,
                &format!("RENAME CONSTRAINT {} TO {}", ident(from), ident(to)),
            ),
            None => format!("ALTER INDEX {} RENAME TO {}", self.table.sibling(from), ident(to)),
        }
    }
}

/// What the definition of a constraint leaves out.
fn placing(index: &Index) -> String {
    let mut text = storage_parameters(index);
    if let Some(tablespace) = &index.tablespace {
        text = format!("{text} USING INDEX TABLESPACE {}", ident(tablespace));
    }
    text
}

/// An index becomes valid when the last one of a partition is attached: where all of these came from the server, that
/// never happens.
fn whole(root: &Node) -> String {
    let index = root.qualified();
    let body = format!(
        "BEGIN IF NOT (SELECT i.indisvalid FROM pg_catalog.pg_index AS i WHERE i.indexrelid = {}::pg_catalog.regclass) \
         THEN RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = {}, HINT = {}; END IF; END",
        literal(&index.to_string()),
        literal(&format!("index {index} would be left INVALID")),
        literal(&format!(
            "the partitions of {} that the plan knew are gone: roll back and plan again",
            root.table
        )),
    );
    format!("DO {}", literal(&body))
}

fn word(constraint: &Constraint) -> &'static str {
    match constraint.kind {
        ConstraintKind::PrimaryKey => "PRIMARY KEY",
        _ => "UNIQUE",
    }
}

fn alter(table: &QualifiedName, what: &str) -> String {
    format!("ALTER TABLE {table} {what}")
}

fn attach(above: &QualifiedName, index: &QualifiedName) -> String {
    format!("ALTER INDEX {above} ATTACH PARTITION {index}")
}
