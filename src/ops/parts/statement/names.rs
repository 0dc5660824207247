//! Which relations and schemas a statement of the user's own makes and needs, as far as its words tell.

use super::{Reader, Token, tokens};
use crate::diagnostic::Located;
use crate::ops::{Named, Object};
use crate::sql::QualifiedName;
use std::collections::BTreeSet;

/// What one statement names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub makes: BTreeSet<Object>,
    pub needs: BTreeSet<Object>,
    /// What its queries read: a word that looks like a relation may also be something else.
    pub reads: BTreeSet<Object>,
    /// What it drops or renames.
    pub takes: BTreeSet<Object>,
    /// It makes what it makes only where that is not there yet, or else replaces it.
    pub unless_there: bool,
}

/// What a GRANT may be on, besides tables and schemas.
const OTHER_GRANTS: &[&str] = &[
    "database",
    "domain",
    "foreign",
    "function",
    "language",
    "large",
    "parameter",
    "procedure",
    "routine",
    "sequence",
    "tablespace",
    "type",
];

/// The names of one statement; nothing where it is not recognised.
pub fn names(sql: &str, default_schema: &str) -> Names {
    let tokens: Vec<Token> = tokens(sql).map(|(token, _)| token).collect();
    let mut reader = Reader {
        tokens: &tokens,
        position: 0,
        default_schema,
    };
    let mut names = Names::default();
    match reader.word().as_deref() {
        Some("create") => reader.names_created(&mut names),
        Some("alter") => reader.names_altered(&mut names),
        Some(first @ ("drop" | "truncate")) => {
            reader.names_dropped(&mut names);
            if first == "drop" {
                names.takes = names.needs.clone();
            }
        }
        Some("grant" | "revoke") if reader.has("on") => reader.names_granted(&mut names),
        Some("insert" | "delete" | "merge" | "update") => {
            reader.skip(&["into", "from", "only"]);
            reader.need(&mut names);
            names.reads = reader.read_by_queries();
        }
        Some("select" | "with") => names.reads = reader.read_by_queries(),
        _ => {}
    }
    names
}

/// What a query reads, for whoever makes a view of it.
pub fn read_by(query: &Located<String>) -> Vec<Named> {
    // Where a name has no schema, the server looks through its search path.
    let found = names(&query.value, "public");
    let read = found.reads.into_iter();
    read.map(|it| Named::at(it, query.span).guessed()).collect()
}

impl Reader<'_> {
    fn need(&mut self, names: &mut Names) {
        names.needs.extend(self.name().map(Object::Relation));
    }

    fn need_all(&mut self, names: &mut Names) {
        loop {
            self.skip(&["only"]);
            self.need(names);
            if !self.symbol(',') {
                return;
            }
        }
    }

    fn symbol(&mut self, wanted: char) -> bool {
        let found = self.tokens.get(self.position) == Some(&Token::Symbol(wanted));
        self.position += usize::from(found);
        found
    }

    fn make(&mut self, names: &mut Names) {
        if let Some(name) = self.name() {
            names.needs.insert(Object::Schema(name.schema.clone()));
            names.makes.insert(Object::Relation(name));
        }
    }

    fn names_created(&mut self, names: &mut Names) {
        if self.next_is(&["temp", "temporary"]) {
            return;
        }
        let replaces = self.next_is(&["or"]);
        self.skip(&[
            "or",
            "replace",
            "unlogged",
            "recursive",
            "unique",
            "constraint",
            "foreign",
            "materialized",
        ]);
        let Some(kind) = self.word() else { return };
        names.unless_there = replaces || self.next_is(&["if"]);
        self.skip(&["if", "not", "exists"]);
        match kind.as_str() {
            "table" => {
                self.make(names);
                for word in ["references", "of", "inherits"] {
                    self.need_after(word, names);
                }
                names.reads = self.read_by_queries();
            }
            "view" => {
                self.make(names);
                names.reads = self.read_by_queries();
            }
            "sequence" => self.make(names),
            "schema" => {
                self.skip(&["authorization"]);
                names.makes.extend(self.part().map(Object::Schema));
            }
            "index" | "trigger" | "policy" => {
                self.skip_to("on");
                self.skip(&["only"]);
                self.need(names);
            }
            "rule" => {
                self.skip_to("to");
                self.need(names);
            }
            _ => {}
        }
    }

    fn names_altered(&mut self, names: &mut Names) {
        let Some(mut kind) = self.word() else { return };
        if ["foreign", "materialized"].contains(&kind.as_str()) {
            kind = self.word().unwrap_or_default();
        }
        if !["table", "view", "sequence"].contains(&kind.as_str()) || self.next_is(&["if", "all"]) {
            return;
        }
        self.skip(&["only"]);
        let Some(name) = self.name() else { return };
        self.need_after("references", names);
        match self.word().as_deref() {
            Some("rename") if self.next_is(&["to"]) => {
                self.skip(&["to"]);
                let renamed = self.part().map(|new| Object::Relation(name.sibling(new)));
                names.makes.extend(renamed);
                names.takes.insert(Object::Relation(name.clone()));
            }
            Some("set") if self.next_is(&["schema"]) => {
                self.skip(&["schema"]);
                if let Some(schema) = self.part() {
                    let moved = QualifiedName::new(schema.clone(), name.name.clone());
                    names.makes.insert(Object::Relation(moved));
                    names.takes.insert(Object::Relation(name.clone()));
                    names.needs.insert(Object::Schema(schema));
                }
            }
            Some("attach") => {
                self.skip(&["partition"]);
                self.need(names);
            }
            Some("inherit") => self.need(names),
            _ => {}
        }
        names.needs.insert(Object::Relation(name));
    }

    fn names_dropped(&mut self, names: &mut Names) {
        self.skip(&["materialized", "foreign"]);
        if self.next_is(&["table", "view", "sequence"]) {
            self.position += 1;
            if !self.next_is(&["if"]) {
                self.need_all(names);
            }
        }
    }

    fn names_granted(&mut self, names: &mut Names) {
        self.skip_to("on");
        if self.next_is(&["all"]) {
            self.skip_to("schema");
            names.needs.extend(self.part().map(Object::Schema));
        } else if self.next_is(&["schema"]) {
            self.position += 1;
            names.needs.extend(self.part().map(Object::Schema));
        } else if !self.next_is(OTHER_GRANTS) {
            self.skip(&["table"]);
            self.need_all(names);
        }
    }

    /// What follows each occurrence of a word, by itself or as the first in parentheses.
    fn need_after(&self, word: &str, names: &mut Names) {
        for position in self.position..self.tokens.len() {
            if self.tokens[position] == Token::Word(word.into()) {
                let mut named = self.from(position + 1);
                named.symbol('(');
                named.need(names);
            }
        }
    }

    fn from(&self, position: usize) -> Self {
        Self {
            tokens: self.tokens,
            position,
            default_schema: self.default_schema,
        }
    }

    /// The relations after FROM and JOIN, without functions, the names of WITH, and the FROM of `extract` and its like.
    fn read_by_queries(&self) -> BTreeSet<Object> {
        let mut found = BTreeSet::new();
        let mut openers = Vec::new();
        for position in self.position..self.tokens.len() {
            let before = position.checked_sub(1).map(|before| &self.tokens[before]);
            match &self.tokens[position] {
                Token::Symbol('(') => openers.push(before),
                Token::Symbol(')') => drop(openers.pop()),
                Token::Word(word) if word == "join" => self.from(position + 1).read(&mut found),
                Token::Word(word) if word == "from" => {
                    let is_operand = openers.last().is_some_and(|opener| is_with_from(*opener))
                        || before == Some(&Token::Word("distinct".into()));
                    if !is_operand {
                        self.from(position + 1).read_list(&mut found);
                    }
                }
                _ => {}
            }
        }
        found
    }

    fn read(&mut self, found: &mut BTreeSet<Object>) {
        self.skip(&["only", "lateral"]);
        let is_alone = |next: Option<&Token>| next != Some(&Token::Symbol('.'));
        let simple = is_alone(self.tokens.get(self.position + 1));
        let Some(name) = self.name() else { return };
        let is_function = self.tokens.get(self.position) == Some(&Token::Symbol('('));
        let is_local = simple && (name.name.starts_with("pg_") || self.is_with_query(&name.name));
        if !is_function && !is_local {
            found.insert(Object::Relation(name));
        }
    }

    /// Several relations with commas between them, each with an alias or none.
    fn read_list(&mut self, found: &mut BTreeSet<Object>) {
        loop {
            self.read(found);
            self.skip(&["as"]);
            let ends = [
                "where", "group", "order", "join", "left", "inner", "cross", "union",
            ];
            if !self.next_is(&ends) {
                let _ = self.part();
            }
            if !self.symbol(',') {
                return;
            }
        }
    }

    /// Whether a WITH gives this name to a query: `name AS (`, `name (a, b) AS (`.
    fn is_with_query(&self, name: &str) -> bool {
        let is = |position: usize, word: &str| self.tokens.get(position) == Some(&Token::Word(word.into()));
        self.tokens.iter().enumerate().any(|(position, token)| {
            let named = matches!(token, Token::Word(text) | Token::Quoted(text) if text == name);
            let mut after = self.from(position + 1);
            after.skip_parentheses();
            named && is(after.position, "as") && {
                after.skip(&["as", "not", "materialized"]);
                after.symbol('(')
            }
        })
    }
}

/// Functions with a FROM between their arguments.
fn is_with_from(opener: Option<&Token>) -> bool {
    let functions = ["extract", "substring", "trim", "overlay", "position"];
    matches!(opener, Some(Token::Word(word)) if functions.contains(&word.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    const STATEMENTS: &[&str] = &[
        "create table if not exists \"Odd\".t (id int references s.p (id), x int references q)",
        "create table t2 partition of m for values in (1)",
        "create unlogged table t3 (like a) inherits (s.b)",
        "create table t4 as select * from a join s.b using (id)",
        "create temp table t5 (id int)",
        "create or replace view v as with w as (select 1), x (a, b) as (select * from y) \
             select extract(year from a.at), a is distinct from b from w, x, s.a as a, only c left join d on true, \
             lateral f(a.id) where exists (select from e, pg_class)",
        "create schema if not exists metrics authorization app",
        "create schema authorization app",
        "create unique index concurrently i on only s.t (a)",
        "create trigger g after update of a on t for each row execute function f()",
        "alter table t add constraint k foreign key (a) references s.p, add column b int",
        "alter table if exists t add column b int",
        "alter table s.t rename to \"New Name\"",
        "alter table t set schema archive",
        "alter table t rename column a to b",
        "drop table a, s.b",
        "drop table if exists a",
        "insert into t select * from u",
        "update only s.t set a = 1 from x where t.id = x.id",
        "grant usage on schema metrics to reader",
        "grant select on table a, s.b to reader",
        "grant reader to app",
        "grant execute on function f(int) to reader",
        "revoke all on s.b from public",
        "grant select on all tables in schema metrics to reader",
        "comment on table t is 'from x'",
        "do $$ begin create table hidden (); end $$",
    ];

    #[test]
    fn names_what_is_made_needed_and_read() {
        let mut text = String::new();
        for sql in STATEMENTS {
            let names = names(sql, "public");
            let shown = |objects: &BTreeSet<Object>| {
                let objects: Vec<_> = objects.iter().map(ToString::to_string).collect();
                objects.join(", ")
            };
            let first: String = sql.chars().take(42).collect();
            let _ = writeln!(
                text,
                "{first}: {}[{}] needs [{}] reads [{}] takes [{}]",
                if names.unless_there { "?" } else { "+" },
                shown(&names.makes),
                shown(&names.needs),
                shown(&names.reads),
                shown(&names.takes)
            );
        }
        insta::assert_snapshot!(text, @r#"
        create table if not exists "Odd".t (id int: ?["Odd".t] needs [public.q, s.p, schema "Odd"] reads [] takes []
        create table t2 partition of m for values : +[public.t2] needs [public.m, schema public] reads [] takes []
        create unlogged table t3 (like a) inherits: +[public.t3] needs [s.b, schema public] reads [] takes []
        create table t4 as select * from a join s.: +[public.t4] needs [schema public] reads [public.a, s.b] takes []
        create temp table t5 (id int): +[] needs [] reads [] takes []
        create or replace view v as with w as (sel: ?[public.v] needs [schema public] reads [public.c, public.d, public.e, public.y, s.a] takes []
        create schema if not exists metrics author: ?[schema metrics] needs [] reads [] takes []
        create schema authorization app: +[schema app] needs [] reads [] takes []
        create unique index concurrently i on only: +[] needs [s.t] reads [] takes []
        create trigger g after update of a on t fo: +[] needs [public.t] reads [] takes []
        alter table t add constraint k foreign key: +[] needs [public.t, s.p] reads [] takes []
        alter table if exists t add column b int: +[] needs [] reads [] takes []
        alter table s.t rename to "New Name": +[s."New Name"] needs [s.t] reads [] takes [s.t]
        alter table t set schema archive: +[archive.t] needs [public.t, schema archive] reads [] takes [public.t]
        alter table t rename column a to b: +[] needs [public.t] reads [] takes []
        drop table a, s.b: +[] needs [public.a, s.b] reads [] takes [public.a, s.b]
        drop table if exists a: +[] needs [] reads [] takes []
        insert into t select * from u: +[] needs [public.t] reads [public.u] takes []
        update only s.t set a = 1 from x where t.i: +[] needs [s.t] reads [public.x] takes []
        grant usage on schema metrics to reader: +[] needs [schema metrics] reads [] takes []
        grant select on table a, s.b to reader: +[] needs [public.a, s.b] reads [] takes []
        grant reader to app: +[] needs [] reads [] takes []
        grant execute on function f(int) to reader: +[] needs [] reads [] takes []
        revoke all on s.b from public: +[] needs [s.b] reads [] takes []
        grant select on all tables in schema metri: +[] needs [schema metrics] reads [] takes []
        comment on table t is 'from x': +[] needs [] reads [] takes []
        do $$ begin create table hidden (); end $$: +[] needs [] reads [] takes []
        "#);
    }
}
