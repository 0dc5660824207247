//! Changes between built-in types.

use super::{Base, DataType, SECONDS_PRECISION_MAX, canonical};

/// What changing a column's type costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeChange {
    /// The same type, however it was spelled.
    Same,
    /// No value is touched: the catalog changes, table and plain indexes stay.
    CatalogOnly,
    /// Every value keeps its meaning but is stored differently: the table would be rewritten.
    Rewrite,
    /// Some value may not fit, or may come out different.
    Lossy,
}

/// Decimal digits of the largest value, for the numbers without a fraction.
const INTEGERS: &[(&str, u32)] = &[("smallint", 5), ("integer", 10), ("bigint", 19)];

/// How a column of `from` becomes one of `to`; `None` where a type is unknown or the answer depends on more than the
/// two types, so that only the server can tell.
pub fn widening(from: &str, to: &str) -> Option<TypeChange> {
    let (from, to) = (canonical(from)?, canonical(to)?);
    if from == to {
        return Some(TypeChange::Same);
    }
    if from.array || to.array {
        return arrays(&from, &to);
    }
    elements(from.base, to.base)
}

/// An array is rewritten wherever its elements change at all; what the server spares is for the server to say.
fn arrays(from: &DataType, to: &DataType) -> Option<TypeChange> {
    if from.array != to.array {
        return Some(TypeChange::Lossy);
    }
    match elements(from.base, to.base)? {
        TypeChange::CatalogOnly => None,
        other => Some(other),
    }
}

fn elements(from: Base, to: Base) -> Option<TypeChange> {
    use Base::{Bit, Char, Interval, Numeric, Plain, Time, TimeTz, Timestamp, TimestampTz, VarBit, VarChar};
    Some(match (from, to) {
        (VarChar(_) | Plain("text"), VarChar(None) | Plain("text")) => TypeChange::CatalogOnly,
        (VarChar(Some(old)), VarChar(Some(new))) if new >= old => TypeChange::CatalogOnly,
        (VarBit(_), VarBit(None)) => TypeChange::CatalogOnly,
        (VarBit(Some(old)), VarBit(Some(new))) if new >= old => TypeChange::CatalogOnly,
        // No rewrite of the table, but one of its indexes: the server knows which.
        (Bit(_), VarBit(_)) => return None,
        (Char(Some(old)), Char(Some(new))) if new > old => TypeChange::Rewrite,
        (Numeric(_), Numeric(None)) => TypeChange::CatalogOnly,
        (Numeric(Some(old)), Numeric(Some(new))) => numerics(old, new),
        (Time(old), Time(new))
        | (TimeTz(old), TimeTz(new))
        | (Timestamp(old), Timestamp(new))
        | (TimestampTz(old), TimestampTz(new))
            if seconds_widen(old, new) =>
        {
            TypeChange::CatalogOnly
        }
        (Interval(old_fields, old), Interval(new_fields, new))
            if (new_fields.is_none() || new_fields == old_fields) && seconds_widen(old, new) =>
        {
            TypeChange::CatalogOnly
        }
        (Plain("cidr"), Plain("inet")) => TypeChange::CatalogOnly,
        // A date reaches further into the future than a timestamp, so date to timestamp is not among them.
        (Plain("real"), Plain("double precision")) => TypeChange::Rewrite,
        (Plain(old), Plain(new)) if digits(old) < digits(new) && digits(old).is_some() => TypeChange::Rewrite,
        (Plain(old), Numeric(None)) if digits(old).is_some() => TypeChange::Rewrite,
        (Plain(old), Numeric(Some((precision, scale))))
            if scale >= 0
                && digits(old)
                    .is_some_and(|digits| i64::from(precision) - i64::from(scale) >= digits.into()) =>
        {
            TypeChange::Rewrite
        }
        _ => TypeChange::Lossy,
    })
}

fn digits(name: &str) -> Option<u32> {
    INTEGERS
        .iter()
        .find(|(integer, _)| *integer == name)
        .map(|(_, digits)| *digits)
}

fn numerics((old_digits, old_scale): (u32, i32), (new_digits, new_scale): (u32, i32)) -> TypeChange {
    let whole = |digits: u32, scale: i32| i64::from(digits) - i64::from(scale);
    if new_scale == old_scale && new_digits >= old_digits {
        TypeChange::CatalogOnly
    } else if new_scale >= old_scale && whole(new_digits, new_scale) >= whole(old_digits, old_scale) {
        TypeChange::Rewrite
    } else {
        TypeChange::Lossy
    }
}

/// Without a precision, or with the greatest, nothing is rounded.
fn seconds_widen(old: Option<u32>, new: Option<u32>) -> bool {
    match (old, new) {
        (_, None | Some(SECONDS_PRECISION_MAX)) => true,
        (Some(old), Some(new)) => new >= old,
        (None, Some(_)) => false,
    }
}

/// A condition that holds for the values of the wide type `to` in `column_sql` (a column reference) that become a
/// value of `from` again without being changed; NULL does. `None` where `from` does not widen to `to`, or where
/// either is unknown.
pub fn fits_predicate(from: &str, to: &str, column_sql: &str) -> Option<String> {
    let change = widening(from, to)?;
    let (from, to) = (canonical(from)?, canonical(to)?);
    match change {
        TypeChange::Same => return Some("true".to_owned()),
        TypeChange::Lossy => return None,
        _ if from.array => return None,
        TypeChange::CatalogOnly | TypeChange::Rewrite => {}
    }
    Some(match condition(from.base, to.base, column_sql) {
        None => "true".to_owned(),
        Some(condition) => format!("({column_sql} IS NULL OR {condition})"),
    })
}

/// `None` where every value fits.
fn condition(from: Base, to: Base, x: &str) -> Option<String> {
    use Base::{Char, Interval, Numeric, Plain, Time, TimeTz, Timestamp, TimestampTz, VarBit, VarChar};
    match (from, to) {
        (VarChar(Some(length)) | VarBit(Some(length)) | Char(Some(length)), _) => {
            Some(format!("length({x}) <= {length}"))
        }
        (Numeric(Some((precision, scale))), _) => Some(format!(
            "{x} = 'NaN' OR ({x} = round({x}, {scale}) AND abs({x}) < {})",
            power_of_ten(i64::from(precision) - i64::from(scale))
        )),
        (Time(Some(_)) | TimeTz(Some(_)) | Timestamp(Some(_)) | TimestampTz(Some(_)) | Interval(..), _) => {
            Some(format!("{x} = {x}::{from}"))
        }
        (Plain("cidr"), _) => Some(format!("{x} = network({x})")),
        // Casting what is out of range would be an error, so the range is looked at first.
        (Plain("real"), _) => Some(format!(
            "CASE WHEN {x} IN (0, 'Infinity', '-Infinity', 'NaN') THEN true \
             WHEN abs({x}) BETWEEN 1.401298464324817e-45 AND 3.4028234663852886e+38 \
             THEN {x}::real::double precision = {x} ELSE false END"
        )),
        (Plain(integer), wide) => {
            let range = match integer {
                "smallint" => "-32768 AND 32767",
                "integer" => "-2147483648 AND 2147483647",
                "bigint" => "-9223372036854775808 AND 9223372036854775807",
                _ => return None,
            };
            Some(match wide {
                Numeric(_) => format!("({x} = trunc({x}) AND {x} BETWEEN {range})"),
                _ => format!("{x} BETWEEN {range}"),
            })
        }
        _ => None,
    }
}

fn power_of_ten(exponent: i64) -> String {
    let zeros = |count: i64| "0".repeat(usize::try_from(count).unwrap_or(0));
    if exponent >= 0 {
        format!("1{}", zeros(exponent))
    } else {
        format!("0.{}1", zeros(-exponent - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_rewrite() {
        for (from, to) in [
            ("varchar(3)", "varchar(4)"),
            ("varchar(3)", "text"),
            ("text", "varchar"),
            ("numeric(5,2)", "numeric(7,2)"),
            ("numeric(5,2)", "numeric"),
            ("varbit(3)", "varbit"),
            ("timestamp(3)", "timestamp(6)"),
            ("timestamp", "timestamp(6)"),
            ("timestamptz(0)", "timestamptz"),
            ("interval day to second(3)", "interval"),
            ("cidr", "inet"),
        ] {
            assert_eq!(
                widening(from, to),
                Some(TypeChange::CatalogOnly),
                "{from} to {to}"
            );
        }
    }

    #[test]
    fn what_needs_a_rewrite() {
        for (from, to) in [
            ("int2", "int8"),
            ("int", "bigint"),
            ("int", "numeric"),
            ("int", "numeric(10)"),
            ("bigint", "numeric(21,2)"),
            ("real", "float8"),
            ("numeric(5,2)", "numeric(6,3)"),
            ("char(2)", "char(3)"),
            ("int[]", "bigint[]"),
        ] {
            assert_eq!(widening(from, to), Some(TypeChange::Rewrite), "{from} to {to}");
        }
    }

    #[test]
    fn what_loses() {
        for (from, to) in [
            ("bigint", "int"),
            ("text", "varchar(3)"),
            ("varchar(4)", "varchar(3)"),
            ("int", "numeric(9)"),
            ("int", "numeric(11,2)"),
            ("numeric", "numeric(5)"),
            ("numeric(5,2)", "numeric(5,3)"),
            ("date", "timestamp"),
            ("date", "timestamp(0)"),
            ("timestamp", "timestamptz"),
            ("timestamp", "timestamp(3)"),
            ("json", "jsonb"),
            ("int", "int[]"),
            ("text", "uuid"),
        ] {
            assert_eq!(widening(from, to), Some(TypeChange::Lossy), "{from} to {to}");
            assert_eq!(fits_predicate(from, to, "x"), None);
        }
    }

    #[test]
    fn what_only_the_server_knows() {
        assert_eq!(widening("bit(3)", "varbit"), None);
        assert_eq!(widening("mood", "text"), None);
        assert_eq!(widening("varchar(3)[]", "text[]"), None);
        assert_eq!(widening("INT", "int4"), Some(TypeChange::Same));
    }

    #[test]
    fn conditions() {
        assert_eq!(fits_predicate("int", "integer", "x").unwrap(), "true");
        assert_eq!(fits_predicate("varchar", "text", "x").unwrap(), "true");
        assert_eq!(
            fits_predicate("int", "bigint", "\"X\"").unwrap(),
            "(\"X\" IS NULL OR \"X\" BETWEEN -2147483648 AND 2147483647)"
        );
        assert!(
            fits_predicate("numeric(3,5)", "numeric", "x")
                .unwrap()
                .contains("< 0.01)")
        );
    }
}
