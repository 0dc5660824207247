//! What is changed, in the words of a plan and of plain ALTER TABLE.

use super::Generator;
use crate::twin::chance::Dice;
use crate::twin::model::{Case, Column, Feed};
use crate::twin::values::{Family, Type};
use pgmorph::catalog::types::{self, TypeChange};
use pgmorph::sql::literal;
use std::fmt::Write;

impl Generator {
    pub(super) fn finish(mut self) -> Case {
        let analyze = if self.chance.percent(70) { "ANALYZE;\n" } else { "" };
        let hanging: Vec<_> = self.hanging.iter().map(|it| it.create.as_str()).collect();
        let setup = format!(
            "{}{}{}{}\n{analyze}",
            self.created,
            self.data(),
            self.constrained,
            hanging.join("\n")
        );
        let (table, column, wide) = self.target();
        let target = self.tables[table].columns[column].clone();
        let constant = target.default.is_some() && target.feed == Feed::Free;
        let default = (constant && self.chance.percent(40)).then(|| match target.data_type.family() {
            Family::Text | Family::Array => literal(&target.data_type.value(9)),
            _ => target.data_type.value(9),
        });
        let members = self.members(table, column, wide);
        let alter = self.alter((table, column), &members, wide, default.as_deref());
        let cascade = !members.is_empty();
        if cascade {
            self.tables[table].columns[column].uses.insert("cascade");
        }
        let plan = self.plan(table, &target, wide, default.as_deref(), cascade);
        let obstacles = self.obstacles(table, column, &members);
        Case {
            tables: self.tables,
            foreign_keys: self.foreign_keys,
            table,
            column,
            members,
            wide,
            setup,
            plan,
            alter,
            obstacles,
        }
    }

    /// The columns that refer to the target, by chance.
    fn members(&mut self, at: usize, position: usize, wide: Type) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for key in self.foreign_keys.iter().filter(|key| key.parent == at) {
            let pairs = key.columns.iter().zip(&key.parent_columns);
            let members = pairs.filter(|(_, parent)| **parent == position);
            found.extend(members.map(|(child, _)| (key.child, *child)));
        }
        let loses =
            |from: &str, to: &str| matches!(types::widening(from, to), None | Some(TypeChange::Lossy));
        let type_of = |(at, position): &(usize, usize)| self.tables[*at].columns[*position].data_type.sql();
        found.retain(|it| loses(&wide.sql(), &type_of(it)));
        let awkward = |it: &(usize, usize)| {
            let table = &self.tables[it.0];
            let violated = it.0 != at && table.violated.is_some();
            // Refused before anything else of it is looked at.
            let generated = table.columns[it.1].uses.contains("generated column");
            table.partitioned || violated || generated || loses(&type_of(it), &wide.sql())
        };
        // The columns of a partitioned table change alone, and those of a published one not together.
        let target = (at, position);
        let together = |it: &(usize, usize)| {
            let published = self.tables[it.0].columns.iter();
            let mut published = published.filter(|column| column.uses.contains("publication"));
            let same = found.iter().chain([&target]).filter(|other| other.0 == it.0);
            same.count() > 1 && published.next().is_some()
        };
        let alone = self.tables[at].partitioned || found.iter().any(|it| awkward(it) || together(it));
        if found.is_empty() || alone || self.chance.percent(30) {
            return Vec::new();
        }
        found
    }

    fn obstacles(&self, at: usize, position: usize, members: &[(usize, usize)]) -> Vec<String> {
        let table = &self.tables[at];
        let target = &table.columns[position];
        if table.partitioned && position == 0 {
            return vec![format!("`{}` is part of the partition key", target.name)];
        }
        if !target.refusals.is_empty() {
            return target.refusals.clone();
        }
        let mut found = table.obstacles.clone();
        found.extend(target.obstacles.clone());
        for (at, position) in members {
            let table = &self.tables[*at];
            let column = &table.columns[*position];
            for more in [&table.obstacles, &column.obstacles, &column.refusals] {
                found.extend_from_slice(more);
            }
        }
        found
    }

    /// A column that can be widened: often one on which nothing hangs, more often a key.
    fn target(&mut self) -> (usize, usize, Type) {
        let mut found = Vec::new();
        for at in 0..self.tables.len() {
            for position in 1..self.tables[at].columns.len() {
                let column = &self.tables[at].columns[position];
                let integers = column.feed != Feed::Free;
                let text = column.data_type.family() == Family::Text;
                if let Some(wide) = column.data_type.wider(integers && !text, &mut self.chance) {
                    found.push((at, position, wide));
                }
            }
        }
        let wanted = self.chance.below(100);
        let preferred: Vec<_> = found
            .iter()
            .filter(|(at, position, _)| {
                let column = &self.tables[*at].columns[*position];
                match wanted {
                    0..25 => column.uses.is_empty(),
                    25..65 => self.tables[*at].key.contains(position) || column.feed != Feed::Free,
                    _ => true,
                }
            })
            .copied()
            .collect();
        match (preferred.is_empty(), found.is_empty()) {
            (false, _) => *self.chance.pick(&preferred),
            (_, false) => *self.chance.pick(&found),
            // A table of nothing but the widest types: its tag will do.
            (_, true) => (0, 0, Type::Numeric(None)),
        }
    }

    fn alter(
        &self,
        (at, position): (usize, usize),
        members: &[(usize, usize)],
        wide: Type,
        default: Option<&str>,
    ) -> String {
        let target = &self.tables[at].columns[position];
        let (t, c) = (&self.tables[at].name, target.sql());
        // An integer cannot be referred to by anything wider, but the other way round.
        let all = || std::iter::once((at, position)).chain(members.iter().copied());
        let own = self.hanging.iter().filter(|it| {
            let mut columns = all();
            columns.any(|(at, position)| it.table == at && it.columns.contains(&position))
        });
        let mut text = String::new();
        for hanging in own.clone().rev() {
            say!(text, "{}", hanging.drop);
        }
        if default.is_some() {
            say!(text, "ALTER TABLE {t} ALTER COLUMN {c} DROP DEFAULT;");
        }
        for (at, position) in all() {
            let column = &self.tables[at].columns[position];
            // Without naming it, plain ALTER would take the default collation of the type.
            let collate = if column.collation { " COLLATE \"C\"" } else { "" };
            say!(
                text,
                "ALTER TABLE {} ALTER COLUMN {} TYPE {}{collate};",
                self.tables[at].name,
                column.sql(),
                wide.sql()
            );
        }
        if let Some(default) = default {
            say!(text, "ALTER TABLE {t} ALTER COLUMN {c} SET DEFAULT {default};");
        }
        // Plain ALTER changes the sequence of an identity, but not that of a serial column.
        if let (Some(sequence), true) = (&target.sequence, wide.is_integer()) {
            say!(text, "ALTER SEQUENCE {sequence} AS {};", wide.sql());
        }
        // And it forgets storage, compression, and the statistics targets of what it builds anew.
        for (at, position) in all() {
            for sql in &self.tables[at].columns[position].said_again {
                say!(text, "{sql}");
            }
        }
        for hanging in own {
            say!(text, "{}", hanging.create);
        }
        text
    }

    fn plan(
        &mut self,
        at: usize,
        target: &Column,
        wide: Type,
        default: Option<&str>,
        cascade: bool,
    ) -> String {
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        let settings = if self.chance.percent(88) {
            "settings: {small_table: 0}\n"
        } else {
            ""
        };
        let mut more = default.map_or(String::new(), |default| format!(", default: {}", quoted(default)));
        if cascade {
            more.push_str(", cascade: true");
        }
        format!(
            "name: twin\n{settings}changes:\n  - widen_column: {{table: {}, column: {}, type: {}{more}}}\n",
            quoted(&self.tables[at].name.to_string()),
            quoted(&target.name),
            quoted(&wide.sql())
        )
    }
}
