//! What others want to know of a run while it goes on: metrics, hooks on phases, traces of steps. None of them can hold up
//! or fail the run: they are told by threads of their own, each wait of which is bounded, and what goes wrong is a note.

mod hooks;
mod http;
mod listen;
mod metrics;
mod standing;
mod traces;

use crate::error::{Error, ErrorKind};
use crate::event::{Event, Listener};
use crate::report::Reporter;
use crate::units::duration_ms;
use clap::Args;
use jiff::Timestamp;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Who else is told. Only the command line and the environment decide that, never a plan file.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Monitoring")]
pub struct Watchers {
    /// Keep metrics of the run in this file, in OpenMetrics text, for a textfile collector; it is replaced at most
    /// once a second
    #[arg(long, value_name = "FILE", env = "PGMORPH_METRICS_FILE")]
    metrics_file: Option<PathBuf>,
    /// Answer GET /metrics at this address of this machine while the run goes on
    #[arg(long, value_name = "127.0.0.1:PORT", env = "PGMORPH_METRICS_LISTEN")]
    metrics_listen: Option<SocketAddr>,
    /// A program with its arguments, started without a shell at each beginning and end of run and phase, with the event
    /// as JSON on its standard input; may be given several times
    #[arg(long, value_name = "COMMAND", env = "PGMORPH_HOOK")]
    hook: Vec<hooks::Program>,
    /// A URL to which the same JSON is posted; may be given several times
    #[arg(long, value_name = "URL", env = "PGMORPH_WEBHOOK")]
    webhook: Vec<String>,
    /// How long a hook may take before it is given up
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = patience)]
    hook_timeout: Duration,
}

fn patience(text: &str) -> Result<Duration, String> {
    match duration_ms(text) {
        Some(ms @ 1..=3_600_000) => Ok(Duration::from_millis(ms)),
        _ => Err("a duration with its unit, at most 1h: 500ms, 10s".into()),
    }
}

/// An event and when it happened.
type Told = (Timestamp, Event);

/// Somebody who is told on a thread of his own.
trait Watcher: Send {
    fn take(&mut self, at: Timestamp, event: &Event);

    /// Called now and then, and after the last event.
    fn flush(&mut self, _last: bool) {}
}

impl Watchers {
    /// The reporter itself where nobody else is to be told.
    ///
    /// # Errors
    /// An address that is taken or is not of this machine; an endpoint of traces that is no URL.
    pub fn around(&self, reporter: Arc<dyn Reporter>) -> Result<Arc<dyn Reporter>, Error> {
        let mut watchers: Vec<Box<dyn Watcher>> = Vec::new();
        if self.metrics_file.is_some() || self.metrics_listen.is_some() {
            let metrics = Arc::new(Mutex::new(metrics::Metrics::default()));
            if let Some(address) = self.metrics_listen {
                listen::begin(address, metrics.clone())?;
            }
            watchers.push(Box::new(metrics::Keeper::new(
                metrics,
                self.metrics_file.clone(),
                reporter.clone(),
            )));
        }
        if !self.hook.is_empty() || !self.webhook.is_empty() {
            let targets = hooks::Targets {
                commands: self.hook.clone(),
                urls: self.webhook.clone(),
                timeout: self.hook_timeout,
            };
            watchers.push(Box::new(hooks::Hooks::new(targets, reporter.clone())?));
        }
        if let Some(exporter) = traces::Exporter::from_environment(&|name| std::env::var(name).ok())? {
            watchers.push(Box::new(traces::Traces::new(exporter, reporter.clone())));
        }
        if watchers.is_empty() {
            return Ok(reporter);
        }
        let threads = watchers.into_iter().map(Thread::start).collect();
        Ok(Arc::new(Monitor {
            reporter,
            threads,
            patience: LAST_WORDS + self.hook_timeout,
        }))
    }
}

/// Passes everything on to the reporter, and tells the watchers.
struct Monitor {
    reporter: Arc<dyn Reporter>,
    threads: Vec<Thread>,
    /// How long the last words of all watchers together may take.
    patience: Duration,
}

struct Thread {
    sender: Mutex<Option<Sender<Told>>>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

/// Besides the time that a hook may take.
const LAST_WORDS: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_secs(1);

impl Thread {
    fn start(mut watcher: Box<dyn Watcher>) -> Self {
        let (sender, receiver) = channel();
        let handle = std::thread::spawn(move || serve(&mut *watcher, &receiver));
        Self {
            sender: Mutex::new(Some(sender)),
            handle: Mutex::new(Some(handle)),
        }
    }

    fn tell(&self, told: Told) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = sender.as_ref() {
            // A watcher that is gone hears nothing more; the run goes on.
            let _ = sender.send(told);
        }
    }

    fn hang_up(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn is_done(&self) -> bool {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        handle.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

fn serve(watcher: &mut dyn Watcher, receiver: &Receiver<Told>) {
    loop {
        match receiver.recv_timeout(TICK) {
            Ok((at, event)) => watcher.take(at, &event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return watcher.flush(true),
        }
        watcher.flush(false);
    }
}

impl Listener for Monitor {
    fn tell(&self, event: &Event) {
        self.reporter.tell(event);
        let now = Timestamp::now();
        for thread in &self.threads {
            thread.tell((now, event.clone()));
        }
    }
}

impl Reporter for Monitor {
    fn note(&self, text: &str) {
        self.reporter.note(text);
    }

    fn finish(&self) {
        for thread in &self.threads {
            thread.hang_up();
        }
        let began = Instant::now();
        while self.threads.iter().any(|thread| !thread.is_done()) && began.elapsed() < self.patience {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.reporter.finish();
    }
}

fn usage(message: impl Into<String>, help: &str) -> Error {
    Error::new(ErrorKind::Usage, message).help(help)
}
