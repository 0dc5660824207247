//! Keys, unique constraints and indexes.

use super::Generator;
use crate::twin::chance::Dice;
use crate::twin::model::Column;
use crate::twin::values::{Family, Type};
use pgmorph::sql::{ident, idents};
use std::fmt::Write;

impl Generator {
    pub(super) fn key(&mut self, at: usize) {
        let table = self.tables[at].clone();
        let name = &table.name;
        let columns = |positions: &[usize]| {
            let names: Vec<_> = positions.iter().map(|at| &table.columns[*at].name).collect();
            idents(&names)
        };
        let constraint = self.name("prime");
        let quoted = ident(&constraint);
        let mut late = "";
        if table.primary {
            if !table.columns[table.key[0]].referenced && self.chance.percent(10) {
                late = " DEFERRABLE";
                // Neither a view nor a publication accepts such a one.
                self.tables[at].primary = false;
                self.late(at, &table.key, &quoted);
            }
            say!(
                self.constrained,
                "ALTER TABLE {name} ADD CONSTRAINT {quoted} PRIMARY KEY ({}){late};",
                columns(&table.key)
            );
        } else if !table.key.is_empty() {
            if self.chance.percent(60) {
                say!(
                    self.constrained,
                    "ALTER TABLE {name} ADD CONSTRAINT {quoted} UNIQUE ({});",
                    columns(&table.key)
                );
            } else {
                self.tables[at].columns[table.key[0]].uses.insert("index");
                say!(
                    self.constrained,
                    "CREATE UNIQUE INDEX {quoted} ON {name} ({});",
                    columns(&table.key)
                );
            }
        } else if self.chance.percent(70) {
            say!(
                self.constrained,
                "ALTER TABLE {name} ADD CONSTRAINT {quoted} PRIMARY KEY ({});",
                table.tag()
            );
        } else {
            return;
        }
        self.index_extras(at, &constraint, late.is_empty());
    }

    /// Only where no two values can fall together may its index be there before the column is filled.
    fn late(&mut self, at: usize, columns: &[usize], name: &str) {
        let partitioned = self.tables[at].partitioned;
        for column in columns {
            let column = &mut self.tables[at].columns[*column];
            if partitioned {
                let message =
                    format!("a shadow column cannot carry index {name}: its constraint is deferrable");
                column.obstacles.push(message);
            }
            if column.data_type.family() == Family::Array {
                column.obstacles.push("these keys can wait".into());
            }
        }
    }

    /// Comments and marks of an index of all rows.
    pub(super) fn index_extras(&mut self, at: usize, index: &str, never_null: bool) {
        let table = &self.tables[at];
        let qualified = table.name.sibling(index);
        let name = table.name.clone();
        let plain = !table.partitioned;
        // Plain ALTER gives the comment of a partitioned index to those of the partitions, too.
        if plain && self.chance.percent(20) {
            say!(
                self.constrained,
                "COMMENT ON INDEX {qualified} IS 'it''s \"odd\"';"
            );
        }
        if plain && self.chance.percent(12) {
            say!(
                self.constrained,
                "ALTER TABLE {name} CLUSTER ON {};",
                ident(index)
            );
        }
        if plain && never_null && self.chance.percent(8) {
            say!(
                self.constrained,
                "ALTER TABLE {name} REPLICA IDENTITY USING INDEX {};",
                ident(index)
            );
        }
    }

    /// Unique constraints beside the key.
    pub(super) fn uniques(&mut self, at: usize) {
        let table = self.tables[at].clone();
        for (position, column) in table.columns.iter().enumerate().skip(1) {
            let enforced = column.unique && !table.key.contains(&position) && self.chance.percent(70);
            if !enforced {
                continue;
            }
            let constraint = self.name("once");
            let name = ident(&constraint);
            let mut list = vec![column.name.clone()];
            if table.partitioned || self.chance.percent(20) {
                list.push(table.columns[0].name.clone());
            }
            self.chance.shuffle(&mut list);
            if !table.partitioned && self.odd_unique(at, position, &constraint) {
                continue;
            }
            let list = idents(&list);
            let late = *self
                .chance
                .pick(&["", "", " DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED"]);
            self.tables[at].columns[position].uses.insert("unique");
            if !late.is_empty() {
                // Whether or not the tag stands in it: it can be the target, too.
                let columns: &[usize] = if list.contains(&table.tag()) {
                    &[0, position]
                } else {
                    &[position]
                };
                self.late(at, columns, &name);
            }
            say!(
                self.constrained,
                "ALTER TABLE {} ADD CONSTRAINT {name} UNIQUE ({list}){late};",
                table.name
            );
        }
    }

    /// Unique otherwise than by a plain constraint; `false` where that is not to be.
    fn odd_unique(&mut self, at: usize, position: usize, name: &str) -> bool {
        let table = &self.tables[at];
        let column = &table.columns[position];
        let (t, c, tag, quoted) = (table.name.clone(), column.sql(), table.tag(), ident(name));
        let expression = match column.data_type.family() {
            Family::Text => format!("({c} || 'x')"),
            Family::Array => return false,
            _ => format!("({c} + 1)"),
        };
        let never_null = column.not_null && self.major >= 15;
        let (sql, uses) = match self.chance.below(12) {
            0 => (
                format!("CREATE UNIQUE INDEX {quoted} ON {t} ({c}) WHERE {c} IS NOT NULL;"),
                "partial unique index",
            ),
            1 => (
                format!("CREATE UNIQUE INDEX {quoted} ON {t} ({expression});"),
                "unique expression",
            ),
            2 => (
                format!("ALTER TABLE {t} ADD CONSTRAINT {quoted} UNIQUE ({c}) INCLUDE ({tag});"),
                "unique",
            ),
            3 if never_null => (
                format!("ALTER TABLE {t} ADD CONSTRAINT {quoted} UNIQUE NULLS NOT DISTINCT ({c});"),
                "nulls not distinct",
            ),
            4 => {
                let message = format!("these constraints hang on the column: exclusion constraint {quoted}");
                self.tables[at].columns[position].refusals.push(message);
                (
                    format!("ALTER TABLE {t} ADD CONSTRAINT {quoted} EXCLUDE USING btree ({c} WITH =);"),
                    "exclusion constraint",
                )
            }
            _ => return false,
        };
        self.tables[at].columns[position].uses.insert(uses);
        say!(self.constrained, "{sql}");
        true
    }

    pub(super) fn indexes(&mut self, at: usize) {
        for _ in 0..self.chance.index(4) {
            let table = self.tables[at].clone();
            if table.columns.len() < 2 {
                return;
            }
            let position = 1 + self.chance.index(table.columns.len() - 1);
            let other = self.chance.index(table.columns.len());
            let name = self.name("by");
            let column = &table.columns[position];
            let (tail, expression, partial) = self.index_tail(column, &table.columns[other], &table.tag());
            say!(
                self.constrained,
                "CREATE INDEX {} ON {} {tail};",
                ident(&name),
                table.name
            );
            for used in [position, other] {
                let column = &mut self.tables[at].columns[used];
                if tail.contains(&column.sql()) {
                    column.uses.insert("index");
                }
            }
            let column = &mut self.tables[at].columns[position];
            if expression && self.chance.percent(50) && !table.partitioned {
                let sql = format!(
                    "ALTER INDEX {} ALTER COLUMN 1 SET STATISTICS 55;",
                    table.name.sibling(&name)
                );
                say!(self.constrained, "{sql}");
                column.said_again.push(sql);
            }
            if !partial && !tail.contains("USING") {
                self.index_extras(at, &name, false);
            }
        }
    }

    /// What stands after the table, and whether it is an expression or partial.
    fn index_tail(&mut self, column: &Column, other: &Column, tag: &str) -> (String, bool, bool) {
        let (c, d) = (column.sql(), other.sql());
        let family = column.data_type.family();
        if family == Family::Array {
            return (format!("USING gin ({c})"), false, true);
        }
        let with = if self.chance.percent(25) {
            " WITH (fillfactor = 70)"
        } else {
            ""
        };
        // A question mark stands for the column.
        let (expression, ordered, condition) = match (family, column.data_type) {
            (Family::Text, Type::Char(_)) => ("lower(?)", "? bpchar_pattern_ops", "? <> 'v1'"),
            (Family::Text, Type::VarChar(_)) => ("lower(?)", "? varchar_pattern_ops", "? LIKE 'v%'"),
            (Family::Text, _) => ("(? || 'x')", "? text_pattern_ops", "? > 'v'"),
            (Family::Float, _) => ("abs(?)", "? DESC NULLS FIRST", "? > 10"),
            _ => (
                *self.chance.pick(&["(? + 1)", "abs(?)", "(? % 10)"]),
                "? DESC",
                "? > 10",
            ),
        };
        let said = |text: &str| text.replace('?', &c);
        let together = c != d && other.data_type.family() != Family::Array;
        match self.chance.below(12) {
            0..2 => (format!("({c}){with}"), false, false),
            2 => (format!("({c} DESC NULLS LAST){with}"), false, false),
            3 if together => (format!("({c}, {d} DESC){with}"), false, false),
            4 if together => (format!("({d}, {c}){with}"), false, false),
            5 => (format!("({c}) INCLUDE ({tag}){with}"), false, false),
            6 => (format!("({tag}) INCLUDE ({c}){with}"), false, false),
            7 => (format!("({c}) WHERE {c} IS NOT NULL"), false, true),
            8 => (format!("({tag}){with} WHERE {}", said(condition)), false, true),
            9 => (format!("USING hash ({c})"), false, true),
            10 => (format!("({}){with}", said(ordered)), false, false),
            _ => (format!("({}){with}", said(expression)), true, false),
        }
    }
}
