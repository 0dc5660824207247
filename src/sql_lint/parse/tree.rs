//! Reading the parser's tree: the pieces that every statement shares.

use crate::sql_lint::statement::{Expression, Name};
use squawk_syntax::{SyntaxKind, SyntaxNode};

pub fn child(node: &SyntaxNode, kind: SyntaxKind) -> Option<SyntaxNode> {
    node.children().find(|child| child.kind() == kind)
}

pub fn children(node: &SyntaxNode, kind: SyntaxKind) -> impl Iterator<Item = SyntaxNode> {
    node.children().filter(move |child| child.kind() == kind)
}

/// The first node of the kind below this one.
pub fn below(node: &SyntaxNode, kind: SyntaxKind) -> Option<SyntaxNode> {
    node.descendants().find(|found| found.kind() == kind)
}

pub fn has_below(node: &SyntaxNode, kind: SyntaxKind) -> bool {
    below(node, kind).is_some()
}

/// Whether a key word or another token stands directly in the node.
pub fn has(node: &SyntaxNode, kind: SyntaxKind) -> bool {
    node.children_with_tokens().any(|element| element.kind() == kind)
}

pub fn text(node: &SyntaxNode) -> String {
    node.to_string().trim().to_owned()
}

/// Words in one case with single spaces, for clauses that are looked at as text.
pub fn words(node: &SyntaxNode) -> String {
    let text = node.to_string().to_lowercase();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `"A"` and `a` as the server keeps them.
pub fn identifier(text: &str) -> String {
    let text = text.trim();
    match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => text.to_lowercase(),
    }
}

/// A dotted name; of more than two parts the last two count.
pub fn name(node: &SyntaxNode) -> Name {
    let mut parts = parts(node);
    let name = parts.pop().unwrap_or_default();
    Name {
        schema: parts.pop(),
        name,
    }
}

pub fn parts(node: &SyntaxNode) -> Vec<String> {
    split(&without_comments(node))
}

fn without_comments(node: &SyntaxNode) -> String {
    let tokens = node
        .descendants_with_tokens()
        .filter_map(|element| element.into_token());
    let seen = tokens.filter(|token| !matches!(token.kind(), SyntaxKind::COMMENT | SyntaxKind::WHITESPACE));
    seen.map(|token| token.text().to_owned()).collect()
}

pub fn split(text: &str) -> Vec<String> {
    let (mut parts, mut part, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                part.push(c);
            }
            '.' if !quoted => parts.push(identifier(&std::mem::take(&mut part))),
            _ => part.push(c),
        }
    }
    parts.push(identifier(&part));
    parts
}

/// The name in the first child of the kind.
pub fn named(node: &SyntaxNode, kind: SyntaxKind) -> Option<Name> {
    below(node, kind).map(|found| name(&found))
}

pub fn one_name(node: &SyntaxNode, kind: SyntaxKind) -> String {
    named(node, kind).map(|name| name.name).unwrap_or_default()
}

/// Relations that a query reads; names of its own WITH are none.
pub fn reads(node: &SyntaxNode) -> Vec<Name> {
    let own: Vec<String> = node
        .descendants()
        .filter(|found| found.kind() == SyntaxKind::CTE_NAME)
        .map(|found| name(&found).name)
        .collect();
    let mut names = Vec::new();
    for found in node.descendants() {
        if found.kind() != SyntaxKind::RELATION_NAME_REF {
            continue;
        }
        let read = name(&found);
        if (read.schema.is_some() || !own.contains(&read.name)) && !names.contains(&read) {
            names.push(read);
        }
    }
    names
}

pub fn expression(node: &SyntaxNode) -> Expression {
    let mut found = Expression {
        sql: text(node),
        ..Expression::default()
    };
    for part in node.descendants() {
        match part.kind() {
            SyntaxKind::CALL_EXPR => {
                if let Some(callee) = part.children().next().filter(is_callee) {
                    found.functions.push(name(&callee));
                } else {
                    let word = part.first_token().map(|token| token.text().to_lowercase());
                    found.functions.extend(word.map(Name::new));
                }
            }
            SyntaxKind::NAME_REF if !in_callee(&part) && !in_type(&part) => {
                let column = identifier(&text(&part));
                if !found.columns.contains(&column) {
                    found.columns.push(column);
                }
            }
            SyntaxKind::LITERAL => found.strings.extend(string(&part)),
            _ => {}
        }
    }
    found
}

fn is_callee(node: &SyntaxNode) -> bool {
    matches!(
        node.kind(),
        SyntaxKind::NAME_REF | SyntaxKind::FIELD_EXPR | SyntaxKind::PATH_REF
    )
}

fn in_callee(node: &SyntaxNode) -> bool {
    let mut at = node.clone();
    while let Some(parent) = at.parent() {
        match parent.kind() {
            SyntaxKind::CALL_EXPR => return parent.children().next().as_ref() == Some(&at),
            SyntaxKind::FIELD_EXPR => at = parent,
            _ => return false,
        }
    }
    false
}

fn in_type(node: &SyntaxNode) -> bool {
    node.ancestors()
        .take(4)
        .any(|above| matches!(above.kind(), SyntaxKind::PATH_TYPE | SyntaxKind::ARRAY_TYPE))
}

/// The value of a string constant.
pub fn string(literal: &SyntaxNode) -> Option<String> {
    let text = text(literal);
    let inner = text.strip_prefix('\'')?.strip_suffix('\'')?;
    Some(inner.replace("''", "'"))
}
