//! A located tree of values and its typed reading: what an operation is read from.
//!
//! Nothing here knows YAML. Reading never stops at the first complaint: every accessor reports and goes on, and the
//! caller asks at the end whether anything was reported.

use crate::diagnostic::{Diagnostic, Located, Span};
use crate::sql::{self, QualifiedName};
use shapes::Kind;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;

pub mod shapes;

pub use shapes::Shapes;

/// One value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub value: Value,
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    /// `quoted` tells `"0"` from `0`; the text is as written either way.
    Scalar {
        text: String,
        quoted: bool,
    },
    List(Vec<Node>),
    /// In file order; duplicates are kept so that they can be reported.
    Map(Vec<(Located<String>, Node)>),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar { .. } => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a map of keys",
        }
    }
}

/// The keys of one map, read by name. Keys that nobody asked for are reported by [`Fields::finish`].
pub struct Fields<'a> {
    entries: &'a [(Located<String>, Node)],
    span: Span,
    default_schema: &'a str,
    asked: RefCell<Vec<&'static str>>,
    diagnostics: &'a RefCell<Vec<Diagnostic>>,
    failed: Cell<bool>,
    required: RefCell<Vec<&'static str>>,
    path: String,
    shapes: Option<&'a Shapes>,
    /// What `table` says, where the map stands within one that is about a table.
    table: Option<Located<QualifiedName>>,
}

impl<'a> Fields<'a> {
    /// Opens a map; reports and gives an empty one when the node is something else.
    pub fn open(
        node: &'a Node,
        what: &str,
        default_schema: &'a str,
        diagnostics: &'a RefCell<Vec<Diagnostic>>,
    ) -> Self {
        let fields = Self {
            entries: if let Value::Map(entries) = &node.value {
                entries
            } else {
                &[]
            },
            span: node.span,
            default_schema,
            asked: RefCell::default(),
            diagnostics,
            failed: Cell::new(false),
            required: RefCell::default(),
            path: String::new(),
            shapes: None,
            table: None,
        };
        if !matches!(node.value, Value::Map(_)) {
            fields.report(
                Diagnostic::new(
                    "wrong_type",
                    format!("{what} is a map of keys, not {}", node.value.kind()),
                )
                .at(node.span),
            );
        }
        fields
    }

    /// Notes what is asked of this map and of those within it.
    #[must_use]
    pub fn recorded(self, shapes: &'a Shapes) -> Self {
        Self {
            shapes: Some(shapes),
            ..self
        }
    }

    fn note(&self, key: &str, kind: Kind) {
        if let Some(shapes) = self.shapes {
            shapes.note(&format!("{}.{key}", self.path), kind);
        }
    }

    fn note_node(&self, node: &Node, kind: Kind) {
        if let Some(shapes) = self.shapes
            && let Some(path) = shapes.place(node)
        {
            shapes.note(&path, kind);
        }
    }

    pub fn report(&self, diagnostic: Diagnostic) {
        self.failed.set(true);
        self.diagnostics.borrow_mut().push(diagnostic);
    }

    /// Where the map itself stands: for complaints about what is missing.
    pub fn span(&self) -> Span {
        self.span
    }

    pub fn default_schema(&self) -> &str {
        self.default_schema
    }

    /// The node of a key that may be absent; an explicit null counts as absent.
    pub fn optional(&self, key: &'static str) -> Option<&'a Node> {
        self.asked.borrow_mut().push(key);
        let node = self
            .entries
            .iter()
            .find(|(name, _)| name.value == key)
            .map(|(_, node)| node)?;
        if let Some(shapes) = self.shapes {
            shapes.put(node, format!("{}.{key}", self.path));
        }
        (node.value != Value::Null).then_some(node)
    }

    /// The node of a key that must be there.
    pub fn required(&self, key: &'static str) -> Option<&'a Node> {
        self.required.borrow_mut().push(key);
        let node = self.optional(key);
        if node.is_none() {
            let given = self.entries.iter().find(|(name, _)| name.value == key);
            let diagnostic = match given {
                Some((name, _)) => {
                    Diagnostic::new("missing_value", format!("`{key}` has no value")).at(name.span)
                }
                None => Diagnostic::new("missing_key", format!("`{key}` is missing")).at(self.span),
            };
            self.report(diagnostic);
        }
        node
    }

    /// Plain text of a node, reporting anything that is not a single value.
    pub fn text_of(&self, node: &Node, what: &str) -> Option<Located<String>> {
        match &node.value {
            Value::Scalar { text, .. } => {
                self.note_node(node, Kind::Scalar);
                Some(Located {
                    value: text.clone(),
                    span: node.span,
                })
            }
            other => {
                self.report(
                    Diagnostic::new(
                        "wrong_type",
                        format!("`{what}` is a single value, not {}", other.kind()),
                    )
                    .at(node.span),
                );
                None
            }
        }
    }

    pub fn text(&self, key: &'static str) -> Option<Located<String>> {
        self.text_of(self.required(key)?, key)
    }

    pub fn optional_text(&self, key: &'static str) -> Option<Located<String>> {
        self.text_of(self.optional(key)?, key)
    }

    fn checked<T>(
        &self,
        text: Located<String>,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Located<T>> {
        match check(&text.value) {
            Ok(value) => Some(Located {
                value,
                span: text.span,
            }),
            Err(message) => {
                self.report(Diagnostic::new("invalid_value", message).at(text.span));
                None
            }
        }
    }

    /// An identifier, taken as it stands.
    pub fn identifier(&self, key: &'static str) -> Option<Located<String>> {
        self.checked(self.text(key)?, |text| {
            sql::check_identifier(text).map(|()| text.to_owned())
        })
    }

    pub fn optional_identifier(&self, key: &'static str) -> Option<Located<String>> {
        self.checked(self.optional_text(key)?, |text| {
            sql::check_identifier(text).map(|()| text.to_owned())
        })
    }

    /// A name that may carry a schema; without one it is in the plan's default schema.
    pub fn qualified(&self, key: &'static str) -> Option<Located<QualifiedName>> {
        if let (Some(table), "table") = (&self.table, key) {
            return Some(table.clone());
        }
        self.checked(self.text(key)?, |text| {
            QualifiedName::parse(text, self.default_schema)
        })
    }

    pub fn optional_qualified(&self, key: &'static str) -> Option<Located<QualifiedName>> {
        self.checked(self.optional_text(key)?, |text| {
            QualifiedName::parse(text, self.default_schema)
        })
    }

    /// `true` or `false`; `default` when absent.
    pub fn flag(&self, key: &'static str, default: bool) -> bool {
        self.optional_flag(key).unwrap_or(default)
    }

    pub fn optional_flag(&self, key: &'static str) -> Option<bool> {
        self.note(key, Kind::Flag);
        let text = self.optional_text(key)?;
        self.checked(text, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(format!("`{key}` is true or false, not {other:?}")),
        })
        .map(|located| located.value)
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<Located<T>> {
        for (word, _) in choices {
            self.note(key, Kind::Word((*word).to_owned()));
        }
        let text = self.optional_text(key)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text.value) {
            return Some(Located {
                value: *value,
                span: text.span,
            });
        }
        let words = choices.iter().map(|(word, _)| *word).collect::<Vec<_>>();
        let message = format!("`{key}` is one of {}, not {:?}", words.join(", "), text.value);
        self.report(
            Diagnostic::new("invalid_value", message)
                .at(text.span)
                .suggest(&text.value, words),
        );
        None
    }

    /// The items of a list; a single value counts as a list of one.
    pub fn list(&self, key: &'static str) -> Option<&'a [Node]> {
        let node = self.required(key)?;
        self.items(node, key)
    }

    pub fn optional_list(&self, key: &'static str) -> Option<&'a [Node]> {
        let node = self.optional(key)?;
        self.items(node, key)
    }

    fn items(&self, node: &'a Node, key: &str) -> Option<&'a [Node]> {
        match &node.value {
            Value::List(items) if items.is_empty() => {
                self.report(Diagnostic::new("empty_list", format!("`{key}` may not be empty")).at(node.span));
                None
            }
            Value::List(items) => {
                self.note_items(node, items);
                Some(items)
            }
            Value::Scalar { .. } => {
                self.note_items(node, &[]);
                Some(std::slice::from_ref(node))
            }
            other => {
                self.report(
                    Diagnostic::new("wrong_type", format!("`{key}` is a list, not {}", other.kind()))
                        .at(node.span),
                );
                None
            }
        }
    }

    fn note_items(&self, list: &Node, items: &[Node]) {
        self.note_node(list, Kind::List);
        if let Some(shapes) = self.shapes
            && let Some(path) = shapes.place(list)
        {
            for item in items {
                shapes.put(item, format!("{path}[]"));
            }
        }
    }

    /// A list of identifiers, each once.
    pub fn identifiers(&self, key: &'static str) -> Option<Vec<Located<String>>> {
        let items = self.list(key)?;
        self.identifiers_of(items, key)
    }

    pub fn optional_identifiers(&self, key: &'static str) -> Option<Vec<Located<String>>> {
        let items = self.optional_list(key)?;
        self.identifiers_of(items, key)
    }

    /// As [`Fields::identifiers`], of a node that stands elsewhere.
    pub fn identifiers_in(&self, node: &'a Node, what: &str) -> Option<Vec<Located<String>>> {
        let items = self.items(node, what)?;
        self.identifiers_of(items, what)
    }

    fn identifiers_of(&self, items: &[Node], key: &str) -> Option<Vec<Located<String>>> {
        let mut names: Vec<Located<String>> = Vec::new();
        let mut seen = HashSet::new();
        let mut complete = true;
        for item in items {
            let name = self.text_of(item, key).and_then(|text| {
                self.checked(text, |text| sql::check_identifier(text).map(|()| text.to_owned()))
            });
            match name {
                Some(name) if !seen.insert(name.value.clone()) => {
                    self.report(
                        Diagnostic::new(
                            "duplicate_name",
                            format!("`{}` stands twice in `{key}`", name.value),
                        )
                        .at(name.span),
                    );
                    complete = false;
                }
                Some(name) => names.push(name),
                None => complete = false,
            }
        }
        complete.then_some(names)
    }

    /// The fields of a nested map.
    pub fn nested(&self, node: &'a Node, what: &str) -> Fields<'a> {
        self.note_node(node, Kind::Map);
        let path = self.shapes.and_then(|shapes| shapes.place(node));
        Fields {
            path: path.unwrap_or_else(|| what.to_owned()),
            shapes: self.shapes,
            ..Fields::open(node, what, self.default_schema, self.diagnostics)
        }
    }

    /// What is read from each map of a list that may be absent. Alone it would name the table by `table`.
    pub fn maps_on<T>(
        &self,
        key: &'static str,
        table: &Located<QualifiedName>,
        read: impl Fn(&Fields<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let items = self.optional_list(key).unwrap_or_default().iter();
        let found: Vec<Option<T>> = items
            .map(|item| {
                let nested = Fields {
                    table: Some(table.clone()),
                    ..self.nested(item, key)
                };
                let found = read(&nested);
                nested.finish().then_some(found).flatten()
            })
            .collect();
        found.into_iter().collect()
    }

    /// A map whose keys are free, each once.
    pub fn entries(&self, node: &'a Node, key: &str) -> Option<&'a [(Located<String>, Node)]> {
        let Value::Map(entries) = &node.value else {
            self.report(
                Diagnostic::new(
                    "wrong_type",
                    format!("`{key}` is a map of keys, not {}", node.value.kind()),
                )
                .at(node.span),
            );
            return None;
        };
        self.report_duplicates(entries);
        self.note_node(node, Kind::Pairs);
        if let Some(shapes) = self.shapes
            && let Some(path) = shapes.place(node)
        {
            for (_, value) in entries {
                shapes.put(value, format!("{path}{{}}"));
            }
        }
        Some(entries)
    }

    /// The keys and texts of a nested map whose keys are free: storage parameters, settings.
    pub fn optional_pairs(&self, key: &'static str) -> Option<Vec<(Located<String>, Located<String>)>> {
        let entries = self.entries(self.optional(key)?, key)?;
        entries
            .iter()
            .map(|(name, value)| Some((name.clone(), self.text_of(value, &name.value)?)))
            .collect()
    }

    fn report_duplicates(&self, entries: &[(Located<String>, Node)]) {
        let mut seen = HashSet::new();
        for (name, _) in entries {
            if !seen.insert(&name.value) {
                self.report(
                    Diagnostic::new("duplicate_key", format!("the key `{}` stands twice", name.value))
                        .at(name.span)
                        .help("keep one of the two"),
                );
            }
        }
    }

    /// Reports unknown and duplicate keys. True when nothing at all was wrong with this map.
    pub fn finish(&self) -> bool {
        self.report_duplicates(self.entries);
        let asked = self.asked.borrow();
        if let Some(shapes) = self.shapes {
            shapes.finished(&self.path, &asked, &self.required.borrow());
        }
        for (name, _) in self.entries {
            if !asked.contains(&name.value.as_str()) {
                let mut known = asked.clone();
                known.dedup();
                let diagnostic = Diagnostic::new("unknown_key", format!("unknown key `{}`", name.value))
                    .at(name.span)
                    .help(format!("known keys here: {}", known.join(", ")))
                    .suggest(&name.value, known);
                self.report(diagnostic);
            }
        }
        !self.failed.get()
    }
}
