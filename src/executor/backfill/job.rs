//! What is done to the rows of some pages: the walk is the same for rows that are updated and rows that are copied.

use super::slices::Visit;
use crate::plan::{Backfill, Copying, Limits};
use crate::sql::{QualifiedName, ident};

#[derive(Debug, Clone, Copy)]
pub(in crate::executor) enum Job<'a> {
    Update(&'a Backfill),
    Copy(&'a Copying),
}

impl<'a> Job<'a> {
    /// The table whose pages are walked.
    pub(super) fn table(self) -> &'a QualifiedName {
        match self {
            Self::Update(backfill) => &backfill.table,
            Self::Copy(copying) => &copying.from,
        }
    }

    pub(super) fn workers(self) -> u32 {
        match self {
            Self::Update(backfill) => backfill.workers,
            Self::Copy(copying) => copying.workers,
        }
    }

    pub(super) fn limits(self) -> &'a Limits {
        match self {
            Self::Update(backfill) => &backfill.limits,
            Self::Copy(copying) => &copying.limits,
        }
    }

    /// Whether rows of the pages get new versions, for which passes make room and a VACUUM does.
    pub(super) fn updates(self) -> bool {
        matches!(self, Self::Update(_))
    }

    pub(super) fn doing(self) -> &'static str {
        match self {
            Self::Update(_) => "filling rows",
            Self::Copy(_) => "copying rows",
        }
    }

    /// Before the statement. Triggers that mirror what is written to a table keep quiet about what is copied.
    pub(super) fn setting(self) -> Option<&'static str> {
        match self {
            Self::Update(backfill) if backfill.suppress_triggers => {
                Some("SET LOCAL session_replication_role = replica")
            }
            Self::Update(_) => None,
            Self::Copy(_) => Some("SET LOCAL pgmorph.sync = 'on'"),
        }
    }

    /// Whether the rows are locked by a statement of its own first, which answers with a row.
    pub(super) fn locks_first(self) -> bool {
        matches!(self, Self::Copy(copying) if copying.held.is_some())
    }

    pub(super) fn statements(self, visit: &Visit) -> String {
        match self {
            Self::Update(Backfill {
                table, set, needs, ..
            }) => {
                let pages = visit.condition("ctid");
                format!("UPDATE ONLY {table} SET {set} WHERE {pages} AND ({needs})")
            }
            Self::Copy(copying) => {
                let ctid = format!("{}.ctid", ident(&copying.alias));
                copying.statements(Some(&visit.condition(&ctid))).join("; ")
            }
        }
    }
}
