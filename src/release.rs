//! Which releases of PostgreSQL this works with.

/// The oldest major release whose catalogs and statements are known.
pub const OLDEST: u32 = 14;

/// The newest major release that everything was tested with.
pub const NEWEST: u32 = 18;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Supported,
    /// Refused: what the plans rely on is not there.
    Older,
    /// Nobody knows; it may be looked at, but a plan is begun only when that is asked for.
    Newer,
}

/// What is to be thought of a server with this `server_version_num`.
pub fn standing(version_num: u32) -> Standing {
    match version_num / 10_000 {
        major if major < OLDEST => Standing::Older,
        major if major > NEWEST => Standing::Newer,
        _ => Standing::Supported,
    }
}

/// `server_version_num`, from the `server_version` of the login: `15.19 (Debian …)`, `9.6.24`, `19beta1`. `None` for what
/// is not numbered like PostgreSQL, as a proxy may answer.
pub fn version_num(server_version: &str) -> Option<u32> {
    let word = server_version.split_whitespace().next()?;
    let mut numbers = word.split('.').map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..digits]
            .parse::<u32>()
            .ok()
            .filter(|number| *number < 10_000)
    });
    let major = numbers.next()??;
    let second = numbers.next().flatten().unwrap_or(0);
    // Until 9.6 two numbers made a major release.
    match major {
        0 => None,
        1..=9 => Some(major * 10_000 + second.min(99) * 100 + numbers.next().flatten().unwrap_or(0).min(99)),
        _ => Some(major * 10_000 + second),
    }
}

/// As people call it: `13.11`, `9.6.24`.
pub fn name(version_num: u32) -> String {
    match version_num {
        100_000.. => format!("{}.{}", version_num / 10_000, version_num % 10_000),
        old => format!("{}.{}.{}", old / 10_000, old / 100 % 100, old % 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_known_by_what_they_report() {
        let read = |text: &str| version_num(text).map(|number| (number, name(number), standing(number)));
        for (reported, number, called, expected) in [
            ("8.0.2", 80_002, "8.0.2", Standing::Older),
            ("9.6.24", 90_624, "9.6.24", Standing::Older),
            ("10.23", 100_023, "10.23", Standing::Older),
            (
                "13.22 (Debian 13.22-1.pgdg12+1)",
                130_022,
                "13.22",
                Standing::Older,
            ),
            ("14beta3", 140_000, "14.0", Standing::Supported),
            ("14.0", 140_000, "14.0", Standing::Supported),
            ("15.2-YB-2.25.1.0-b0", 150_002, "15.2", Standing::Supported),
            ("18.6", 180_006, "18.6", Standing::Supported),
            ("19devel", 190_000, "19.0", Standing::Newer),
            ("20.1", 200_001, "20.1", Standing::Newer),
        ] {
            assert_eq!(
                read(reported),
                Some((number, called.to_owned(), expected)),
                "{reported}"
            );
        }
        for unlike in ["", "bouncer", "0.1", "99999999999.1", "v14"] {
            assert_eq!(version_num(unlike), None, "{unlike}");
        }
    }
}
