//! A temporary PostgreSQL server, started from programs that are already installed.
//!
//! `demo`, `rehearse` and the tests each get a server of their own: a fresh cluster in a temporary
//! directory, reachable only through a Unix socket inside it, gone without a trace afterwards. Everything
//! that must survive our own death (stopping the server, removing the directory) is the business of a small
//! shell script beside us (`supervisor.sh`), which acts when the pipe from us closes. So a panic, Ctrl-C or
//! `kill -9` cleans up the same way as a normal return does.
//!
//! Everything here blocks, with a bound on every wait; asynchronous callers use `spawn_blocking`.

use crate::release::OLDEST as OLDEST_MAJOR;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

mod standby;

/// Names the folder with the server's programs, like the command line's flag.
pub const BINDIR_VARIABLE: &str = "PGMORPH_PG_BINDIR";

const SUPERUSER: &str = "postgres";
const PORT: u16 = 5432;
const SUPERVISOR: &str = include_str!("supervisor.sh");

/// initdb takes half a second on an idle machine; a loaded two-core one has been seen to need ten.
const INIT_LIMIT: Duration = Duration::from_secs(90);
const START_LIMIT: Duration = Duration::from_secs(60);
/// Longer than the supervisor's own bound, so that it is never cut short.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// `sockaddr_un` holds 107 bytes; the directory's name and the socket's are 15 and 14 bytes long.
const LONGEST_BASE: usize = 70;

type Result<T> = std::result::Result<T, EmbeddedError>;

/// Why there is no server; [`EmbeddedError::hint`] says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error("no PostgreSQL server programs found (initdb and postgres, version {OLDEST_MAJOR} or newer)")]
    NotFound {
        /// Candidates that were looked at and why each was passed over.
        rejected: Vec<String>,
    },
    #[error("{} cannot be used as a PostgreSQL installation: {reason}", bindir.display())]
    Unusable { bindir: PathBuf, reason: String },
    #[error("setting {name:?} of the temporary server cannot be written: {reason}")]
    InvalidSetting { name: String, reason: &'static str },
    #[error(
        "PostgreSQL refuses to run as root, and there is no user \"postgres\" or \"nobody\" to run it as"
    )]
    NoServerUser,
    #[error("initdb from {} failed:\n{log}", bindir.display())]
    Initialize { bindir: PathBuf, log: String },
    #[error("the temporary server from {} {what}:\n{log}", bindir.display())]
    Server {
        bindir: PathBuf,
        what: String,
        log: String,
    },
    #[error("the temporary server's supervisor (/bin/sh) {what}")]
    Supervisor { what: String },
    #[error("this server was started to be kept and is no longer supervised")]
    Released,
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl EmbeddedError {
    /// What the reader can do next.
    pub fn hint(&self) -> String {
        match self {
            Self::NotFound { rejected } => {
                let mut hint = format!(
                    "install a server: apt install postgresql | dnf install postgresql-server postgresql-contrib \
                     | brew install postgresql@17, or run scripts/servers ensure in the source tree, or name the \
                     folder that holds initdb and postgres in {BINDIR_VARIABLE}"
                );
                for candidate in rejected {
                    hint.push_str("\npassed over: ");
                    hint.push_str(candidate);
                }
                hint
            }
            Self::Unusable { .. } => {
                format!("name a folder that holds initdb and postgres, version {OLDEST_MAJOR} or newer")
            }
            Self::InvalidSetting { .. } => {
                "use a parameter name as in postgresql.conf and a value on one line".into()
            }
            Self::NoServerUser => {
                "create a user for it (useradd --system postgres), or do not run as root".into()
            }
            Self::Initialize { .. } | Self::Server { .. } => format!(
                "the lines above are the server's own; try another installation with {BINDIR_VARIABLE}, or free \
                 memory and disk space"
            ),
            Self::Supervisor { .. } => {
                "check that /bin/sh and mktemp work and that the temporary directory is writable".into()
            }
            Self::Released => "stop it with the command that was printed when it was started".into(),
            Self::Io { .. } => "check that the temporary directory is writable and not full".into(),
        }
    }
}

/// A server version, of which only the first number changes what we may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Version {
    /// Reads `postgres (PostgreSQL) 15.19 (Debian …)`; `19beta1` counts as 19.0.
    fn from_banner(banner: &str) -> Option<Self> {
        let number = banner.split_once("(PostgreSQL)")?.1.split_whitespace().next()?;
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
        let major = digits(number).parse().ok()?;
        let minor = number
            .split_once('.')
            .and_then(|(_, rest)| digits(rest).parse().ok())
            .unwrap_or(0);
        Some(Self { major, minor })
    }
}

/// Server programs on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    pub bindir: PathBuf,
    pub version: Version,
}

impl Installation {
    /// The installation to use: the one named by the flag, else by the environment, else the newest found.
    pub fn find(flag: Option<&Path>) -> Result<Self> {
        if let Some(bindir) = flag {
            return Self::at(bindir);
        }
        if let Some(bindir) = std::env::var_os(BINDIR_VARIABLE).filter(|value| !value.is_empty()) {
            return Self::at(Path::new(&bindir));
        }
        let (mut found, rejected) = Self::discover();
        if found.is_empty() {
            Err(EmbeddedError::NotFound { rejected })
        } else {
            Ok(found.swap_remove(0))
        }
    }

    /// Every usable installation in the usual places, newest first.
    pub fn all() -> Vec<Self> {
        Self::discover().0
    }

    /// The installation in this folder, if it is one we can run.
    pub fn at(bindir: &Path) -> Result<Self> {
        let unusable = |reason: String| EmbeddedError::Unusable {
            bindir: bindir.to_path_buf(),
            reason,
        };
        let real = real_bindir(bindir).map_err(|error| unusable(format!("postgres: {error}")))?;
        for program in ["initdb", "postgres"] {
            if !is_executable(&real.join(program)) {
                return Err(unusable(format!("it has no program {program}")));
            }
        }
        if is_root() && !others_may(&real, 0o001) {
            return Err(unusable("the user that runs the server may not enter it".into()));
        }
        let banner = Command::new(real.join("postgres"))
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| unusable(format!("postgres does not run: {error}")))?;
        if !banner.status.success() {
            return Err(unusable(
                String::from_utf8_lossy(&banner.stderr).trim().to_owned(),
            ));
        }
        let banner = String::from_utf8_lossy(&banner.stdout).into_owned();
        match Version::from_banner(&banner) {
            Some(version) if version.major >= OLDEST_MAJOR => Ok(Self {
                bindir: real,
                version,
            }),
            Some(version) => Err(unusable(format!(
                "version {version} is older than {OLDEST_MAJOR}"
            ))),
            None => Err(unusable(format!(
                "its version is unreadable: {:?}",
                banner.trim()
            ))),
        }
    }

    fn discover() -> (Vec<Self>, Vec<String>) {
        let mut seen = BTreeSet::new();
        let (mut found, mut rejected) = (Vec::new(), Vec::new());
        for bindir in candidates() {
            let Ok(real) = real_bindir(&bindir) else { continue };
            if !seen.insert(real) {
                continue;
            }
            match Self::at(&bindir) {
                Ok(installation) => found.push(installation),
                Err(error) => rejected.push(error.to_string()),
            }
        }
        // Stable, so that of two equal versions the place that is searched first wins.
        found.sort_by_key(|installation| std::cmp::Reverse(installation.version));
        (found, rejected)
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut folders = children_bin(Path::new(".servers"), "", "bin");
    if let Some(path) = std::env::var_os("PATH") {
        folders.extend(std::env::split_paths(&path));
    }
    if let Ok(output) = Command::new("pg_config")
        .arg("--bindir")
        .stdin(Stdio::null())
        .output()
    {
        folders.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    folders.extend(children_bin(Path::new("/usr/lib/postgresql"), "", "bin"));
    folders.extend(children_bin(Path::new("/usr"), "pgsql-", "bin"));
    for prefix in [
        "/opt/homebrew/opt",
        "/usr/local/opt",
        "/home/linuxbrew/.linuxbrew/opt",
    ] {
        folders.extend(children_bin(Path::new(prefix), "postgresql", "bin"));
    }
    folders.retain(|folder| !folder.as_os_str().is_empty());
    folders
}

fn children_bin(parent: &Path, prefix: &str, below: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut folders: Vec<PathBuf> = entries
        .filter_map(std::result::Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join(below))
        .collect();
    folders.sort();
    folders
}

/// The folder where postgres itself is: one of its symbolic links may stand in another, without the
/// programs that belong to it.
fn real_bindir(bindir: &Path) -> io::Result<PathBuf> {
    let postgres = bindir.join("postgres").canonicalize()?;
    Ok(postgres.parent().unwrap_or(&postgres).to_path_buf())
}

fn is_executable(program: &Path) -> bool {
    fs::metadata(program).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Whether users other than the owner have these rights on the folder and may reach it from the root.
fn others_may(folder: &Path, rights: u32) -> bool {
    let allows = |path: &Path, rights: u32| {
        fs::metadata(path).is_ok_and(|found| found.permissions().mode() & rights == rights)
    };
    allows(folder, rights) && folder.ancestors().all(|ancestor| allows(ancestor, 0o001))
}

fn is_root() -> bool {
    number_from("id", &["-u"]) == Some(0)
}

fn number_from(program: &str, arguments: &[&str]) -> Option<u32> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

/// The unprivileged user that runs the server when we are root.
#[derive(Debug, Clone)]
struct ServerUser {
    name: &'static str,
    uid: u32,
    gid: u32,
}

impl ServerUser {
    fn find() -> Result<Self> {
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| {
                let uid = number_from("id", &["-u", name])?;
                let gid = number_from("id", &["-g", name])?;
                (uid != 0).then_some(Self { name, uid, gid })
            })
            .ok_or(EmbeddedError::NoServerUser)
    }
}

/// How to run a temporary server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Parameters for `postgresql.conf`, which win over ours.
    pub settings: Vec<(String, String)>,
    /// Let the server outlive us; see [`Server::stop_command`].
    pub keep: bool,
    /// Flush to disk as a real server does. Without it a crash of the machine may lose data; a crash of the
    /// server loses nothing it acknowledged, so `synchronous_commit` stays on.
    pub durable: bool,
    /// Keeps the cluster as initdb makes it, for the servers after this one to copy: half a second less for each of very
    /// many. Is for one version of the server only; the folder it is in must be writable for the user that runs the server.
    pub template: Option<PathBuf>,
}

/// A running temporary server. Dropping it stops the server and removes its directory.
#[derive(Debug)]
pub struct Server {
    installation: Installation,
    user: Option<ServerUser>,
    directory: PathBuf,
    supervisor: Mutex<Supervisor>,
}

impl Server {
    /// Makes a fresh cluster and returns when it accepts connections.
    pub fn start(installation: &Installation, options: &Options) -> Result<Self> {
        let configuration = configuration_lines(options)?;
        let user = if is_root() {
            Some(ServerUser::find()?)
        } else {
            None
        };
        let (supervisor, directory) = Supervisor::spawn(&installation.bindir, user.as_ref())?;
        let server = Self {
            installation: installation.clone(),
            user,
            directory,
            supervisor: Mutex::new(supervisor),
        };
        server.initialize(&configuration, options.template.as_deref())?;
        let mut supervisor = server.lock();
        server.launch(&mut supervisor)?;
        drop(supervisor);
        if options.keep {
            server.keep()?;
        }
        Ok(server)
    }

    fn initialize(&self, configuration: &str, template: Option<&Path>) -> Result<()> {
        let mut supervisor = self.lock();
        let template = template.map(Path::to_string_lossy).unwrap_or_default();
        supervisor.send(format!("initialize {template}").trim_end())?;
        let reply = supervisor.expect("initialized", INIT_LIMIT)?;
        let (status, copy) = reply.split_once(' ').unwrap_or((&reply, ""));
        // Somebody else may have been faster: a folder that is not empty is never replaced.
        if !copy.is_empty() && fs::rename(copy, &*template).is_err() {
            let _ = fs::remove_dir_all(copy);
        }
        if status != "0" {
            let bindir = self.installation.bindir.clone();
            return Err(EmbeddedError::Initialize {
                bindir,
                log: self.log_tail(),
            });
        }
        drop(supervisor);
        self.configure(configuration)
    }

    /// Adds to the configuration; of two lines for a setting the later one counts.
    fn configure(&self, lines: &str) -> Result<()> {
        let path = self.data_dir().join("postgresql.conf");
        let text = format!(
            "\n{lines}unix_socket_directories = '{}'\n",
            self.directory.display()
        );
        OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|source| EmbeddedError::Io {
                action: "write",
                path,
                source,
            })
    }

    /// Starts the server on the existing data directory and waits until it is ready.
    fn launch(&self, supervisor: &mut Supervisor) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let log_before = fs::metadata(self.log_path()).map_or(0, |log| log.len());
            supervisor.send("start")?;
            let pid = supervisor.expect("started", START_LIMIT)?;
            let Some(status) = self.wait_until_ready(supervisor, &pid, deadline)? else {
                return Ok(());
            };
            // Backends of a killed server hold its lock file and memory for a moment longer.
            let stale = ["lock file", "pre-existing shared memory"];
            let log = self.log_since(log_before);
            if !stale.iter().any(|words| log.contains(words)) || Instant::now() > deadline {
                return Err(self.server_error(format!("ended with status {status} instead of starting")));
            }
            thread::sleep(POLL);
        }
    }

    /// `None` when the server with this process id is ready, else the status it ended with.
    fn wait_until_ready(
        &self,
        supervisor: &mut Supervisor,
        pid: &str,
        deadline: Instant,
    ) -> Result<Option<String>> {
        let lock_file = self.data_dir().join("postmaster.pid");
        while Instant::now() < deadline {
            // A killed predecessor's lock file says "ready", too; so its first line must name this process.
            let content = fs::read_to_string(&lock_file).unwrap_or_default();
            let mut lines = content.lines();
            if lines.next() == Some(pid) && lines.nth(6).is_some_and(|line| line.trim() == "ready") {
                supervisor.running = true;
                return Ok(None);
            }
            if let Some(status) = supervisor.reply("exited", POLL)? {
                return Ok(Some(status));
            }
        }
        Err(self.server_error(format!("was not ready after {} seconds", START_LIMIT.as_secs())))
    }

    /// The folder to give as `host`.
    pub fn socket_dir(&self) -> &Path {
        &self.directory
    }

    pub fn port(&self) -> u16 {
        PORT
    }

    pub fn version(&self) -> Version {
        self.installation.version
    }

    pub fn bindir(&self) -> &Path {
        &self.installation.bindir
    }

    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub fn log_path(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    /// A connection URI that libpq and tokio-postgres both understand.
    pub fn url(&self, dbname: &str) -> String {
        let host = percent_encode(self.directory.as_os_str());
        let dbname = percent_encode(OsStr::new(dbname));
        format!("postgresql:///{dbname}?host={host}&port={PORT}&user={SUPERUSER}")
    }

    /// The shell command that stops a kept server and removes its directory.
    pub fn stop_command(&self) -> String {
        let quote = |path: &Path| shell_quote(&path.to_string_lossy());
        let pg_ctl = self.installation.bindir.join("pg_ctl");
        let stop = format!(
            "{} -s -D {} -m fast stop",
            quote(&pg_ctl),
            quote(&self.data_dir())
        );
        let stop = match &self.user {
            Some(user) => format!("su -s /bin/sh {} -c {}", user.name, shell_quote(&stop)),
            None => stop,
        };
        format!("{stop} && rm -rf {}", quote(&self.directory))
    }

    /// Kills the server as a power cut would: no shutdown, every process at once. The files stay.
    pub fn kill_immediately(&self) -> Result<()> {
        let mut supervisor = self.lock_supervised()?;
        if supervisor.running {
            self.end(&mut supervisor, "KILL")?;
        }
        supervisor.send("sweep")?;
        supervisor.expect("swept", STOP_LIMIT).map(drop)
    }

    /// Starts the server again on the same files, after [`Server::kill_immediately`], a crash, or a fast
    /// shutdown that this performs first.
    pub fn restart(&self) -> Result<()> {
        let mut supervisor = self.lock_supervised()?;
        if supervisor.running {
            self.end(&mut supervisor, "INT")?;
        }
        self.launch(&mut supervisor)
    }

    /// Lets the server outlive us from now on; see [`Server::stop_command`].
    pub fn keep(&self) -> Result<()> {
        self.lock_supervised()?.release()
    }

    /// Shuts down cleanly, removes the directory, and reports what dropping would have to swallow.
    pub fn stop(self) -> Result<()> {
        let mut supervisor = self.lock_supervised()?;
        if supervisor.running {
            self.end(&mut supervisor, "INT")?;
        }
        supervisor.finish()
    }

    /// Sends a signal and waits until the server is gone, which it may have been before.
    fn end(&self, supervisor: &mut Supervisor, signal: &str) -> Result<()> {
        supervisor.send(&format!("signal {signal}"))?;
        match supervisor.reply("exited", STOP_LIMIT)? {
            Some(_) => {
                supervisor.running = false;
                Ok(())
            }
            None => Err(self.server_error(format!("did not end within {} seconds", STOP_LIMIT.as_secs()))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Supervisor> {
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_supervised(&self) -> Result<MutexGuard<'_, Supervisor>> {
        let supervisor = self.lock();
        if supervisor.commands.is_some() {
            Ok(supervisor)
        } else {
            Err(EmbeddedError::Released)
        }
    }

    fn server_error(&self, what: String) -> EmbeddedError {
        EmbeddedError::Server {
            bindir: self.installation.bindir.clone(),
            what,
            log: self.log_tail(),
        }
    }

    fn log_tail(&self) -> String {
        let log = self.log_since(0);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn log_since(&self, offset: u64) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        let start = usize::try_from(offset).unwrap_or(0).min(log.len());
        String::from_utf8_lossy(&log[start..]).into_owned()
    }
}

fn configuration_lines(options: &Options) -> Result<String> {
    let mut lines: Vec<(&str, &str)> = vec![
        ("listen_addresses", ""),
        ("port", "5432"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        ("log_line_prefix", "%m [%p] %q%d "),
        // Files in the data directory, where a killed server's remains go away with it.
        ("dynamic_shared_memory_type", "mmap"),
    ];
    if !options.durable {
        lines.extend([("fsync", "off"), ("full_page_writes", "off")]);
    }
    lines.extend(
        options
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );
    lines
        .into_iter()
        .map(|(name, value)| setting_line(name, value))
        .collect()
}

fn setting_line(name: &str, value: &str) -> Result<String> {
    let invalid = |reason| EmbeddedError::InvalidSetting {
        name: name.to_owned(),
        reason,
    };
    if name.is_empty()
        || !name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
    {
        return Err(invalid("that is not a parameter name"));
    }
    if value.contains(['\n', '\r', '\0']) {
        return Err(invalid("its value has more than one line"));
    }
    // A backslash escapes in this file, as a doubled quote does.
    Ok(format!(
        "{name} = '{}'\n",
        value.replace('\\', "\\\\").replace('\'', "''")
    ))
}

fn percent_encode(text: &OsStr) -> String {
    let mut encoded = String::new();
    for &byte in text.as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn shell_quote(text: &str) -> String {
    if text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "/._-+@".contains(c))
    {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Where the temporary directory goes: `TMPDIR` unless the server could not work there.
fn base_directory(for_other_user: bool) -> PathBuf {
    let base = std::env::temp_dir();
    let plain = base.to_str().is_some_and(|text| {
        text.chars()
            .all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c))
    });
    let fits = base.is_absolute() && base.is_dir() && base.as_os_str().len() <= LONGEST_BASE;
    if plain && fits && (!for_other_user || others_may(&base, 0o003)) {
        base
    } else {
        PathBuf::from("/tmp")
    }
}

/// Our end of the pipe to `supervisor.sh`.
#[derive(Debug)]
struct Supervisor {
    process: Child,
    /// `None` once closed, by which the script knows that it is to clean up.
    commands: Option<ChildStdin>,
    replies: Receiver<String>,
    /// Whether a server was started and has not been seen to end.
    running: bool,
}

impl Supervisor {
    fn spawn(bindir: &Path, user: Option<&ServerUser>) -> Result<(Self, PathBuf)> {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(SUPERVISOR).arg("pgmorph-server");
        command.arg(bindir).arg(base_directory(user.is_some()));
        // Its own process group: a Ctrl-C in the terminal goes to ours.
        command.process_group(0).current_dir("/");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("PG") || name_text.starts_with("LC_") || name_text == "LANGUAGE" {
                command.env_remove(&name);
            }
        }
        command.env("LC_ALL", "C").env("TZ", "UTC");
        if let Some(user) = user {
            // The standard library drops our supplementary groups with this.
            command.uid(user.uid).gid(user.gid);
        }
        let sh = || PathBuf::from("/bin/sh");
        let mut process = command.spawn().map_err(|source| EmbeddedError::Io {
            action: "run",
            path: sh(),
            source,
        })?;
        let commands = process.stdin.take();
        let (sender, replies) = mpsc::channel();
        if let Some(output) = process.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let mut supervisor = Self {
            process,
            commands,
            replies,
            running: false,
        };
        let directory = PathBuf::from(supervisor.expect("directory", STOP_LIMIT)?);
        Ok((supervisor, directory))
    }

    fn send(&mut self, command: &str) -> Result<()> {
        let pipe = self.commands.as_mut().ok_or(EmbeddedError::Released)?;
        pipe.write_all(format!("{command}\n").as_bytes())
            .map_err(|error| EmbeddedError::Supervisor {
                what: format!("is gone: {error}"),
            })
    }

    /// The rest of the next reply of this kind; `None` when it does not come in time.
    fn reply(&mut self, kind: &str, limit: Duration) -> Result<Option<String>> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.replies.recv_timeout(left) {
                Ok(line) => {
                    let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
                    if word == kind {
                        return Ok(Some(rest.to_owned()));
                    }
                    if word == "failed" {
                        return Err(EmbeddedError::Supervisor {
                            what: format!("failed: {rest}"),
                        });
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(EmbeddedError::Supervisor {
                        what: "ended unexpectedly".into(),
                    });
                }
            }
        }
    }

    fn expect(&mut self, kind: &str, limit: Duration) -> Result<String> {
        self.reply(kind, limit)?.ok_or_else(|| EmbeddedError::Supervisor {
            what: format!("did not say {kind:?} within {} seconds", limit.as_secs()),
        })
    }

    /// Leaves the server alone from here on.
    fn release(&mut self) -> Result<()> {
        self.send("release")?;
        self.expect("released", STOP_LIMIT)?;
        self.finish()
    }

    /// Closes the pipe and waits until the script has cleaned up.
    fn finish(&mut self) -> Result<()> {
        self.commands = None;
        self.running = false;
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            match self.process.try_wait() {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => thread::sleep(POLL),
                Err(error) => {
                    return Err(EmbeddedError::Supervisor {
                        what: error.to_string(),
                    });
                }
            }
        }
        Err(EmbeddedError::Supervisor {
            what: format!("did not finish in {} s", STOP_LIMIT.as_secs()),
        })
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::warn!("a temporary server may be left behind: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_every_kind_of_banner() {
        let read = |text: &str| Version::from_banner(text).map(|version| version.to_string());
        assert_eq!(
            read("postgres (PostgreSQL) 15.19 (Debian 15.19-0+deb12u1)\n").unwrap(),
            "15.19"
        );
        assert_eq!(read("postgres (PostgreSQL) 19beta1\n").unwrap(), "19.0");
        assert_eq!(read("something else 15.1"), None);
    }
}
