//! A catalog after a table or a column got another name: everything that refers to it follows, and so do the texts in
//! which the server prints it. Where such a text cannot be foretold, the table is left out of the prediction.

use super::brief;
use super::constraint::mentions;
use crate::catalog::model::{CatalogSnapshot, Index, Policy, Table};
use crate::plan::{Expectation, Lock, LockMode, Settings, Work};
use crate::sql::{QualifiedName, ident};

pub fn rename(from: &QualifiedName, to: &QualifiedName) -> String {
    format!("ALTER TABLE {from} RENAME TO {}", ident(&to.name))
}

/// Gives a table its name back, after these statements have removed the view that holds it.
pub fn back(
    settings: &Settings,
    (from, to): (&QualifiedName, &QualifiedName),
    view: Option<Vec<String>>,
) -> Work {
    let mode = LockMode::AccessExclusive;
    let mut locks = vec![Lock::new(to, mode)];
    if view.is_some() {
        locks.insert(0, Lock::new(from, mode));
    }
    let mut statements = view.unwrap_or_default();
    statements.push(rename(to, from));
    brief(
        settings,
        format!("give {to} its name {from} back"),
        statements,
        locks,
        vec![
            Expectation::Table { table: from.clone() },
            Expectation::TableAbsent { table: to.clone() },
        ],
    )
}

/// The table has the new name everywhere. It stays in its schema.
pub fn table(catalog: &mut CatalogSnapshot, from: &QualifiedName, to: &QualifiedName) {
    let Some(moved) = catalog.tables.remove(from) else {
        return;
    };
    catalog.tables.insert(to.clone(), moved);
    let renaming = Renaming { from, to };
    for (name, table) in &mut catalog.tables {
        if !renaming.apply(table, name == to) {
            catalog.unpredicted.insert(name.clone());
        }
    }
    for view in catalog.views.values_mut() {
        for (used, _) in view.uses.iter_mut().chain(&mut view.keys) {
            renaming.name(used);
        }
        view.uses.sort();
        view.keys.sort();
    }
    for sequence in catalog.sequences.values_mut() {
        if let Some((owner, _)) = &mut sequence.owned_by {
            renaming.name(owner);
        }
    }
    for function in catalog.functions.values_mut() {
        if let Some(returned) = &mut function.returns {
            renaming.name(returned);
        }
    }
}

struct Renaming<'a> {
    from: &'a QualifiedName,
    to: &'a QualifiedName,
}

impl Renaming<'_> {
    fn name(&self, name: &mut QualifiedName) {
        if name == self.from {
            name.clone_from(self.to);
        }
    }

    /// The text with the old name between these two replaced.
    fn text(&self, text: &mut String, before: &str, after: &str) {
        let [from, to] = [self.from, self.to].map(|name| format!("{before}{name}{after}"));
        *text = text.replace(&from, &to);
    }

    /// False where not all texts can be foretold.
    fn apply(&self, table: &mut Table, own: bool) -> bool {
        let names = table.children.iter_mut().chain(&mut table.inherits);
        for name in names.chain(&mut table.partition_of) {
            self.name(name);
        }
        table.children.sort();
        for constraint in table.constraints.values_mut() {
            if let Some(reference) = &mut constraint.references
                && &reference.table == self.from
            {
                reference.table.clone_from(self.to);
                self.text(&mut constraint.definition, " REFERENCES ", "(");
            }
        }
        let (from, to) = (self.from.to_string(), self.to.to_string());
        for column in &mut table.columns {
            if column.data_type == from || column.data_type == format!("{from}[]") {
                column.data_type = column.data_type.replacen(&from, &to, 1);
            }
        }
        for dependent in &mut table.dependents {
            if dependent.name.ends_with(&format!(" table {from}")) {
                self.text(&mut dependent.name, " table ", "");
            }
        }
        for trigger in table.triggers.values_mut() {
            self.text(&mut trigger.definition, " FROM ", " ");
            if own {
                self.text(&mut trigger.definition, " ON ", " ");
            }
        }
        if own {
            for statistics in table.statistics.values_mut() {
                if let Some(rest) = statistics.definition.strip_suffix(&format!(" FROM {from}")) {
                    statistics.definition = format!("{rest} FROM {to}");
                }
            }
        }
        let named = |text: &String| mentions(text, &self.from.name);
        let policies = table.policies.values();
        let rules = table.rules.values();
        !policies.flat_map(texts).any(named) && !rules.map(|rule| &rule.definition).any(named)
    }
}

fn texts(policy: &Policy) -> impl Iterator<Item = &String> {
    policy.using.iter().chain(&policy.with_check)
}

/// The column of the table, and of all below it, has the new name everywhere.
pub fn column(catalog: &mut CatalogSnapshot, name: &QualifiedName, from: &str, to: &str) {
    let tree = catalog.tree(name);
    for (other, table) in &mut catalog.tables {
        let own = tree.contains(other);
        if own && !rename_own(table, from, to) {
            catalog.unpredicted.insert(other.clone());
        }
        rename_far_ends(table, &tree, from, to);
    }
    for view in catalog.views.values_mut() {
        for (used, column) in &mut view.uses {
            if tree.contains(used) && column == from {
                to.clone_into(column);
            }
        }
        view.uses.sort();
    }
    for sequence in catalog.sequences.values_mut() {
        if let Some((owner, column)) = &mut sequence.owned_by
            && tree.contains(owner)
            && column == from
        {
            to.clone_into(column);
        }
    }
}

fn rename_far_ends(table: &mut Table, tree: &[QualifiedName], from: &str, to: &str) {
    for constraint in table.constraints.values_mut() {
        let Some(reference) = &mut constraint.references else {
            continue;
        };
        if !tree.contains(&reference.table) || !reference.columns.iter().any(|column| column == from) {
            continue;
        }
        replace(&mut reference.columns, from, to);
        let definition = &mut constraint.definition;
        if let Some(far) = far_end(definition) {
            let renamed = in_expression(&definition[far.clone()], from, to);
            definition.replace_range(far, &renamed);
        }
    }
}

/// The far end in the definition of a foreign key: `REFERENCES` and what follows, up to the end of its columns. The
/// table's own columns stand before it, and behind it in `ON DELETE SET NULL (…)`.
fn far_end(definition: &str) -> Option<std::ops::Range<usize>> {
    let start = definition.find(" REFERENCES ")?;
    let mut at = start;
    while let Some(first) = definition[at..].chars().next() {
        at += token_length(&definition[at..], first);
        if first == ')' {
            return Some(start..at);
        }
    }
    Some(start..at)
}

/// False where not all texts can be foretold.
fn rename_own(table: &mut Table, from: &str, to: &str) -> bool {
    let text = |text: &mut String| *text = in_expression(text, from, to);
    for column in &mut table.columns {
        if column.name == from {
            to.clone_into(&mut column.name);
        }
        column
            .generated
            .iter_mut()
            .for_each(|it| text(&mut it.expression));
    }
    replace(&mut table.partition_key_columns, from, to);
    table.partition_key.iter_mut().for_each(text);
    for index in table.indexes.values_mut() {
        rename_in_index(index, from, to);
    }
    for constraint in table.constraints.values_mut() {
        replace(&mut constraint.columns, from, to);
        let definition = &mut constraint.definition;
        match far_end(definition) {
            Some(far) => {
                let behind = in_expression(&definition[far.end..], from, to);
                definition.replace_range(far.end.., &behind);
                let before = in_expression(&definition[..far.start], from, to);
                definition.replace_range(..far.start, &before);
            }
            None => text(definition),
        }
    }
    for trigger in table.triggers.values_mut() {
        replace(&mut trigger.columns, from, to);
        // The name of the trigger stands before this.
        if let Some(at) = trigger
            .definition
            .find(" OF ")
            .or(trigger.definition.find(" WHEN "))
        {
            let rest = trigger.definition.split_off(at);
            trigger.definition.push_str(&in_trigger(&rest, from, to));
        }
    }
    for statistics in table.statistics.values_mut() {
        replace(&mut statistics.columns, from, to);
        if let Some(at) = statistics.definition.find(" ON ") {
            let rest = statistics.definition.split_off(at);
            statistics.definition.push_str(&in_expression(&rest, from, to));
        }
    }
    for published in table.publications.values_mut() {
        replace(&mut published.columns, from, to);
        published.filter.iter_mut().for_each(text);
    }
    for dependent in &mut table.dependents {
        dependent
            .column
            .iter_mut()
            .filter(|column| *column == from)
            .for_each(|column| to.clone_into(column));
    }
    rename_in_policies(table, from, to)
}

/// As [`rename_own`]: in a query, another column of that name may be meant.
fn rename_in_policies(table: &mut Table, from: &str, to: &str) -> bool {
    let text = |text: &mut String| *text = in_expression(text, from, to);
    let named = |text: &String| mentions(text, from);
    let (simple, others): (Vec<&mut Policy>, Vec<&mut Policy>) = table
        .policies
        .values_mut()
        .partition(|policy| !texts(policy).any(|text| text.contains("SELECT ")));
    for policy in simple {
        policy
            .using
            .iter_mut()
            .chain(&mut policy.with_check)
            .for_each(text);
    }
    !others.into_iter().any(|policy| texts(policy).any(named))
        && !table.rules.values().any(|rule| named(&rule.definition))
}

fn rename_in_index(index: &mut Index, from: &str, to: &str) {
    replace(&mut index.include, from, to);
    replace(&mut index.expression_columns, from, to);
    for key in &mut index.keys {
        key.column
            .iter_mut()
            .filter(|column| *column == from)
            .for_each(|column| to.clone_into(column));
        key.expression
            .iter_mut()
            .for_each(|it| *it = in_expression(it, from, to));
    }
    index
        .predicate
        .iter_mut()
        .for_each(|it| *it = in_expression(it, from, to));
}

fn replace(names: &mut [String], from: &str, to: &str) {
    names
        .iter_mut()
        .filter(|name| *name == from)
        .for_each(|name| to.clone_into(name));
}

/// An expression as the server prints it, with the column renamed. There the table's own columns stand without a
/// qualification, names of types follow `::`, and names of functions stand before a parenthesis.
fn in_expression(text: &str, from: &str, to: &str) -> String {
    rewritten(text, from, to, |before| {
        before.is_empty() || !before.ends_with('.')
    })
}

/// As [`in_expression`], where the columns of the row stand behind `old.` and `new.`, or in the list of `UPDATE OF`.
fn in_trigger(text: &str, from: &str, to: &str) -> String {
    rewritten(text, from, to, |before| {
        !before.ends_with('.') || before.ends_with("old.") || before.ends_with("new.")
    })
}

fn rewritten(text: &str, from: &str, to: &str, may_follow: impl Fn(&str) -> bool) -> String {
    let (wanted, replacement) = (ident(from), ident(to));
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = token_length(rest, first);
        let (token, after) = rest.split_at(length);
        let is_column = token == wanted
            && !after.starts_with(['(', '.'])
            && !["::", "COLLATE ", "EXTRACT("]
                .iter()
                .any(|word| out.ends_with(word))
            && may_follow(&out);
        out.push_str(if is_column { &replacement } else { token });
        rest = after;
    }
    out
}

/// Bytes of the word, quoted name, string or single character at the beginning.
fn token_length(text: &str, first: char) -> usize {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    match first {
        '"' | '\'' => {
            // A doubled quote begins another one, which comes to the same in a string; in a name it does not.
            let mut bytes = text.char_indices().skip(1).peekable();
            while let Some((at, c)) = bytes.next() {
                if c == first && bytes.next_if(|(_, next)| *next == first).is_none() {
                    return at + 1;
                }
            }
            text.len()
        }
        c if is_word(c) => text.find(|c| !is_word(c)).unwrap_or(text.len()),
        c => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{catalog, table};

    #[test]
    fn both_ends_of_a_foreign_key_are_told_apart() {
        let key = "FOREIGN KEY (a, b) REFERENCES a.t(a, \")\") ON DELETE SET NULL (a)";
        assert_eq!(&key[far_end(key).unwrap()], " REFERENCES a.t(a, \")\")");
        let far = "FOREIGN KEY (a, b) REFERENCES a.t(z, \")\") ON DELETE SET NULL (a)";
        let own = "FOREIGN KEY (z, b) REFERENCES a.t(a, \")\") ON DELETE SET NULL (z)";
        let t = QualifiedName::new("a", "t");
        let referenced = table(&["a bigint", ") bigint"]);
        let mut referring =
            table(&["a bigint", "b bigint"]).with_foreign_key("key", &["a", "b"], "a.t", &["a", ")"]);
        referring.constraints.get_mut("key").unwrap().definition = key.into();
        let catalog = catalog().with("a.t", referenced).with("r", referring);
        let r = QualifiedName::new("public", "r");
        for (renamed, wanted) in [(&t, far), (&r, own)] {
            let mut catalog = catalog.clone();
            column(&mut catalog, renamed, "a", "z");
            assert_eq!(catalog.tables[&r].constraints["key"].definition, wanted);
        }
    }

    #[test]
    fn columns_are_told_from_what_only_looks_like_them() {
        let renamed = |text| in_expression(text, "date", "day");
        assert_eq!(
            renamed("(date > '2020-01-01'::date)"),
            "(day > '2020-01-01'::date)"
        );
        assert_eq!(renamed("date(x) = date"), "date(x) = day");
        assert_eq!(renamed("'date'::text"), "'date'::text");
        assert_eq!(renamed("(r).date"), "(r).date");
        assert_eq!(in_expression("(\"a\"\"b\" + \"b\")", "a\"b", "c"), "(c + \"b\")");
        assert_eq!(
            in_expression("(\"order\" > 1)", "order", "Order"),
            "(\"Order\" > 1)"
        );
        assert_eq!(
            in_trigger(
                " OF a, b ON public.t WHEN ((old.a IS DISTINCT FROM new.a))",
                "a",
                "z"
            ),
            " OF z, b ON public.t WHEN ((old.z IS DISTINCT FROM new.z))"
        );
    }
}
