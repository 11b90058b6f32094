//! Signals that a node process reacts to.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Those that ask a node process for something.
pub(super) struct Signals {
    /// SIGTERM: give everything back and end.
    pub(super) terminate: Signal,
    /// SIGINT: the same.
    pub(super) interrupt: Signal,
    /// SIGHUP: read the configuration again.
    pub(super) hangup: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
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
                let mut signals = Signals::new()?;
                tokio::select! {
                    _ = signals.terminate.recv() => {}
                    _ = signals.interrupt.recv() => {}
                }
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
