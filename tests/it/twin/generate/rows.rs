//! The rows that are there before anybody writes.

use super::Generator;
use crate::twin::chance::Dice;
use crate::twin::model::{Cell, Column, ForeignKey};
use crate::twin::values::Family;
use crate::twin::writers::{WRITERS, orphan};
use pgmorph::sql::literal;
use std::fmt::Write;

impl Generator {
    /// Rows of one owner only reference rows of the same.
    pub(super) fn fill(&mut self) {
        for at in 0..self.tables.len() {
            let count = match self.chance.below(100) {
                0..10 => 0,
                10..25 => self.chance.below(8),
                25..92 => 20 + self.chance.below(400),
                _ => 1_500 + self.chance.below(1_500),
            };
            let columns = self.tables[at].columns.clone();
            for tag in 1..=i64::try_from(count).unwrap() {
                if let Some(row) = self.row(at, &columns, tag) {
                    self.tables[at].rows.insert(tag, row);
                }
            }
        }
    }

    fn row(&mut self, at: usize, columns: &[Column], tag: i64) -> Option<Vec<Cell>> {
        let mut row: Vec<Cell> = Vec::new();
        for column in columns {
            let cell = if row.is_empty() {
                Cell::Known(tag.to_string())
            } else if column.unique {
                match !column.not_null && self.chance.percent(10) {
                    true => Cell::Null,
                    false => Cell::of(Some(&column.data_type.value(4 * tag)), column.data_type),
                }
            } else if !column.not_null && self.chance.percent(15) {
                Cell::Null
            } else if column.data_type.family() == Family::Float && self.chance.percent(50) {
                Cell::Initial(format!("{}", tag as f64 / 3.0))
            } else {
                let value = column.data_type.value(1 + self.chance.below(100) as i64);
                Cell::of(Some(&value), column.data_type)
            };
            row.push(cell);
        }
        for key in self.foreign_keys.clone().iter().filter(|key| key.child == at) {
            let mut values = self.parent_key(key, tag);
            if key.unproven && key.columns.len() == 1 && self.chance.percent(10) {
                values = Some(vec![orphan(&self.tables, key)]);
            }
            if values.is_none() && columns[key.columns[0]].not_null {
                return None;
            }
            for (number, position) in key.columns.iter().enumerate() {
                row[*position] = values
                    .as_ref()
                    .map_or(Cell::Null, |values| values[number].clone());
            }
        }
        Some(row)
    }

    fn parent_key(&mut self, key: &ForeignKey, tag: i64) -> Option<Vec<Cell>> {
        let rows = &self.tables[key.parent].rows;
        let last = *rows.last_key_value()?.0;
        let owner = tag.rem_euclid(WRITERS);
        let wanted = self.chance.below(last.unsigned_abs() + 1) as i64 / WRITERS * WRITERS + owner;
        if !self.tables[key.child].columns[key.columns[0]].not_null && self.chance.percent(15) {
            return None;
        }
        let row = self.tables[key.parent].rows.get(&wanted).or_else(|| {
            let mut own = self.tables[key.parent].rows.iter();
            own.find(|(tag, _)| tag.rem_euclid(WRITERS) == owner)
                .map(|(_, row)| row)
        })?;
        Some(key.parent_columns.iter().map(|at| row[*at].clone()).collect())
    }

    pub(super) fn data(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            let rows: Vec<_> = table.rows.values().collect();
            for some in rows.chunks(500) {
                let tuples: Vec<String> = some.iter().map(|row| tuple(row)).collect();
                say!(
                    text,
                    "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES\n{};",
                    table.name,
                    table.list(),
                    tuples.join(",\n")
                );
            }
            for column in &table.columns {
                let next = 4 * (table.rows.last_key_value().map_or(0, |(tag, _)| *tag) + 1);
                if let Some(sequence) = &column.sequence {
                    say!(
                        text,
                        "SELECT setval({}, {next}, false);",
                        literal(&sequence.to_string())
                    );
                } else if column.identity {
                    say!(
                        text,
                        "SELECT setval(pg_get_serial_sequence({}, {}), {next}, false);",
                        literal(&table.name.to_string()),
                        literal(&column.name)
                    );
                }
            }
        }
        text
    }
}

fn tuple(row: &[Cell]) -> String {
    let values: Vec<String> = row
        .iter()
        .map(|cell| cell.text().map_or("NULL".to_owned(), literal))
        .collect();
    format!("({})", values.join(", "))
}
