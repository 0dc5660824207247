//! What publications publish of the table.
//!
//! A subscriber without the new column would stop at the first row that has it. So a publication without a column list
//! has one from the moment when there is a column too many until there is none again; one that names the column, or
//! filters by it, names the new one from the cutover on. What is decoded follows the catalog of its time.

use super::constraints::refusal;
use super::{Printed, Questions, Subject};
use crate::catalog::model::{CatalogSnapshot, Column, Probe, Publication, Published, ReplicaIdentity, Table};
use crate::diagnostic::Diagnostic;
use crate::ops::Context;
use crate::ops::parts::shadow;
use crate::plan::Hazard;
use crate::sql::{QualifiedName, ident, idents};

/// Column lists came with it.
const LISTS_FROM_MAJOR: u32 = 15;

#[derive(Debug, Clone, Default)]
pub struct Publications {
    table: String,
    column: String,
    new_type: String,
    members: Vec<Member>,
    /// Publications that send the updates of the backfill.
    sending: Vec<String>,
}

#[derive(Debug, Clone)]
struct Member {
    name: String,
    /// The columns to publish while there are two, by the names that they have then.
    columns: Vec<String>,
    filter: Option<String>,
    /// The filter as the server prints it afterwards.
    filter_after: Option<String>,
    /// Whether it has the list only while there are two columns.
    for_now: bool,
}

/// Filters that read the column, as constraints of the clone: the server spells them for the new type.
pub fn probes(table_name: &QualifiedName, table: &Table) -> Vec<Probe> {
    let filters = table.publications.iter();
    let filters = filters.filter_map(|(name, published)| Some((name, published.filter.as_ref()?)));
    filters
        .map(|(name, filter)| {
            let name = ident(&filter_name(name));
            Questions::alter(table_name, format!(" ADD CONSTRAINT {name} CHECK ({filter})"))
        })
        .collect()
}

fn filter_name(publication: &str) -> String {
    shadow::name(publication, "filter")
}

impl Publications {
    pub fn of(
        context: &Context<'_>,
        subject: &Subject<'_>,
        printed: &Printed<'_>,
        complaints: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut publications = Self {
            table: format!("TABLE ONLY {}", subject.table_name),
            column: subject.column.name.clone(),
            new_type: subject.new_type.to_owned(),
            ..Self::default()
        };
        for (name, facts) in &context.catalog.publications {
            let whole = facts.all_tables || facts.schemas.contains(&subject.table_name.schema);
            let published = subject.table.publications.get(name);
            let taken = match published {
                _ if whole => Err("it has no list of tables, so subscribers would need the new column first"),
                None => continue,
                Some(published) => publications.take(context, subject, (name, facts, published), printed),
            };
            if let Err(why) = taken {
                let what = format!("what publication {} publishes", ident(name));
                complaints.push(refusal(subject, &what, why));
            }
        }
        publications
    }

    fn take(
        &mut self,
        context: &Context<'_>,
        subject: &Subject<'_>,
        (name, facts, published): (&str, &Publication, &Published),
        printed: &Printed<'_>,
    ) -> Result<(), &'static str> {
        let column = &subject.column.name;
        let for_now = published.columns.is_empty();
        let named = named(subject.table, name);
        if facts.updates {
            may_be_updated(subject.table, published, &named)?;
            self.sending.push(name.to_owned());
        }
        if !for_now && !named.contains(&column) {
            return Ok(());
        }
        if !context.catalog.role.acts_as(&facts.owner) {
            return Err("it belongs to another role");
        }
        if for_now {
            may_have_a_list(context, subject)?;
        }
        let filter_after = match &published.filter {
            None => None,
            Some(_) => Some(
                printed
                    .retyped
                    .and_then(|outcome| outcome.table.constraints.get(&filter_name(name)))
                    .and_then(|it| it.definition.strip_prefix("CHECK (")?.strip_suffix(')'))
                    .ok_or("the server could not be asked to spell its filter")?
                    .to_owned(),
            ),
        };
        let columns = match for_now {
            true => sent(&subject.table.columns, facts),
            false => published.columns.clone(),
        };
        self.members.push(Member {
            name: name.to_owned(),
            columns,
            filter: published.filter.clone(),
            filter_after,
            for_now,
        });
        Ok(())
    }

    fn drop(&self, member: &Member) -> String {
        format!("ALTER PUBLICATION {} DROP {}", ident(&member.name), self.table)
    }

    fn add(&self, member: &Member, with_list: bool) -> String {
        let mut statement = format!("ALTER PUBLICATION {} ADD {}", ident(&member.name), self.table);
        if with_list {
            statement += &format!(" ({})", idents(&member.columns));
        }
        if let Some(filter) = &member.filter {
            statement += &format!(" WHERE ({filter})");
        }
        statement
    }

    fn for_now(&self, with_list: bool) -> Vec<String> {
        let members = self.members.iter().filter(|it| it.for_now);
        members
            .flat_map(|it| [self.drop(it), self.add(it, with_list)])
            .collect()
    }

    /// With the new column.
    pub fn narrow(&self) -> Vec<String> {
        self.for_now(true)
    }

    /// Once there is one column again.
    pub fn widen(&self) -> Vec<String> {
        self.for_now(false)
    }

    pub fn leave(&self) -> impl Iterator<Item = String> {
        self.members.iter().map(|it| self.drop(it))
    }

    pub fn arrive(&self) -> impl Iterator<Item = String> {
        self.members.iter().map(|it| self.add(it, true))
    }

    fn names<'a>(names: impl Iterator<Item = &'a String>) -> Option<String> {
        let names: Vec<String> = names.map(|it| ident(it)).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// With the new column.
    pub fn hazard_of_adding(&self) -> Option<Hazard> {
        let members = self.members.iter().filter(|it| it.for_now);
        let names = Self::names(members.map(|it| &it.name))?;
        Some(Hazard::new(
            "column_list",
            format!(
                "until contract these publications name the columns of the table, so that subscribers do not stop at the \
                 one that is not in use: {names}; a column that is added meanwhile is published from contract on"
            ),
        ))
    }

    pub fn hazard_of_filling(&self) -> Option<Hazard> {
        let names = Self::names(self.sending.iter())?;
        let message = format!("subscribers of {names} get an update of every row that the backfill writes");
        Some(Hazard::new("published", message))
    }

    /// What the new values bring about elsewhere.
    pub fn hazard(&self) -> Option<Hazard> {
        let sends = |it: &&Member| it.columns.contains(&self.column);
        let names = Self::names(self.members.iter().filter(sends).map(|it| &it.name))?;
        Some(Hazard::new(
            "subscribers",
            format!(
                "subscribers of {names} stop at the first value that their {} does not take: give it the type {} there \
                 before, where binary = true at the same time",
                ident(&self.column),
                self.new_type
            ),
        ))
    }

    pub fn apply(&self, table: &mut Table) {
        for member in &self.members {
            if let Some(published) = table.publications.get_mut(&member.name) {
                published.filter.clone_from(&member.filter_after);
                published.columns.sort_by_key(|it| *it == self.column);
            }
        }
    }
}

/// The columns that are sent where none are named.
fn sent(columns: &[Column], facts: &Publication) -> Vec<String> {
    let sent = columns.iter().filter(|column| {
        let generated = column.generated.as_ref();
        generated.is_none_or(|it| it.stored && facts.generated)
    });
    sent.map(|column| column.name.clone()).collect()
}

/// The columns that the publication names in its list or its filter.
fn named<'a>(table: &'a Table, publication: &str) -> Vec<&'a String> {
    let ending = format!(" in publication {publication}");
    let dependents = table.dependents.iter();
    let named = dependents.filter(|it| it.kind == "publication" && it.name.ends_with(&ending));
    named.filter_map(|it| it.column.as_ref()).collect()
}

/// Columns by which subscribers know a row.
fn identity(table: &Table) -> Option<Vec<&String>> {
    let columns = match &table.replica_identity {
        ReplicaIdentity::Nothing => return None,
        ReplicaIdentity::Full => table.columns.iter().map(|it| &it.name).collect(),
        ReplicaIdentity::Default => {
            let key = table.primary_key().filter(|(_, it)| !it.deferrable);
            key?.1.columns.iter().collect()
        }
        ReplicaIdentity::Index(name) => {
            let keys = table.indexes.get(name)?.keys.iter();
            keys.filter_map(|key| key.column.as_ref()).collect()
        }
    };
    Some(columns)
}

/// The backfill updates rows, which PostgreSQL refuses where subscribers could not know them.
fn may_be_updated(table: &Table, published: &Published, named: &[&String]) -> Result<(), &'static str> {
    let identity = identity(table)
        .ok_or("the table has no replica identity, so its updates, the backfill too, are refused")?;
    let lists = |it: &&String| published.columns.is_empty() || published.columns.contains(it);
    if !identity.iter().all(lists) {
        return Err(
            "its column list lacks columns of the replica identity, so updates, the backfill too, are refused",
        );
    }
    let unlisted = |it: &&&String| !published.columns.contains(it);
    if named.iter().filter(unlisted).any(|it| !identity.contains(it)) {
        return Err(
            "its filter reads columns that are not in the replica identity, so updates, the backfill too, are refused",
        );
    }
    Ok(())
}

fn may_have_a_list(context: &Context<'_>, subject: &Subject<'_>) -> Result<(), &'static str> {
    if context.catalog.server.major() < LISTS_FROM_MAJOR {
        return Err(
            "before PostgreSQL 15 it cannot have a column list, so subscribers would need the new column first",
        );
    }
    if subject.table.replica_identity == ReplicaIdentity::Full {
        return Err(
            "under REPLICA IDENTITY FULL it cannot have a column list, so subscribers would need the new column first",
        );
    }
    let columns = |catalog: &CatalogSnapshot| {
        let table = catalog.tables.get(subject.table_name)?;
        let columns = table.columns.iter();
        Some(
            columns
                .map(|it| (it.name.clone(), it.data_type.clone()))
                .collect::<Vec<_>>(),
        )
    };
    if columns(context.catalog) != columns(context.now) {
        return Err(
            "its list of columns would have to follow an earlier change of this plan; make it a plan of its own",
        );
    }
    Ok(())
}
