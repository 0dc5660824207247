//! Tables with their columns, keys chosen and references laid, partitions.

use super::{Generator, NAMES, OWNER};
use crate::harness::Chance;
use crate::twin::chance::Dice;
use crate::twin::model::{Action, Column, Feed, ForeignKey, Table};
use crate::twin::values::{Family, Type};
use pgmorph::sql::{QualifiedName, ident, literal};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

impl Generator {
    pub(super) fn schemas_and_tables(&mut self) {
        let mut schemas = vec!["public".to_owned()];
        if self.chance.percent(50) {
            let name = self.name("schema");
            say!(self.created, "CREATE SCHEMA {};", ident(&name));
            say!(self.created, "GRANT USAGE ON SCHEMA {} TO {OWNER};", ident(&name));
            schemas.push(name);
        }
        for schema in &schemas {
            let name = QualifiedName::new(schema, "noop");
            say!(
                self.created,
                "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
            );
        }
        for _ in 0..*self.chance.pick(&[1, 1, 2, 2, 3, 4]) {
            let schema = self.chance.pick(&schemas).clone();
            let name = QualifiedName::new(schema, self.name("t"));
            let partitioned = self.chance.percent(12);
            let mut table = Table {
                name,
                columns: vec![self.tag()],
                rows: BTreeMap::new(),
                partitioned,
                key: Vec::new(),
                frozen: BTreeSet::new(),
                primary: false,
                obstacles: Vec::new(),
                violated: None,
            };
            if self.chance.percent(85) {
                let key = self.key_column(&table);
                table.columns.push(key);
            }
            for _ in 0..1 + self.chance.index(4) {
                let column = self.plain_column(&table);
                table.columns.push(column);
            }
            self.tables.push(table);
        }
    }

    fn tag(&mut self) -> Column {
        let mut tag = Column::new(self.chance.pick(&["tag", "Tag No"]).to_string(), Type::BigInt);
        tag.not_null = true;
        tag.unique = true;
        tag
    }

    fn column_name(&mut self, table: &Table) -> String {
        loop {
            let name = (*self.chance.pick(NAMES)).to_owned();
            if table.columns.iter().all(|column| column.name != name) {
                return name;
            }
        }
    }

    fn key_column(&mut self, table: &Table) -> Column {
        let data_type = match self.chance.below(20) {
            0..2 => Type::SmallInt,
            2..15 => Type::Integer,
            15 => Type::BigInt,
            16..19 => Type::VarChar(Some(20)),
            _ => Type::Numeric(Some((9, 0))),
        };
        let mut column = Column::new(self.column_name(table), data_type);
        column.unique = true;
        column.not_null = self.chance.percent(80);
        if data_type.is_integer() {
            match self.chance.below(10) {
                0..3 => {
                    let name = QualifiedName::new(&table.name.schema, self.name("seq"));
                    say!(
                        self.created,
                        "CREATE SEQUENCE {name} AS {} INCREMENT BY 4;",
                        data_type.sql()
                    );
                    column.default = Some(format!("nextval({})", literal(&name.to_string())));
                    column.sequence = Some(name);
                    column.feed = Feed::Sequence;
                    column.uses.insert("serial");
                }
                3..6 if !table.partitioned => {
                    column.identity = true;
                    column.always = self.chance.percent(50);
                    column.not_null = true;
                    column.feed = Feed::Sequence;
                    column.uses.insert("identity");
                }
                _ => {}
            }
        }
        column
    }

    fn plain_column(&mut self, table: &Table) -> Column {
        let mut column = Column::new(self.column_name(table), Type::any(&mut self.chance));
        column.not_null = self.chance.percent(40);
        column.unique = self.chance.percent(12) && column.data_type.family() != Family::Array;
        column.collation = column.data_type.family() == Family::Text && self.chance.percent(15);
        if !column.unique && self.chance.percent(35) {
            let value = column.data_type.value(7);
            column.default = Some(match column.data_type.family() {
                Family::Integer | Family::Fraction | Family::Float => value,
                _ => literal(&value),
            });
        }
        column
    }

    /// The columns of the foreign keys; the keys themselves come with the other constraints.
    pub(super) fn references(&mut self) {
        for child in 0..self.tables.len() {
            self.choose_key(child);
            let parents: Vec<usize> = (0..=child)
                .filter(|at| !self.tables[*at].key.is_empty())
                .collect();
            if parents.is_empty() {
                continue;
            }
            let own = self.tables[child].partitioned;
            let count = *self.chance.pick(&[0, 1, 1, 1, 2]);
            for _ in 0..count {
                let parent = *self.chance.pick(&parents);
                if parent == child && (own || self.chance.percent(50)) {
                    continue;
                }
                self.reference(child, parent);
            }
        }
    }

    /// Which columns are the key of a table, before anybody references them.
    fn choose_key(&mut self, at: usize) {
        let roll = self.chance.below(100);
        let table = &mut self.tables[at];
        let has_key = table.columns.len() > 1 && table.columns[1].unique && table.columns[1].not_null;
        (table.key, table.primary) = match roll {
            0..50 if has_key && !table.partitioned => (vec![1], true),
            50..65 if has_key && !table.partitioned => (vec![1], false),
            0..65 if has_key => (vec![1, 0], true),
            65..80 if has_key => (if roll < 72 { vec![1, 0] } else { vec![0, 1] }, true),
            _ => (Vec::new(), false),
        };
        for column in table.key.clone() {
            table.columns[column]
                .uses
                .insert(match (table.primary, table.key.len()) {
                    (false, _) => "unique",
                    (true, 1) => "primary key",
                    (true, _) => "composite key",
                });
        }
    }

    fn reference(&mut self, child: usize, parent: usize) {
        let parent_columns = self.tables[parent].key.clone();
        let action = |chance: &mut Chance| match chance.below(10) {
            0..5 => Action::Nothing,
            5..8 => Action::Cascade,
            _ => Action::SetNull,
        };
        let mut actions = [action(&mut self.chance), action(&mut self.chance)];
        // Where one key deletes a row and another sets it to null, what the server does depends on which was made
        // first, and neither plain ALTER nor the program keeps that.
        for other in self.foreign_keys.iter().filter(|key| key.child == child) {
            for (one, same) in actions.iter_mut().zip([other.on_update, other.on_delete]) {
                if *one != Action::Nothing && same != Action::Nothing {
                    *one = same;
                }
            }
        }
        let [on_update, on_delete] = actions;
        let nullable = [on_update, on_delete].contains(&Action::SetNull);
        let not_null = !nullable && child != parent && self.chance.percent(30);
        let mut columns = Vec::new();
        for at in &parent_columns {
            let referenced = self.tables[parent].columns[*at].clone();
            let mut data_type = referenced.data_type;
            if data_type.is_integer() && self.chance.percent(15) {
                data_type = Type::BigInt;
            }
            let table = self.tables[child].clone();
            let name = self.column_name(&table);
            let mut column = Column::new(name, data_type);
            column.not_null = not_null;
            column.collation = referenced.collation;
            column.feed = Feed::Reference;
            column.uses.insert("foreign key out");
            if child == parent {
                column.uses.insert("self reference");
            }
            columns.push(self.tables[child].columns.len());
            self.tables[child].columns.push(column);
        }
        for at in &parent_columns {
            let column = &mut self.tables[parent].columns[*at];
            column.referenced = true;
            column.uses.insert("foreign key in");
        }
        self.foreign_keys.push(ForeignKey {
            child,
            columns,
            parent,
            parent_columns,
            on_update,
            on_delete,
            unproven: false,
        });
    }

    pub(super) fn create(&mut self, at: usize) {
        let table = self.tables[at].clone();
        let mut definitions: Vec<String> = table.columns.iter().map(|it| self.definition(it)).collect();
        self.chance.shuffle(&mut definitions);
        let list = definitions.join(",\n  ");
        let name = &table.name;
        if table.partitioned {
            for column in &mut self.tables[at].columns {
                column.uses.insert("partitions");
            }
            let partitions = self.partitions(&table);
            say!(self.created, "CREATE TABLE {name} (\n  {list}\n) {partitions}");
        } else {
            let with = if self.chance.percent(25) {
                " WITH (fillfactor = 80)"
            } else {
                ""
            };
            say!(self.created, "CREATE TABLE {name} (\n  {list}\n){with};");
        }
        for column in &table.columns {
            if let Some(sequence) = &column.sequence {
                say!(
                    self.created,
                    "ALTER SEQUENCE {sequence} OWNED BY {name}.{};",
                    column.sql()
                );
            }
        }
        if self.chance.percent(20) {
            say!(self.created, "ALTER TABLE {name} OWNER TO {OWNER};");
        }
    }

    fn definition(&mut self, column: &Column) -> String {
        let mut text = format!("{} {}", column.sql(), column.data_type.sql());
        if column.collation {
            text.push_str(" COLLATE \"C\"");
        }
        if column.identity {
            let how = if column.always { "ALWAYS" } else { "BY DEFAULT" };
            let cache = if self.chance.percent(25) { " CACHE 5" } else { "" };
            write!(text, " GENERATED {how} AS IDENTITY (INCREMENT BY 4{cache})").unwrap();
        } else {
            if let Some(default) = &column.default {
                write!(text, " DEFAULT {default}").unwrap();
            }
            if column.not_null {
                text.push_str(" NOT NULL");
            }
        }
        text
    }

    /// `PARTITION BY …;` and the partitions.
    fn partitions(&mut self, table: &Table) -> String {
        let (name, tag) = (&table.name, table.tag());
        let part = |generator: &mut Self| QualifiedName::new(&name.schema, generator.name("part"));
        let mut text = String::new();
        if self.chance.percent(50) {
            say!(text, "PARTITION BY HASH ({tag});");
            for rest in 0..2 {
                let part = part(self);
                say!(
                    text,
                    "CREATE TABLE {part} PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER {rest});"
                );
            }
        } else {
            say!(text, "PARTITION BY RANGE ({tag});");
            let (low, middle, rest, leaf) = (part(self), part(self), part(self), part(self));
            say!(
                text,
                "CREATE TABLE {low} PARTITION OF {name} FOR VALUES FROM (MINVALUE) TO (100);"
            );
            say!(
                text,
                "CREATE TABLE {middle} PARTITION OF {name} FOR VALUES FROM (100) TO (100100) PARTITION BY HASH ({tag});"
            );
            say!(
                text,
                "CREATE TABLE {leaf} PARTITION OF {middle} FOR VALUES WITH (MODULUS 1, REMAINDER 0);"
            );
            say!(text, "CREATE TABLE {rest} PARTITION OF {name} DEFAULT;");
        }
        text
    }
}
