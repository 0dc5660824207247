//! Rows of one table kept as others are written: the views, functions and triggers of `sync`.
//!
//! Functions and triggers name views only, besides the key columns of a new row. A view follows its tables by their
//! identity, so that renaming a table or any other column breaks nothing. The triggers tell which columns those are.
//!
//! A mirrored write makes the row of the target anew from what is there, whatever was written. Writers that meet in
//! one entity wait for each other at the row of the driving table: its own writer holds it already, and a writer of a
//! joined table locks it first. Who writes to the target itself, and repeats that the other way round, is waited for at
//! the row of the target. In READ COMMITTED every statement of a function sees what was committed before it
//! began, so the last of them sees everything; above that PostgreSQL refuses the later one (SQLSTATE 40001), unless it
//! gives a driving row its first counterpart while a joined row came that its snapshot does not have: a comparison finds
//! that.

mod functions;

use super::mapping::{Mapping, Pair};
use crate::plan::Expectation;
use crate::sql::{QualifiedName, ident, literal, own_name};

/// Where everything of ours lives.
const SCHEMA: &str = "pgmorph";

/// One digit.
pub const DEPTH_MAX: u8 = 9;

/// False where the flag says that the write is a mirrored one itself: that of the function that set it to its depth,
/// or that of a batch of ours. What triggers of others write meanwhile is deeper, and is mirrored.
const GENUINE: &str = "current_setting('pgmorph.sync', true) IS DISTINCT FROM \
                       CASE pg_trigger_depth() WHEN 0 THEN 'on' ELSE pg_trigger_depth()::text END";

#[derive(Debug, Clone, Copy)]
enum Kind {
    Written,
    Deleted,
    Emptied,
}

/// A table whose rows go into the target's beside those of the driving one.
#[derive(Debug, Clone)]
pub struct Joined {
    pub table: QualifiedName,
    /// The columns that hold the key of the driving table, in its order.
    pub columns: Vec<String>,
    /// Whether a foreign key that is checked at once lets no row in before its driving row is committed.
    pub guarded: bool,
}

/// How a target follows its sources.
#[derive(Debug, Clone)]
pub struct Mirror {
    pub name: String,
    pub mapping: Mapping,
    /// Of the key, in the driving table.
    pub key_types: Vec<String>,
    pub joined: Vec<Joined>,
    /// Whether a row goes when nothing makes it any more.
    pub deletes: bool,
    /// Whether the key of a row that is there may be changed; an identity that is always generated may not.
    pub movable: bool,
    /// How many foreign keys lead on from the target, one after the other, up to [`DEPTH_MAX`].
    pub depth: u8,
    /// `OVERRIDING SYSTEM VALUE` or nothing.
    pub overriding: &'static str,
    /// Schemas in which the triggers of the target find what they name without one.
    pub search_path: Vec<String>,
}

/// Whether the definition of a trigger is that of a mirror, whose function reads the column by its name.
pub fn reads_by_name(trigger: &str, column: &str) -> bool {
    let function = trigger.split_once(" EXECUTE FUNCTION pgmorph.");
    function.is_some_and(|(_, called)| {
        called.trim_start_matches('"').starts_with("sync_") && called.contains(&literal(column))
    })
}

fn joined_list(parts: impl IntoIterator<Item = String>, separator: &str) -> String {
    parts.into_iter().collect::<Vec<_>>().join(separator)
}

/// Of exactly these types, whatever operators anybody has made.
fn equal(left: &str, right: &str) -> String {
    format!("{left} OPERATOR(pg_catalog.=) {right}")
}

/// Whether two lists differ, byte by byte: also where a type knows no equality, or takes unlike values for equal.
fn unlike(left: &[String], right: &[String]) -> String {
    format!(
        "ROW({})::record OPERATOR(pg_catalog.*<>) ROW({})::record",
        left.join(", "),
        right.join(", ")
    )
}

impl Mirror {
    /// The name of an object of ours, at most 63 bytes.
    fn object(&self, what: &str) -> QualifiedName {
        QualifiedName::new(SCHEMA, own_name(&["sync", &self.name], what))
    }

    /// The rows that the target must have.
    pub fn made(&self) -> QualifiedName {
        self.object("from")
    }

    /// The columns of the target that are given, under the names they have when the plan is made.
    fn target(&self) -> QualifiedName {
        self.object("into")
    }

    /// The keys of the driving table.
    fn keys(&self) -> QualifiedName {
        self.object("key")
    }

    pub fn views(&self) -> [QualifiedName; 3] {
        [self.made(), self.target(), self.keys()]
    }

    fn create_views(&self) -> Vec<String> {
        let given = joined_list(self.mapping.given().map(|(column, _)| ident(&column.value)), ", ");
        let key = self.mapping.key.iter();
        let key = joined_list(key.map(|(_, column)| ident(&column.value)), ", ");
        let view = |name: QualifiedName, query: &str| format!("CREATE VIEW {name} AS {query}");
        let plain = |list: &str, table: &QualifiedName| format!("SELECT {list} FROM {table}");
        vec![
            view(self.made(), &self.mapping.select(true)),
            view(self.target(), &plain(&given, &self.mapping.into.value)),
            view(self.keys(), &plain(&key, &self.mapping.from.value)),
        ]
    }

    /// Everything that can be made without a lock that anybody notices, and a proof that it can be run: a function
    /// that an expression calls may find its own names in the search_path of the session only.
    pub fn define(&self) -> Vec<String> {
        let mut statements = self.create_views();
        statements.push(self.row_function());
        if !self.joined.is_empty() {
            statements.push(self.joined_function());
        }
        statements.push(self.trial());
        statements
    }

    /// Reads some rows, and of what is joined to them no more than belongs to those.
    fn trial(&self) -> String {
        let body = format!(
            "DECLARE wanted {}%ROWTYPE; path text := pg_catalog.current_setting('search_path');\n\
             BEGIN\n\
             PERFORM pg_catalog.set_config(name, 'off', true) FROM pg_catalog.unnest('{{enable_seqscan,enable_hashjoin,\
             enable_mergejoin}}'::pg_catalog.text[]) AS name;\n\
             PERFORM pg_catalog.set_config('search_path', {}, true);\n\
             FOR wanted IN SELECT {} FROM {} AS s LIMIT 100 LOOP END LOOP;\n\
             PERFORM pg_catalog.set_config('search_path', path, true);\n\
             END",
            self.target(),
            literal(&self.path()),
            self.columns_of("s", self.mapping.given()),
            self.made()
        );
        format!("DO {}", literal(&body))
    }

    /// Drops what `define` makes.
    pub fn forget(&self) -> Vec<String> {
        let mut statements = Vec::new();
        if !self.joined.is_empty() {
            statements.push(self.drop_function(&self.joined_name(), &self.key_types, ""));
        }
        statements.push(self.drop_function(&self.row_name(), &self.key_types, ""));
        let views = self.views().into_iter().map(|view| view.to_string());
        statements.push(format!("DROP VIEW IF EXISTS {}", joined_list(views, ", ")));
        statements
    }

    fn drop_function(&self, name: &QualifiedName, arguments: &[String], how: &str) -> String {
        format!("DROP FUNCTION IF EXISTS {name}({}){how}", arguments.join(", "))
    }

    /// The driving table and those joined to it, each with the number of its trigger: none for the driving one.
    pub fn sources(&self) -> Vec<(&QualifiedName, Option<usize>)> {
        let joined = self.joined.iter().enumerate();
        let joined = joined.map(|(number, joined)| (&joined.table, Some(number)));
        std::iter::once((&self.mapping.from.value, None))
            .chain(joined)
            .collect()
    }

    /// Function and triggers of one source.
    pub fn follow(&self, source: &QualifiedName, number: Option<usize>) -> Vec<String> {
        let function = self.trigger_function_name(number);
        let read = joined_list(self.read(number).map(|column| literal(column)), ", ");
        let mut statements = vec![self.trigger_function(number), self.private(&function, &[])];
        for (kind, when, each) in self.triggers(number) {
            let name = ident(&self.trigger_name(kind, number));
            statements.push(format!(
                "CREATE TRIGGER {name} {when} ON {source} FOR EACH {each} WHEN ({GENUINE}) EXECUTE FUNCTION {function}({read})"
            ));
            statements.push(format!("ALTER TABLE {source} ENABLE ALWAYS TRIGGER {name}"));
        }
        statements
    }

    /// The columns that a trigger function reads by their names. It gets them as its arguments, for whoever wants to
    /// know.
    fn read(&self, number: Option<usize>) -> Box<dyn Iterator<Item = &String> + '_> {
        match number {
            None => Box::new(self.mapping.key.iter().map(|(_, column)| &column.value)),
            Some(number) => Box::new(self.joined[number].columns.iter()),
        }
    }

    fn triggers(&self, number: Option<usize>) -> Vec<(Kind, &'static str, &'static str)> {
        // The keys of the driving table can be seen before only.
        let emptied = match number {
            None => "BEFORE TRUNCATE",
            Some(_) => "AFTER TRUNCATE",
        };
        let mut triggers = vec![(Kind::Written, "AFTER INSERT OR UPDATE", "ROW")];
        if number.is_some() || self.deletes {
            triggers.push((Kind::Deleted, "AFTER DELETE", "ROW"));
            triggers.push((Kind::Emptied, emptied, "STATEMENT"));
        }
        triggers
    }

    /// Drops the triggers of one source with their function, whatever the table is called by then.
    pub fn leave(&self, number: Option<usize>) -> String {
        self.drop_function(&self.trigger_function_name(number), &[], " CASCADE")
    }

    /// Triggers fire in the order of their names: before those of foreign keys (`RI_…`), so that a row of the target
    /// that refers to the source has gone before the source's deletion is checked, and a changed key is seen as such
    /// before it is handed on to joined tables. Where one source has several targets, a row comes after those that it
    /// refers to, and goes before them.
    fn trigger_name(&self, kind: Kind, number: Option<usize>) -> String {
        let (rank, word) = match kind {
            Kind::Written => (self.depth, "row"),
            Kind::Deleted => (DEPTH_MAX - self.depth, "gone"),
            Kind::Emptied => (DEPTH_MAX - self.depth, "all"),
        };
        let suffix = format!("{word}{}", suffix(number));
        own_name(&[&format!("{rank}_pgmorph_sync"), &self.name], &suffix)
    }

    /// The triggers of one source are there and always fire.
    pub fn follows(&self, number: Option<usize>) -> Expectation {
        let count = self.triggers(number).len();
        let function = format!("{}()", self.trigger_function_name(number));
        Expectation::Query {
            query: format!(
                "SELECT count(*) = {count} FROM pg_catalog.pg_trigger WHERE tgfoid = pg_catalog.to_regprocedure({}) \
                 AND tgparentid = 0 AND tgenabled = 'A'",
                literal(&function)
            ),
        }
    }

    fn row_name(&self) -> QualifiedName {
        self.object("row")
    }

    fn joined_name(&self) -> QualifiedName {
        self.object("joined")
    }

    fn trigger_function_name(&self, number: Option<usize>) -> QualifiedName {
        let suffix = suffix(number);
        QualifiedName::new(SCHEMA, own_name(&["sync", &self.name], &format!("write{suffix}")))
    }

    /// Nobody else may make a trigger of a function that writes with our rights.
    fn private(&self, function: &QualifiedName, arguments: &[String]) -> String {
        format!(
            "REVOKE ALL ON FUNCTION {function}({}) FROM PUBLIC",
            arguments.join(", ")
        )
    }

    /// Our own texts name everything in full; what comes after `pg_catalog` is for the triggers of others.
    fn path(&self) -> String {
        let own = self.search_path.iter().map(|schema| ident(schema));
        let path = std::iter::once("pg_catalog".to_owned()).chain(own);
        joined_list(path.chain(["pg_temp".to_owned()]), ", ")
    }

    fn columns_of<'a>(&self, of: &str, pairs: impl Iterator<Item = &'a Pair>) -> String {
        joined_list(
            pairs.map(|(column, _)| format!("{of}.{}", ident(&column.value))),
            ", ",
        )
    }
}

fn suffix(number: Option<usize>) -> String {
    number.map_or_else(String::new, |number| (number + 1).to_string())
}
