//! What PostgreSQL locks for a statement of the user's own, where the statement is recognised.
//!
//! It reads words, not grammar: enough to tell which kind of statement it is and which relation it names. What is
//! not recognised is left to the user's declaration.

mod names;

pub use names::{Names, names, read_by};

use crate::plan::LockMode;
use crate::sql::QualifiedName;

/// What is known about one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recognised {
    /// `ALTER TABLE`, `CREATE INDEX CONCURRENTLY`…
    pub kind: &'static str,
    /// The relations it names, and the strongest lock on each.
    pub locks: Vec<(QualifiedName, LockMode)>,
    /// Whether PostgreSQL refuses it in a transaction block.
    pub outside_transaction: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// Folded to lower case.
    Word(String),
    Quoted(String),
    Symbol(char),
    /// A literal or number, whose text does not matter.
    Value,
}

/// Splits a text into statements at top-level semicolons; comments and empty statements are dropped.
pub fn split(sql: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut start = 0;
    for (token, end) in tokens(sql) {
        if token == Token::Symbol(';') {
            statements.push(sql[start..end - 1].trim().to_owned());
            start = end;
        }
    }
    statements.push(sql[start..].trim().to_owned());
    statements.retain(|statement| tokens(statement).next().is_some());
    statements
}

/// Recognises one statement; `None` when nothing is known about it.
pub fn recognise(sql: &str, default_schema: &str) -> Option<Recognised> {
    let tokens: Vec<Token> = tokens(sql).map(|(token, _)| token).collect();
    let mut reader = Reader::new(&tokens, default_schema);
    let first = reader.word()?;
    match first.as_str() {
        "alter" => reader.alter(),
        "create" => reader.create(),
        "drop" => reader.drop(),
        "reindex" | "vacuum" | "analyze" | "cluster" => reader.maintain(&first),
        "truncate" => reader.all("TRUNCATE", &["table", "only"], LockMode::AccessExclusive),
        "refresh" => reader.refresh(),
        "update" => Some(reader.plain("UPDATE", &["only"], LockMode::RowExclusive)),
        "delete" | "insert" | "merge" => Some(reader.plain(
            "INSERT, DELETE or MERGE",
            &["from", "into", "only"],
            LockMode::RowExclusive,
        )),
        "comment" | "grant" | "revoke" => Some(unlocked("COMMENT, GRANT or REVOKE")),
        _ => None,
    }
}

/// The indexes that a statement drops, and whether it does so concurrently.
pub fn dropped_indexes(sql: &str, default_schema: &str) -> Option<(Vec<QualifiedName>, bool)> {
    let tokens: Vec<Token> = tokens(sql).map(|(token, _)| token).collect();
    let mut reader = Reader::new(&tokens, default_schema);
    if reader.word()? != "drop" || reader.word()? != "index" {
        return None;
    }
    let concurrently = reader.next_is(&["concurrently"]);
    let noise = &["concurrently", "if", "exists", "only"];
    let known = reader.all("DROP INDEX", noise, LockMode::AccessExclusive)?;
    let names = known.locks.into_iter().map(|(name, _)| name);
    Some((names.collect(), concurrently))
}

/// The index that a statement builds, which is in the schema of its table, and the table.
pub fn built_index(sql: &str, default_schema: &str) -> Option<(QualifiedName, QualifiedName)> {
    let tokens: Vec<Token> = tokens(sql).map(|(token, _)| token).collect();
    let mut reader = Reader::new(&tokens, default_schema);
    if reader.word()? != "create" {
        return None;
    }
    reader.skip(&["unique"]);
    if reader.word()? != "index" {
        return None;
    }
    reader.skip(&["concurrently", "if", "not", "exists"]);
    let index = reader.part()?;
    reader.skip(&["on", "only"]);
    let table = reader.name()?;
    Some((table.sibling(index), table))
}

/// Whether an expression names anything by its schema: what the server prints without one is its own.
pub fn names_a_schema(expression: &str) -> bool {
    tokens(expression).any(|(token, _)| token == Token::Symbol('.'))
}

/// Whether a text has the word, given in lower case, outside of literals, comments and quotes.
pub fn has_word(sql: &str, word: &str) -> bool {
    tokens(sql).any(|(token, _)| token == Token::Word(word.into()))
}

/// Takes no lock that blocks reads or writes of a table.
fn unlocked(kind: &'static str) -> Recognised {
    Recognised {
        kind,
        locks: Vec::new(),
        outside_transaction: false,
    }
}

struct Reader<'a> {
    tokens: &'a [Token],
    position: usize,
    default_schema: &'a str,
}

impl<'a> Reader<'a> {
    fn new(tokens: &'a [Token], default_schema: &'a str) -> Self {
        Self {
            tokens,
            position: 0,
            default_schema,
        }
    }

    fn word(&mut self) -> Option<String> {
        match self.tokens.get(self.position)? {
            Token::Word(word) => {
                self.position += 1;
                Some(word.clone())
            }
            _ => None,
        }
    }

    fn next_is(&self, words: &[&str]) -> bool {
        matches!(self.tokens.get(self.position), Some(Token::Word(word)) if words.contains(&word.as_str()))
    }

    fn skip(&mut self, words: &[&str]) {
        while self.next_is(words) {
            self.position += 1;
        }
    }

    fn skip_to(&mut self, word: &str) {
        let found = self.tokens[self.position..]
            .iter()
            .position(|token| *token == Token::Word(word.into()));
        if let Some(offset) = found {
            self.position += offset + 1;
        }
    }

    fn skip_parentheses(&mut self) {
        if self.tokens.get(self.position) == Some(&Token::Symbol('(')) {
            let end = self.tokens[self.position..]
                .iter()
                .position(|token| *token == Token::Symbol(')'));
            self.position += end.map_or(0, |end| end + 1);
        }
    }

    fn part(&mut self) -> Option<String> {
        let part = match self.tokens.get(self.position)? {
            Token::Word(word) => word.clone(),
            Token::Quoted(name) => name.clone(),
            _ => return None,
        };
        self.position += 1;
        Some(part)
    }

    fn name(&mut self) -> Option<QualifiedName> {
        let first = self.part()?;
        if self.tokens.get(self.position) != Some(&Token::Symbol('.')) {
            return Some(QualifiedName::new(self.default_schema, first));
        }
        self.position += 1;
        Some(QualifiedName::new(first, self.part()?))
    }

    /// One relation after some noise words.
    fn plain(&mut self, kind: &'static str, noise: &[&str], mode: LockMode) -> Recognised {
        self.skip_parentheses();
        self.skip(noise);
        let locks = self.name().map(|name| (name, mode)).into_iter().collect();
        Recognised {
            kind,
            locks,
            outside_transaction: false,
        }
    }

    fn has(&self, word: &str) -> bool {
        self.tokens.contains(&Token::Word(word.into()))
    }

    /// All relations of a list; with CASCADE nobody knows which others.
    fn all(&mut self, kind: &'static str, noise: &[&str], mode: LockMode) -> Option<Recognised> {
        if self.has("cascade") {
            return None;
        }
        let mut locks = Vec::new();
        loop {
            self.skip(noise);
            locks.push((self.name()?, mode));
            if self.tokens.get(self.position) == Some(&Token::Symbol('*')) {
                self.position += 1;
            }
            if self.tokens.get(self.position) != Some(&Token::Symbol(',')) {
                break;
            }
            self.position += 1;
        }
        Some(Recognised {
            kind,
            locks,
            outside_transaction: false,
        })
    }

    fn refresh(&mut self) -> Option<Recognised> {
        let mode = match self.has("concurrently") {
            true => LockMode::Exclusive,
            false => LockMode::AccessExclusive,
        };
        let noise = &["materialized", "view", "concurrently"];
        self.all("REFRESH MATERIALIZED VIEW", noise, mode)
    }

    /// What follows each occurrence of a word, as relations.
    fn named_after(&self, word: &str, mode: LockMode) -> Vec<(QualifiedName, LockMode)> {
        let rest = self.tokens.get(self.position..).unwrap_or_default();
        let found = rest.iter().enumerate().filter_map(|(offset, token)| {
            let mut named = Reader {
                tokens: self.tokens,
                position: self.position + offset + 1,
                default_schema: self.default_schema,
            };
            (*token == Token::Word(word.into()))
                .then(|| named.name())
                .flatten()
        });
        found.map(|name| (name, mode)).collect()
    }

    fn maintain(&mut self, first: &str) -> Option<Recognised> {
        let (concurrently, full) = (self.has("concurrently"), self.has("full"));
        self.skip_parentheses();
        let whole = ["index", "schema", "database", "system"];
        if first == "reindex" && self.next_is(&whole) {
            // It names an index, or everything; without CONCURRENTLY it locks tables that it does not name.
            return concurrently.then(|| Recognised {
                outside_transaction: true,
                ..unlocked("REINDEX CONCURRENTLY")
            });
        }
        let known = self.maintain_tables(first, concurrently, full);
        let strong = known.kind == "VACUUM FULL" || first == "cluster";
        (!strong || !known.locks.is_empty()).then_some(known)
    }

    fn maintain_tables(&mut self, first: &str, concurrently: bool, full: bool) -> Recognised {
        let noise = &[
            "full",
            "freeze",
            "verbose",
            "analyze",
            "table",
            "only",
            "concurrently",
        ];
        match (first, concurrently, full) {
            ("reindex", true, _) => Recognised {
                outside_transaction: true,
                ..self.plain("REINDEX CONCURRENTLY", noise, LockMode::ShareUpdateExclusive)
            },
            // SHARE on the table only, but its indexes are closed to the planner of every query.
            ("reindex", false, _) => self.plain("REINDEX", noise, LockMode::AccessExclusive),
            ("vacuum", _, true) => Recognised {
                outside_transaction: true,
                ..self.plain("VACUUM FULL", noise, LockMode::AccessExclusive)
            },
            ("vacuum", _, false) => Recognised {
                outside_transaction: true,
                ..self.plain("VACUUM", noise, LockMode::ShareUpdateExclusive)
            },
            ("cluster", ..) => self.plain("CLUSTER", noise, LockMode::AccessExclusive),
            _ => self.plain("ANALYZE", noise, LockMode::ShareUpdateExclusive),
        }
    }

    fn alter(&mut self) -> Option<Recognised> {
        let strongest = LockMode::AccessExclusive;
        match self.word()?.as_str() {
            "table" => self.alter_table(),
            "view" => Some(self.plain("ALTER VIEW", &["if", "exists"], strongest)),
            "materialized" => {
                Some(self.plain("ALTER MATERIALIZED VIEW", &["view", "if", "exists"], strongest))
            }
            "policy" => {
                self.skip_to("on");
                Some(self.plain("ALTER POLICY", &[], strongest))
            }
            "sequence" => {
                let moved = ["owner", "rename", "schema", "logged", "unlogged"];
                let mode = match moved.iter().any(|word| self.has(word)) {
                    true => strongest,
                    false => LockMode::ShareRowExclusive,
                };
                Some(self.plain("ALTER SEQUENCE", &["if", "exists"], mode))
            }
            "type" if self.has("add") && self.has("value") => Some(unlocked("ALTER TYPE … ADD VALUE")),
            "function" | "procedure" | "schema" => Some(unlocked("ALTER")),
            // Others may read or rewrite every table with a column of the type.
            _ => None,
        }
    }

    fn alter_table(&mut self) -> Option<Recognised> {
        self.skip(&["if", "exists", "only"]);
        if self.next_is(&["all"]) {
            return None;
        }
        let name = self.name()?;
        let mut locks = vec![(name, alter_table_mode(&self.tokens[self.position..]))];
        locks.extend(self.named_after("references", LockMode::ShareRowExclusive));
        locks.extend(self.named_after("partition", LockMode::AccessExclusive));
        Some(Recognised {
            kind: "ALTER TABLE",
            locks,
            outside_transaction: false,
        })
    }

    fn create(&mut self) -> Option<Recognised> {
        let replaces = self.has("replace");
        let noise = [
            "or",
            "replace",
            "unique",
            "constraint",
            "temporary",
            "temp",
            "unlogged",
            "recursive",
        ];
        self.skip(&noise);
        match self.word()?.as_str() {
            "index" => {
                let concurrently = self.next_is(&["concurrently"]);
                self.skip_to("on");
                let (kind, mode) = if concurrently {
                    ("CREATE INDEX CONCURRENTLY", LockMode::ShareUpdateExclusive)
                } else {
                    ("CREATE INDEX", LockMode::Share)
                };
                Some(Recognised {
                    outside_transaction: concurrently,
                    ..self.plain(kind, &["only"], mode)
                })
            }
            "trigger" => {
                self.skip_to("on");
                Some(self.plain("CREATE TRIGGER", &[], LockMode::ShareRowExclusive))
            }
            "policy" => {
                self.skip_to("on");
                Some(self.plain("CREATE POLICY", &[], LockMode::AccessExclusive))
            }
            "rule" => {
                self.skip_to("to");
                Some(self.plain("CREATE RULE", &[], LockMode::AccessExclusive))
            }
            "table" => Some(self.create_table()),
            "view" if replaces => Some(self.plain("CREATE OR REPLACE VIEW", &[], LockMode::AccessExclusive)),
            "schema" if self.has("table") || self.has("view") || self.has("index") => None,
            "view" | "function" | "procedure" | "schema" | "type" | "sequence" | "materialized" => {
                Some(unlocked("CREATE"))
            }
            _ => None,
        }
    }

    /// The new table is nobody's yet; its relatives are.
    fn create_table(&mut self) -> Recognised {
        self.skip(&["if", "not", "exists"]);
        let mut locks = Vec::new();
        if self.name().is_some() {
            if self.next_is(&["partition"]) {
                locks = self.named_after("of", LockMode::AccessExclusive);
                locks.truncate(1);
            }
            locks.extend(self.named_after("references", LockMode::ShareRowExclusive));
        }
        Recognised {
            kind: "CREATE TABLE",
            locks,
            outside_transaction: false,
        }
    }

    fn drop(&mut self) -> Option<Recognised> {
        match self.word()?.as_str() {
            "index" if self.next_is(&["concurrently"]) => Some(Recognised {
                outside_transaction: true,
                ..unlocked("DROP INDEX CONCURRENTLY")
            }),
            // It locks the table of the index, which the statement does not name.
            "index" => None,
            "table" => self.all("DROP TABLE", &["if", "exists"], LockMode::AccessExclusive),
            "view" => self.all("DROP VIEW", &["if", "exists"], LockMode::AccessExclusive),
            "sequence" => self.all("DROP SEQUENCE", &["if", "exists"], LockMode::AccessExclusive),
            "materialized" => self.all(
                "DROP MATERIALIZED VIEW",
                &["view", "if", "exists"],
                LockMode::AccessExclusive,
            ),
            "trigger" | "policy" | "rule" => {
                self.skip_to("on");
                Some(self.plain("DROP TRIGGER, POLICY or RULE", &[], LockMode::AccessExclusive))
            }
            "function" | "procedure" | "schema" | "type" if !self.has("cascade") => Some(unlocked("DROP")),
            _ => None,
        }
    }
}

/// The strongest lock that any subcommand takes on the table itself; what is not known takes the strongest of all.
fn alter_table_mode(rest: &[Token]) -> LockMode {
    let mut subcommands = vec![Vec::new()];
    let mut depth = 0;
    for token in rest {
        match token {
            Token::Symbol('(') => depth += 1,
            Token::Symbol(')') => depth -= 1,
            Token::Symbol(',') if depth == 0 => subcommands.push(Vec::new()),
            Token::Word(word) => {
                if let Some(last) = subcommands.last_mut() {
                    last.push(word.as_str());
                }
            }
            _ => {}
        }
    }
    let mode = |words: &Vec<&str>| match words.as_slice() {
        ["validate", "constraint", ..] | ["cluster", "on", ..] => LockMode::ShareUpdateExclusive,
        ["alter", .., "set", "statistics"] => LockMode::ShareUpdateExclusive,
        ["enable" | "disable", "trigger", ..] => LockMode::ShareRowExclusive,
        ["add", "foreign", ..]
        | ["add", "constraint", "foreign", ..]
        | ["add", "constraint", _, "foreign", ..] => LockMode::ShareRowExclusive,
        _ => LockMode::AccessExclusive,
    };
    subcommands
        .iter()
        .map(mode)
        .max()
        .unwrap_or(LockMode::AccessExclusive)
}

/// The tokens of a text, each with the offset of its end; comments and white space are left out.
fn tokens(sql: &str) -> impl Iterator<Item = (Token, usize)> {
    let mut position = 0;
    std::iter::from_fn(move || {
        position = skip_blank(sql, position);
        let rest = &sql[position..];
        let first = rest.chars().next()?;
        let (token, length) = match first {
            '"' => quoted(rest),
            '\'' => (Token::Value, literal_length(rest, false)),
            '$' => match dollar_length(rest) {
                Some(length) => (Token::Value, length),
                None => (Token::Symbol('$'), 1),
            },
            'e' | 'E' if rest[1..].starts_with('\'') => (Token::Value, 1 + literal_length(&rest[1..], true)),
            c if c.is_alphabetic() || c == '_' => word(rest),
            c if c.is_ascii_digit() => (Token::Value, run(rest, |c| c.is_ascii_alphanumeric() || c == '.')),
            c => (Token::Symbol(c), c.len_utf8()),
        };
        position += length;
        Some((token, position))
    })
}

fn run(text: &str, keep: impl Fn(char) -> bool) -> usize {
    text.find(|c| !keep(c)).unwrap_or(text.len())
}

fn word(text: &str) -> (Token, usize) {
    let length = run(text, |c| c.is_alphanumeric() || c == '_' || c == '$');
    (Token::Word(text[..length].to_lowercase()), length)
}

fn quoted(text: &str) -> (Token, usize) {
    let mut position = 1;
    while let Some(offset) = text[position..].find('"') {
        position += offset + 1;
        if !text[position..].starts_with('"') {
            return (
                Token::Quoted(text[1..position - 1].replace("\"\"", "\"")),
                position,
            );
        }
        position += 1;
    }
    (Token::Quoted(text[1..].to_owned()), text.len())
}

fn literal_length(text: &str, backslashes: bool) -> usize {
    let bytes = text.as_bytes();
    let mut position = 1;
    while position < bytes.len() {
        match bytes[position] {
            b'\\' if backslashes => position += 2,
            b'\'' if bytes.get(position + 1) == Some(&b'\'') => position += 2,
            b'\'' => return position + 1,
            _ => position += 1,
        }
    }
    bytes.len()
}

fn dollar_length(text: &str) -> Option<usize> {
    let tag_end = text[1..].find('$')? + 2;
    let tag = &text[..tag_end];
    let inner = &tag[1..tag.len() - 1];
    if !inner.chars().all(|c| c.is_alphanumeric() || c == '_')
        || inner.starts_with(|c: char| c.is_ascii_digit())
    {
        return None;
    }
    let end = text[tag_end..]
        .find(tag)
        .map_or(text.len(), |offset| tag_end + offset + tag.len());
    Some(end)
}

fn skip_blank(sql: &str, mut position: usize) -> usize {
    loop {
        let rest = &sql[position..];
        let trimmed = rest.trim_start();
        position += rest.len() - trimmed.len();
        if trimmed.starts_with("--") {
            position += trimmed.find('\n').unwrap_or(trimmed.len());
        } else if trimmed.starts_with("/*") {
            position += comment_length(trimmed);
        } else {
            return position;
        }
    }
}

/// Block comments nest.
fn comment_length(text: &str) -> usize {
    let (mut depth, mut position) = (0, 0);
    while position < text.len() {
        let rest = &text[position..];
        if rest.starts_with("/*") {
            depth += 1;
            position += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            position += 2;
            if depth == 0 {
                return position;
            }
        } else {
            position += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_at_top_level_only() {
        let sql = "select ';' ; -- a;b\n do $x$ begin; end $x$; /* ; /* ; */ */ select \"a;\"\"b\", E'\\';'";
        assert_eq!(split(sql).len(), 3, "{:?}", split(sql));
        assert!(split(" ; -- nothing\n;").is_empty());
    }

    #[test]
    fn recognises_the_locks() {
        use LockMode::*;
        for (sql, table, mode, outside) in [
            (
                "ALTER TABLE ONLY s.\"T x\" ADD COLUMN a int",
                "s.\"T x\"",
                AccessExclusive,
                false,
            ),
            (
                "alter table t validate constraint c",
                "public.t",
                ShareUpdateExclusive,
                false,
            ),
            (
                "alter table t alter a set statistics 100",
                "public.t",
                ShareUpdateExclusive,
                false,
            ),
            (
                "alter table t add constraint f foreign key (a, b) references p (a, b)",
                "public.t",
                ShareRowExclusive,
                false,
            ),
            (
                "alter table t validate constraint c, add column x int",
                "public.t",
                AccessExclusive,
                false,
            ),
            (
                "create unique index concurrently i on only t (a)",
                "public.t",
                ShareUpdateExclusive,
                true,
            ),
            ("create index on t (a)", "public.t", Share, false),
            (
                "create or replace trigger g before update on t execute function f()",
                "public.t",
                ShareRowExclusive,
                false,
            ),
            ("vacuum (analyze) t", "public.t", ShareUpdateExclusive, true),
            ("vacuum full t", "public.t", AccessExclusive, true),
            ("update only t set a = 1", "public.t", RowExclusive, false),
            ("truncate table t", "public.t", AccessExclusive, false),
        ] {
            let found = recognise(sql, "public").unwrap_or_else(|| panic!("{sql} is not recognised"));
            let (name, found_mode) = found.locks[0].clone();
            assert_eq!(
                (name.to_string().as_str(), found_mode, found.outside_transaction),
                (table, mode, outside),
                "{sql}"
            );
        }
        let key = "alter table t add foreign key (a) references s.p (x), add column b int";
        let found = recognise(key, "public").unwrap();
        assert_eq!(found.locks.len(), 2);
        assert_eq!(
            (found.locks[0].1, found.locks[1].1),
            (AccessExclusive, ShareRowExclusive)
        );
        assert_eq!(recognise("call something()", "public"), None);
    }

    #[test]
    fn recognises_what_locks_relatives() {
        let locks = |sql: &str| {
            let found = recognise(sql, "public").unwrap_or_else(|| panic!("{sql} is not recognised"));
            let shown = found.locks.iter().map(|(name, mode)| format!("{name} {mode}"));
            shown.collect::<Vec<_>>().join(", ")
        };
        for (sql, expected) in [
            ("alter policy p on t using (true)", "public.t ACCESS EXCLUSIVE"),
            (
                "create table a (b int references s.c (d))",
                "s.c SHARE ROW EXCLUSIVE",
            ),
            (
                "create table if not exists a partition of \"P\" for values in (1)",
                "public.\"P\" ACCESS EXCLUSIVE",
            ),
            ("create temp table a as select 1", ""),
            ("create table a () inherits (b)", ""),
            (
                "alter table p attach partition c default",
                "public.p ACCESS EXCLUSIVE, public.c ACCESS EXCLUSIVE",
            ),
            ("alter sequence s restart", "public.s SHARE ROW EXCLUSIVE"),
            ("alter sequence s owner to x", "public.s ACCESS EXCLUSIVE"),
            (
                "drop view if exists v, w",
                "public.v ACCESS EXCLUSIVE, public.w ACCESS EXCLUSIVE",
            ),
            ("alter view v set (security_barrier)", "public.v ACCESS EXCLUSIVE"),
            (
                "create or replace view v as select 1",
                "public.v ACCESS EXCLUSIVE",
            ),
            ("create view v as select 1", ""),
            ("refresh materialized view concurrently m", "public.m EXCLUSIVE"),
            ("refresh materialized view m", "public.m ACCESS EXCLUSIVE"),
            (
                "drop table a, s.b",
                "public.a ACCESS EXCLUSIVE, s.b ACCESS EXCLUSIVE",
            ),
            (
                "truncate table only a, b",
                "public.a ACCESS EXCLUSIVE, public.b ACCESS EXCLUSIVE",
            ),
            (
                "create rule r as on update to t do nothing",
                "public.t ACCESS EXCLUSIVE",
            ),
            ("reindex table t", "public.t ACCESS EXCLUSIVE"),
            ("alter type mood add value 'fine'", ""),
            ("grant select on t to x", ""),
        ] {
            assert_eq!(locks(sql), expected, "{sql}");
        }
    }

    #[test]
    fn leaves_to_a_declaration_what_may_lock_anything() {
        for sql in [
            "drop type mood cascade",
            "drop function f() cascade",
            "drop schema s cascade",
            "drop sequence s cascade",
            "drop view v cascade",
            "drop table t cascade",
            "truncate t cascade",
            "alter domain d add check (value > 0)",
            "alter domain d validate constraint c",
            "alter type pair alter attribute a type text",
            "alter table all in tablespace a set tablespace b",
            "reindex index i",
            "reindex (verbose) schema s",
            "vacuum full",
            "cluster",
            "create schema s create table a (b int)",
            "select f()",
            "with x as (select 1) update t set a = 1",
        ] {
            assert_eq!(recognise(sql, "public"), None, "{sql}");
        }
    }
}
