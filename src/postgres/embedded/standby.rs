//! A streaming standby of a temporary server, on the same machine.

use super::{EmbeddedError, INIT_LIMIT, PORT, Result, SUPERUSER, Server, Supervisor};
use std::sync::Mutex;

impl Server {
    /// Copies the running server and starts the copy as its standby, which answers queries and is called `name` in
    /// `pg_stat_replication`. It has the settings of its primary, then these.
    ///
    /// # Errors
    /// As for [`Server::start`]; the primary must answer.
    pub fn start_standby(&self, name: &str, settings: &[(String, String)]) -> Result<Self> {
        let (supervisor, directory) = Supervisor::spawn(&self.installation.bindir, self.user.as_ref())?;
        let standby = Self {
            installation: self.installation.clone(),
            user: self.user.clone(),
            directory,
            supervisor: Mutex::new(supervisor),
        };
        let mut supervisor = standby.lock();
        supervisor.send(&format!("clone {} {PORT} {SUPERUSER}", self.directory.display()))?;
        if supervisor.expect("cloned", INIT_LIMIT)? != "0" {
            return Err(EmbeddedError::Initialize {
                bindir: standby.installation.bindir.clone(),
                log: standby.log_tail(),
            });
        }
        let source = format!(
            "host={} port={PORT} user={SUPERUSER} application_name={name}",
            self.directory.display()
        );
        let mut lines = super::setting_line("primary_conninfo", &source)?;
        for (name, value) in settings {
            lines += &super::setting_line(name, value)?;
        }
        standby.configure(&lines)?;
        standby.launch(&mut supervisor)?;
        drop(supervisor);
        Ok(standby)
    }
}
