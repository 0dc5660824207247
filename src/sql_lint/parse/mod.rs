//! SQL text into statements. The library's tree ends here: nothing else knows it.

mod other;
mod table;
mod tree;

use super::statement::{Name, Statement};
use crate::diagnostic::{Span, line_and_column};
use squawk_syntax::SourceFile;
use squawk_syntax::ast::{AstNode, Stmt};

/// A file of SQL.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Script {
    pub statements: Vec<Statement>,
    /// What the grammar does not accept.
    pub errors: Vec<(Span, String)>,
    pub comments: Vec<Comment>,
}

/// A comment to the end of the line, without its `--`.
#[derive(Debug, Clone, PartialEq)]
pub struct Comment {
    pub text: String,
    pub span: Span,
}

/// What follows these, in files of dbmate, goose and sql-migrate, takes the migration back; it is not looked at.
const WAYS_BACK: &[&str] = &["migrate:down", "+goose down", "+migrate down", "!down"];

/// A name as it stands in a text.
pub fn dotted(text: &str) -> Name {
    let mut parts = tree::split(text);
    let name = parts.pop().unwrap_or_default();
    Name {
        schema: parts.pop(),
        name,
    }
}

pub fn parse(source: &str) -> Script {
    let text = visible(source);
    let parsed = SourceFile::parse(&text);
    let mut script = Script::default();
    for error in parsed.errors() {
        let range = error.range();
        let span = Span {
            start: range.start().into(),
            end: range.end().into(),
        };
        script.errors.push((span, error.message().to_owned()));
    }
    for statement in parsed.tree().stmts() {
        script.statements.push(read(&text, &statement));
    }
    script.comments = comments(&parsed.syntax_node());
    script
}

fn read(text: &str, statement: &Stmt) -> Statement {
    let node = statement.syntax();
    let range = node.text_range();
    let start = usize::from(range.start());
    let sql = text[start..usize::from(range.end())].trim_end_matches([';', ' ', '\n', '\r', '\t']);
    Statement {
        sql: sql.to_owned(),
        span: Span {
            start,
            end: start + sql.len(),
        },
        line: line_and_column(text, start).0,
        kind: other::kind(node),
    }
}

fn comments(root: &squawk_syntax::SyntaxNode) -> Vec<Comment> {
    let tokens = root
        .descendants_with_tokens()
        .filter_map(|element| element.into_token());
    tokens
        .filter(|token| token.kind() == squawk_syntax::SyntaxKind::COMMENT)
        .filter_map(|token| {
            let text = token.text().strip_prefix("--")?;
            let range = token.text_range();
            Some(Comment {
                text: text.trim().to_owned(),
                span: Span {
                    start: range.start().into(),
                    end: range.end().into(),
                },
            })
        })
        .collect()
}

/// The file with what is not SQL blanked out, so that places stay what they are: commands for psql, the data of
/// `COPY … FROM stdin`, and the way back of migration tools.
fn visible(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let (mut data, mut back) = (false, false);
    for line in source.split_inclusive('\n') {
        let bare = line.trim();
        let lower = bare.to_lowercase();
        let marker = lower.strip_prefix("--").map(str::trim).unwrap_or_default();
        back |= WAYS_BACK.iter().any(|way| marker.starts_with(way));
        if back || data || bare.starts_with('\\') {
            data &= bare != "\\.";
            text.extend(line.chars().map(|c| {
                if c == '\n' {
                    "\n".to_owned()
                } else {
                    " ".repeat(c.len_utf8())
                }
            }));
            continue;
        }
        data = lower.starts_with("copy ") && lower.contains("from stdin");
        text.push_str(line);
    }
    text
}
