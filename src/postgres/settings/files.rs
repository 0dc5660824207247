//! The files libpq reads: service files and the password file.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::error::SettingsError;
use super::options::Options;

/// Debian's place for what `pg_config --sysconfdir` names elsewhere.
const SYSTEM_CONFIGURATION: &str = "/etc/postgresql-common";

/// Bytes of a service file at most, which may be any file that somebody names.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The options of service `name`, from the user's service file or else from the system's.
pub(super) fn service(
    name: &str,
    file: Option<&str>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Options, SettingsError> {
    let own = file.map(PathBuf::from);
    let home = env("HOME").map(|home| Path::new(&home).join(".pg_service.conf"));
    let directory = env("PGSYSCONFDIR").unwrap_or_else(|| SYSTEM_CONFIGURATION.to_owned());
    let system = Path::new(&directory).join("pg_service.conf");
    let named = own.is_some();
    let mut searched = Vec::new();
    for (at, path) in own.or(home).into_iter().chain([system]).enumerate() {
        match crate::saved::read_text(&path, FILE_BYTES_MAX) {
            Ok(text) => {
                if let Some(options) = service_in(&text, name, &path)? {
                    return Ok(options);
                }
            }
            // A file that was asked for by name must be there; the usual places may be empty.
            Err(error) if error.kind() != io::ErrorKind::NotFound || (named && at == 0) => {
                return Err(SettingsError::File {
                    path,
                    reason: reason(&error),
                });
            }
            Err(_) => {}
        }
        searched.push(path.display().to_string());
    }
    Err(SettingsError::ServiceMissing {
        service: name.to_owned(),
        searched: searched.join(", "),
    })
}

fn service_in(text: &str, name: &str, path: &Path) -> Result<Option<Options>, SettingsError> {
    let mut found: Option<Options> = None;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if header.strip_suffix(']').map(str::trim) == Some(name) {
                found = Some(Options::default());
            }
            continue;
        }
        let Some(options) = found.as_mut() else { continue };
        let wrong = |reason: String| SettingsError::File {
            path: path.to_owned(),
            reason: format!("line {}: {reason}", at + 1),
        };
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| wrong("expected option=value".to_owned()))?;
        let key = key.trim();
        if matches!(key, "service" | "servicefile") {
            return Err(wrong("a service cannot refer to another service".to_owned()));
        }
        options
            .set(key, value.trim())
            .map_err(|error| wrong(format!("{error}; {}", error.help())))?;
    }
    Ok(found)
}

/// What a password line is looked up by, as text.
pub(super) struct Login<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) dbname: &'a str,
    pub(super) user: &'a str,
}

/// The lines of a password file that may be read. No `Debug`: it holds passwords.
#[derive(Default)]
pub(super) struct PasswordFile(String);

impl PasswordFile {
    /// Reads the file; what makes it unusable is returned as a warning, as libpq does.
    pub(super) fn read(path: &Path) -> (Self, Option<String>) {
        let Ok(metadata) = fs::metadata(path) else {
            return (Self::default(), None);
        };
        let ignored = |why: &str| {
            (
                Self::default(),
                Some(format!("password file {} is ignored: {why}", path.display())),
            )
        };
        if !metadata.is_file() {
            return ignored("it is not a plain file");
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            return ignored("others may read it; run chmod 0600 on it");
        }
        match fs::read(path) {
            Ok(bytes) => (Self(String::from_utf8_lossy(&bytes).into_owned()), None),
            Err(error) => ignored(&reason(&error)),
        }
    }

    /// The password of the first line that matches.
    pub(super) fn password(&self, login: &Login<'_>) -> Option<String> {
        let port = login.port.to_string();
        let wanted = [login.host, &port, login.dbname, login.user];
        self.0
            .lines()
            .filter(|line| !line.starts_with('#'))
            .find_map(|line| {
                let mut rest = line.trim_end_matches('\r');
                for text in wanted {
                    let (field, after) = field(rest);
                    if field != Field::Any && field != Field::Text(text.to_owned()) {
                        return None;
                    }
                    rest = after?;
                }
                match field(rest).0 {
                    Field::Text(password) => Some(password),
                    Field::Any => Some("*".to_owned()),
                }
            })
    }
}

#[derive(PartialEq)]
enum Field {
    Any,
    Text(String),
}

/// The field up to the next bare `:`, unescaped, and what follows the colon.
fn field(line: &str) -> (Field, Option<&str>) {
    let mut text = String::new();
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => {
                text.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            ':' => return (wild(text, &line[..at]), Some(&line[at + 1..])),
            _ => text.push(c),
        }
    }
    if escaped {
        text.push('\\');
    }
    (wild(text, line), None)
}

fn wild(text: String, raw: &str) -> Field {
    if raw == "*" { Field::Any } else { Field::Text(text) }
}

/// An I/O error as a lower-case fragment without the number of the system call's error.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        _ => {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            let mut chars = text.chars();
            chars
                .next()
                .map(|first| first.to_lowercase().chain(chars).collect())
                .unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_env(_: &str) -> Option<String> {
        None
    }

    fn password(text: &str, host: &str, dbname: &str, user: &str) -> Option<String> {
        PasswordFile(text.to_owned()).password(&Login {
            host,
            port: 5432,
            dbname,
            user,
        })
    }

    #[test]
    fn password_lines_match_field_by_field() {
        for (line, expected) in [
            ("h:5432:d:u:pw", Some("pw")),
            ("*:*:*:*:pw", Some("pw")),
            ("h:5433:d:u:pw", None),
            ("other:*:*:*:pw", None),
            ("h*:5432:d:u:pw", None),
            ("# h:5432:d:u:pw", None),
            ("h:5432:d:u", None),
            (r"h:5432:d:u:a\:b\\c", Some(r"a:b\c")),
            ("h:5432:d:u:pw\r", Some("pw")),
            ("no:*:*:*:one\nh:*:*:*:two\n*:*:*:*:three", Some("two")),
        ] {
            assert_eq!(password(line, "h", "d", "u").as_deref(), expected, "{line}");
        }
        assert_eq!(
            password(r"\:\:1:*:*:a\:u:pw", "::1", "d", "a:u").as_deref(),
            Some("pw")
        );
        assert_eq!(password(r"\*:*:*:*:pw", "h", "d", "u"), None);
    }

    #[test]
    fn a_password_file_that_others_may_read_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        fs::write(&path, "*:*:*:*:hush\n").unwrap();
        let login = Login {
            host: "h",
            port: 1,
            dbname: "d",
            user: "u",
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let (file, warning) = PasswordFile::read(&path);
        assert_eq!((file.password(&login).as_deref(), warning), (Some("hush"), None));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let (file, warning) = PasswordFile::read(&path);
        assert_eq!(file.password(&login), None);
        assert!(warning.unwrap().contains("chmod 0600"));
        assert!(
            PasswordFile::read(directory.path())
                .1
                .unwrap()
                .contains("not a plain file")
        );
        assert_eq!(PasswordFile::read(&directory.path().join("absent")).1, None);
    }

    #[test]
    fn services() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("services");
        fs::write(
            &path,
            "# ours\n[one]\nhost=h1\n\n[two]\nhost = h2\nport=2\n[bad]\nhosst=x\n[loop]\nservice=one\n",
        )
        .unwrap();
        let file = path.to_str();
        let two = service("two", file, &no_env).unwrap();
        assert_eq!((two.get("host"), two.get("port")), (Some("h2"), Some("2")));
        let error = service("bad", file, &no_env).err().unwrap().to_string();
        assert!(error.contains("line 9") && error.contains("\"host\""), "{error}");
        assert!(
            service("loop", file, &no_env)
                .err()
                .unwrap()
                .to_string()
                .contains("another service")
        );
        let error = service("none", file, &no_env).err().unwrap().to_string();
        assert!(
            error.contains("\"none\"") && error.contains(file.unwrap()),
            "{error}"
        );
        let absent = directory.path().join("absent");
        assert!(matches!(
            service("one", absent.to_str(), &no_env),
            Err(SettingsError::File { .. })
        ));
    }

    #[test]
    fn services_of_the_home_directory_come_before_the_system_ones() {
        let (home, system) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(home.path().join(".pg_service.conf"), "[one]\nhost=home\n").unwrap();
        fs::write(
            system.path().join("pg_service.conf"),
            "[one]\nhost=system\n[two]\nhost=other\n",
        )
        .unwrap();
        let env = |name: &str| match name {
            "HOME" => Some(home.path().display().to_string()),
            "PGSYSCONFDIR" => Some(system.path().display().to_string()),
            _ => None,
        };
        assert_eq!(service("one", None, &env).unwrap().get("host"), Some("home"));
        assert_eq!(service("two", None, &env).unwrap().get("host"), Some("other"));
    }
}
