//! The sequence behind a serial or identity column.

use super::Subject;
use crate::catalog::model::{CatalogSnapshot, Sequence};
use crate::diagnostic::Diagnostic;
use crate::plan::{Action, Check, Lock, LockMode, Settings, Transaction, Work};
use crate::sql::{QualifiedName, ident, literal};

/// Remembers, within the transaction, where an identity column's sequence was; with a number for each further one.
const POSITION: &str = "pgmorph.sequence_position";

#[derive(Debug, Clone)]
pub struct Serial {
    table: QualifiedName,
    column: String,
    sequence: QualifiedName,
    types: Option<Types>,
}

#[derive(Debug, Clone)]
pub struct IdentityMove {
    table: QualifiedName,
    column: String,
    always: bool,
    sequence: QualifiedName,
    facts: Sequence,
    types: Option<Types>,
    position: String,
}

/// The types that the sequence has before and after; its column decides.
#[derive(Debug, Clone)]
struct Types {
    before: String,
    after: String,
    max_before: i64,
}

fn largest(data_type: &str) -> Option<i64> {
    Some(match data_type {
        "smallint" => i64::from(i16::MAX),
        "integer" => i64::from(i32::MAX),
        "bigint" => i64::MAX,
        _ => return None,
    })
}

fn types(sequence: &Sequence, subject: &Subject<'_>) -> Option<Types> {
    largest(subject.new_type)?;
    (sequence.data_type != subject.new_type).then(|| Types {
        before: sequence.data_type.clone(),
        after: subject.new_type.to_owned(),
        max_before: sequence.max,
    })
}

impl Types {
    fn apply(&self, sequence: &mut Sequence) {
        if largest(&self.before) == Some(sequence.max) {
            sequence.max = largest(&self.after).unwrap_or(sequence.max);
        }
        sequence.data_type.clone_from(&self.after);
    }

    /// A sequence that has left the old type behind cannot go back into it.
    fn fits(&self, sequence: &QualifiedName, table: &QualifiedName, settings: &Settings) -> Work {
        let check = Check {
            name: format!("{sequence} has not gone past {}", self.max_before),
            query: format!(
                "SELECT last_value FROM {sequence} WHERE last_value > {}",
                self.max_before
            ),
            help: "the numbers of the old type are used up: go forwards with --through contract, or set the \
                   sequence back with setval"
                .into(),
        };
        Work {
            summary: format!("check that {}", check.name),
            action: Action::Check(check),
            transaction: Transaction::None,
            locks: vec![Lock::new(table, LockMode::AccessShare)],
            timeouts: settings.brief(),
            expect: Vec::new(),
            on_violation: None,
            guards_values: false,
            part: None,
            not_before: None,
        }
    }
}

impl Serial {
    pub fn all(catalog: &CatalogSnapshot, subject: &Subject<'_>) -> Vec<Self> {
        let owned = catalog.sequences.iter().filter(|(_, sequence)| {
            let owner = sequence.owned_by.as_ref();
            !sequence.identity
                && owner.is_some_and(|(table, column)| {
                    table == subject.table_name && *column == subject.column.name
                })
        });
        owned
            .map(|(name, sequence)| Self {
                table: subject.table_name.clone(),
                column: subject.column.name.clone(),
                sequence: name.clone(),
                types: types(sequence, subject),
            })
            .collect()
    }

    pub fn arrive(&self, forwards: bool) -> Vec<String> {
        let owner = format!("{}.{}", self.table, ident(&self.column));
        let mut statements = vec![format!("ALTER SEQUENCE {} OWNED BY {owner}", self.sequence)];
        if let Some(types) = &self.types {
            let data_type = if forwards { &types.after } else { &types.before };
            statements.push(format!("ALTER SEQUENCE {} AS {data_type}", self.sequence));
        }
        statements
    }

    pub fn fits(&self, settings: &Settings) -> Option<Work> {
        let types = self.types.as_ref()?;
        Some(types.fits(&self.sequence, &self.table, settings))
    }

    pub fn apply(&self, catalog: &mut CatalogSnapshot) {
        if let (Some(types), Some(sequence)) = (&self.types, catalog.sequences.get_mut(&self.sequence)) {
            types.apply(sequence);
        }
    }
}

impl IdentityMove {
    pub fn of(
        catalog: &CatalogSnapshot,
        subject: &Subject<'_>,
        complaints: &mut Vec<Diagnostic>,
    ) -> Option<Self> {
        let identity = subject.column.identity.as_ref()?;
        let facts = catalog.sequences.get(&identity.sequence)?.clone();
        for grant in facts.grants.iter().filter(|grant| grant.grantor != facts.owner) {
            let message = format!(
                "a shadow column cannot carry the grant by {} to {} on {}",
                ident(&grant.grantor),
                ident(&grant.grantee),
                identity.sequence
            );
            complaints.push(Diagnostic::new("cannot_widen_yet", message).at(subject.span));
        }
        Some(Self {
            table: subject.table_name.clone(),
            column: subject.column.name.clone(),
            always: identity.always,
            sequence: identity.sequence.clone(),
            types: types(&facts, subject),
            facts,
            position: match subject
                .moves
                .iter()
                .rev()
                .position(|it| it.table == *subject.table_name)
            {
                Some(number) if number > 0 => format!("{POSITION}_{number}"),
                _ => POSITION.to_owned(),
            },
        })
    }

    /// The sequence goes with the identity, so another takes over where it is.
    pub fn leave(&self) -> Vec<String> {
        let Self { sequence, facts, .. } = self;
        vec![
            // It changes nothing but keeps everybody else from taking a number until the end of the transaction.
            format!("ALTER SEQUENCE {sequence} CACHE {}", facts.cache),
            format!(
                "SELECT pg_catalog.set_config('{}', last_value || ' ' || is_called, true) FROM {sequence}",
                self.position
            ),
            format!(
                "ALTER TABLE {} ALTER COLUMN {} DROP IDENTITY",
                self.table,
                ident(&self.column)
            ),
        ]
    }

    pub fn arrive(&self, forwards: bool) -> Vec<String> {
        let Self { sequence, facts, .. } = self;
        let after = self.after();
        let facts = if forwards { &after } else { facts };
        let kind = if self.always { "ALWAYS" } else { "BY DEFAULT" };
        let cycle = if facts.cycle { "CYCLE" } else { "NO CYCLE" };
        let position = |part: u8| {
            let setting = &self.position;
            format!("pg_catalog.split_part(pg_catalog.current_setting('{setting}'), ' ', {part})")
        };
        let mut statements = vec![
            format!(
                "ALTER TABLE {} ALTER COLUMN {} ADD GENERATED {kind} AS IDENTITY (SEQUENCE NAME {sequence} \
                 START WITH {} INCREMENT BY {} MINVALUE {} MAXVALUE {} CACHE {} {cycle})",
                self.table,
                ident(&self.column),
                facts.start,
                facts.increment,
                facts.min,
                facts.max,
                facts.cache
            ),
            format!(
                "SELECT pg_catalog.setval({}, {}::pg_catalog.int8, {}::pg_catalog.bool)",
                literal(&sequence.to_string()),
                position(1),
                position(2)
            ),
        ];
        for grant in facts.grants.iter().filter(|grant| grant.grantee != facts.owner) {
            let grantee = match grant.grantee.as_str() {
                "PUBLIC" => "PUBLIC".to_owned(),
                grantee => ident(grantee),
            };
            let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
            statements.push(format!(
                "GRANT {} ON SEQUENCE {sequence} TO {grantee}{option}",
                grant.privilege
            ));
        }
        statements
    }

    fn after(&self) -> Sequence {
        let mut after = self.facts.clone();
        if let Some(types) = &self.types {
            types.apply(&mut after);
        }
        after
    }

    pub fn fits(&self, settings: &Settings) -> Option<Work> {
        let types = self.types.as_ref()?;
        Some(types.fits(&self.sequence, &self.table, settings))
    }

    pub fn apply(&self, catalog: &mut CatalogSnapshot) {
        catalog.sequences.insert(self.sequence.clone(), self.after());
    }
}
