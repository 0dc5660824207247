//! Makes a case from a seed.

use super::chance::Dice;
use super::model::{Action, Case, Cell, Column, Feed, ForeignKey, Hanging, Table};
use super::values::{Family, Type};
use super::writers::{WRITERS, orphan};
use crate::harness::Chance;
use pgmorph::sql::{IDENTIFIER_BYTES_MAX, QualifiedName, derived_name, ident, idents, literal};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Roles that every case may use.
pub const ROLES: &str = r#"CREATE ROLE twin_reader; CREATE ROLE "Twin Owner""#;

const READER: &str = "twin_reader";
const OWNER: &str = "\"Twin Owner\"";

const NAMES: &[&str] = &[
    "orders",
    "Order Items",
    "select",
    "naïve",
    "кошка",
    "we\"ird",
    "UPPER",
    "a.b",
    "it's",
    "user",
    "列",
    "100%s",
    "back\\slash",
    "amount",
    "note",
    "Größe",
    "table",
    "$1",
    "line_item",
    "a_name_that_is_as_long_as_the_server_keeps_and_not_one_byte_mor",
];

pub fn case(major: u32, chance: &mut Chance) -> Case {
    let mut generator = Generator {
        major,
        chance: chance.clone(),
        used: BTreeSet::new(),
        tables: Vec::new(),
        foreign_keys: Vec::new(),
        created: String::new(),
        constrained: String::new(),
        hanging: Vec::new(),
    };
    generator.schemas_and_tables();
    generator.references();
    for table in 0..generator.tables.len() {
        generator.create(table);
        generator.key(table);
        generator.uniques(table);
        generator.indexes(table);
        generator.checks(table);
        generator.column_settings(table);
        generator.table_settings(table);
        generator.triggers(table);
        generator.views(table);
        generator.statistics(table);
        generator.policies(table);
    }
    let references = generator.foreign_key_sql();
    generator.constrained.push_str(&references);
    generator.fill();
    for table in 0..generator.tables.len() {
        generator.violated_check(table);
    }
    generator.finish()
}

struct Generator {
    major: u32,
    chance: Chance,
    used: BTreeSet<String>,
    tables: Vec<Table>,
    foreign_keys: Vec<ForeignKey>,
    /// Before the rows come.
    created: String,
    /// After that.
    constrained: String,
    hanging: Vec<Hanging>,
}

macro_rules! say {
    ($text:expr, $($arguments:tt)*) => { writeln!($text, $($arguments)*).unwrap() };
}

impl Generator {
    /// A name that nothing else has, short enough for the server. No kind is a suffix that the server itself gives to
    /// what it makes for partitions.
    fn name(&mut self, kind: &str) -> String {
        let base = *self.chance.pick(NAMES);
        let name = match self.chance.percent(40) {
            true => derived_name(&[base], kind),
            false => base.to_owned(),
        };
        self.unused(&name)
    }

    fn unused(&mut self, name: &str) -> String {
        let mut found = name.to_owned();
        for number in 2.. {
            if self.used.insert(found.clone()) {
                break;
            }
            found = derived_name(&[name], &number.to_string());
        }
        assert!(found.len() <= IDENTIFIER_BYTES_MAX, "{found}");
        found
    }

    fn schemas_and_tables(&mut self) {
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
    fn references(&mut self) {
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
        let (on_update, on_delete) = (action(&mut self.chance), action(&mut self.chance));
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

    fn create(&mut self, at: usize) {
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

    fn key(&mut self, at: usize) {
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

    /// Comments and marks of an index of all rows.
    fn index_extras(&mut self, at: usize, index: &str, never_null: bool) {
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
    fn uniques(&mut self, at: usize) {
        let table = self.tables[at].clone();
        for (position, column) in table.columns.iter().enumerate().skip(1) {
            let enforced = column.unique && !table.key.contains(&position) && self.chance.percent(70);
            if !enforced {
                continue;
            }
            let name = ident(&self.name("once"));
            let mut list = vec![column.name.clone()];
            if table.partitioned || self.chance.percent(20) {
                list.push(table.columns[0].name.clone());
            }
            self.chance.shuffle(&mut list);
            let list = idents(&list);
            let late = *self
                .chance
                .pick(&["", "", " DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED"]);
            self.tables[at].columns[position].uses.insert("unique");
            say!(
                self.constrained,
                "ALTER TABLE {} ADD CONSTRAINT {name} UNIQUE ({list}){late};",
                table.name
            );
        }
    }

    fn indexes(&mut self, at: usize) {
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

    /// A check that some rows have violated since before it came.
    fn violated_check(&mut self, at: usize) {
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

    fn checks(&mut self, at: usize) {
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

    fn column_settings(&mut self, at: usize) {
        let table = self.tables[at].clone();
        for (position, column) in table.columns.iter().enumerate() {
            let (t, c) = (&table.name, column.sql());
            let mut said = Vec::new();
            if self.chance.percent(20) {
                let target = self.chance.below(1_000);
                said.push(format!(
                    "ALTER TABLE {t} ALTER COLUMN {c} SET STATISTICS {target};"
                ));
            }
            if self.chance.percent(12) {
                said.push(format!("ALTER TABLE {t} ALTER COLUMN {c} SET (n_distinct = 42);"));
            }
            if self.chance.percent(20) {
                said.push(format!("COMMENT ON COLUMN {t}.{c} IS 'it''s \\ \"{position}\"';"));
            }
            if self.chance.percent(15) {
                let option = *self.chance.pick(&["", " WITH GRANT OPTION"]);
                said.push(format!(
                    "GRANT SELECT ({c}), UPDATE ({c}) ON {t} TO {READER}{option};"
                ));
            }
            if column.data_type.family() == Family::Text && self.chance.percent(20) {
                let how = *self.chance.pick(&["STORAGE EXTERNAL", "COMPRESSION pglz"]);
                let sql = format!("ALTER TABLE {t} ALTER COLUMN {c} SET {how};");
                // Plain ALTER gives the column the storage of its new type.
                self.tables[at].columns[position].said_again.push(sql.clone());
                said.push(sql);
            }
            for sql in said {
                say!(self.constrained, "{sql}");
            }
        }
    }

    fn table_settings(&mut self, at: usize) {
        let table = &self.tables[at];
        let name = table.name.clone();
        let tag = table.tag();
        if self.chance.percent(25) {
            say!(
                self.constrained,
                "GRANT SELECT, INSERT ON {name} TO {READER}; GRANT UPDATE ({tag}) ON {name} TO PUBLIC;"
            );
        }
        if self.chance.percent(20) {
            say!(self.constrained, "COMMENT ON TABLE {name} IS 'of the twins';");
        }
        if !self.tables[at].partitioned && self.chance.percent(6) {
            let publication = ident(&self.name("pub"));
            let create = format!("CREATE PUBLICATION {publication} FOR TABLE {name}");
            if self.tables[at].primary && self.major >= 15 && self.chance.percent(50) {
                let all = (0..self.tables[at].columns.len()).collect();
                let create = format!("{create} ({});", self.tables[at].list());
                self.hang(
                    at,
                    all,
                    "publication",
                    create,
                    format!("DROP PUBLICATION {publication};"),
                );
            } else {
                // Otherwise its rows could not be updated without a primary key.
                say!(self.constrained, "ALTER TABLE {name} REPLICA IDENTITY FULL;");
                say!(self.constrained, "{create};");
            }
            for column in &mut self.tables[at].columns {
                column.uses.insert("publication");
            }
        } else if self.chance.percent(5) {
            say!(self.constrained, "ALTER TABLE {name} REPLICA IDENTITY FULL;");
        }
    }

    fn triggers(&mut self, at: usize) {
        for _ in 0..*self.chance.pick(&[0, 0, 0, 0, 1, 2]) {
            let table = self.tables[at].clone();
            let position = self.chance.index(table.columns.len());
            let column = &table.columns[position];
            let (t, c, name) = (&table.name, column.sql(), ident(&self.name("trigger")));
            let noop = t.sibling("noop");
            let run = format!("FOR EACH ROW EXECUTE FUNCTION {noop}();");
            let drop = format!("DROP TRIGGER {name} ON {t};");
            let mut hangs = true;
            let sql = match self.chance.below(6) {
                0 => format!("CREATE TRIGGER {name} BEFORE UPDATE OF {c} ON {t} {run}"),
                1 => format!(
                    "CREATE TRIGGER {name} AFTER INSERT OR UPDATE ON {t} FOR EACH ROW WHEN (NEW.{c} IS NOT NULL) \
                     EXECUTE FUNCTION {noop}();"
                ),
                2 => format!(
                    "CREATE TRIGGER {name} AFTER UPDATE OF {c} ON {t} FOR EACH ROW \
                     WHEN (OLD.{c} IS DISTINCT FROM NEW.{c}) EXECUTE FUNCTION {noop}();"
                ),
                3 if !table.partitioned => {
                    hangs = false;
                    format!(
                        "CREATE CONSTRAINT TRIGGER {name} AFTER INSERT OR UPDATE ON {t} \
                         DEFERRABLE INITIALLY DEFERRED {run}"
                    )
                }
                4 => {
                    hangs = false;
                    format!("CREATE TRIGGER {name} BEFORE INSERT OR UPDATE ON {t} {run}")
                }
                _ => {
                    self.default_by_trigger(at, position, &name);
                    continue;
                }
            };
            let mut create = sql;
            if self.chance.percent(20) {
                let state = *self.chance.pick(&["DISABLE", "ENABLE ALWAYS"]);
                write!(create, "\nALTER TABLE {t} {state} TRIGGER {name};").unwrap();
            }
            if self.chance.percent(20) {
                write!(create, "\nCOMMENT ON TRIGGER {name} ON {t} IS 'ours';").unwrap();
            }
            let columns = if hangs { vec![position] } else { Vec::new() };
            self.hang(at, columns, "trigger", create, drop);
        }
    }

    /// One that changes rows on their way in.
    fn default_by_trigger(&mut self, at: usize, position: usize, name: &str) {
        let (t, column) = (
            self.tables[at].name.clone(),
            &mut self.tables[at].columns[position],
        );
        if column.unique || column.feed != Feed::Free || column.null_becomes.is_some() {
            return;
        }
        let value = column.data_type.value(7);
        let (c, quoted) = (column.sql(), literal(&value));
        column.null_becomes = Some(value);
        let function = t.sibling(derived_name(&[&column.name, name.trim_matches('"')], "fn"));
        let body = format!("BEGIN IF NEW.{c} IS NULL THEN NEW.{c} := {quoted}; END IF; RETURN NEW; END");
        say!(
            self.constrained,
            "CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS {};",
            literal(&body)
        );
        say!(
            self.constrained,
            "CREATE TRIGGER {name} BEFORE INSERT OR UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION {function}();"
        );
    }

    fn hang(&mut self, table: usize, columns: Vec<usize>, kind: &'static str, create: String, drop: String) {
        for column in &columns {
            self.tables[table].columns[*column].uses.insert(kind);
        }
        self.hanging.push(Hanging {
            table,
            columns,
            create,
            drop,
        });
    }

    fn views(&mut self, at: usize) {
        if !self.chance.percent(22) {
            return;
        }
        let table = self.tables[at].clone();
        let position = self.chance.index(table.columns.len());
        let (t, tag, c) = (&table.name, table.tag(), table.columns[position].sql());
        let view = t.sibling(self.name("view"));
        if self.chance.percent(20) {
            let create = format!(
                "CREATE MATERIALIZED VIEW {view} AS SELECT {tag} AS a, {c} AS b FROM {t};\n\
                 CREATE INDEX ON {view} (b DESC);"
            );
            let drop = format!("DROP MATERIALIZED VIEW {view};");
            return self.hang(at, vec![0, position], "materialized view", create, drop);
        }
        let query = match self.chance.below(4) {
            // It depends on the primary key, too.
            0 if table.primary && table.key == [1] => {
                let k = table.columns[1].sql();
                let create =
                    format!("CREATE VIEW {view} AS SELECT {k} AS a, {c} AS b FROM {t} GROUP BY {k};");
                let drop = format!("DROP VIEW {view};");
                return self.hang(at, vec![1, position], "view", create, drop);
            }
            1 => format!("SELECT count(*) AS a, {c} AS b FROM {t} GROUP BY {c}"),
            _ => format!("SELECT {tag} AS a, {c} AS b FROM {t} WHERE {c} IS NOT NULL"),
        };
        let with = *self.chance.pick(&["", "", " WITH (security_barrier=true)"]);
        let mut create = format!("CREATE VIEW {view}{with} AS {query};");
        let mut drop = format!("DROP VIEW {view};");
        if self.chance.percent(50) {
            write!(
                create,
                "\nALTER VIEW {view} OWNER TO {OWNER};\nGRANT SELECT ON {view} TO {READER} WITH GRANT OPTION;\
                 \nCOMMENT ON VIEW {view} IS 'a view';"
            )
            .unwrap();
        }
        if self.chance.percent(40) {
            let above = t.sibling(self.name("above"));
            write!(
                create,
                "\nCREATE VIEW {above} AS SELECT b FROM {view} WHERE b IS NOT NULL;"
            )
            .unwrap();
            drop = format!("DROP VIEW {above};\n{drop}");
        }
        let columns = if query.contains(" AS a, ") && !query.starts_with("SELECT count") {
            vec![0, position]
        } else {
            vec![position]
        };
        self.hang(at, columns, "view", create, drop);
    }

    fn statistics(&mut self, at: usize) {
        let table = self.tables[at].clone();
        let scalar: Vec<usize> = (1..table.columns.len())
            .filter(|at| table.columns[*at].data_type.family() != Family::Array)
            .collect();
        if scalar.is_empty() || !self.chance.percent(15) {
            return;
        }
        let position = *self.chance.pick(&scalar);
        let name = table.name.sibling(self.name("stat"));
        let kinds = *self.chance.pick(&["", " (ndistinct)", " (dependencies, mcv)"]);
        say!(
            self.constrained,
            "CREATE STATISTICS {name}{kinds} ON {}, {} FROM {};",
            table.tag(),
            table.columns[position].sql(),
            table.name
        );
        if self.chance.percent(30) {
            say!(self.constrained, "COMMENT ON STATISTICS {name} IS 'both';");
        }
        if self.chance.percent(30) {
            let sql = format!("ALTER STATISTICS {name} SET STATISTICS 33;");
            say!(self.constrained, "{sql}");
            // Plain ALTER builds the object anew, without its target.
            self.tables[at].columns[position].said_again.push(sql);
        }
        self.tables[at].columns[position].uses.insert("statistics");
    }

    fn policies(&mut self, at: usize) {
        if !self.chance.percent(10) {
            return;
        }
        let table = self.tables[at].clone();
        let position = self.chance.index(table.columns.len());
        let (t, c, name) = (
            &table.name,
            table.columns[position].sql(),
            ident(&self.name("policy")),
        );
        say!(self.constrained, "ALTER TABLE {t} ENABLE ROW LEVEL SECURITY;");
        let create = format!(
            "CREATE POLICY {name} ON {t} AS PERMISSIVE FOR SELECT TO {READER} USING ({c} IS NOT NULL);"
        );
        self.hang(
            at,
            vec![position],
            "policy",
            create,
            format!("DROP POLICY {name} ON {t};"),
        );
    }

    fn foreign_key_sql(&mut self) -> String {
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

    /// Rows of one owner only reference rows of the same.
    fn fill(&mut self) {
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

    fn data(&self) -> String {
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

    fn finish(mut self) -> Case {
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
        Case {
            tables: self.tables,
            foreign_keys: self.foreign_keys,
            table,
            column,
            wide,
            setup,
            plan,
            alter,
        }
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

fn tuple(row: &[Cell]) -> String {
    let values: Vec<String> = row
        .iter()
        .map(|cell| cell.text().map_or("NULL".to_owned(), literal))
        .collect();
    format!("({})", values.join(", "))
}
