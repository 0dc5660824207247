//! Whether a snapshot that somebody else wrote describes what a database can be, as far as planning would not come to an
//! end otherwise.

use super::model::CatalogSnapshot;
use crate::sql::{QualifiedName, check_identifier};
use std::collections::BTreeMap;

/// Levels of partitions, inheritance or views on views: far more than anybody has, and few enough to walk down.
const LEVELS_MAX: usize = 1_000;
/// Bytes, and rows, of one table: above what the server can hold, and small enough to be added up.
const SIZE_MAX: i64 = 1 << 48;

impl CatalogSnapshot {
    /// For a snapshot from a file: what a server gave is always so.
    ///
    /// # Errors
    /// The reason in words: a name that is none, a size that no table has, relations that contain or read each other, or
    /// more than 1,000 levels of them.
    pub fn check(&self) -> Result<(), String> {
        let relations = self
            .tables
            .keys()
            .chain(self.views.keys())
            .chain(self.sequences.keys());
        for name in relations {
            check_identifier(&name.schema).and_then(|()| check_identifier(&name.name))?;
        }
        for (name, table) in &self.tables {
            let columns = table.columns.iter().map(|column| &column.name);
            for own in columns
                .chain(table.indexes.keys())
                .chain(table.constraints.keys())
            {
                check_identifier(own).map_err(|reason| format!("{name}: {reason}"))?;
            }
            let size = table.size;
            let numbers = [size.rows, size.heap_bytes, size.toast_bytes, size.index_bytes];
            if let Some(number) = numbers
                .into_iter()
                .find(|number| !(-1..=SIZE_MAX).contains(number))
            {
                return Err(format!("{name} cannot have {number} rows or bytes"));
            }
        }
        levels("contain each other", &self.tables, |table| {
            table.children.iter().collect()
        })?;
        levels("inherit from each other", &self.tables, |table| {
            table.inherits.iter().chain(&table.partition_of).collect()
        })?;
        levels("read each other", &self.views, |view| {
            view.uses.iter().map(|(name, _)| name).collect()
        })?;
        let indexes = self.tables.iter().flat_map(|(table, value)| {
            let of_table = value.indexes.iter();
            of_table.map(move |(name, index)| (table.sibling(name.clone()), index))
        });
        let indexes: BTreeMap<QualifiedName, _> = indexes.collect();
        levels("are attached to each other", &indexes, |index| {
            index.parent.iter().collect()
        })
    }
}

/// Walks down from every relation, without recursion, and refuses circles and what is too deep.
fn levels<T>(
    verb: &str,
    relations: &BTreeMap<QualifiedName, T>,
    below: impl Fn(&T) -> Vec<&QualifiedName>,
) -> Result<(), String> {
    // Levels below, of those that were walked to the end.
    let mut done: BTreeMap<&QualifiedName, usize> = BTreeMap::new();
    for start in relations.keys() {
        let mut path: Vec<(&QualifiedName, Vec<&QualifiedName>, usize)> = Vec::new();
        let mut open = std::collections::BTreeSet::new();
        let mut next = Some(start);
        loop {
            if let Some(name) = next.take() {
                let depth = done.get(name).copied();
                if depth.is_none() && !open.insert(name) {
                    return Err(format!("{name} is among relations that {verb}"));
                }
                match (depth, relations.get(name)) {
                    (None, Some(relation)) => path.push((name, below(relation), 0)),
                    (depth, _) => {
                        done.entry(name).or_insert(0);
                        open.remove(name);
                        if let Some((_, _, deepest)) = path.last_mut() {
                            *deepest = (*deepest).max(depth.unwrap_or(0) + 1);
                        }
                    }
                }
            }
            let Some((name, rest, deepest)) = path.last_mut() else {
                break;
            };
            if *deepest > LEVELS_MAX || open.len() > LEVELS_MAX {
                return Err(format!("{name} has more than {LEVELS_MAX} levels below it"));
            }
            next = rest.pop();
            if next.is_none() {
                let (name, depth) = (*name, *deepest);
                path.pop();
                open.remove(name);
                done.insert(name, depth);
                if let Some((_, _, deepest)) = path.last_mut() {
                    *deepest = (*deepest).max(depth + 1);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{catalog, table};

    fn with_children(count: usize, last: &[usize]) -> CatalogSnapshot {
        let name = |number: usize| QualifiedName::new("public", format!("t{number:05}"));
        let mut catalog = catalog();
        for number in 0..count {
            let mut it = table(&["a bigint"]);
            it.children = match number + 1 == count {
                true => last.iter().copied().map(name).collect(),
                false => vec![name(number + 1)],
            };
            catalog.tables.insert(name(number), it);
        }
        catalog
    }

    #[test]
    fn circles_and_abysses_are_refused() {
        assert_eq!(with_children(3, &[]).check(), Ok(()));
        assert_eq!(
            with_children(3, &[7]).check(),
            Ok(()),
            "a child that is not there"
        );
        for last in [0, 1, 2] {
            let reason = with_children(3, &[last]).check().unwrap_err();
            assert!(reason.contains("contain each other"), "{reason}");
        }
        assert_eq!(with_children(1_000, &[]).check(), Ok(()));
        let reason = with_children(5_000, &[]).check().unwrap_err();
        assert!(reason.contains("1000 levels"), "{reason}");
    }

    #[test]
    fn sizes_that_nobody_can_add_up_are_refused() {
        let mut catalog = with_children(1, &[]);
        for it in catalog.tables.values_mut() {
            it.size.heap_bytes = i64::MAX;
        }
        assert!(catalog.check().unwrap_err().contains("cannot have"));
    }
}
