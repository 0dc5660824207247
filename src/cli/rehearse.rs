//! `rehearse`: a plan on a server that is thrown away, and whether it does there what it claims.

use super::input::{self, Input};
use super::{Failure, Format, Global, InvalidPlan, Outcome};
use crate::catalog::load;
use crate::catalog::model::CatalogSnapshot;
use crate::error::{Error, ErrorKind};
use crate::postgres::embedded::{Installation, Options, Server};
use crate::postgres::settings::{self, patiently};
use crate::rehearse::durations::Sizes;
use crate::rehearse::rows::Filled;
use crate::rehearse::{Refused, Script, Site, sample, schema, temporary};
use crate::report::out;
use crate::report::rehearsal::Shown;
use crate::saved;
use clap::{Args, value_parser};
use std::path::{Path, PathBuf};

const DATABASE: &str = "rehearsal";

/// Run the plan on a server that is thrown away, and compare what its statements do with what it claims
///
/// The server has the schema of the database, with rows that are made up, or with a sample of the database's own. Nothing is
/// changed in the database itself: `pg_dump --schema-only` reads it, and --sample; nothing does where --schema or --catalog
/// says what there is. Exits with 1 where a lock, a rewrite or a scan was seen that the plan does not claim, or was claimed
/// and not seen.
#[derive(Debug, Args)]
pub struct Rehearse {
    /// The plan file, or a saved execution plan; `-` is standard input
    plan: String,
    /// Build the schema with this script instead of reading the database
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// The real sizes, from a catalog snapshot (see `snapshot`); without --schema the tables are built from it, too
    #[arg(long, value_name = "FILE")]
    catalog: Option<String>,
    /// Rows that are made up for each table that is empty; 0 leaves them empty
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = value_parser!(u64).range(0..=10_000_000))]
    rows: u64,
    /// Copy up to so many rows of each table from the database, and those that they refer to; --rows is for the tables then
    /// that cannot be read
    #[arg(
        long,
        value_name = "N",
        value_parser = value_parser!(u64).range(1..=1_000_000),
        conflicts_with_all = ["schema", "catalog"]
    )]
    sample: Option<u64>,
    /// The folder with PostgreSQL's programs initdb and postgres; without it PGMORPH_PG_BINDIR, or else those of the
    /// database's release, or the newest found
    #[arg(long, value_name = "DIR")]
    pg_bindir: Option<PathBuf>,
}

/// What the schema is built from.
struct Source {
    /// Nothing where the catalog says it all.
    script: Option<String>,
    words: String,
    /// Release of the database, where it is known.
    major: Option<u32>,
    catalog: Option<CatalogSnapshot>,
}

impl Rehearse {
    pub async fn run(&self, global: &Global) -> Outcome {
        let input = input::read(&self.plan)?;
        let source = Box::pin(self.source(global)).await?;
        let server = self.server(source.major).await?;
        let site = Site {
            socket_directory: server.socket_dir().to_owned(),
            port: server.port(),
        };
        let result = Box::pin(self.on(&site, &server, global, &input, &source)).await;
        tokio::task::spawn_blocking(move || server.stop())
            .await
            .map_err(|error| Error::new(ErrorKind::StepFailed, "stopping the server").source(error))?
            .map_err(Error::from)?;
        result
    }

    async fn source(&self, global: &Global) -> Result<Source, Failure> {
        let catalog = self.catalog.as_deref().map(input::snapshot).transpose()?;
        if let Some(path) = &self.schema {
            let script = saved::read_text(path, saved::SNAPSHOT_BYTES_MAX).map_err(|error| {
                Error::new(
                    ErrorKind::Usage,
                    format!("cannot read {}: {error}", path.display()),
                )
                .source(error)
            })?;
            return Ok(Source {
                script: Some(script),
                words: format!("with the schema of {}", path.display()),
                major: catalog.as_ref().map(|catalog| catalog.server.major()),
                catalog,
            });
        }
        if let (Some(catalog), Some(path)) = (catalog, &self.catalog) {
            return Ok(Source {
                script: None,
                words: format!("with the tables of {path}"),
                major: Some(catalog.server.major()),
                catalog: Some(catalog),
            });
        }
        let settings = global.settings()?;
        let session = global.observer(&settings).await?;
        let catalog = load::snapshot(&session.client).await?;
        drop(session);
        let env = |name: &str| std::env::var(name).ok();
        let variables = settings::variables(global.url.as_deref(), &env).map_err(Error::from)?;
        let major = catalog.server.major();
        let bindir = self.installation(Some(major))?.bindir;
        Ok(Source {
            script: Some(schema::dumped(&bindir, major, &variables).await?),
            words: match self.sample {
                Some(_) => format!("with the schema and a sample of {settings}"),
                None => format!("with the schema of {settings}"),
            },
            major: Some(major),
            catalog: Some(catalog),
        })
    }

    /// That of the same release where nothing else is asked for.
    fn installation(&self, major: Option<u32>) -> Result<Installation, Error> {
        let chosen = Installation::find(self.pg_bindir.as_deref())?;
        let named = self.pg_bindir.is_some() || std::env::var_os("PGMORPH_PG_BINDIR").is_some();
        let same = Installation::all()
            .into_iter()
            .find(|it| !named && Some(it.version.major) == major);
        Ok(same.unwrap_or(chosen))
    }

    async fn server(&self, major: Option<u32>) -> Result<Server, Error> {
        let installation = self.installation(major)?;
        let settings = [
            // Its locks and its effects are nobody's claims.
            ("autovacuum", "off"),
            ("max_connections", "200"),
            ("shared_buffers", "256MB"),
            ("max_wal_size", "4GB"),
        ]
        .into_iter()
        .chain(temporary::SETTINGS);
        let options = Options {
            settings: settings
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            ..Options::default()
        };
        let started = tokio::task::spawn_blocking(move || Server::start(&installation, &options)).await;
        let started = started
            .map_err(|error| Error::new(ErrorKind::StepFailed, "starting the server").source(error))?;
        Ok(started?)
    }

    async fn on(
        &self,
        site: &Site,
        server: &Server,
        global: &Global,
        input: &Input,
        source: &Source,
    ) -> Outcome {
        let version = server.version();
        if source.major.is_some_and(|major| major != version.major) {
            let major = source.major.unwrap_or_default();
            global.note(&format!(
                "note: this is PostgreSQL {version}, and the database is {major}: locks may differ"
            ));
        }
        let left_out = match (&source.script, &source.catalog) {
            (None, Some(catalog)) => site.rebuild(DATABASE, catalog).await?,
            (script, _) => {
                site.create(DATABASE, script.as_deref().unwrap_or_default())
                    .await?;
                Vec::new()
            }
        };
        let filled = Box::pin(self.filled(site, global)).await?;
        site.analyze(DATABASE).await?;
        let client = site.connect(DATABASE).await?;
        let here: Sizes = sizes(&load::snapshot(&client).await?);
        drop(client);
        let script = match input {
            Input::File(file) => Script::File(&file.plan, source.catalog.as_ref()),
            Input::Saved(plan) => Script::Saved(plan),
        };
        let rehearsal = match Box::pin(site.rehearse(DATABASE, script)).await {
            Ok(rehearsal) => rehearsal,
            Err(Refused::Error(error)) => return Err(Failure::Error(error)),
            Err(Refused::Plan(diagnostics)) => return Err(self.refused(input, diagnostics)),
        };
        let there = source.catalog.as_ref().map(sizes).unwrap_or_default();
        let shown = Shown {
            rehearsal: &rehearsal,
            server: format!("PostgreSQL {version}"),
            source: source.words.clone(),
            filled: &filled,
            left_out: &left_out,
            here: &here,
            there: &there,
        };
        match global.format {
            Format::Json => out::json(&serde_json::json!({"rehearsal": shown.json()}))?,
            Format::Markdown => out::result(&shown.markdown())?,
            _ => out::result(&shown.human())?,
        }
        Ok(match rehearsal.differences.is_empty() {
            true => 0,
            false => ErrorKind::Findings.exit_code(),
        })
    }

    /// With rows of the database where they are asked for; for the tables that have none, they are made up.
    async fn filled(&self, site: &Site, global: &Global) -> Result<Vec<Filled>, Failure> {
        let mut filled = match self.sample {
            Some(rows) => Box::pin(sampled(site, global, rows)).await?,
            None => Vec::new(),
        };
        if self.rows == 0 {
            return Ok(filled);
        }
        let is_sampled = |it: &Filled| it.why_not_sampled.is_none();
        let wanted = |name: &_| {
            let of_table = filled.iter().find(|it| it.table == *name);
            self.sample.is_none() || of_table.is_some_and(|it| !is_sampled(it))
        };
        let made_up = site.fill(DATABASE, self.rows, wanted).await?;
        for mut made_up in made_up {
            if let Some(at) = filled.iter().position(|it| it.table == made_up.table) {
                let sampled = filled.remove(at);
                made_up.why_not_sampled = sampled.why_not_sampled;
                made_up.left_out = sampled.left_out;
            }
            filled.push(made_up);
        }
        filled.sort_by(|one, other| one.table.cmp(&other.table));
        Ok(filled)
    }

    fn refused(&self, input: &Input, diagnostics: Vec<crate::diagnostic::Diagnostic>) -> Failure {
        match input {
            Input::File(file) => file.refused(diagnostics),
            Input::Saved(_) => Failure::Plan(Box::new(InvalidPlan {
                path: Path::new(&self.plan).display().to_string(),
                source: String::new(),
                diagnostics,
            })),
        }
    }
}

async fn sampled(site: &Site, global: &Global, rows: u64) -> Result<Vec<Filled>, Failure> {
    let settings = global.settings()?;
    let session = patiently(|| Box::pin(settings.bounded("pgmorph", sample::BOUNDS)))
        .await
        .map_err(Error::from)?;
    let passing = global.passing();
    let sampled = site
        .sample(DATABASE, &session.client, rows, &mut |text| passing.say(text))
        .await;
    passing.end();
    Ok(sampled?)
}

fn sizes(catalog: &CatalogSnapshot) -> Sizes {
    let sizes = catalog
        .tables
        .iter()
        .map(|(name, table)| (name.clone(), table.size));
    sizes.collect()
}
