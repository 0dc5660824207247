//! `ALTER COLUMN … TYPE`: nothing, new indexes or a whole new table, by the old type and what hangs on the column.

use super::Judge;
use super::alter_table::Altered;
use super::columns::mentions;
use super::types::{self, Change};
use crate::catalog::model::{Column, Constraint, ConstraintKind, Index, Table};
use crate::plan::LockMode::{AccessExclusive, ShareRowExclusive};
use crate::sql::QualifiedName;
use crate::sql_lint::statement::{Action, Expression};

/// One column's change.
struct Retype<'a> {
    column: &'a str,
    data_type: &'a str,
    collation: Option<&'a str>,
    using: Option<&'a Expression>,
}

/// Functions whose result depends on the session's clock where a timestamp has a zone.
const ZONE_DEPENDENT: &[&str] = &[
    "date_trunc",
    "date_part",
    "EXTRACT",
    "to_char",
    "::date",
    "::text",
    "::time",
];

impl Judge<'_> {
    pub(super) fn retype(&mut self, altered: &Altered) {
        let changes: Vec<Retype> = altered
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::SetType {
                    column,
                    data_type,
                    collation,
                    using,
                } => Some(Retype {
                    column,
                    data_type,
                    collation: collation.as_deref(),
                    using: using.as_ref(),
                }),
                _ => None,
            })
            .collect();
        if changes.is_empty() {
            return;
        }
        let family = match altered.only {
            true => vec![altered.table.clone()],
            false => self.family(&altered.table),
        };
        for member in family {
            self.retype_table(altered, &member, &changes);
        }
    }

    fn retype_table(&mut self, altered: &Altered, name: &QualifiedName, changes: &[Retype]) {
        let Some(table) = self.table(name).cloned() else {
            return self.retype_unknown(name, changes);
        };
        let mut rewritten = self.effects.rewrites.contains(name);
        let mut kept = Vec::new();
        for change in changes {
            let Some(column) = table.columns.iter().find(|column| column.name == change.column) else {
                continue;
            };
            self.refuse(altered, name, &table, column);
            let how = self.how(column, change);
            if how == Change::Refused {
                let message = format!(
                    "{} is not cast to {} by itself: say USING",
                    column.data_type, change.data_type
                );
                return self.fail("42804", message);
            }
            if how == Change::Unknown {
                self.depends(format!("the types {} and {}", column.data_type, change.data_type));
            }
            self.refuse_dependents(&table, column, change);
            if let Some(identity) = &column.identity {
                self.lock(&identity.sequence, ShareRowExclusive);
            }
            let is_virtual = column
                .generated
                .as_ref()
                .is_some_and(|generated| !generated.stored);
            match how {
                Change::Rewrite | Change::Unknown if !is_virtual => rewritten = true,
                _ => {}
            }
            self.lock_indexes(name, &table, change.column);
            kept.push((change, how));
        }
        if rewritten {
            self.rewrite(name);
        }
        for (change, how) in kept {
            if !rewritten {
                self.reindex_column(name, &table, change, how);
                self.recheck_column(name, &table, change.column);
            }
            self.references(name, &table, change.column, rewritten && how != Change::Kept);
        }
    }

    /// Nothing is known of the old type: the worst is assumed.
    fn retype_unknown(&mut self, name: &QualifiedName, changes: &[Retype]) {
        for change in changes {
            self.depends(format!("the old type of {}", change.column));
        }
        self.rewrite(name);
    }

    fn how(&self, column: &Column, change: &Retype) -> Change {
        let explicit = match change.using {
            None => false,
            Some(using) => match self.is_plain_cast(using, change) {
                true => true,
                false => return Change::Rewrite,
            },
        };
        types::change(self.world, &column.data_type, change.data_type, explicit)
    }

    /// `USING a`, or `USING a::type` with the very type.
    fn is_plain_cast(&self, using: &Expression, change: &Retype) -> bool {
        let bare = using.sql.trim();
        let (column, cast) = match bare.split_once("::") {
            Some((column, cast)) => (column.trim(), Some(cast.trim())),
            None => (bare, None),
        };
        let same =
            |text: &str| types::resolve(self.world, text) == types::resolve(self.world, change.data_type);
        crate::sql_lint::parse::dotted(column).name == change.column && cast.is_none_or(same)
    }

    fn refuse(&mut self, altered: &Altered, name: &QualifiedName, table: &Table, column: &Column) {
        if column.inherited && *name == altered.table {
            self.fail("42P16", format!("the column {} is inherited", column.name));
        }
        if table.partition_key_columns.contains(&column.name) {
            self.fail(
                "42P16",
                format!("the column {} is part of the partition key", column.name),
            );
        }
        if let Some(user) = table.row_type_used_by.first() {
            self.fail("0A000", format!("{user} stores rows of {name}"));
        }
        let views = self.world.catalog.views.iter();
        let reads = |uses: &[(QualifiedName, String)]| uses.contains(&(name.clone(), column.name.clone()));
        let mut shown = views
            .filter(|(_, view)| reads(&view.uses))
            .map(|(view, _)| view.clone());
        if let Some(view) = shown.next() {
            self.fail(
                "0A000",
                format!("the view {view} shows the column {}", column.name),
            );
        }
        let texts = |texts: [&Option<String>; 2]| {
            let mut texts = texts.into_iter().flatten();
            texts.any(|text| mentions(text, &column.name))
        };
        if table
            .policies
            .values()
            .any(|policy| texts([&policy.using, &policy.with_check]))
        {
            self.fail("0A000", format!("a policy uses the column {}", column.name));
        }
        let in_trigger = |definition: &str, columns: &[String]| {
            let when = definition.split_once(" WHEN (").map(|(_, when)| when);
            columns.contains(&column.name) || when.is_some_and(|when| mentions(when, &column.name))
        };
        let mut triggers = table.triggers.values();
        if triggers.any(|trigger| in_trigger(&trigger.definition, &trigger.columns)) {
            self.fail("0A000", format!("a trigger uses the column {}", column.name));
        }
        for published in table.publications.values() {
            if published
                .filter
                .as_ref()
                .is_some_and(|filter| mentions(filter, &column.name))
            {
                self.fail(
                    "0A000",
                    format!("a publication selects rows by the column {}", column.name),
                );
            }
        }
        for other in &table.columns {
            let uses = |expression: &str| other.name != column.name && mentions(expression, &column.name);
            if other
                .generated
                .as_ref()
                .is_some_and(|generated| uses(&generated.expression))
            {
                let state = if self.version() >= 15 { "0A000" } else { "42601" };
                self.fail(
                    state,
                    format!("the generated column {} uses {}", other.name, column.name),
                );
            }
        }
        let function = table.dependents.iter().find(|dependent| {
            dependent.column.as_deref() == Some(&column.name)
                && (dependent.kind.contains("function") || dependent.kind.contains("rule"))
        });
        if let Some(function) = function {
            self.fail(
                "0A000",
                format!("{} uses the column {}", function.name, column.name),
            );
        }
    }

    fn refuse_dependents(&mut self, table: &Table, column: &Column, change: &Retype) {
        if let Some(default) = &column.default {
            let from_sequence = default.contains("nextval(");
            let own = types::change(self.world, &column.data_type, change.data_type, false);
            if own == Change::Refused && !from_sequence && default != "NULL" {
                let message = format!(
                    "the default of {} is not cast to {} by itself",
                    column.name, change.data_type
                );
                self.fail("42804", message);
            }
        }
        let to = types::resolve(self.world, change.data_type);
        let zoned = matches!(&to.base, types::Plain::BuiltIn(known) if known.to_string().ends_with("with time zone"))
            && column.data_type.starts_with("timestamp")
            && column.data_type.ends_with("without time zone");
        let unstable = table.indexes.values().any(|index| {
            let expressions = index.keys.iter().filter_map(|key| key.expression.as_deref());
            let mut texts = expressions.chain(index.predicate.as_deref());
            texts.any(|text| {
                mentions(text, &column.name) && ZONE_DEPENDENT.iter().any(|word| text.contains(word))
            })
        });
        if zoned && unstable {
            self.fail("42P17", "an index expression would not be immutable any more");
        }
    }

    /// The indexes that have to do with the column, by name.
    fn lock_indexes(&mut self, name: &QualifiedName, table: &Table, column: &str) {
        for (index, definition) in &table.indexes {
            if uses(definition, column) {
                self.lock(&name.sibling(index), AccessExclusive);
            }
        }
    }

    fn reindex_column(&mut self, name: &QualifiedName, table: &Table, change: &Retype, how: Change) {
        let recollated = self.is_recollated(table, change);
        for (index, definition) in &table.indexes {
            if !uses(definition, change.column) || self.is_partitioned(name) {
                continue;
            }
            let keys = definition
                .keys
                .iter()
                .filter(|key| key.column.as_deref() == Some(change.column));
            let mut in_key = false;
            let mut own_collation = true;
            for key in keys {
                in_key = true;
                own_collation &= key.collation.is_some();
            }
            let computed =
                definition.predicate.is_some() || definition.keys.iter().any(|key| key.column.is_none());
            let reordered = in_key && (how == Change::Reindex || (recollated && !own_collation));
            if computed || reordered || definition.parent.is_some() {
                self.effects.rebuilds_indexes.insert(name.sibling(index));
                self.scan(name);
            }
        }
    }

    /// Without COLLATE the new type's own collation comes.
    fn is_recollated(&self, table: &Table, change: &Retype) -> bool {
        let column = table.columns.iter().find(|column| column.name == change.column);
        let old = column.and_then(|column| column.collation.clone());
        let bare = |text: &str| {
            text.rsplit('.')
                .next()
                .unwrap_or(text)
                .trim_matches('"')
                .to_owned()
        };
        let old = old.map(|text| bare(&text)).filter(|text| text != "default");
        let new = change.collation.map(bare).filter(|text| text != "default");
        old != new
    }

    /// Constraints on the column are made again, and checked.
    fn recheck_column(&mut self, name: &QualifiedName, table: &Table, column: &str) {
        let checked = table.constraints.values().any(|constraint| {
            constraint.kind == ConstraintKind::Check
                && constraint.validated
                && constraint.columns.iter().any(|name| name == column)
        });
        if checked {
            self.scan(name);
        }
    }

    /// Foreign keys on the column are dropped and made again, at both ends.
    fn references(&mut self, name: &QualifiedName, table: &Table, column: &str, changed: bool) {
        let has = |columns: &[String]| columns.iter().any(|name| name == column);
        let out = table
            .constraints
            .values()
            .filter(|constraint| has(&constraint.columns));
        let mut ends: Vec<(QualifiedName, &Constraint)> = Vec::new();
        ends.extend(out.filter_map(|constraint| {
            let to = constraint.references.as_ref()?;
            Some((to.table.clone(), constraint))
        }));
        let incoming = self.incoming(name);
        ends.extend(incoming.iter().filter_map(|(from, constraint)| {
            let to = constraint.references.as_ref()?;
            has(&to.columns).then(|| (from.clone(), constraint))
        }));
        for (other, constraint) in ends {
            for member in self.family(&other) {
                self.lock(&member, AccessExclusive);
            }
            if changed && constraint.validated {
                self.scan(name);
                self.scan_family(&other);
            }
        }
    }
}

/// Whether the index has to do with the column.
fn uses(index: &Index, column: &str) -> bool {
    let is = |name: &String| name == column;
    index.keys.iter().any(|key| key.column.as_ref().is_some_and(is))
        || index.include.iter().any(is)
        || index.expression_columns.iter().any(is)
}
