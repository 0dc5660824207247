//! `lint`: what is wrong with plans and with raw SQL before any of it runs.

mod replay;
mod sql;

use super::input;
use super::{Failure, Format, Global, InvalidPlan, Outcome, set};
use crate::catalog::load;
use crate::catalog::model::CatalogSnapshot;
use crate::error::{Error, ErrorKind};
use crate::plan_set::{Complaint, PlanFile, PlanSet, Scope, Turn};
use crate::report::{out, safe, style};
use crate::sql_lint::world::NEWEST;
use crate::sql_lint::{Report, World};
use crate::units;
use clap::Args;
use replay::{Place, Replayed};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Find what is wrong with plans and SQL files before any of them runs: text, order, references, unsafe statements
///
/// Without a catalog, only what other plans of the directory make is known; that of --schema counts. A connection is used
/// where --url stands on the command line; DATABASE_URL alone does not count.
#[derive(Debug, Args)]
pub struct Lint {
    /// Plan files, SQL files, and directories of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    /// What exists, from a catalog snapshot (see `snapshot`)
    #[arg(long, value_name = "FILE")]
    catalog: Option<String>,
    /// Run all plans, through contract, on a temporary server with an empty database, and verify each
    #[arg(long)]
    replay: bool,
    /// What is in that database before the first plan
    #[arg(long, value_name = "FILE.sql", requires = "replay")]
    schema: Option<PathBuf>,
    /// What SQL does on this major version; else that of the catalog, or the newest known
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(14..=18))]
    server_version: Option<u32>,
    /// Each SQL file runs in one transaction, as many tools do it
    #[arg(long)]
    in_transaction: bool,
    /// Write the plan that takes the place of the SQL files
    #[arg(long, value_name = "FILE.yaml")]
    fix: Option<PathBuf>,
    /// The folder with PostgreSQL's programs initdb and postgres; without it PGMORPH_PG_BINDIR, or else the newest found
    #[arg(long, value_name = "DIR", requires = "replay")]
    pg_bindir: Option<PathBuf>,
}

/// What is known besides the files.
enum Known {
    Nothing,
    Catalog(Box<CatalogSnapshot>),
    /// With the ledger of the database.
    Database(Box<CatalogSnapshot>, tokio_postgres::Client),
}

/// The plans that are looked at together.
struct Group {
    paths: Vec<String>,
    scope: Scope,
}

impl Lint {
    pub async fn run(&self, global: &Global) -> Outcome {
        let mut place = None;
        let known = self.known(global, &mut place).await?;
        let reports = self.raw_sql(&known)?;
        if reports.is_empty() && matches!(global.format, Format::Sarif | Format::Github) {
            return Err(
                Error::new(ErrorKind::Usage, "the formats sarif and github are for SQL files").into(),
            );
        }
        if let Some(path) = &self.fix {
            write_fix(path, &reports)?;
        }
        let mut findings = Vec::new();
        let mut sets = Vec::new();
        let mut plans = 0;
        for group in self.groups()? {
            plans += group.paths.len();
            let (set, found) = look(group, &known).await?;
            sets.push(set);
            findings.extend(found);
        }
        let mut replayed = Vec::new();
        if self.replay && findings.is_empty() {
            for set in &sets {
                let place = match place.take() {
                    Some(place) => place,
                    None => Box::pin(Place::begin(self)).await?,
                };
                replayed.push(Box::pin(replay::replay(place, global, set)).await?);
            }
        }
        if let Some(place) = place {
            place.end().await?;
        }
        self.report(global, plans, &findings, &replayed, &reports)
    }

    fn raw_sql(&self, known: &Known) -> Result<Vec<Report>, Error> {
        let files = sql::files(&self.paths)?;
        let world = match known {
            Known::Nothing => World::unknown(self.server_version.unwrap_or(NEWEST)),
            Known::Catalog(catalog) | Known::Database(catalog, _) => {
                World::of((**catalog).clone(), self.server_version)
            }
        };
        sql::judge(world, &files, self.in_transaction)
    }

    /// The schema of a replay is a catalog too: the place where it was loaded is that of the first replay.
    async fn known(&self, global: &Global, place: &mut Option<Place>) -> Result<Known, Failure> {
        if let Some(path) = &self.catalog {
            return Ok(Known::Catalog(Box::new(input::snapshot(path)?)));
        }
        if !global.url_given && self.schema.is_some() {
            let begun = place.insert(Box::pin(Place::begin(self)).await?);
            return Ok(Known::Catalog(Box::new(begun.catalog().await?)));
        }
        if !global.url_given {
            return Ok(Known::Nothing);
        }
        let session = global.observer(&global.settings()?).await?;
        let catalog = load::snapshot(&session.client).await?;
        Ok(Known::Database(Box::new(catalog), session.client))
    }

    /// Each directory is one, and so are all single files.
    fn groups(&self) -> Result<Vec<Group>, Error> {
        let mut groups = Vec::new();
        let mut single = Vec::new();
        for path in &self.paths {
            let raw = !sql::files(std::slice::from_ref(path))?.is_empty();
            if !set::is_directory(path) {
                if !raw {
                    single.push(path.clone());
                }
                continue;
            }
            let paths = set::files(path)?;
            if paths.is_empty() && raw {
                continue;
            }
            if paths.is_empty() {
                let message = format!("{path} has no plan files, *.yaml or *.yml, and no SQL files");
                return Err(Error::new(ErrorKind::Usage, message));
            }
            groups.push(Group {
                paths,
                scope: Scope::Whole,
            });
        }
        if !single.is_empty() {
            groups.push(Group {
                paths: single,
                scope: Scope::Part,
            });
        }
        Ok(groups)
    }

    fn report(
        &self,
        global: &Global,
        plans: usize,
        findings: &[InvalidPlan],
        replayed: &[Replayed],
        reports: &[Report],
    ) -> Outcome {
        let passes = findings.is_empty() && replayed.iter().all(Replayed::passes) && sql::count(reports) == 0;
        let code = if passes {
            0
        } else {
            ErrorKind::Findings.exit_code()
        };
        match global.format {
            Format::Sarif => {
                out::result(&safe::json(&sql::sarif(reports)))?;
                return Ok(code);
            }
            Format::Github => {
                out::result(&sql::github(reports))?;
                return Ok(code);
            }
            _ => {}
        }
        if global.is_json() {
            let found: Vec<Value> = findings.iter().flat_map(InvalidPlan::json).collect();
            let mut result = json!({"plans": plans, "findings": found});
            if self.replay {
                result["replay"] = replayed.iter().map(Replayed::json).collect();
            }
            if !reports.is_empty() {
                result["files"] = sql::json(reports);
            }
            out::json(&result)?;
            return Ok(code);
        }
        if !reports.is_empty() {
            out::result(&sql::human(reports))?;
            if plans == 0 {
                return Ok(code);
            }
        }
        let mut text: String = findings.iter().map(InvalidPlan::human).collect();
        for replayed in replayed {
            text.push_str(&replayed.human());
        }
        let number: usize = findings.iter().map(|found| found.diagnostics.len()).sum();
        let plans = units::counted(plans, "plan");
        let line = match number {
            0 if passes => style::good(format!("{plans}, nothing found")),
            0 => style::bad(format!("{plans}, the replay failed")),
            _ => style::bad(format!("{plans}, {}", units::counted(number, "finding"))),
        };
        text.push_str(&format!("{line}\n"));
        if self.replay && number > 0 {
            text.push_str("They were not replayed: that would fail.\n");
        }
        out::result(&text)?;
        Ok(code)
    }
}

fn write_fix(path: &Path, reports: &[Report]) -> Result<(), Error> {
    let fix = sql::fixed(reports)?;
    input::write(path, &fix.yaml)?;
    let left = match fix.left.len() {
        0 => String::new(),
        left => format!(
            "; {} left out, see the comments in it",
            units::counted(left, "statement")
        ),
    };
    let changes = units::counted(fix.changes, "change");
    out::line(&format!("{} has {changes}{left}", path.display()));
    Ok(())
}

async fn look(group: Group, known: &Known) -> Result<(PlanSet, Vec<InvalidPlan>), Failure> {
    let (plans, invalid) = set::parse(group.paths)?;
    // What a file that cannot be read makes, nobody knows; then nothing can be said about the order.
    let scope = match invalid.is_empty() {
        true => group.scope,
        false => Scope::Part,
    };
    let (set, mut complaints) = PlanSet::arrange(plans, scope);
    if invalid.is_empty() {
        complaints.extend(references(&set, known).await?);
    }
    let mut findings = invalid;
    findings.extend(set::invalid(&set, complaints));
    findings.sort_by(|one, other| one.path.cmp(&other.path));
    Ok((set, findings))
}

async fn references(set: &PlanSet, known: &Known) -> Result<Vec<Complaint>, Error> {
    let to_come = |_: &PlanFile| Turn::ToCome;
    Ok(match known {
        Known::Nothing => set.references(None, to_come),
        Known::Catalog(catalog) => set.references(Some(catalog), to_come),
        Known::Database(catalog, client) => {
            let standings = set::standing::of(client, set).await?.plans;
            set.references(Some(catalog), set::apply::turns(&standings))
        }
    })
}
