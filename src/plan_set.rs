//! Many plans that belong together: the order in which they run, and whether it can be that one.
//!
//! The order is that of the file names, except that a plan comes after those that its `depends_on` names. Whether it
//! holds is asked of what the changes need and make: see [`crate::ops::references`].

use crate::catalog::model::CatalogSnapshot;
use crate::change_plan::{Change, ChangePlan};
use crate::diagnostic::{Diagnostic, Located, Span, nearest};
use crate::ops::{Named, Object};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A plan file with its text, which complaints point into.
#[derive(Debug, Clone)]
pub struct PlanFile {
    pub path: String,
    pub source: String,
    pub plan: ChangePlan,
}

impl PlanFile {
    /// Without the directory.
    pub fn file_name(&self) -> &str {
        let name = Path::new(&self.path).file_name();
        name.and_then(|name| name.to_str()).unwrap_or(&self.path)
    }
}

/// A complaint and the plan it is about, by its place in [`PlanSet::files`].
#[derive(Debug, Clone, PartialEq)]
pub struct Complaint {
    pub file: usize,
    pub diagnostic: Diagnostic,
}

/// Whether the plans are all that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Whole,
    /// Some of a directory: what they depend on may be beside them.
    Part,
}

/// How far a plan is in the database that the catalog is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// What it makes is in the catalog, or was taken away since; what it needed may be gone.
    Over,
    /// It had what it needs, and has not made everything yet.
    Begun,
    ToCome,
}

/// Plans in the order in which they run.
#[derive(Debug, Clone)]
pub struct PlanSet {
    pub files: Vec<PlanFile>,
}

impl PlanSet {
    /// Puts plans, given in the order of their file names, into the order in which they run, and says what is wrong
    /// with their names and what they depend on. Those on a circle keep the order given.
    pub fn arrange(files: Vec<PlanFile>, scope: Scope) -> (Self, Vec<Complaint>) {
        let mut complaints = duplicates(&files);
        let mut after = vec![BTreeSet::new(); files.len()];
        for (number, file) in files.iter().enumerate() {
            for wanted in &file.plan.depends_on {
                match position_of(&files, &wanted.value) {
                    Some(found) => drop(after[number].insert(found)),
                    None if scope == Scope::Whole => complaints.push(unknown(&files, number, wanted)),
                    None => {}
                }
            }
        }
        let order = match order(&after) {
            Ok(order) => order,
            Err(circle) => {
                complaints.push(circular(&files, &circle));
                (0..files.len()).collect()
            }
        };
        let mut place = vec![0; files.len()];
        for (position, &number) in order.iter().enumerate() {
            place[number] = position;
        }
        for complaint in &mut complaints {
            complaint.file = place[complaint.file];
        }
        let mut files: Vec<_> = files.into_iter().enumerate().collect();
        files.sort_by_key(|(number, _)| place[*number]);
        let files = files.into_iter().map(|(_, file)| file).collect();
        (Self { files }, complaints)
    }

    /// What the plans that are to come need and cannot have when they run in this order. Without a catalog, whatever
    /// nobody makes may be there already.
    pub fn references(
        &self,
        catalog: Option<&CatalogSnapshot>,
        turn: impl Fn(&PlanFile) -> Turn,
    ) -> Vec<Complaint> {
        let turns: Vec<Turn> = self.files.iter().map(turn).collect();
        let names = Names::of(&self.files, &turns, catalog);
        let mut complaints = Vec::new();
        let asked = |(number, _): &(usize, &PlanFile)| turns[*number] == Turn::ToCome;
        for (number, file) in self.files.iter().enumerate().filter(asked) {
            let mut seen = BTreeSet::new();
            for need in needs(&file.plan) {
                if names.is_there(&need.object, number) || !seen.insert(need.object.clone()) {
                    continue;
                }
                let diagnostic = match names.maker(&need.object) {
                    Some(maker) => Some(self.too_early(&names, number, maker, &need)),
                    None => self.unresolved(&names, number, &need),
                };
                complaints.extend(diagnostic.map(|diagnostic| Complaint {
                    file: number,
                    diagnostic,
                }));
            }
        }
        complaints
    }

    fn too_early(&self, names: &Names<'_>, number: usize, maker: usize, need: &Named) -> Diagnostic {
        let message = format!(
            "{} is made by {}, which runs after this plan",
            need.object,
            self.files[maker].file_name()
        );
        Diagnostic::new("order", message)
            .at(place(&self.files[number], need))
            .help(self.way_out(names, number, maker))
    }

    /// How the one comes after the other, and the whole order that works then.
    fn way_out(&self, names: &Names<'_>, number: usize, maker: usize) -> String {
        let mut after = vec![BTreeSet::new(); self.files.len()];
        for (position, file) in self.files.iter().enumerate() {
            let declared = file.plan.depends_on.iter();
            after[position].extend(declared.filter_map(|wanted| position_of(&self.files, &wanted.value)));
            let missing = needs(&file.plan).into_iter();
            let missing = missing.filter(|need| !names.is_known(&need.object, position));
            after[position].extend(missing.filter_map(|need| names.maker(&need.object)));
        }
        after[number].insert(maker);
        let file_names = |numbers: &[usize]| {
            let names = numbers.iter().map(|number| self.files[*number].file_name());
            names.collect::<Vec<_>>().join(", ")
        };
        match order(&after) {
            Ok(order) => {
                let plan = &self.files[number].plan;
                let declared = plan.depends_on.iter().map(|wanted| wanted.value.as_str());
                let names: Vec<_> = declared.chain([self.files[maker].plan.name.as_str()]).collect();
                format!(
                    "declare it in this plan: `depends_on: [{}]`, or rename the file; the order that works: {}",
                    names.join(", "),
                    file_names(&order)
                )
            }
            Err(circle) => format!(
                "no order works, for these need each other: {}; move what one of them needs into a plan of its own",
                file_names(&circle)
            ),
        }
    }

    fn unresolved(&self, names: &Names<'_>, number: usize, need: &Named) -> Option<Diagnostic> {
        let object = &need.object;
        let complaint =
            |message: String| Diagnostic::new("unresolved", message).at(place(&self.files[number], need));
        if let Some(other) = names.elsewhere(object)
            && !self.knows_both(names, &other, object)
        {
            let message = match names.catalog {
                Some(_) => format!("there is no {object}, and no plan before this one makes it"),
                None => format!("no plan makes {object}, but there is {other}"),
            };
            let mut help = format!("did you mean `{other}`?");
            if !names.is_there(&other, number)
                && let Some(maker) = names.maker(&other)
            {
                let file = self.files[maker].file_name();
                help.push_str(&format!(
                    " {file} makes it, which runs after this plan: {}",
                    self.way_out(names, number, maker)
                ));
            } else if names.catalog.is_none() {
                help.push_str(" If the database has both, show its catalog with --url or --catalog");
            }
            return Some(complaint(message).help(help));
        }
        if names.catalog.is_none() || !need.certain {
            return None;
        }
        let message = format!("there is no {object}, and no plan before this one makes it");
        let help = match names.nearest(object) {
            Some(other) => format!("did you mean `{other}`?"),
            None => "make it in a plan before this one; what a `sql` entry makes unseen, it tells by `makes: [NAME]`"
                .to_owned(),
        };
        Some(complaint(message).help(help))
    }

    /// Whether one plan makes the twin and needs the object itself: then no schema was mistaken for the other.
    fn knows_both(&self, names: &Names<'_>, twin: &Object, object: &Object) -> bool {
        let needed = |plan: usize| needs(&self.files[plan].plan).into_iter();
        names.catalog.is_none()
            && names
                .makers_of(twin)
                .any(|(plan, _)| needed(plan).any(|need| need.certain && need.object == *object))
    }
}

fn needs(plan: &ChangePlan) -> Vec<Named> {
    // What waits for a condition is not refused for what it names.
    let changes = plan.changes.iter().filter(|change| change.when.is_none());
    changes.flat_map(|change| change.operation.needs()).collect()
}

/// Where exactly a statement of many lines has the name.
fn place(file: &PlanFile, need: &Named) -> Span {
    let Some(text) = file.source.get(need.span.range()) else {
        return need.span;
    };
    let wanted = match &need.object {
        Object::Relation(name) => vec![format!("{}.{}", name.schema, name.name), name.name.clone()],
        Object::Schema(name) => vec![name.clone()],
    };
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '$'));
    let whole = |(start, found): &(usize, &str)| {
        let end = start + found.len();
        !is_word(text[..*start].chars().next_back()) && !is_word(text[end..].chars().next())
    };
    let found = wanted
        .iter()
        .find_map(|name| text.match_indices(name.as_str()).find(whole));
    found.map_or(need.span, |(start, found)| Span {
        start: need.span.start + start,
        end: need.span.start + start + found.len(),
    })
}

fn position_of(files: &[PlanFile], name: &str) -> Option<usize> {
    files.iter().position(|file| file.plan.name == name)
}

fn duplicates(files: &[PlanFile]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let plan = &file.plan;
        if let Some(first) = position_of(&files[..number], &plan.name) {
            let message = format!(
                "the plan of {} is called `{}` too",
                files[first].file_name(),
                plan.name
            );
            let diagnostic = Diagnostic::new("duplicate_plan", message)
                .at(plan.name_span)
                .help("the name is the plan's identity in the ledger: give each its own");
            complaints.push(Complaint {
                file: number,
                diagnostic,
            });
        }
    }
    complaints
}

fn unknown(files: &[PlanFile], number: usize, wanted: &Located<String>) -> Complaint {
    let by_file = files.iter().find(|file| {
        let name = file.file_name();
        name == wanted.value
            || Path::new(name)
                .file_stem()
                .is_some_and(|stem| *stem == *wanted.value)
    });
    let diagnostic = Diagnostic::new(
        "unknown_plan",
        format!("there is no plan `{}` here", wanted.value),
    )
    .at(wanted.span)
    .help("`depends_on` names plans of the same directory by their `name`");
    let diagnostic = match by_file {
        Some(file) => diagnostic.help(format!("the plan of that file is called `{}`", file.plan.name)),
        None => diagnostic.suggest(&wanted.value, files.iter().map(|file| file.plan.name.as_str())),
    };
    Complaint {
        file: number,
        diagnostic,
    }
}

fn circular(files: &[PlanFile], circle: &[usize]) -> Complaint {
    let round = circle.iter().chain(circle.first());
    let names: Vec<_> = round.map(|number| files[*number].plan.name.as_str()).collect();
    let next = circle
        .get(1)
        .or(circle.first())
        .map(|number| files[*number].plan.name.as_str());
    let first = circle.first().copied().unwrap_or(0);
    let plan = &files[first].plan;
    let entry = plan
        .depends_on
        .iter()
        .find(|wanted| Some(wanted.value.as_str()) == next);
    let message = format!("these plans depend on each other: {}", names.join(" → "));
    let diagnostic = Diagnostic::new("circular", message)
        .at(entry.map_or(plan.name_span, |entry| entry.span))
        .help("take one of the `depends_on` away");
    Complaint {
        file: first,
        diagnostic,
    }
}

/// An order in which each comes after all of its own, otherwise as given; or a circle that forbids it, each before one
/// that it comes after.
fn order(after: &[BTreeSet<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut order: Vec<usize> = Vec::new();
    while order.len() < after.len() {
        let mut open = (0..after.len()).filter(|number| !order.contains(number));
        let ready = |number: &usize| after[*number].iter().all(|other| order.contains(other));
        match open.clone().find(ready) {
            Some(number) => order.push(number),
            None => return Err(circle(after, &order, open.next().unwrap_or(0))),
        }
    }
    Ok(order)
}

/// Follows what is waited for from one that can never be ready until it comes to one a second time.
fn circle(after: &[BTreeSet<usize>], done: &[usize], start: usize) -> Vec<usize> {
    let mut way = vec![start];
    loop {
        let last = way[way.len() - 1];
        let Some(&next) = after[last].iter().find(|other| !done.contains(other)) else {
            return way;
        };
        if let Some(begin) = way.iter().position(|number| *number == next) {
            return way.split_off(begin);
        }
        way.push(next);
    }
}

/// The place of a change: its plan, and its number there.
type At = (usize, usize);

/// Who makes what, and what is there before any of them runs.
struct Names<'a> {
    catalog: Option<&'a CatalogSnapshot>,
    /// In order, each with whether it is not there before this change for certain.
    makers: BTreeMap<Object, BTreeMap<At, bool>>,
    /// The first change that takes it away.
    takers: BTreeMap<Object, At>,
}

impl<'a> Names<'a> {
    fn of(files: &[PlanFile], turns: &[Turn], catalog: Option<&'a CatalogSnapshot>) -> Self {
        let mut names = Self {
            catalog,
            makers: BTreeMap::new(),
            takers: BTreeMap::new(),
        };
        let open = |(number, _): &(usize, &PlanFile)| turns[*number] != Turn::Over;
        for (number, file) in files.iter().enumerate().filter(open) {
            for (position, change) in file.plan.changes.iter().enumerate() {
                names.note((number, position), change);
            }
        }
        names
    }

    fn note(&mut self, at: At, change: &Change) {
        let unconditional = change.when.is_none();
        for Named { object, certain, .. } in change.operation.makes() {
            let makers = self.makers.entry(object).or_default();
            *makers.entry(at).or_insert(false) |= certain && unconditional;
        }
        for object in change.operation.takes() {
            if unconditional {
                self.takers.entry(object).or_insert(at);
            }
        }
    }

    /// The first that makes it where it is not there already. Without a catalog, one that makes it only then says
    /// nothing about that.
    fn maker(&self, object: &Object) -> Option<usize> {
        let mut makers = self.makers.get(object)?.iter();
        let ((plan, _), _) = makers.find(|(_, certain)| **certain || self.catalog.is_some())?;
        Some(*plan)
    }

    /// Whether it is there when this plan runs, at the latest by a change of its own.
    fn is_there(&self, object: &Object, number: usize) -> bool {
        self.is_known(object, number) || self.makers_of(object).any(|(plan, _)| plan < number)
    }

    /// Whether it takes no other plan to have it.
    fn is_known(&self, object: &Object, number: usize) -> bool {
        let own = self.makers_of(object).any(|(plan, _)| plan == number);
        own || object.is_given()
            || match self.catalog {
                Some(catalog) => has(catalog, object),
                None => self.is_remade(object),
            }
    }

    /// Whether it is taken away before anybody makes it. One change may do both, as when a table is replaced.
    fn is_remade(&self, object: &Object) -> bool {
        let first = self.makers_of(object).next();
        let taker = self.takers.get(object);
        taker.is_some_and(|taker| first.is_some_and(|maker| *taker <= maker))
    }

    fn makers_of(&self, object: &Object) -> impl Iterator<Item = At> {
        self.makers.get(object).into_iter().flatten().map(|(at, _)| *at)
    }

    /// The same name in another schema.
    fn elsewhere(&self, object: &Object) -> Option<Object> {
        let Object::Relation(wanted) = object else {
            return None;
        };
        let is_twin = |other: &&Object| match other {
            Object::Relation(name) => name.name == wanted.name && name != wanted,
            Object::Schema(_) => false,
        };
        let of_catalog = || {
            let catalog = self.catalog?;
            let mut names = catalog.tables.keys().chain(catalog.views.keys());
            names
                .find(|name| name.name == wanted.name)
                .cloned()
                .map(Object::Relation)
        };
        self.makers.keys().find(is_twin).cloned().or_else(of_catalog)
    }

    /// A name like it in the same schema.
    fn nearest(&self, object: &Object) -> Option<Object> {
        let catalog = self.catalog?;
        match object {
            Object::Schema(wanted) => nearest(wanted, catalog.schemas.keys().map(String::as_str))
                .map(|name| Object::Schema(name.into())),
            Object::Relation(wanted) => {
                let names = catalog.tables.keys().chain(catalog.views.keys());
                let beside = names.filter(|name| name.schema == wanted.schema);
                nearest(&wanted.name, beside.map(|name| name.name.as_str()))
                    .map(|name| Object::Relation(wanted.sibling(name)))
            }
        }
    }
}

fn has(catalog: &CatalogSnapshot, object: &Object) -> bool {
    match object {
        Object::Relation(name) => catalog.relation_exists(name),
        Object::Schema(name) => catalog.schemas.contains_key(name),
    }
}

#[cfg(test)]
mod tests;
