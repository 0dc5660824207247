//! Signals → how urgently the run should stop.

use crate::error::{Error, ErrorKind};
use crate::executor::Interrupt;
use crate::report::Reporter;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// From now on signals do not end the process but ask the run to stop: the first Ctrl-C at the next safe place,
/// the second, or a SIGTERM, at once.
///
/// # Errors
/// When the system lets no handler be set.
pub fn watch(reporter: Arc<dyn Reporter>) -> Result<watch::Receiver<Interrupt>, Error> {
    let failed = |error| Error::new(ErrorKind::Usage, "cannot watch for signals").source(error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let (sender, receiver) = watch::channel(Interrupt::None);
    tokio::spawn(async move {
        loop {
            let wanted = tokio::select! {
                _ = interrupt.recv() => after_another_ctrl_c(*sender.borrow()),
                // Who sends this kills soon after, and a statement that we cancel leaves less behind.
                _ = terminate.recv() => Interrupt::Now,
            };
            let before = *sender.borrow();
            if wanted > before {
                reporter.note(match wanted {
                    Interrupt::Now => "cancelling the running statement",
                    _ => {
                        "stopping at the next safe place; press Ctrl-C again to cancel the running statement"
                    }
                });
                // Nobody listens any more when the run is over.
                let _ = sender.send(wanted);
            }
        }
    });
    Ok(receiver)
}

fn after_another_ctrl_c(before: Interrupt) -> Interrupt {
    match before {
        Interrupt::None => Interrupt::Gracefully,
        _ => Interrupt::Now,
    }
}
