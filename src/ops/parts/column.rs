//! The column that an operation is about, as the change plan names it.

use crate::catalog::model::{Column, Table};
use crate::diagnostic::{Diagnostic, Located};
use crate::document::Fields;
use crate::ops::Context;
use crate::sql::QualifiedName;

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
