//! The built program as its users start it: a process with arguments, an environment, two streams and an exit code.

use super::{patience, until};
use serde_json::Value;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// How it ended; no code means that a signal ended it.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Itself, if it ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// One stream, readable while the program writes it.
struct Stream {
    text: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Stream {
    fn of(mut source: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let text = Arc::<Mutex<String>>::default();
        let written = Arc::clone(&text);
        let reader = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = source.read(&mut buffer).await {
                written
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        });
        Self { text, reader }
    }

    fn so_far(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    async fn whole(self) -> String {
        self.reader.await.unwrap();
        self.text.lock().unwrap().clone()
    }
}

pub struct Running {
    child: Child,
    stdout: Stream,
    stderr: Stream,
}

impl Running {
    /// With nothing of our environment: the machine's PG* variables must not decide where a test connects.
    pub fn start(url: &str, arguments: &[&str]) -> Self {
        Self::start_with(url, arguments, &[])
    }

    /// With these variables besides.
    pub fn start_with(url: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgmorph"));
        command
            .args(arguments)
            .env_clear()
            .env("DATABASE_URL", url)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Self {
            child,
            stdout: Stream::of(stdout),
            stderr: Stream::of(stderr),
        }
    }

    /// Sends a signal by its name, as a shell does.
    pub async fn signal(&self, name: &str) {
        // Without a process id it has ended already, and there is nobody to tell.
        let Some(pid) = self.child.id() else { return };
        let status = Command::new("kill")
            .args(["-s", name, &pid.to_string()])
            .status()
            .await;
        assert!(status.unwrap().success());
    }

    pub async fn prints(&self, text: &str) {
        until(&format!("standard output contains {text:?}"), async || {
            self.stdout.so_far().contains(text)
        })
        .await;
    }

    pub async fn says(&self, text: &str) {
        until(&format!("standard error contains {text:?}"), async || {
            self.stderr.so_far().contains(text)
        })
        .await;
    }

    /// Waits until it has said that or has ended.
    pub async fn says_or_ends(&mut self, text: &str) {
        while !self.stderr.so_far().contains(text) && self.child.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn wait(&mut self) {
        let ended = tokio::time::timeout(patience(), self.child.wait()).await;
        assert!(
            ended.is_ok(),
            "it does not end; it said:\n{}",
            self.stderr.so_far()
        );
    }

    pub async fn end(mut self) -> Ended {
        self.wait().await;
        let code = self.child.wait().await.unwrap().code();
        Ended {
            code,
            stdout: self.stdout.whole().await,
            stderr: self.stderr.whole().await,
        }
    }
}

pub async fn pgmorph(url: &str, arguments: &[&str]) -> Ended {
    Running::start(url, arguments).end().await
}
