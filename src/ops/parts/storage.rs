//! How a column's values are stored: what a new type would forget.

use crate::catalog::model::Column;

/// The storage that a column of a built-in type has unless another was asked for.
pub fn of_type(data_type: &str) -> &'static str {
    let is = |names: &[&str]| names.iter().any(|name| data_type.starts_with(name));
    if data_type.ends_with("[]") || is(&["text", "character", "bpchar", "bit"]) {
        "extended"
    } else if is(&["numeric", "inet", "cidr"]) {
        "main"
    } else {
        "plain"
    }
}

/// Whether values of the type may be compressed or kept out of line at all.
fn varies(data_type: &str) -> bool {
    of_type(data_type) != "plain"
}

/// What ALTER COLUMN must say so that a column of the new type is stored like the present one.
pub fn settings(column: &Column, data_type: &str) -> Vec<String> {
    if !varies(data_type) {
        return Vec::new();
    }
    let mut found = Vec::new();
    if varies(&column.data_type) && column.storage != of_type(&column.data_type) {
        found.push(format!("SET STORAGE {}", column.storage.to_uppercase()));
    }
    if let Some(compression) = &column.compression {
        found.push(format!("SET COMPRESSION {compression}"));
    }
    found
}

/// The effect of [`settings`] on the column of the new type.
pub fn keep(column: &Column, after: &mut Column) {
    after.compression = None;
    if varies(&after.data_type) {
        if varies(&column.data_type) && column.storage != of_type(&column.data_type) {
            after.storage.clone_from(&column.storage);
        }
        after.compression.clone_from(&column.compression);
    }
}
