//! What PostgreSQL locks for a statement of the user's own, where the statement is recognised.
//!
//! It reads words, not grammar: enough to tell which kind of statement it is and which relation it names. What is
//! not recognised is left to the user's declaration.

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
    let mut reader = Reader {
        tokens: &tokens,
        position: 0,
        default_schema,
    };
    let first = reader.word()?;
    match first.as_str() {
        "alter" => reader.alter(),
        "create" => reader.create(),
        "drop" => reader.drop(),
        "reindex" | "vacuum" | "analyze" | "cluster" | "truncate" => Some(reader.maintain(&first)),
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

/// Whether an expression names anything by its schema: what the server prints without one is its own.
pub fn names_a_schema(expression: &str) -> bool {
    tokens(expression).any(|(token, _)| token == Token::Symbol('.'))
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

impl Reader<'_> {
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

    fn maintain(&mut self, first: &str) -> Recognised {
        let has = |word: &str| self.tokens.contains(&Token::Word(word.into()));
        let (concurrently, full) = (has("concurrently"), has("full"));
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
            ("reindex", false, _) => self.plain("REINDEX", noise, LockMode::Share),
            ("vacuum", _, true) => Recognised {
                outside_transaction: true,
                ..self.plain("VACUUM FULL", noise, LockMode::AccessExclusive)
            },
            ("vacuum", _, false) => Recognised {
                outside_transaction: true,
                ..self.plain("VACUUM", noise, LockMode::ShareUpdateExclusive)
            },
            ("analyze", ..) => self.plain("ANALYZE", noise, LockMode::ShareUpdateExclusive),
            ("cluster", ..) => self.plain("CLUSTER", noise, LockMode::AccessExclusive),
            _ => self.plain("TRUNCATE", noise, LockMode::AccessExclusive),
        }
    }

    fn alter(&mut self) -> Option<Recognised> {
        match self.word()?.as_str() {
            "table" => {}
            "view" | "function" | "procedure" | "type" | "sequence" | "schema" | "policy" | "domain" => {
                return Some(unlocked("ALTER"));
            }
            _ => return None,
        }
        self.skip(&["if", "exists", "only"]);
        let name = self.name()?;
        let rest = &self.tokens[self.position..];
        let mut locks = vec![(name, alter_table_mode(rest))];
        for (position, token) in rest.iter().enumerate() {
            if *token == Token::Word("references".into()) {
                let mut referenced = Reader {
                    tokens: rest,
                    position: position + 1,
                    default_schema: self.default_schema,
                };
                locks.extend(referenced.name().map(|name| (name, LockMode::ShareRowExclusive)));
            }
        }
        Some(Recognised {
            kind: "ALTER TABLE",
            locks,
            outside_transaction: false,
        })
    }

    fn create(&mut self) -> Option<Recognised> {
        self.skip(&["or", "replace", "unique", "constraint"]);
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
            "policy" | "rule" => {
                self.skip_to("on");
                Some(self.plain("CREATE POLICY or RULE", &[], LockMode::AccessExclusive))
            }
            "table" | "view" | "function" | "procedure" | "schema" | "type" | "sequence" | "materialized" => {
                Some(unlocked("CREATE"))
            }
            _ => None,
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
            "table" => Some(self.plain("DROP TABLE", &["if", "exists"], LockMode::AccessExclusive)),
            "trigger" | "policy" | "rule" => {
                self.skip_to("on");
                Some(self.plain("DROP TRIGGER, POLICY or RULE", &[], LockMode::AccessExclusive))
            }
            "view" | "function" | "procedure" | "sequence" | "schema" | "type" => Some(unlocked("DROP")),
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
}
