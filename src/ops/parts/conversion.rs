//! Values that become values of another type by an expression, and back again by another.
//!
//! The expression may fail for a value. While the application does not know of the new type yet, its writes must not:
//! then the other column is null, which a comparison of all rows finds before anybody reads it.

use crate::catalog::model::Column;
use crate::plan::Hazard;
use crate::sql::{QualifiedName, ident, literal};

/// The expressions are the server's spelling, in terms of the column's own name.
#[derive(Debug, Clone)]
pub struct Conversion {
    /// What is asked whether it equals the stored value.
    pub convert: QualifiedName,
    /// Gives the error of the conversion, where there is one.
    pub refuse: QualifiedName,
    pub forwards: String,
    pub back: String,
    /// Settings under which they are evaluated, wherever that is; none where they depend on none.
    pub settings: Vec<(String, String)>,
}

/// The result within the functions.
const RESULT: &str = "~pgmorph";

/// What becomes of a write whose value cannot be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// The other column is null.
    Lenient,
    /// It fails, as it will once the column has the new type.
    Strict,
}

impl Conversion {
    /// Functions that backfill, comparison and CHECK call.
    pub fn create(&self, column: &Column, new_type: &str) -> Vec<String> {
        let (old_type, value, result) = (&column.data_type, ident(&column.name), ident(RESULT));
        let function = |name: &QualifiedName, returns: &str, done: &str, failed: &str| {
            let body = format!(
                "DECLARE {value} CONSTANT {old_type} := $1; {result} {new_type}; BEGIN {result} := {}; \
                 RETURN {done}; EXCEPTION WHEN OTHERS THEN RETURN {failed}; END",
                self.forwards
            );
            format!(
                "CREATE OR REPLACE FUNCTION {name}({old_type}) RETURNS {returns} LANGUAGE plpgsql IMMUTABLE{} AS {}",
                self.under_settings(),
                literal(&body)
            )
        };
        let granted =
            |name: &QualifiedName| format!("GRANT EXECUTE ON FUNCTION {name}({old_type}) TO PUBLIC");
        vec![
            function(&self.convert, new_type, &result, "NULL"),
            // A CHECK that calls it is evaluated as whoever writes.
            granted(&self.convert),
            function(&self.refuse, "text", "NULL", "SQLERRM"),
        ]
    }

    /// Goes into the head of a function.
    pub fn under_settings(&self) -> String {
        let settings = self.settings.iter();
        let clauses = settings.map(|(name, value)| format!(" SET {name} TO {}", literal(value)));
        clauses.collect()
    }

    pub fn hazard(&self) -> Option<Hazard> {
        let settings = self.settings.iter();
        let settings: Vec<String> = settings
            .map(|(name, value)| format!("{name} = {}", literal(value)))
            .collect();
        (!settings.is_empty()).then(|| {
            Hazard::new(
                "pinned_settings",
                format!(
                    "whoever writes, values are converted under {}",
                    settings.join(", ")
                ),
            )
        })
    }

    pub fn drop(&self, old_type: &str) -> Vec<String> {
        [&self.convert, &self.refuse]
            .iter()
            .map(|name| format!("DROP FUNCTION IF EXISTS {name}({old_type})"))
            .collect()
    }
}

/// Body of a trigger function that sets `target` by the expression over `column`, whose type is `data_type`, on every
/// write: a row that moves to where the backfill has been takes its value along.
pub fn forward_body(
    target: &str,
    expression: &str,
    column: &str,
    data_type: &str,
    strictness: Strictness,
) -> String {
    format!(
        "BEGIN {} RETURN NEW; END",
        assignment(target, expression, column, data_type, strictness)
    )
}

/// The way back: an update of other columns leaves alone what a lossy expression would not give again.
pub fn back_body(target: &str, expression: &str, column: &str, data_type: &str) -> String {
    let written = differs(
        &format!("NEW.{}", ident(column)),
        &format!("OLD.{}", ident(column)),
    );
    format!(
        "BEGIN IF TG_OP = 'INSERT' OR {written} THEN {} END IF; RETURN NEW; END",
        assignment(target, expression, column, data_type, Strictness::Lenient)
    )
}

fn assignment(
    target: &str,
    expression: &str,
    column: &str,
    data_type: &str,
    strictness: Strictness,
) -> String {
    let (target, column) = (ident(target), ident(column));
    let lenient = match strictness {
        Strictness::Lenient => format!(" EXCEPTION WHEN OTHERS THEN NEW.{target} := NULL;"),
        Strictness::Strict => String::new(),
    };
    format!(
        "DECLARE {column} CONSTANT {data_type} := NEW.{column}; BEGIN NEW.{target} := {expression};{lenient} END;"
    )
}

/// Byte by byte, so that it holds for types without equality and for values that are only said to be equal.
pub fn differs(left: &str, right: &str) -> String {
    format!("pg_catalog.record_image_ne(ROW({left}), ROW({right}))")
}

pub fn equals(left: &str, right: &str) -> String {
    format!("pg_catalog.record_image_eq(ROW({left}), ROW({right}))")
}
