//! Types that can be widened, and values for them: a value is made from a number, so that different numbers give
//! different values, and is written as the server prints it.

use super::chance::Dice;
use crate::harness::Chance;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    SmallInt,
    Integer,
    BigInt,
    Numeric(Option<(u32, u32)>),
    Real,
    Double,
    VarChar(Option<u32>),
    Text,
    Char(u32),
    IntegerArray,
    BigIntArray,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Integer,
    Fraction,
    Float,
    Text,
    Array,
}

impl Type {
    pub fn sql(self) -> String {
        match self {
            Self::SmallInt => "smallint".into(),
            Self::Integer => "integer".into(),
            Self::BigInt => "bigint".into(),
            Self::Numeric(None) => "numeric".into(),
            Self::Numeric(Some((precision, scale))) => format!("numeric({precision},{scale})"),
            Self::Real => "real".into(),
            Self::Double => "double precision".into(),
            Self::VarChar(None) => "varchar".into(),
            Self::VarChar(Some(length)) => format!("varchar({length})"),
            Self::Text => "text".into(),
            Self::Char(length) => format!("char({length})"),
            Self::IntegerArray => "integer[]".into(),
            Self::BigIntArray => "bigint[]".into(),
        }
    }

    pub fn family(self) -> Family {
        match self {
            Self::SmallInt | Self::Integer | Self::BigInt | Self::Numeric(Some((_, 0))) => Family::Integer,
            Self::Numeric(_) => Family::Fraction,
            Self::Real | Self::Double => Family::Float,
            Self::VarChar(_) | Self::Text | Self::Char(_) => Family::Text,
            Self::IntegerArray | Self::BigIntArray => Family::Array,
        }
    }

    /// Whether a sequence may feed it.
    pub fn is_integer(self) -> bool {
        matches!(self, Self::SmallInt | Self::Integer | Self::BigInt)
    }

    pub fn any(chance: &mut Chance) -> Self {
        match chance.below(20) {
            0..2 => Self::SmallInt,
            2..7 => Self::Integer,
            7 => Self::BigInt,
            8..11 => Self::Numeric(Some((8 + chance.below(4) as u32, chance.below(3) as u32))),
            11 => Self::Numeric(None),
            12..14 => Self::Real,
            14..17 => Self::VarChar(Some(12 + chance.below(20) as u32)),
            17 => Self::Text,
            18 => Self::Char(10 + chance.below(5) as u32),
            _ => Self::IntegerArray,
        }
    }

    /// A type that holds all of its values. `integers` where only another integer will do.
    pub fn wider(self, integers: bool, chance: &mut Chance) -> Option<Self> {
        let numeric = |precision, scale| Self::Numeric(Some((precision, scale)));
        let choices = match self {
            Self::SmallInt if integers => vec![Self::Integer, Self::BigInt],
            Self::Integer if integers => vec![Self::BigInt],
            Self::SmallInt => vec![Self::Integer, Self::BigInt, Self::Numeric(None), numeric(9, 2)],
            // Mostly what the product is for.
            Self::Integer => vec![
                Self::BigInt,
                Self::BigInt,
                Self::BigInt,
                Self::Numeric(None),
                numeric(14, 3),
                numeric(10, 0),
            ],
            _ if integers => vec![],
            Self::BigInt => vec![Self::Numeric(None), numeric(20, 0)],
            Self::Numeric(Some((precision, scale))) => vec![
                numeric(precision + 3, scale),
                numeric(precision + 4, scale + 2),
                Self::Numeric(None),
            ],
            Self::Real => vec![Self::Double],
            Self::VarChar(Some(length)) => {
                vec![Self::VarChar(Some(length + 10)), Self::Text, Self::VarChar(None)]
            }
            Self::VarChar(None) => vec![Self::Text],
            Self::Text => vec![Self::VarChar(None)],
            Self::Char(length) => vec![Self::Char(length + 1), Self::Char(length + 20)],
            Self::IntegerArray => vec![Self::BigIntArray],
            Self::Numeric(None) | Self::Double | Self::BigIntArray => vec![],
        };
        (!choices.is_empty()).then(|| *chance.pick(&choices))
    }

    /// The value of a number.
    pub fn value(self, n: i64) -> String {
        match self.family() {
            Family::Integer => n.to_string(),
            // One half more, as long as that has a digit after the point.
            Family::Fraction | Family::Float if n >= 0 => format!("{n}.5"),
            Family::Fraction | Family::Float => n.to_string(),
            Family::Text => format!("v{n}"),
            Family::Array => format!("{{{n}}}"),
        }
    }

    /// A value that this type has and `narrow` does not.
    pub fn beyond(self, narrow: Self, n: i64) -> Option<String> {
        match narrow {
            Self::SmallInt => Some(self.value(n - 100_000)),
            Self::Integer => Some(self.value(n - 3_000_000_000)),
            Self::VarChar(Some(length)) => {
                let wide = match self {
                    Self::VarChar(Some(wide)) => wide,
                    _ => length + 40,
                };
                Some(format!(
                    "{:x<width$}",
                    self.value(n),
                    width = usize::try_from(wide).unwrap()
                ))
            }
            _ => None,
        }
    }

    /// As every type prints it that the value may be brought to.
    pub fn canonical(self, text: &str) -> String {
        match self.family() {
            Family::Fraction | Family::Float | Family::Integer if text.contains('.') => {
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            }
            Family::Text => text.trim_end_matches(' ').to_owned(),
            _ => text.to_owned(),
        }
    }

    /// One more, where that can be said exactly.
    pub fn incremented(self, text: &str, unique: bool) -> Option<String> {
        if !matches!(self.family(), Family::Integer | Family::Fraction | Family::Float) {
            return None;
        }
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let n: i64 = whole.parse().ok()?;
        if !["", "5"].contains(&fraction) || (fraction == "5" && whole.starts_with('-')) {
            return None;
        }
        // Distinct values are four apart, so that three of these make no duplicate.
        let room = if unique {
            n.rem_euclid(4) < 3
        } else {
            (0..1_000).contains(&n)
        };
        let fraction = if fraction.is_empty() { "" } else { ".5" };
        room.then(|| format!("{}{fraction}", n + 1))
    }
}
