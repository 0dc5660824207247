//! Types as effects depend on them: what an existing value needs to become one of another type.

use crate::catalog::types::{Base, DataType, canonical};
use crate::sql::QualifiedName;
use crate::sql_lint::parse::dotted;
use crate::sql_lint::statement::{Expression, Name};
use crate::sql_lint::world::World;

/// What a change of type does to the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing: neither table nor plain indexes are touched.
    Kept,
    /// The values stay, their order does not: indexes are built anew.
    Reindex,
    Rewrite,
    /// There is no cast that is applied by itself.
    Refused,
    /// A type is not known, or the old one is not.
    Unknown,
}

/// A type with its domains taken off.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    pub base: Plain,
    /// A domain on the way has constraints.
    pub constrained: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Plain {
    BuiltIn(DataType),
    /// An enum, a composite or a range of a user's, and whether it is an array of them.
    User(QualifiedName, String, bool),
    /// Of the extension; compares without case.
    CaseInsensitive,
    Unknown(String),
}

pub fn resolve(world: &World, text: &str) -> Resolved {
    let mut text = text.strip_prefix("pg_catalog.").unwrap_or(text).to_owned();
    let mut constrained = false;
    // As deep as domains are nested in earnest.
    for _ in 0..16 {
        if let Some(known) = canonical(&text) {
            return Resolved {
                base: Plain::BuiltIn(known),
                constrained,
            };
        }
        let (bare, array) = match text.strip_suffix("[]") {
            Some(bare) => (bare.to_owned(), true),
            None => (text.clone(), false),
        };
        let name = world.resolve(&dotted(&bare));
        if name.name == "citext" && !array {
            return Resolved {
                base: Plain::CaseInsensitive,
                constrained,
            };
        }
        match world.catalog.types.get(&name) {
            Some(domain) if domain.base.is_some() && !array => {
                constrained |= domain.constrained;
                text = domain.base.clone().unwrap_or_default();
            }
            Some(user) => {
                return Resolved {
                    base: Plain::User(name, user.kind.clone(), array),
                    constrained,
                };
            }
            None => break,
        }
    }
    Resolved {
        base: Plain::Unknown(text),
        constrained,
    }
}

/// How values of one type become those of another. `explicit`: a cast was written down, so that it need not be one
/// that is applied by itself.
pub fn change(world: &World, from: &str, to: &str, explicit: bool) -> Change {
    let (from, to) = (resolve(world, from), resolve(world, to));
    let bare = match (&from.base, &to.base) {
        (Plain::Unknown(one), Plain::Unknown(other)) if one == other => Change::Kept,
        (Plain::Unknown(_), _) | (_, Plain::Unknown(_)) => Change::Unknown,
        (one, other) if one == other => Change::Kept,
        (Plain::BuiltIn(one), Plain::BuiltIn(other)) => built_in(world, one, other, explicit),
        (Plain::CaseInsensitive, Plain::BuiltIn(other)) | (Plain::BuiltIn(other), Plain::CaseInsensitive) => {
            match other.base {
                Base::VarChar(None) | Base::Plain("text") if !other.array => Change::Reindex,
                _ => Change::Rewrite,
            }
        }
        // Everything has a text, which is assigned by itself; nothing is read from one without being asked.
        (_, other) if is_string(other) || explicit => Change::Rewrite,
        _ => Change::Refused,
    };
    match bare {
        Change::Kept | Change::Reindex if to.constrained && from != to => Change::Rewrite,
        other => other,
    }
}

fn is_string(plain: &Plain) -> bool {
    match plain {
        Plain::BuiltIn(known) => {
            !known.array
                && matches!(
                    known.base,
                    Base::VarChar(_) | Base::Char(_) | Base::Plain("text" | "name")
                )
        }
        Plain::CaseInsensitive => true,
        _ => false,
    }
}

fn built_in(world: &World, from: &DataType, to: &DataType, explicit: bool) -> Change {
    if !explicit && !assigned(from, to) {
        return Change::Refused;
    }
    if from.array || to.array {
        let same_elements = from.array == to.array && same_family(from.base, to.base);
        return match same_elements && lifts(to.base) {
            true => Change::Kept,
            false => Change::Rewrite,
        };
    }
    bases(world, from.base, to.base)
}

/// The same type but for its modifier.
fn same_family(one: Base, other: Base) -> bool {
    match (one, other) {
        (Base::Plain(one), Base::Plain(other)) => one == other,
        (one, other) => std::mem::discriminant(&one) == std::mem::discriminant(&other),
    }
}

/// Without a modifier that would have to be applied.
fn lifts(base: Base) -> bool {
    matches!(
        base,
        Base::Char(None)
            | Base::VarChar(None)
            | Base::VarBit(None)
            | Base::Numeric(None)
            | Base::Time(None)
            | Base::TimeTz(None)
            | Base::Timestamp(None)
            | Base::TimestampTz(None)
            | Base::Interval(None, None)
            | Base::Plain(_)
    )
}

/// From which precision on nothing is rounded: seconds have six digits.
fn seconds(old: Option<u32>, new: Option<u32>) -> Change {
    match new.is_none_or(|new| new >= old.unwrap_or(6)) {
        true => Change::Kept,
        false => Change::Rewrite,
    }
}

fn bases(world: &World, from: Base, to: Base) -> Change {
    use Base::{Bit, Char, Interval, Numeric, Plain, Time, TimeTz, Timestamp, TimestampTz, VarBit, VarChar};
    let kept = |holds: bool| if holds { Change::Kept } else { Change::Rewrite };
    match (from, to) {
        (VarChar(_) | Plain("text"), VarChar(None) | Plain("text")) => Change::Kept,
        (VarChar(old), VarChar(Some(new))) => kept(old.is_some_and(|old| old <= new)),
        (VarChar(_) | Plain("text"), Char(None)) => Change::Reindex,
        (Char(_), Char(None)) | (Plain("cidr"), Plain("inet")) => Change::Kept,
        (Numeric(_), Numeric(None)) => Change::Kept,
        (Numeric(Some((old, scale))), Numeric(Some((new, new_scale)))) => {
            kept(scale == new_scale && new >= old)
        }
        (VarBit(_), VarBit(None)) => Change::Kept,
        (VarBit(old), VarBit(Some(new))) => kept(old.is_some_and(|old| old <= new)),
        (Bit(_), VarBit(None)) => Change::Reindex,
        (Time(old), Time(new))
        | (TimeTz(old), TimeTz(new))
        | (Timestamp(old), Timestamp(new))
        | (TimestampTz(old), TimestampTz(new)) => seconds(old, new),
        (Timestamp(_), TimestampTz(None)) | (TimestampTz(_), Timestamp(None)) => zoned(world),
        (Interval(old_fields, old), Interval(new_fields, new)) => {
            let all = |fields: Option<&str>| fields.is_none_or(|fields| fields == "day to second");
            match new_fields == old_fields || all(new_fields) {
                true => seconds(old, new),
                false => Change::Rewrite,
            }
        }
        (Plain(one), Plain(other)) if one == other => Change::Kept,
        (Plain("integer"), Plain(other)) | (Plain(other), Plain("integer"))
            if other == "oid" || other.starts_with("reg") =>
        {
            Change::Reindex
        }
        (Plain("oid"), Plain(other)) | (Plain(other), Plain("oid")) if other.starts_with("reg") => {
            Change::Kept
        }
        (Plain("xml"), VarChar(None) | Plain("text")) => Change::Reindex,
        _ => Change::Rewrite,
    }
}

/// In a session whose clock is UTC both kinds of timestamps have the same values.
fn zoned(world: &World) -> Change {
    match world.catalog.server.time_zone.as_str() {
        "UTC" | "Etc/UTC" | "GMT" | "Etc/GMT" | "UCT" | "Etc/UCT" | "Zulu" | "Etc/Zulu" | "Greenwich"
        | "Etc/Greenwich" | "Universal" | "Etc/Universal" => Change::Reindex,
        "" => Change::Unknown,
        _ => Change::Rewrite,
    }
}

const NUMBERS: &[&str] = &["smallint", "integer", "bigint", "real", "double precision"];

/// Whether a cast between them is applied by itself when a value is stored.
fn assigned(from: &DataType, to: &DataType) -> bool {
    use Base::{Bit, Char, Numeric, Plain, Time, TimeTz, Timestamp, TimestampTz, VarBit, VarChar};
    if from.array != to.array {
        return !to.array && matches!(to.base, VarChar(_) | Char(_) | Plain("text"));
    }
    let number =
        |base: Base| matches!(base, Numeric(_)) || matches!(base, Plain(name) if NUMBERS.contains(&name));
    let moment = |base: Base| matches!(base, Timestamp(_) | TimestampTz(_) | Plain("date"));
    let identifier = |base: Base| matches!(base, Plain(name) if name == "oid" || name.starts_with("reg"));
    match (from.base, to.base) {
        (one, other) if same_family(one, other) => true,
        (_, VarChar(_) | Char(_) | Plain("text")) => true,
        (VarChar(_) | Char(_), Plain("name")) | (Plain("text"), Plain("name")) => true,
        (one, other) if number(one) && number(other) => true,
        (one, other) if moment(one) && moment(other) => true,
        (Timestamp(_) | TimestampTz(_), Time(_)) | (TimestampTz(_), TimeTz(_)) => true,
        (Time(_), TimeTz(_) | Base::Interval(..)) | (TimeTz(_) | Base::Interval(..), Time(_)) => true,
        (Bit(_), VarBit(_)) | (VarBit(_), Bit(_)) => true,
        (Plain("json"), Plain("jsonb")) | (Plain("jsonb"), Plain("json")) => true,
        (Plain("cidr" | "inet"), Plain("cidr" | "inet")) => true,
        (Plain("macaddr" | "macaddr8"), Plain("macaddr" | "macaddr8")) => true,
        (Plain("integer" | "bigint" | "smallint"), other) => identifier(other) || other == Plain("money"),
        (one, Plain("integer" | "bigint")) => identifier(one),
        (one, other) => (identifier(one) && identifier(other)) || (number(one) && other == Plain("money")),
    }
}

/// Functions of PostgreSQL's own that are volatile and stand in defaults.
const VOLATILE: &[&str] = &[
    "clock_timestamp",
    "currval",
    "gen_random_bytes",
    "gen_random_uuid",
    "lastval",
    "nextval",
    "random",
    "random_normal",
    "setval",
    "statement_timestamp_volatile",
    "timeofday",
    "txid_current",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
    "uuidv4",
    "uuidv7",
];

/// Functions of PostgreSQL's own that are stable or immutable and stand in defaults.
const STEADY: &[&str] = &[
    "array_length",
    "array_to_string",
    "btrim",
    "char_length",
    "coalesce",
    "concat",
    "current_database",
    "current_schema",
    "current_setting",
    "date_part",
    "date_trunc",
    "decode",
    "encode",
    "extract",
    "floor",
    "greatest",
    "json_build_array",
    "json_build_object",
    "jsonb_build_array",
    "jsonb_build_object",
    "least",
    "length",
    "localtimestamp",
    "lower",
    "make_date",
    "make_interval",
    "make_timestamptz",
    "md5",
    "now",
    "nullif",
    "round",
    "sha256",
    "statement_timestamp",
    "string_to_array",
    "substring",
    "timezone",
    "to_char",
    "to_date",
    "to_json",
    "to_jsonb",
    "to_timestamp",
    "to_tsvector",
    "transaction_timestamp",
    "trim",
    "upper",
    "value",
    "values",
];

/// Whether an expression may differ from row to row: `None` where it calls what is not known.
pub fn is_volatile(world: &World, expression: &Expression) -> Option<bool> {
    let mut known = Some(false);
    for function in &expression.functions {
        match volatile_function(world, function) {
            Some(true) => return Some(true),
            Some(false) => {}
            None => known = None,
        }
    }
    known
}

fn volatile_function(world: &World, function: &Name) -> Option<bool> {
    let builtin = function
        .schema
        .as_deref()
        .is_none_or(|schema| schema == "pg_catalog");
    if builtin && STEADY.contains(&function.name.as_str()) {
        return Some(false);
    }
    if VOLATILE.contains(&function.name.as_str()) {
        return Some(true);
    }
    let mut places = match &function.schema {
        Some(schema) => vec![schema.clone()],
        None => world.search_path.clone(),
    };
    places.dedup();
    let steady = |schema: &String| {
        let name = QualifiedName::new(schema, &function.name);
        world.catalog.not_volatile.contains(&name)
    };
    match places.iter().any(steady) {
        true => Some(false),
        // What a full catalog does not list as steady is a user's volatile function or one of the server's.
        false => None,
    }
}

/// The functions that are taken for stable, for the manual.
pub fn steady_functions() -> &'static [&'static str] {
    STEADY
}
