//! What keeps a table or a view from being dropped: asked of the catalog when planning, and of the server right before.

use super::constraint::Reach;
use crate::catalog::model::{CatalogSnapshot, Table};
use crate::ops::StepDraft;
use crate::plan::{
    Action, Check, Estimate, Lock, LockMode, Phase, Settings, Timeouts, Transaction, Undo, Work,
};
use crate::sql::{QualifiedName, ident, literal};

/// What depends on the table and is not part of it, in words.
pub fn obstacles(catalog: &CatalogSnapshot, name: &QualifiedName, table: &Table) -> Vec<String> {
    let tree = catalog.tree(name);
    let partitions = || tree.iter().filter_map(|name| catalog.tables.get(name));
    let mut found = Vec::new();
    for part in &tree {
        for (from, key, constraint) in catalog.incoming_foreign_keys(part) {
            if !tree.contains(from) && !constraint.inherited {
                found.push(format!("foreign key {} of {from}", ident(key)));
            }
        }
    }
    for dependent in partitions().flat_map(|table| &table.dependents) {
        let of = |name: &QualifiedName| dependent.name.ends_with(&format!(" table {name}"));
        let goes_too = dependent.kind == "publication" || tree.iter().any(of);
        if !goes_too {
            found.push(dependent.name.clone());
        }
    }
    found.extend(
        partitions()
            .flat_map(|table| &table.row_type_used_by)
            .map(|it| format!("column {it}")),
    );
    if table.partition_key.is_none() {
        found.extend(
            table
                .children
                .iter()
                .map(|child| format!("table {child}, which inherits from it")),
        );
    }
    found.sort();
    found.dedup();
    found
}

/// The tables that its foreign keys refer to. The keys go with it, for which these are locked too, and before it.
pub fn referenced(catalog: &CatalogSnapshot, name: &QualifiedName) -> Vec<Reach> {
    let tree = catalog.tree(name);
    let tables = tree.iter().filter_map(|name| catalog.tables.get(name));
    let constraints = tables.flat_map(|table| table.constraints.values());
    let references = constraints.filter_map(|constraint| constraint.references.as_ref());
    let mut far: Vec<&QualifiedName> = references
        .map(|it| &it.table)
        .filter(|it| !tree.contains(it))
        .collect();
    far.sort();
    far.dedup();
    far.into_iter()
        .map(|far| Reach::partitions(catalog, far))
        .collect()
}

/// Sequences that go with the table.
pub fn sequences(catalog: &CatalogSnapshot, name: &QualifiedName) -> Vec<QualifiedName> {
    let tree = catalog.tree(name);
    let owned = catalog.sequences.iter().filter(|(_, sequence)| {
        let owner = sequence.owned_by.as_ref();
        owner.is_some_and(|(table, _)| tree.contains(table))
    });
    owned.map(|(name, _)| name.clone()).collect()
}

/// The catalog without the table, its partitions and its sequences.
pub fn drop_from(catalog: &mut CatalogSnapshot, name: &QualifiedName) {
    for sequence in sequences(catalog, name) {
        catalog.sequences.remove(&sequence);
    }
    for part in catalog.tree(name) {
        catalog.tables.remove(&part);
    }
}

/// How a table goes, together with what is named before it.
pub struct Removal {
    pub table: QualifiedName,
    pub tree: Vec<QualifiedName>,
    pub referenced: Vec<Reach>,
    pub sequences: Vec<QualifiedName>,
}

impl Removal {
    pub fn of(catalog: &CatalogSnapshot, name: &QualifiedName) -> Self {
        Self {
            table: name.clone(),
            tree: catalog.tree(name),
            referenced: referenced(catalog, name),
            sequences: sequences(catalog, name),
        }
    }

    pub fn statements(&self) -> Vec<String> {
        let mode = LockMode::AccessExclusive;
        let mut statements = Vec::new();
        if !self.referenced.is_empty() {
            let far = self.referenced.iter();
            let far = far.map(|far| format!("{}{}, ", far.only_word(), far.table));
            statements.push(format!(
                "LOCK TABLE {}{} IN {mode} MODE",
                far.collect::<String>(),
                self.table
            ));
        }
        statements.push(format!("DROP TABLE {}", self.table));
        statements
    }

    pub fn locks(&self) -> Vec<Lock> {
        let mode = LockMode::AccessExclusive;
        let far = self.referenced.iter().flat_map(|far| far.locks(mode));
        far.chain(super::locks(self.tree.iter().chain(&self.sequences), mode))
            .collect()
    }
}

/// Asks right before, since what was planned against may be weeks old: the drop would be refused all the same, but
/// only after it had locked everything.
pub fn step(settings: &Settings, names: &[&QualifiedName]) -> StepDraft {
    let shown: Vec<String> = names.iter().map(ToString::to_string).collect();
    let shown = shown.join(" and ");
    StepDraft {
        id: "unused".into(),
        phase: Phase::Contract,
        work: Work {
            summary: format!("look for what still depends on {shown}"),
            action: Action::Check(Check {
                name: format!("nothing depends on {shown}"),
                query: query(names),
                help: "change or drop what is named, then run the same command again".into(),
            }),
            transaction: Transaction::Single,
            locks: Vec::new(),
            timeouts: Timeouts {
                lock_ms: None,
                statement_ms: settings.statement_timeout_ms,
            },
            expect: Vec::new(),
            on_violation: None,
            guards_values: false,
            part: None,
            not_before: None,
        },
        hazards: Vec::new(),
        undo: Undo::NotNeeded {
            reason: "it only reads".into(),
        },
        estimate: Estimate::INSTANT,
    }
}

/// What would keep these, and the partitions of them, from being dropped together: everything that depends on one of
/// them, or on its row type, and is not part of them.
fn query(names: &[&QualifiedName]) -> String {
    let roots: Vec<String> = names
        .iter()
        .map(|name| format!("(to_regclass({})::oid)", literal(&name.to_string())))
        .collect();
    let owners = [
        ("pg_constraint", "conrelid"),
        ("pg_rewrite", "ev_class"),
        ("pg_policy", "polrelid"),
        ("pg_trigger", "tgrelid"),
        ("pg_attrdef", "adrelid"),
    ];
    let owners = owners.map(|(class, owner)| {
        format!("(SELECT x.{owner} FROM pg_catalog.{class} x WHERE d.classid = 'pg_catalog.{class}'::regclass AND x.oid = d.objid)")
    });
    format!(
        "WITH RECURSIVE tree (oid) AS (\n  VALUES {}\n  UNION\n  SELECT i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i \
         ON i.inhparent = t.oid\n  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE c.relispartition\n)\n\
         SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid) AS depends_on_it\n\
         FROM pg_catalog.pg_depend d\n\
         WHERE d.deptype = 'n' AND d.classid <> 'pg_catalog.pg_publication_rel'::regclass\n  \
         AND (d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid IN (SELECT oid FROM tree)\n    \
         OR d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid IN (SELECT unnest(ARRAY[y.oid, y.typarray])\n      \
         FROM pg_catalog.pg_type y JOIN tree t ON y.typrelid = t.oid))\n  \
         AND coalesce(\n    {},\n    CASE d.classid WHEN 'pg_catalog.pg_class'::regclass THEN d.objid END, 0)\n  \
         NOT IN (SELECT oid FROM tree WHERE oid IS NOT NULL)",
        roots.join(", "),
        owners.join(",\n    ")
    )
}
