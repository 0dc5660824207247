//! Bytes of temporary files, statement by statement: the server writes each of them into its log when it is removed, which
//! is before it answers. (Its statistics know only the sum of a database, and not before a transaction is over.)

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A parallel worker's line names its leader.
const PREFIX: &str = "%m [%p:%P] %q%d ";

/// With these settings the log tells of every temporary file, and whose it was.
pub const SETTINGS: [(&str, &str); 2] = [("log_temp_files", "0"), ("log_line_prefix", PREFIX)];

/// Asks whether the server has [`SETTINGS`].
pub fn is_told_sql() -> String {
    let has = SETTINGS.map(|(name, value)| format!("pg_catalog.current_setting('{name}') = '{value}'"));
    format!("SELECT {}", has.join(" AND "))
}

/// A temporary file that is no more.
#[derive(Debug, PartialEq, Eq)]
struct Gone<'a> {
    pid: i32,
    /// Of the session for which a parallel worker made it.
    leader: Option<i32>,
    database: &'a str,
    bytes: u64,
}

/// Reads `2026-11-22 09:00:00.123 UTC [12:] app LOG:  temporary file: path "base/pgsql_tmp/pgsql_tmp12.0", size 1234`.
fn gone(line: &str) -> Option<Gone<'_>> {
    let (who, said) = line.split_once("] ")?;
    let (pid, leader) = who.rsplit_once('[')?.1.split_once(':')?;
    let (database, said) = said.split_once(" LOG:  ")?;
    let (path, size) = said.rsplit_once(' ')?;
    if !path.contains("pgsql_tmp/pgsql_tmp") {
        return None;
    }
    Some(Gone {
        pid: pid.parse().ok()?,
        leader: leader.parse().ok(),
        database,
        bytes: size.parse().ok()?,
    })
}

/// The server's log, read on from where it was read last.
pub struct Log {
    file: File,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Log {
    /// At its end: what was written before is of no interest.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self {
            file,
            rest: Vec::new(),
        })
    }

    /// Of the session and its parallel workers, since the log was read last.
    pub fn of_session(&mut self, pid: i32) -> Option<u64> {
        self.bytes(|it| it.pid == pid || it.leader == Some(pid))
    }

    /// Of all sessions of a database, since the log was read last.
    pub fn of_database(&mut self, name: &str) -> Option<u64> {
        self.bytes(|it| it.database == name)
    }

    fn bytes(&mut self, counts: impl Fn(&Gone<'_>) -> bool) -> Option<u64> {
        let mut text = std::mem::take(&mut self.rest);
        self.file.read_to_end(&mut text).ok()?;
        let end = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        self.rest = text.split_off(end);
        let text = String::from_utf8_lossy(&text);
        Some(
            text.lines()
                .filter_map(gone)
                .filter(|it| counts(it))
                .map(|it| it.bytes)
                .sum(),
        )
    }
}

/// Where a server that is thrown away writes its log.
pub fn log_path(socket_directory: &Path) -> PathBuf {
    socket_directory.join("server.log")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const OF_LEADER: &str = "2026-11-22 09:00:00.123 UTC [12:] my db LOG:  temporary file: path \"base/pgsql_tmp/pgsql_tmp12.0\", size 1234";
    const OF_WORKER: &str = "2026-11-22 09:00:00.123 UTC [13:12] app LOG:  temporary file: path \"pg_tblspc/1/PG_18/pgsql_tmp/pgsql_tmp13.7\", size 6";

    #[test]
    fn lines_of_the_log_are_read() {
        let read = |line| gone(line).map(|it| (it.pid, it.leader, it.database, it.bytes));
        assert_eq!(read(OF_LEADER), Some((12, None, "my db", 1234)));
        assert_eq!(read(OF_WORKER), Some((13, Some(12), "app", 6)));
        for other in [
            "2026-11-22 09:00:00.123 UTC [12:] app STATEMENT:  CREATE INDEX i ON t (a)",
            "2026-11-22 09:00:00.123 UTC [12:] app LOG:  checkpoint starting: time",
            "",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn a_line_counts_once_and_when_it_is_whole() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{OF_LEADER}").unwrap();
        let mut log = Log::open(file.path()).unwrap();
        let (begun, end) = OF_WORKER.split_at(90);
        write!(file, "{OF_LEADER}\n{begun}").unwrap();
        assert_eq!(log.of_session(12), Some(1234));
        writeln!(file, "{end}").unwrap();
        assert_eq!(log.of_session(12), Some(6));
        writeln!(file, "{OF_WORKER}").unwrap();
        assert_eq!(log.of_database("my db"), Some(0));
        assert_eq!(log.of_session(12), Some(0));
    }
}
