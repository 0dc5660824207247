//! Checks and foreign keys.

use super::Generator;
use crate::twin::chance::Dice;
use crate::twin::model::{Action, Cell, Feed};
use crate::twin::values::Family;
use pgmorph::sql::{ident, idents};
use std::fmt::Write;

impl Generator {
    /// A check that some rows have violated since before it came.
    pub(super) fn violated_check(&mut self, at: usize) {
        let table = &self.tables[at];
        let numbers: Vec<usize> = (1..table.columns.len())
            .filter(|at| {
                let column = &table.columns[*at];
                let number = !matches!(column.data_type.family(), Family::Text | Family::Array);
                number && !column.unique && column.feed == Feed::Free
            })
            .collect();
        if table.partitioned || table.rows.is_empty() || numbers.is_empty() || !self.chance.percent(5) {
            return;
        }
        let position = *self.chance.pick(&numbers);
        let name = ident(&self.name("never"));
        let table = &mut self.tables[at];
        table.violated = Some(name.clone());
        for (tag, row) in table.rows.iter_mut().step_by(17) {
            row[position] = Cell::Known("0".into());
            table.frozen.insert(*tag);
        }
        table.columns[position].uses.insert("check");
        for column in &mut table.columns {
            column.uses.insert("violated check on the table");
        }
        say!(
            self.constrained,
            "ALTER TABLE {} ADD CONSTRAINT {name} CHECK ({} <> 0) NOT VALID;",
            table.name,
            table.columns[position].sql()
        );
    }

    pub(super) fn checks(&mut self, at: usize) {
        let table = self.tables[at].clone();
        for (position, column) in table.columns.iter().enumerate().skip(1) {
            if !self.chance.percent(15) {
                continue;
            }
            let c = column.sql();
            let number = [
                format!("{c} <> 2000000000"),
                format!("abs({c}) >= 0"),
                format!("{c} > '-9000000000'::bigint"),
                format!("{c} > -100 OR {} > 0", table.tag()),
            ];
            let text = [
                format!("length({c}) > 0"),
                format!("{c} <> ''"),
                format!("{c} ~ '^v' OR {} < 0", table.tag()),
            ];
            let expression = match column.data_type.family() {
                Family::Text => self.chance.pick(&text).clone(),
                Family::Array => format!("cardinality({c}) = 1"),
                _ => self.chance.pick(&number).clone(),
            };
            let end = *self.chance.pick(&["", "", "", " NOT VALID", " NO INHERIT"]);
            let end = if table.partitioned { "" } else { end };
            let name = ident(&self.name("check"));
            self.tables[at].columns[position].uses.insert("check");
            say!(
                self.constrained,
                "ALTER TABLE {} ADD CONSTRAINT {name} CHECK ({expression}){end};",
                table.name
            );
            if self.chance.percent(20) {
                say!(
                    self.constrained,
                    "COMMENT ON CONSTRAINT {name} ON {} IS 'why';",
                    table.name
                );
            }
        }
    }

    pub(super) fn foreign_key_sql(&mut self) -> String {
        let mut text = String::new();
        for (number, key) in self.foreign_keys.clone().into_iter().enumerate() {
            let list = |table: usize, columns: &[usize]| {
                let names: Vec<_> = columns
                    .iter()
                    .map(|at| &self.tables[table].columns[*at].name)
                    .collect();
                idents(&names)
            };
            let (child, parent) = (&self.tables[key.child], &self.tables[key.parent]);
            let (child_list, parent_list) = (
                list(key.child, &key.columns),
                list(key.parent, &key.parent_columns),
            );
            let (child_name, parent_name) = (child.name.clone(), parent.name.clone());
            let partitioned = child.partitioned || parent.partitioned;
            let full = if self.chance.percent(20) {
                " MATCH FULL"
            } else {
                ""
            };
            let name = ident(&self.name("fkey"));
            let action = |what: &str, action: Action| match action {
                Action::Nothing => String::new(),
                Action::Cascade => format!(" ON {what} CASCADE"),
                Action::SetNull => format!(" ON {what} SET NULL"),
            };
            let late = *self
                .chance
                .pick(&["", "", "", " DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED"]);
            if self.tables[key.child].partitioned {
                let message = format!("a shadow column cannot carry foreign key {name} of ");
                for at in &key.parent_columns {
                    self.tables[key.parent].columns[*at]
                        .obstacles
                        .push(message.clone());
                }
            }
            let unproven = !partitioned && self.chance.percent(20);
            self.foreign_keys[number].unproven = unproven;
            let unproven = if unproven { " NOT VALID" } else { "" };
            say!(
                text,
                "ALTER TABLE {child_name} ADD CONSTRAINT {name} FOREIGN KEY ({child_list}) \
                 REFERENCES {parent_name} ({parent_list}){full}{}{}{late}{unproven};",
                action("UPDATE", key.on_update),
                action("DELETE", key.on_delete)
            );
        }
        text
    }
}
