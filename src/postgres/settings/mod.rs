//! Connection settings: what users of libpq expect, turned into a working connection.
//!
//! Sources, strongest first: the `--url` text or `DATABASE_URL`, the service file, the PG* variables, defaults;
//! the password file fills in a missing password. Deviations from libpq, each on purpose: `connect_timeout`
//! is 10 s when unset, TCP keepalives start after a minute (a network that forgets quiet connections must not
//! cut an hour's index build), a revocation list that is named must be there, and an option whose neglect would
//! weaken a promise (`gssencmode=require`, `sslcertmode=require`, …) is refused instead of ignored.

mod arrival;
mod auth;
mod cancel;
mod connect;
mod conninfo;
mod doctor;
mod error;
mod files;
mod line;
mod options;
mod patience;
mod pool;
mod revocation;
mod socket;
mod tls;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio_postgres::config::ChannelBinding;

pub use cancel::CancelHandle;
pub use connect::{Notice, Notices, Session};
pub use error::{ConnectError, ConnectErrorKind, SettingsError};
pub use patience::{Bounds, patiently};
pub use tls::SslMode;

use auth::Allowed;
use files::{Login, PasswordFile};
use options::Options;
use socket::TcpOptions;
use tls::TlsSettings;

const DEFAULT_PORT: u16 = 5432;
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// A password; its text leaves only towards the server.
#[derive(Clone)]
struct Password(String);

#[derive(Clone)]
enum Host {
    /// `name` is what certificates are checked against; `address` spares the look-up.
    Tcp {
        name: String,
        address: Option<IpAddr>,
    },
    Unix(PathBuf),
}

#[derive(Clone)]
struct Endpoint {
    host: Host,
    port: u16,
    password: Option<Password>,
}

#[derive(Debug, Clone, Copy)]
struct Keepalives {
    idle: Duration,
    interval: Duration,
    count: u32,
}

/// `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// Where and how to connect, with every source consulted.
#[derive(Clone)]
pub struct ConnectionSettings {
    endpoints: Vec<Endpoint>,
    user: String,
    dbname: String,
    application_name: Option<String>,
    startup_options: Option<String>,
    channel_binding: ChannelBinding,
    wanted: Wanted,
    shuffled: bool,
    connect_timeout: Option<Duration>,
    tcp: TcpOptions,
    tls: TlsSettings,
    /// `require_auth`: what the server may ask for.
    allowed: Option<Allowed>,
    /// `requirepeer`: who must listen on a Unix socket.
    required_peer: Option<String>,
    /// Every session acts as this role.
    role: Option<String>,
    /// No proxy of transactions stands in between; asked once.
    keeps_sessions: Arc<AtomicBool>,
    warnings: Vec<String>,
}

impl ConnectionSettings {
    /// Consults all sources. Reads service and password files, contacts nothing.
    pub fn resolve(url: Option<&str>, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let options = merged(url, env)?;
        let mut warnings = Vec::new();
        let user = options
            .get("user")
            .map(str::to_owned)
            .or_else(|| {
                ["USER", "LOGNAME"]
                    .into_iter()
                    .filter_map(env)
                    .find(|name| !name.is_empty())
            })
            .ok_or(SettingsError::NoUser)?;
        let dbname = options.get("dbname").unwrap_or(&user).to_owned();
        let mut endpoints = endpoints(&options)?;
        passwords(&mut endpoints, &options, &user, &dbname, env, &mut warnings);
        let tcp = endpoints
            .iter()
            .any(|endpoint| matches!(endpoint.host, Host::Tcp { .. }));
        // Over a socket there is no TLS, so a missing root certificate file is no obstacle.
        let tls = if tcp {
            TlsSettings::resolve(&options, env, &mut warnings)?
        } else {
            TlsSettings::check_mode(&options)?;
            TlsSettings::unused()
        };
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        Ok(Self {
            endpoints,
            user,
            dbname,
            application_name: options.get("application_name").map(str::to_owned),
            startup_options: options.get("options").map(str::to_owned),
            channel_binding: options
                .word(
                    "channel_binding",
                    &[
                        ("disable", ChannelBinding::Disable),
                        ("prefer", ChannelBinding::Prefer),
                        ("require", ChannelBinding::Require),
                    ],
                )?
                .unwrap_or(ChannelBinding::Prefer),
            wanted: wanted(&options)?,
            shuffled: options
                .word("load_balance_hosts", &[("disable", false), ("random", true)])?
                .unwrap_or(false),
            connect_timeout: connect_timeout(&options)?,
            tcp: TcpOptions {
                keepalives: keepalives(&options)?,
                user_timeout: options
                    .integer("tcp_user_timeout")?
                    .and_then(|millis| u64::try_from(millis).ok())
                    .filter(|millis| *millis > 0)
                    .map(Duration::from_millis),
            },
            tls,
            allowed: options.get("require_auth").map(Allowed::parse).transpose()?,
            required_peer: options.get("requirepeer").map(str::to_owned),
            role: None,
            keeps_sessions: Arc::default(),
            warnings,
        })
    }

    /// The same server and login, another database.
    #[must_use]
    pub fn with_dbname(&self, dbname: &str) -> Self {
        Self {
            dbname: dbname.to_owned(),
            keeps_sessions: Arc::default(),
            ..self.clone()
        }
    }

    /// The same, with every session acting as this role, as after SET ROLE; `None` is the login itself.
    #[must_use]
    pub fn acting_as(&self, role: Option<&str>) -> Self {
        Self {
            role: role.map(str::to_owned),
            ..self.clone()
        }
    }

    /// The role that every session acts as, where it is not the login's own.
    pub fn role(&self) -> Option<&str> {
        self.role.as_deref()
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    pub fn ssl_mode(&self) -> SslMode {
        self.tls.mode
    }

    /// What was ignored and why; also logged when the settings were resolved.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A URI for people: everything that tells the target, never the password. psql takes it too.
    pub fn redacted(&self) -> String {
        self.redacted_for(&self.endpoints)
    }

    fn redacted_for(&self, endpoints: &[Endpoint]) -> String {
        let user = conninfo::encode(&self.user);
        let dbname = conninfo::encode(&self.dbname);
        if let [
            Endpoint {
                host: Host::Unix(directory),
                port,
                ..
            },
        ] = endpoints
        {
            return format!(
                "postgresql://{user}@/{dbname}?host={}&port={port}",
                directory.display()
            );
        }
        let hosts: Vec<String> = endpoints.iter().map(Endpoint::shown).collect();
        format!("postgresql://{user}@{}/{dbname}", hosts.join(","))
    }
}

impl fmt::Display for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())?;
        match &self.role {
            Some(role) => write!(f, " as role {role}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionSettings")
            .field("target", &self.redacted())
            .field("tls", &self.tls)
            .field("wanted", &self.wanted)
            .field("connect_timeout", &self.connect_timeout)
            .field("tcp", &self.tcp)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    fn shown(&self) -> String {
        let port = self.port;
        match &self.host {
            Host::Tcp { name, .. } if name.contains(':') => format!("[{name}]:{port}"),
            Host::Tcp { name, .. } => format!("{}:{port}", conninfo::encode(name)),
            Host::Unix(directory) => {
                format!("{}:{port}", conninfo::encode(&directory.display().to_string()))
            }
        }
    }
}

/// The same for a program of PostgreSQL's own, as variables: what a command line says, other users may read.
///
/// # Errors
/// As [`ConnectionSettings::resolve`].
pub fn variables(
    url: Option<&str>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(&'static str, String)>, SettingsError> {
    Ok(merged(url, env)?.variables().collect())
}

fn merged(url: Option<&str>, env: &dyn Fn(&str) -> Option<String>) -> Result<Options, SettingsError> {
    let url = url.map(str::to_owned).or_else(|| env("DATABASE_URL"));
    let mut options = conninfo::parse(url.as_deref().unwrap_or_default())?;
    let environment = Options::from_env(env)?;
    if let Some(name) = options.get("service").or_else(|| environment.get("service")) {
        let file = options
            .get("servicefile")
            .or_else(|| environment.get("servicefile"));
        let service = files::service(name, file, env)?;
        options.fill(service);
    }
    options.fill(environment);
    Ok(options)
}

fn endpoints(options: &Options) -> Result<Vec<Endpoint>, SettingsError> {
    let (hosts, addresses, ports) = (
        options.list("host"),
        options.list("hostaddr"),
        options.list("port"),
    );
    let count = hosts.len().max(addresses.len()).max(1);
    for (name, list) in [("host", &hosts), ("hostaddr", &addresses), ("port", &ports)] {
        // One port serves all hosts; every other list has an entry for each.
        if !(list.is_empty() || list.len() == count || (name == "port" && list.len() == 1)) {
            return Err(SettingsError::Conflict(format!(
                "{count} hosts, but {} entries in \"{name}\"",
                list.len()
            )));
        }
    }
    (0..count)
        .map(|at| {
            let text = if ports.len() == 1 {
                ports[0]
            } else {
                ports.get(at).copied().unwrap_or_default()
            };
            let port = match text {
                "" => DEFAULT_PORT,
                _ => text
                    .parse::<u16>()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(|| SettingsError::invalid("port", text, "a number from 1 to 65535"))?,
            };
            let address = match addresses.get(at).copied().unwrap_or_default() {
                "" => None,
                text => Some(
                    text.parse::<IpAddr>()
                        .map_err(|_| SettingsError::invalid("hostaddr", text, "an IP address"))?,
                ),
            };
            let host = match (hosts.get(at).copied().unwrap_or_default(), address) {
                ("", Some(address)) => Host::Tcp {
                    name: address.to_string(),
                    address: Some(address),
                },
                ("", None) => default_host(port),
                (name, address) if !socket::is_unix(name) => Host::Tcp {
                    name: name.to_owned(),
                    address,
                },
                (name, None) => Host::Unix(PathBuf::from(name)),
                (name, Some(address)) => {
                    return Err(SettingsError::Conflict(format!(
                        "host {name} is a Unix socket, but hostaddr {address} is given for it"
                    )));
                }
            };
            Ok(Endpoint {
                host,
                port,
                password: None,
            })
        })
        .collect()
}

/// The socket directory in which a server of that port listens, or else the usual one.
fn default_host(port: u16) -> Host {
    socket::usual_directory(port).map_or_else(
        || Host::Tcp {
            name: "localhost".to_owned(),
            address: None,
        },
        Host::Unix,
    )
}

fn passwords(
    endpoints: &mut [Endpoint],
    options: &Options,
    user: &str,
    dbname: &str,
    env: &dyn Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) {
    if let Some(password) = options.get("password") {
        for endpoint in endpoints {
            endpoint.password = Some(Password(password.to_owned()));
        }
        return;
    }
    let path = options
        .get("passfile")
        .map(PathBuf::from)
        .or_else(|| env("HOME").map(|home| Path::new(&home).join(".pgpass")));
    let Some(path) = path else { return };
    let (file, warning) = PasswordFile::read(&path);
    warnings.extend(warning);
    for endpoint in endpoints {
        let host = match &endpoint.host {
            Host::Tcp { name, .. } => name.clone(),
            // A password file knows the usual socket directory as localhost.
            Host::Unix(path) if SOCKET_DIRECTORIES.iter().any(|usual| Path::new(usual) == path) => {
                "localhost".to_owned()
            }
            Host::Unix(path) => path.display().to_string(),
        };
        let login = Login {
            host: &host,
            port: endpoint.port,
            dbname,
            user,
        };
        endpoint.password = file.password(&login).map(Password);
    }
}

fn wanted(options: &Options) -> Result<Wanted, SettingsError> {
    let words = [
        ("any", Wanted::Any),
        ("read-write", Wanted::ReadWrite),
        ("read-only", Wanted::ReadOnly),
        ("primary", Wanted::Primary),
        ("standby", Wanted::Standby),
        ("prefer-standby", Wanted::PreferStandby),
    ];
    Ok(options
        .word("target_session_attrs", &words)?
        .unwrap_or(Wanted::Any))
}

fn connect_timeout(options: &Options) -> Result<Option<Duration>, SettingsError> {
    Ok(match options.integer("connect_timeout")? {
        None => Some(DEFAULT_CONNECT_TIMEOUT),
        // As in libpq: nothing or less waits for ever, and one second is too short to mean it.
        Some(seconds) => match u64::try_from(seconds) {
            Ok(0) | Err(_) => None,
            Ok(seconds) => Some(Duration::from_secs(seconds.max(2))),
        },
    })
}

fn keepalives(options: &Options) -> Result<Option<Keepalives>, SettingsError> {
    let number = |name, default: u32| -> Result<u32, SettingsError> {
        let given = options
            .integer(name)?
            .and_then(|number| u32::try_from(number).ok());
        Ok(given.filter(|number| *number > 0).unwrap_or(default))
    };
    let keepalives = Keepalives {
        idle: Duration::from_secs(number("keepalives_idle", 60)?.into()),
        interval: Duration::from_secs(number("keepalives_interval", 10)?.into()),
        count: number("keepalives_count", 6)?,
    };
    Ok((options.integer("keepalives")? != Some(0)).then_some(keepalives))
}

#[cfg(test)]
mod tests;
