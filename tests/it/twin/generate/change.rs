//! What is changed, in the words of a plan and of plain ALTER TABLE.

use super::Generator;
use crate::twin::chance::Dice;
use crate::twin::model::{Case, Column, Feed};
use crate::twin::values::{Family, Type};
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
        let alter = self.alter(table, &target, column, wide, default.as_deref());
        let plan = self.plan(table, &target, wide, default.as_deref());
        let obstacles = self.obstacles(table, column);
        Case {
            tables: self.tables,
            foreign_keys: self.foreign_keys,
            table,
            column,
            wide,
            setup,
            plan,
            alter,
            obstacles,
        }
    }

    fn obstacles(&self, at: usize, position: usize) -> Vec<String> {
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
        at: usize,
        target: &Column,
        position: usize,
        wide: Type,
        default: Option<&str>,
    ) -> String {
        let (t, c) = (&self.tables[at].name, target.sql());
        let own = self
            .hanging
            .iter()
            .filter(|it| it.table == at && it.columns.contains(&position));
        let mut text = String::new();
        for hanging in own.clone().rev() {
            say!(text, "{}", hanging.drop);
        }
        if default.is_some() {
            say!(text, "ALTER TABLE {t} ALTER COLUMN {c} DROP DEFAULT;");
        }
        // Without naming it, plain ALTER would take the default collation of the type.
        let collate = if target.collation { " COLLATE \"C\"" } else { "" };
        say!(
            text,
            "ALTER TABLE {t} ALTER COLUMN {c} TYPE {}{collate};",
            wide.sql()
        );
        if let Some(default) = default {
            say!(text, "ALTER TABLE {t} ALTER COLUMN {c} SET DEFAULT {default};");
        }
        // Plain ALTER changes the sequence of an identity, but not that of a serial column.
        if let (Some(sequence), true) = (&target.sequence, wide.is_integer()) {
            say!(text, "ALTER SEQUENCE {sequence} AS {};", wide.sql());
        }
        // And it forgets storage, compression, and the statistics targets of what it builds anew.
        for sql in &target.said_again {
            say!(text, "{sql}");
        }
        for hanging in own {
            say!(text, "{}", hanging.create);
        }
        text
    }

    fn plan(&mut self, at: usize, target: &Column, wide: Type, default: Option<&str>) -> String {
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        let settings = if self.chance.percent(88) {
            "settings: {small_table: 0}\n"
        } else {
            ""
        };
        let default = default.map_or(String::new(), |default| format!(", default: {}", quoted(default)));
        format!(
            "name: twin\n{settings}changes:\n  - widen_column: {{table: {}, column: {}, type: {}{default}}}\n",
            quoted(&self.tables[at].name.to_string()),
            quoted(&target.name),
            quoted(&wide.sql())
        )
    }
}
