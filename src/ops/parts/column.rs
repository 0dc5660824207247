//! The column that an operation is about, as the change plan names it.

use crate::catalog::model::{Column, Table};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::ops::Context;
use crate::sql::QualifiedName;

/// A column of which no more is known.
pub fn plain(name: &str, data_type: &str, not_null: bool) -> Column {
    Column {
        name: name.to_owned(),
        data_type: data_type.to_owned(),
        collation: None,
        not_null,
        not_null_constraint: None,
        default: None,
        identity: None,
        generated: None,
        storage: super::storage::of_type(data_type).to_owned(),
        compression: None,
        statistics_target: None,
        options: Vec::new(),
        comment: None,
        security_labels: Vec::new(),
        grants: Vec::new(),
        inherited: false,
        local: true,
    }
}

#[derive(Debug, Clone)]
pub struct ColumnName {
    pub table: Located<QualifiedName>,
    pub column: Located<String>,
}

impl ColumnName {
    /// Reads `table` and `column`; says what is wrong with both.
    pub fn read(fields: &Fields<'_>) -> Option<Self> {
        let table = fields.qualified("table");
        let column = fields.identifier("column");
        Some(Self {
            table: table?,
            column: column?,
        })
    }

    /// What it names, or the complaint that there is none.
    pub fn find<'a>(&self, context: &Context<'a>) -> Result<(&'a Table, &'a Column), Diagnostic> {
        let table = context.table(&self.table)?;
        let column = context.column(&self.table.value, table, &self.column)?;
        Ok((table, column))
    }

    pub fn complaint(&self, code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(code, message).at(self.column.span)
    }
}
