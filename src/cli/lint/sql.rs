//! `lint` of raw SQL: the files, and what is said about them.

use crate::cli::set;
use crate::diagnostic::{self, line_and_column};
use crate::error::{Error, ErrorKind};
use crate::report::{self, style};
use crate::sql_lint::rules::{Finding, RULES};
use crate::sql_lint::{Judged, Report, World, lint};
use crate::units;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde_json::{Value, json};
use std::path::Path;

/// The SQL files that the paths name, in the order of their names within each directory. Beside plans there are none: what
/// lies there is their data.
pub fn files(paths: &[String]) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for path in paths {
        if set::is_directory(path) {
            let mut inside = Vec::new();
            let mut has_plans = false;
            let failed = |error: std::io::Error| {
                Error::new(ErrorKind::Usage, format!("cannot read {path}: {error}")).source(error)
            };
            for entry in std::fs::read_dir(path).map_err(failed)? {
                let entry = entry.map_err(failed)?.path();
                has_plans |= is_plan(&entry) && entry.is_file();
                if is_sql(&entry) && entry.is_file() {
                    inside.push(entry.display().to_string());
                }
            }
            inside.sort();
            found.extend(inside.into_iter().filter(|_| !has_plans));
        } else if is_sql(Path::new(path)) {
            found.push(path.clone());
        }
    }
    Ok(found)
}

fn is_plan(path: &Path) -> bool {
    let ends = path.extension().and_then(|extension| extension.to_str());
    matches!(ends, Some("yaml" | "yml"))
}

fn is_sql(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("sql"))
}

/// Each file in turn, in the world that those before it left.
pub fn judge(mut world: World, files: &[String], in_transaction: bool) -> Result<Vec<Report>, Error> {
    let mut reports = Vec::new();
    for path in files {
        let source = std::fs::read_to_string(path).map_err(|error| {
            Error::new(ErrorKind::Usage, format!("cannot read {path}: {error}")).source(error)
        })?;
        reports.push(lint(&mut world, path, &source, in_transaction));
    }
    Ok(reports)
}

pub fn count(reports: &[Report]) -> usize {
    reports.iter().map(|report| report.all().len()).sum()
}

pub fn human(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        for judged in &report.statements {
            for finding in &judged.findings {
                text.push_str(&render(report, finding, Some(judged)));
            }
        }
        for finding in &report.findings {
            text.push_str(&render(report, finding, None));
        }
    }
    let files = units::counted(reports.len(), "SQL file");
    text.push_str(&match count(reports) {
        0 => format!("{}\n", style::good(format!("{files}, nothing found"))),
        found => {
            let found = units::counted(found, "finding");
            let more = style::faint("`pgmorph explain RULE` says more");
            format!("{}; {more}\n", style::bad(format!("{files}, {found}")))
        }
    });
    text
}

fn render(report: &Report, finding: &Finding, judged: Option<&Judged>) -> String {
    let level = match finding.level {
        crate::sql_lint::rules::Level::Warning => Level::WARNING,
        crate::sql_lint::rules::Level::Error => Level::ERROR,
    };
    let source = &report.source;
    let end = source.floor_char_boundary(finding.span.end.clamp(finding.span.start, source.len()));
    let start = source.floor_char_boundary(finding.span.start.min(source.len()));
    let mut group = level.primary_title(&finding.message).id(finding.rule).element(
        Snippet::source(source)
            .path(&report.path)
            .annotation(AnnotationKind::Primary.span(start..end.max(start))),
    );
    let locks = judged.map(described).unwrap_or_default();
    if !locks.is_empty() {
        group = group.element(Level::NOTE.message(&locks));
    }
    if let Some(help) = &finding.help {
        group = group.element(Level::HELP.message(help));
    }
    report::safe::marked(&format!("{}\n\n", Renderer::styled().render(&[group])))
}

/// What the statement does, in one line.
fn described(judged: &Judged) -> String {
    let effects = &judged.effects;
    let mut parts: Vec<String> = Vec::new();
    for (relation, mode) in effects.locks.iter().filter(|(_, mode)| mode.blocks_writes()) {
        parts.push(format!("{mode} on {relation} (blocks {})", mode.blocks()));
    }
    for (what, names) in [
        ("rewrites", &effects.rewrites),
        ("scans", &effects.scans),
        ("rebuilds", &effects.rebuilds_indexes),
    ] {
        if !names.is_empty() {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            parts.push(format!("{what} {}", names.join(", ")));
        }
    }
    parts.join("; ")
}

/// One object per file; the fields of a statement are those of a rehearsal's trace.
pub fn json(reports: &[Report]) -> Value {
    let file = |report: &Report| {
        json!({
            "file": report.path,
            "statements": report.statements.iter().map(|judged| statement(report, judged)).collect::<Vec<_>>(),
            "findings": report.findings.iter().map(|found| finding(report, found)).collect::<Vec<_>>(),
        })
    };
    reports.iter().map(file).collect()
}

fn statement(report: &Report, judged: &Judged) -> Value {
    let effects = &judged.effects;
    let locks = effects
        .locks
        .iter()
        .map(|(relation, mode)| json!({"relation": relation, "mode": mode.sql()}));
    json!({
        "sql": judged.statement.sql,
        "line": judged.statement.line,
        "locks": locks.collect::<Vec<_>>(),
        "rewrites": effects.rewrites,
        "scans": effects.scans,
        "rebuilds_indexes": effects.rebuilds_indexes,
        "transaction": effects.transaction,
        "findings": judged.findings.iter().map(|found| finding(report, found)).collect::<Vec<_>>(),
    })
}

fn finding(report: &Report, finding: &Finding) -> Value {
    let (line, column) = line_and_column(&report.source, finding.span.start);
    json!({
        "rule": finding.rule,
        "level": finding.level.word(),
        "message": finding.message,
        "line": line,
        "column": column,
        "help": finding.help,
    })
}

/// Annotations of a workflow run.
pub fn github(reports: &[Report]) -> String {
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let mut text = String::new();
    for report in reports {
        for finding in report.all() {
            let (line, column) = line_and_column(&report.source, finding.span.start);
            let help = finding
                .help
                .as_ref()
                .map(|help| format!("\n{help}"))
                .unwrap_or_default();
            text.push_str(&format!(
                "::{} file={},line={line},col={column},title={}::{}\n",
                finding.level.word(),
                property(&report.path),
                property(finding.rule),
                data(&format!("{}{help}", finding.message)),
            ));
        }
    }
    text
}

/// SARIF 2.1.0, as code scanning takes it.
pub fn sarif(reports: &[Report]) -> String {
    let rules = RULES.iter().map(|rule| {
        json!({
            "id": rule.id,
            "shortDescription": {"text": first_sentence(rule.manual)},
            "fullDescription": {"text": rule.manual},
            "defaultConfiguration": {"level": rule.level.word()},
        })
    });
    let result = |report: &Report, finding: &Finding| {
        let (line, column) = line_and_column(&report.source, finding.span.start);
        let (end_line, end_column) = line_and_column(&report.source, finding.span.end);
        let help = finding
            .help
            .as_ref()
            .map(|help| format!(" ({help})"))
            .unwrap_or_default();
        json!({
            "ruleId": finding.rule,
            "level": finding.level.word(),
            "message": {"text": format!("{}{help}", finding.message)},
            "locations": [{"physicalLocation": {
                "artifactLocation": {"uri": report.path},
                "region": {"startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column},
            }}],
        })
    };
    let results: Vec<Value> = reports
        .iter()
        .flat_map(|report| {
            report
                .all()
                .into_iter()
                .map(move |finding| result(report, finding))
        })
        .collect();
    report::out::pretty(&json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "pgmorph",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    }))
}

fn first_sentence(manual: &str) -> String {
    let text = manual.replace('\n', " ");
    text.split_once(". ")
        .map_or(text.clone(), |(sentence, _)| format!("{sentence}."))
}

/// The plan that takes the place of the files, and what it leaves out; it is checked as a plan file.
pub fn fixed(reports: &[Report]) -> Result<crate::sql_lint::fix::Fix, Error> {
    let stem = reports
        .first()
        .and_then(|report| Path::new(&report.path).file_stem());
    let name: String = stem
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '_'
            }
        })
        .collect();
    let fix = crate::sql_lint::fix::fix(&name, reports);
    if fix.changes == 0 {
        return Err(Error::new(
            ErrorKind::Usage,
            "no operation takes the place of any statement",
        ));
    }
    crate::change_plan::parse(&fix.yaml).map_err(|complaints| {
        let text = diagnostic::render(&complaints, "the plan", &fix.yaml, false);
        Error::new(
            ErrorKind::Usage,
            format!("the plan that would be written is not valid:\n{text}"),
        )
    })?;
    Ok(fix)
}
