//! Makes a case from a seed.

macro_rules! say {
    ($text:expr, $($arguments:tt)*) => { writeln!($text, $($arguments)*).unwrap() };
}

mod attached;
mod change;
mod constraints;
mod indexes;
mod rows;
mod tables;

use super::chance::Dice;
use super::model::{Case, ForeignKey, Hanging, Table};
use crate::harness::Chance;
use pgmorph::sql::{IDENTIFIER_BYTES_MAX, derived_name};
use std::collections::BTreeSet;

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
        generator.rules(table);
        generator.readers(table);
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
}
