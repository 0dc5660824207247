//! A server that is newer than what everything was tested with.

use crate::error::{Error, ErrorKind};
use crate::release::{self, Standing};
use tokio_postgres::{Client, SimpleQueryMessage};

/// Refuses to begin anything there, unless that was asked for.
///
/// # Errors
/// [`ErrorKind::Precondition`], or that the server could not be asked.
pub async fn refuse(client: &Client, asked_for: bool) -> Result<(), Error> {
    if asked_for {
        return Ok(());
    }
    let failed = |error| Error::postgres(ErrorKind::Precondition, "asking for the server's release", error);
    let answer = client
        .simple_query("SHOW server_version_num")
        .await
        .map_err(failed)?;
    let version_num = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    verdict(version_num.unwrap_or(0))
}

fn verdict(version_num: u32) -> Result<(), Error> {
    if release::standing(version_num) != Standing::Newer {
        return Ok(());
    }
    let message = format!(
        "the server is PostgreSQL {}; this pgmorph was tested with {} to {}; nothing was changed",
        release::name(version_num),
        release::OLDEST,
        release::NEWEST
    );
    Err(Error::new(ErrorKind::Precondition, message).help(
        "take a newer pgmorph, or try the plan on a copy of the database and run it here with --untested-server",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_newer_has_to_be_asked_for() {
        assert!(verdict(release::NEWEST * 10_000 + 9).is_ok());
        assert!(verdict(release::OLDEST * 10_000).is_ok());
        let error = verdict((release::NEWEST + 1) * 10_000).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Precondition);
        assert!(error.help.unwrap().contains("--untested-server"));
    }
}
