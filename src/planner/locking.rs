//! What a work locks besides the tables that its operation thinks of: what is below them. Pure.

use crate::catalog::model::{CatalogSnapshot, ConstraintKind, Table, TableKind};
use crate::plan::{Action, Lock, LockMode, Transaction, Work};
use crate::sql::{QualifiedName, ident, lock_table};
use std::collections::BTreeSet;

/// The catalog as it is, and as it is once the change is made.
pub(super) struct Catalogs<'a> {
    pub now: &'a CatalogSnapshot,
    pub then: &'a CatalogSnapshot,
}

impl Catalogs<'_> {
    fn table(&self, name: &QualifiedName) -> Option<&Table> {
        self.now.tables.get(name).or_else(|| self.then.tables.get(name))
    }

    /// Without the table itself.
    fn below(&self, name: &QualifiedName) -> Vec<QualifiedName> {
        let catalog = match self.now.tables.contains_key(name) {
            true => self.now,
            false => self.then,
        };
        catalog.tree(name).split_off(1)
    }
}

/// A statement that goes down a tree waits for each table with its own `lock_timeout`, and holds the others meanwhile:
/// the waits would add up. So all locks are taken by one statement first, whose own time is bounded.
pub(super) fn at_once(work: &mut Work, now: &CatalogSnapshot) {
    let Action::Sql(statements) = &mut work.action else {
        return;
    };
    if work.transaction != Transaction::Single || work.timeouts.lock_ms.is_none() {
        return;
    }
    if !statements.iter().any(|statement| lock_table(statement).is_some()) {
        let lockable = |lock: &&Lock| {
            // A role that may only refer to a table cannot lock it by itself.
            let possible = |table: &Table| table.kind != TableKind::Foreign && now.role.acts_as(&table.owner);
            lock.mode.blocks_writes() && now.tables.get(&lock.relation).is_some_and(possible)
        };
        let locks: Vec<&Lock> = work.locks.iter().filter(lockable).collect();
        if locks.len() > 1 {
            let groups = locks.chunk_by(|one, next| one.mode == next.mode);
            statements.splice(0..0, groups.map(|group| lock_statement(group, now)));
        }
    }
    while let [first, second, ..] = statements.as_slice()
        && let (Some((tables, mode)), Some((more, same))) = (lock_table(first), lock_table(second))
        && mode == same
    {
        let both = format!(
            "LOCK TABLE {}, {} IN {mode} MODE",
            tables.join(", "),
            more.join(", ")
        );
        statements.splice(0..2, [both]);
    }
}

/// By the roots where whole trees are locked: so it holds for partitions that come later, too.
fn lock_statement(group: &[&Lock], now: &CatalogSnapshot) -> String {
    let mut named = Vec::new();
    let mut covered = BTreeSet::new();
    for lock in group {
        if covered.contains(&lock.relation) {
            continue;
        }
        let tree = now.tree(&lock.relation);
        let whole = tree
            .iter()
            .all(|name| group.iter().any(|lock| &lock.relation == name));
        if whole {
            named.push(lock.relation.to_string());
            covered.extend(tree);
        } else {
            named.push(format!("ONLY {}", lock.relation));
        }
    }
    format!("LOCK TABLE {} IN {} MODE", named.join(", "), group[0].mode)
}

/// The tables below those that a statement names, where the statement goes down to them.
pub(super) fn claim_below(work: &mut Work, catalogs: &Catalogs<'_>) {
    let Action::Sql(statements) = &work.action else {
        return;
    };
    let named: Vec<QualifiedName> = work.locks.iter().map(|lock| lock.relation.clone()).collect();
    let mut found = Vec::new();
    for name in &named {
        let below = catalogs.below(name);
        if below.is_empty() {
            continue;
        }
        let modes = statements
            .iter()
            .filter_map(|statement| passed_down(statement, name, catalogs));
        for mode in modes {
            found.extend(below.iter().map(|table| Lock::new(table, mode)));
        }
    }
    for lock in found {
        match work.locks.iter_mut().find(|it| it.relation == lock.relation) {
            Some(claimed) => claimed.mode = claimed.mode.max(lock.mode),
            None => work.locks.push(lock),
        }
    }
}

/// The lock that this statement takes below the table, too.
fn passed_down(statement: &str, table: &QualifiedName, catalogs: &Catalogs<'_>) -> Option<LockMode> {
    let name = table.to_string();
    let facts = catalogs.table(table)?;
    let is_partitioned = facts.kind == TableKind::Partitioned;
    if let Some((tables, mode)) = lock_table(statement) {
        let is_listed = tables.contains(&name.as_str());
        let mode = LockMode::ALL.into_iter().find(|it| it.to_string() == mode);
        return mode.filter(|_| is_listed);
    }
    let gathers = ["ANALYZE ", "VACUUM (TRUNCATE FALSE, ANALYZE) "];
    if gathers
        .iter()
        .any(|word| statement.strip_prefix(word) == Some(&name))
    {
        // Of tables that inherit only from PostgreSQL 18 on.
        let goes_down = is_partitioned || catalogs.now.server.major() >= 18;
        return goes_down.then_some(LockMode::ShareUpdateExclusive);
    }
    let proven = statement.strip_prefix(&format!("ALTER TABLE {name} VALIDATE CONSTRAINT "))?;
    let (_, constraint) = facts.constraints.iter().find(|(it, _)| ident(it) == proven)?;
    let goes_down = match constraint.kind {
        ConstraintKind::ForeignKey => is_partitioned,
        _ => !constraint.no_inherit,
    };
    goes_down.then_some(LockMode::ShareUpdateExclusive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{catalog, table};

    #[test]
    fn what_goes_down_a_tree_is_claimed_there() {
        let mut tree = table(&["a bigint"]);
        let (below, alone) = (
            QualifiedName::new("public", "below"),
            QualifiedName::new("public", "u"),
        );
        tree.children.push(below.clone());
        let mut catalog = catalog().with("t", tree).with("below", table(&["a bigint"]));
        let t = QualifiedName::new("public", "t");
        let before_18 = Catalogs {
            now: &catalog.clone(),
            then: &catalog.clone(),
        };
        assert_eq!(passed_down("ANALYZE public.t", &t, &before_18), None);
        catalog.server.version_num = 180_000;
        let catalogs = Catalogs {
            now: &catalog,
            then: &catalog,
        };
        let told = |statement: &str, table| passed_down(statement, table, &catalogs);
        let lock = "LOCK TABLE public.t, ONLY public.u IN SHARE ROW EXCLUSIVE MODE";
        assert_eq!(told(lock, &t), Some(LockMode::ShareRowExclusive));
        assert_eq!(told(lock, &alone), None);
        assert_eq!(told("ANALYZE public.t", &t), Some(LockMode::ShareUpdateExclusive));
        assert_eq!(told("ALTER TABLE public.t ADD COLUMN b bigint", &t), None);
        assert_eq!(catalogs.below(&t), [below]);
        assert_eq!(catalogs.below(&alone), []);
    }
}
