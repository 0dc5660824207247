//! Built-in types: their spellings, which changes between them lose nothing, and which of those need no rewrite.
//!
//! User-defined types are unknown here; the server is asked about them.

mod change;

pub use change::{TypeChange, fits_predicate, widening};

use std::fmt;

/// A built-in type; `Display` is the text of the server's `format_type`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DataType {
    pub(crate) base: Base,
    pub(crate) array: bool,
}

/// The type without `[]`. A number is its modifier: length, precision or precision and scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Base {
    /// Takes no modifier.
    Plain(&'static str),
    /// `None` is `bpchar`, whose length is not limited.
    Char(Option<u32>),
    VarChar(Option<u32>),
    Bit(u32),
    VarBit(Option<u32>),
    Numeric(Option<(u32, i32)>),
    Time(Option<u32>),
    TimeTz(Option<u32>),
    Timestamp(Option<u32>),
    TimestampTz(Option<u32>),
    /// The fields (`day to second`) where restricted, and the precision.
    Interval(Option<&'static str>, Option<u32>),
}

/// Spellings of types without modifiers, and how the server prints them.
const PLAIN: &[(&str, &str)] = &[
    ("bigint", "bigint"),
    ("bool", "boolean"),
    ("boolean", "boolean"),
    ("box", "box"),
    ("bytea", "bytea"),
    ("\"char\"", "\"char\""),
    ("cid", "cid"),
    ("cidr", "cidr"),
    ("circle", "circle"),
    ("date", "date"),
    ("datemultirange", "datemultirange"),
    ("daterange", "daterange"),
    ("double precision", "double precision"),
    ("float", "double precision"),
    ("float4", "real"),
    ("float8", "double precision"),
    ("inet", "inet"),
    ("int", "integer"),
    ("int2", "smallint"),
    ("int4", "integer"),
    ("int4multirange", "int4multirange"),
    ("int4range", "int4range"),
    ("int8", "bigint"),
    ("int8multirange", "int8multirange"),
    ("int8range", "int8range"),
    ("integer", "integer"),
    ("json", "json"),
    ("jsonb", "jsonb"),
    ("jsonpath", "jsonpath"),
    ("line", "line"),
    ("lseg", "lseg"),
    ("macaddr", "macaddr"),
    ("macaddr8", "macaddr8"),
    ("money", "money"),
    ("name", "name"),
    ("nummultirange", "nummultirange"),
    ("numrange", "numrange"),
    ("oid", "oid"),
    ("path", "path"),
    ("pg_lsn", "pg_lsn"),
    ("point", "point"),
    ("polygon", "polygon"),
    ("real", "real"),
    ("regclass", "regclass"),
    ("regproc", "regproc"),
    ("regprocedure", "regprocedure"),
    ("regrole", "regrole"),
    ("regtype", "regtype"),
    ("smallint", "smallint"),
    ("text", "text"),
    ("tid", "tid"),
    ("tsmultirange", "tsmultirange"),
    ("tsquery", "tsquery"),
    ("tsrange", "tsrange"),
    ("tstzmultirange", "tstzmultirange"),
    ("tstzrange", "tstzrange"),
    ("tsvector", "tsvector"),
    ("uuid", "uuid"),
    ("xid", "xid"),
    ("xid8", "xid8"),
    ("xml", "xml"),
];

/// What an interval may be restricted to.
const FIELDS: &[&str] = &[
    "year to month",
    "day to hour",
    "day to minute",
    "day to second",
    "hour to minute",
    "hour to second",
    "minute to second",
    "year",
    "month",
    "day",
    "hour",
    "minute",
    "second",
];

/// The longest `varchar(n)` and `bit(n)` that the server takes.
const CHARACTERS_MAX: u32 = 10_485_760;
const BITS_MAX: u32 = 83_886_080;
const NUMERIC_PRECISION_MAX: u32 = 1000;
const SECONDS_PRECISION_MAX: u32 = 6;

/// Reads any spelling of a built-in type. `None` for others: user-defined ones, `serial` (not a type) and modifiers
/// that the server refuses or cuts down.
pub fn canonical(type_text: &str) -> Option<DataType> {
    let mut parser = Parser {
        tokens: tokens(type_text)?,
        at: 0,
    };
    let base = parser.base()?;
    let array = parser.array()?;
    (parser.at == parser.tokens.len()).then_some(DataType { base, array })
}

/// Whether two types differ in their modifiers at most.
pub fn differ_in_modifiers(one: &str, other: &str) -> bool {
    match (canonical(one), canonical(other)) {
        (Some(one), Some(other)) => match (one.base, other.base) {
            (Base::Plain(one), Base::Plain(other)) => one == other,
            (one, other) => std::mem::discriminant(&one) == std::mem::discriminant(&other),
        },
        _ => one == other,
    }
}

/// Whether a column of the type may have a COLLATE clause; user-defined types count as those that may not.
pub fn is_collatable(type_text: &str) -> bool {
    canonical(type_text).is_some_and(|known| {
        matches!(
            known.base,
            Base::Char(_) | Base::VarChar(_) | Base::Plain("text" | "name")
        )
    })
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.base, if self.array { "[]" } else { "" })
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precision = |precision: Option<u32>| precision.map(|p| format!("({p})")).unwrap_or_default();
        match *self {
            Self::Plain(name) => f.write_str(name),
            Self::Char(None) => f.write_str("bpchar"),
            Self::Char(length) => write!(f, "character{}", precision(length)),
            Self::VarChar(length) => write!(f, "character varying{}", precision(length)),
            Self::Bit(length) => write!(f, "bit({length})"),
            Self::VarBit(length) => write!(f, "bit varying{}", precision(length)),
            Self::Numeric(None) => f.write_str("numeric"),
            Self::Numeric(Some((digits, scale))) => write!(f, "numeric({digits},{scale})"),
            Self::Time(p) => write!(f, "time{} without time zone", precision(p)),
            Self::TimeTz(p) => write!(f, "time{} with time zone", precision(p)),
            Self::Timestamp(p) => write!(f, "timestamp{} without time zone", precision(p)),
            Self::TimestampTz(p) => write!(f, "timestamp{} with time zone", precision(p)),
            Self::Interval(fields, p) => {
                let fields = fields.map(|fields| format!(" {fields}")).unwrap_or_default();
                write!(f, "interval{fields}{}", precision(p))
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Number(i32),
    Mark(char),
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let mut rest_of = |start: char, accept: fn(char) -> bool| {
            let mut text = String::from(start);
            while let Some(c) = chars.next_if(|&c| accept(c)) {
                text.push(c);
            }
            text
        };
        match c {
            c if c.is_ascii_whitespace() => {}
            '(' | ')' | '[' | ']' | ',' => tokens.push(Token::Mark(c)),
            '0'..='9' | '-' => {
                let digits = rest_of(c, |c| c.is_ascii_digit());
                tokens.push(Token::Number(digits.parse().ok()?));
            }
            '"' => {
                let quoted = rest_of(c, |c| c.is_ascii_alphanumeric() || c == '_' || c == '"');
                tokens.push(Token::Word(quoted));
            }
            c if c.is_ascii_alphabetic() || c == '_' => {
                let word = rest_of(c, |c| c.is_ascii_alphanumeric() || c == '_');
                tokens.push(Token::Word(word.to_ascii_lowercase()));
            }
            _ => return None,
        }
    }
    Some(tokens)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn mark(&mut self, mark: char) -> bool {
        self.take(&Token::Mark(mark))
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.tokens.get(self.at) == Some(token);
        self.at += usize::from(found);
        found
    }

    /// Takes the words, separated by single spaces here, when all of them come next.
    fn words(&mut self, words: &str) -> bool {
        let start = self.at;
        let found = words
            .split(' ')
            .all(|word| self.take(&Token::Word(word.to_owned())));
        if !found {
            self.at = start;
        }
        found
    }

    /// `(a, b…)`; empty where there is none.
    fn numbers(&mut self) -> Option<Vec<i32>> {
        let mut numbers = Vec::new();
        if !self.mark('(') {
            return Some(numbers);
        }
        loop {
            match self.tokens.get(self.at) {
                Some(Token::Number(number)) => numbers.push(*number),
                _ => return None,
            }
            self.at += 1;
            if self.mark(')') {
                return Some(numbers);
            }
            if !self.mark(',') {
                return None;
            }
        }
    }

    /// One optional number within the bounds.
    #[expect(clippy::option_option, reason = "refused, absent and given are three things")]
    fn number(&mut self, min: u32, max: u32) -> Option<Option<u32>> {
        match self.numbers()?.as_slice() {
            [] => Some(None),
            [number] => {
                let number = u32::try_from(*number).ok()?;
                (min..=max).contains(&number).then_some(Some(number))
            }
            _ => None,
        }
    }

    fn base(&mut self) -> Option<Base> {
        if self.words("double precision") {
            return Some(Base::Plain("double precision"));
        }
        let Some(Token::Word(word)) = self.tokens.get(self.at).cloned() else {
            return None;
        };
        self.at += 1;
        let national = word == "national";
        if national && !self.words("character") && !self.words("char") {
            return None;
        }
        match word.as_str() {
            "varchar" => Some(Base::VarChar(self.number(1, CHARACTERS_MAX)?)),
            "bpchar" => Some(Base::Char(self.number(1, CHARACTERS_MAX)?)),
            "char" | "character" | "nchar" | "national" => {
                let varying = self.words("varying");
                let length = self.number(1, CHARACTERS_MAX)?;
                Some(if varying {
                    Base::VarChar(length)
                } else {
                    Base::Char(Some(length.unwrap_or(1)))
                })
            }
            "bit" if self.words("varying") => Some(Base::VarBit(self.number(1, BITS_MAX)?)),
            "bit" => Some(Base::Bit(self.number(1, BITS_MAX)?.unwrap_or(1))),
            "varbit" => Some(Base::VarBit(self.number(1, BITS_MAX)?)),
            "numeric" | "decimal" | "dec" => self.numeric(),
            "float" => match self.number(1, 53)? {
                Some(1..=24) => Some(Base::Plain("real")),
                _ => Some(Base::Plain("double precision")),
            },
            "time" | "timestamp" => {
                let precision = self.number(0, SECONDS_PRECISION_MAX)?;
                let zoned = self.words("with time zone");
                if !zoned {
                    self.words("without time zone");
                }
                Some(match (word.as_str(), zoned) {
                    ("time", false) => Base::Time(precision),
                    ("time", true) => Base::TimeTz(precision),
                    (_, false) => Base::Timestamp(precision),
                    (_, true) => Base::TimestampTz(precision),
                })
            }
            "timetz" => Some(Base::TimeTz(self.number(0, SECONDS_PRECISION_MAX)?)),
            "timestamptz" => Some(Base::TimestampTz(self.number(0, SECONDS_PRECISION_MAX)?)),
            "interval" => self.interval(),
            plain => PLAIN
                .iter()
                .find(|(spelling, _)| *spelling == plain)
                .map(|(_, name)| Base::Plain(name)),
        }
    }

    fn numeric(&mut self) -> Option<Base> {
        let (digits, scale) = match self.numbers()?.as_slice() {
            [] => return Some(Base::Numeric(None)),
            [digits] => (*digits, 0),
            [digits, scale] => (*digits, *scale),
            _ => return None,
        };
        let digits = u32::try_from(digits).ok()?;
        let fits = (1..=NUMERIC_PRECISION_MAX).contains(&digits) && (-1000..=1000).contains(&scale);
        fits.then_some(Base::Numeric(Some((digits, scale))))
    }

    /// Only seconds have a precision.
    fn interval(&mut self) -> Option<Base> {
        let fields = FIELDS.iter().copied().find(|fields| self.words(fields));
        let precision = self.number(0, SECONDS_PRECISION_MAX)?;
        let seconds = fields.is_none_or(|fields| fields.ends_with("second"));
        (seconds || precision.is_none()).then_some(Base::Interval(fields, precision))
    }

    /// The server keeps neither the number of dimensions nor their sizes.
    fn array(&mut self) -> Option<bool> {
        let mut array = self.words("array");
        let keyword = array;
        while self.mark('[') {
            if let Some(Token::Number(size)) = self.tokens.get(self.at) {
                if *size < 0 {
                    return None;
                }
                self.at += 1;
            }
            if !self.mark(']') {
                return None;
            }
            array = true;
            if keyword {
                break;
            }
        }
        Some(array)
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn spellings() {
        for (given, printed) in [
            ("int", "integer"),
            ("INT4", "integer"),
            (" Int8 ", "bigint"),
            ("varchar(20)", "character varying(20)"),
            ("character  varying ( 20 )", "character varying(20)"),
            ("varchar", "character varying"),
            ("national character varying(3)", "character varying(3)"),
            ("char", "character(1)"),
            ("char(3)", "character(3)"),
            ("bpchar", "bpchar"),
            ("\"char\"", "\"char\""),
            ("numeric(10,2)", "numeric(10,2)"),
            ("decimal(10)", "numeric(10,0)"),
            ("numeric(3, -2)", "numeric(3,-2)"),
            ("dec", "numeric"),
            ("timestamptz", "timestamp with time zone"),
            ("timestamptz(3)", "timestamp(3) with time zone"),
            ("timestamp(3) with time zone", "timestamp(3) with time zone"),
            ("TIMESTAMP", "timestamp without time zone"),
            ("timestamp without time zone", "timestamp without time zone"),
            ("time", "time without time zone"),
            ("timetz(0)", "time(0) with time zone"),
            ("interval", "interval"),
            ("interval(3)", "interval(3)"),
            ("interval day to second (3)", "interval day to second(3)"),
            ("interval day", "interval day"),
            ("bool", "boolean"),
            ("float8", "double precision"),
            ("float(24)", "real"),
            ("float(25)", "double precision"),
            ("double  precision", "double precision"),
            ("bit", "bit(1)"),
            ("bit varying", "bit varying"),
            ("varbit(7)", "bit varying(7)"),
            ("int[]", "integer[]"),
            ("text[3][]", "text[]"),
            ("varchar(3) array[4]", "character varying(3)[]"),
            ("uuid", "uuid"),
        ] {
            assert_eq!(
                canonical(given).map(|t| t.to_string()).as_deref(),
                Some(printed),
                "{given}"
            );
            assert_eq!(canonical(printed), canonical(given), "{printed}");
        }
    }

    #[test]
    fn others_are_unknown() {
        for given in [
            "",
            "serial",
            "bigserial",
            "mood",
            "public.mood",
            "\"Mood\"",
            "varchar(0)",
            "varchar(1,2)",
            "numeric(0)",
            "numeric(1001)",
            "timestamp(7)",
            "int(4)",
            "integer;",
            "int -- x",
            "int[",
            "interval day(3)",
            "double",
            "text)",
            "varchar('3')",
            "123",
            "national text",
            "float(54)",
        ] {
            assert_eq!(canonical(given), None, "{given}");
        }
    }
}
