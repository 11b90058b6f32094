//! Signals that a node process reacts to.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Those that ask a node process for something.
pub(super) struct Signals {
    /// Give everything back and end.
    pub(super) ends: Ends,
    /// SIGHUP: read the configuration again, and open the access log again.
    pub(super) hangup: Signal,
}

/// SIGTERM and SIGINT.
pub(super) struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// They wait until [`Self::release`], with those that the program before this one in the same process has held: the
    /// kernel does not load programs for a process with a signal to take.
    pub(super) fn new() -> std::io::Result<Self> {
        weft_xdp::hold_ends()?;
        Ok(Self {
            ends: Ends::new()?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// From now on they come.
    pub(super) fn release(&self) -> std::io::Result<()> {
        weft_xdp::release_ends()
    }
}

impl Ends {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of them.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// After the first signal a second one ends the process at once, whatever the clean-up is doing.
pub(super) fn force_on_second_signal() {
    let watcher = std::thread::Builder::new()
        .name("weft-force".into())
        .spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                Ends::new()?.asked().await;
                tracing::warn!(
                    "forced to end; `weft cleanup` or the next `weft run` removes the rest"
                );
                std::process::exit(i32::from(crate::cli::Exit::Failed as u8));
                #[allow(unreachable_code, reason = "gives the block its error type")]
                std::io::Result::Ok(())
            })
        });
    if let Err(error) = watcher {
        tracing::warn!(%error, "a second signal will not force the end");
    }
}
