//! The node process that lets another program take its place.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use weft_xdp::MAP_LAYOUT;

use super::signals::Ends;
use super::{Error, Node};
use crate::admin::{Answer, Call, Listener, view};
use crate::guard::Guard;
use crate::rundir::Lock;
use crate::upgrade::{self, Candidate, Handover, Refused};
use crate::worker;

/// How long clients whose answer is on its way may take before the admin socket is the next program's. Those that are
/// late see their connection end.
const FAREWELL: Duration = Duration::from_millis(250);
/// How long a signal may take from the kernel to here.
const MOMENT: Duration = Duration::from_millis(1);

/// What ends the turn of a node process.
pub(super) enum Ending {
    /// A signal.
    Stop,
    /// A program that may take its place, and who asked.
    Upgrade(Candidate, oneshot::Sender<Answer>),
}

type Check = Pin<Box<dyn Future<Output = Result<Candidate, Refused>>>>;

/// The upgrade whose program is being checked, if there is one. Dropped, the check ends, too.
#[derive(Default)]
pub(super) struct Upgrading(Option<UnderWay>);

struct UnderWay {
    check: Check,
    binary: PathBuf,
    reply: oneshot::Sender<Answer>,
}

impl Upgrading {
    pub(super) fn is_under_way(&self) -> bool {
        self.0.is_some()
    }

    /// Begins, unless another one has.
    pub(super) fn begin(
        &mut self,
        binary: PathBuf,
        files: Vec<PathBuf>,
        reply: oneshot::Sender<Answer>,
    ) {
        if self.is_under_way() {
            let _ = reply.send(under_way()); // The asker may have left, here and below.
            return;
        }
        let binary = std::path::absolute(&binary).unwrap_or(binary); // Never looked for in PATH.
        tracing::info!(binary = %binary.display(), "an upgrade is asked for: checking the program");
        let path = binary.clone();
        let check = async move { upgrade::check(&path, &files, MAP_LAYOUT).await };
        self.0 = Some(UnderWay {
            check: Box::pin(check),
            binary,
            reply,
        });
    }

    /// Waits for a check to end well; for ever while there is none. May be dropped and asked again.
    pub(super) async fn checked(&mut self) -> Ending {
        loop {
            let result = match &mut self.0 {
                Some(under_way) => under_way.check.as_mut().await,
                None => std::future::pending().await,
            };
            let Some(UnderWay { binary, reply, .. }) = self.0.take() else {
                continue;
            };
            match result {
                Ok(candidate) => return Ending::Upgrade(candidate, reply),
                Err(refused) => {
                    tracing::error!("upgrade refused: {}: {refused}", binary.display());
                    let _ = reply.send(refused.answer(&binary));
                }
            }
        }
    }
}

/// Says in the log how an upgrade went.
pub(super) fn tell(upgraded: &view::Upgraded) {
    let view::Upgraded {
        from,
        to,
        without_worker_us,
        flows_ended,
        ..
    } = upgraded;
    match &upgraded.failed {
        None => tracing::info!(from, to, without_worker_us, flows_ended, "upgraded"),
        Some(reason) => {
            tracing::error!(without_worker_us, flows_ended, "not upgraded: {reason}");
        }
    }
}

/// What everybody is told who wants to change something meanwhile.
pub(super) fn under_way() -> Answer {
    Answer::Failed("an upgrade is under way: ask again when it is over".into())
}

/// Tells the asker that it begins, and the others to come back: who connects from now on will talk to the next program.
/// Signals wait for that one, too. False when one of them has asked to end first.
pub(super) async fn take_leave(
    begins: (oneshot::Sender<Answer>, view::Upgrading),
    listener: &Listener,
    questions: &mut mpsc::Receiver<Call>,
    ends: &mut Ends,
) -> bool {
    let (reply, upgrading) = begins;
    let _ = reply.send(Answer::Upgrading(upgrading));
    let late = tokio::time::sleep(FAREWELL);
    tokio::pin!(late);
    loop {
        tokio::select! {
            biased;
            () = ends.asked() => return false,
            Some(call) = questions.recv() => {
                let _ = call.reply.send(under_way());
            }
            () = listener.idle() => break,
            () = &mut late => break,
        }
    }
    if let Err(error) = weft_xdp::hold_ends() {
        tracing::warn!(%error, "a signal during the upgrade may be lost");
    }
    let ended = tokio::time::timeout(MOMENT, ends.asked()).await.is_ok();
    if ended && let Err(error) = weft_xdp::release_ends() {
        tracing::warn!(%error, "a second signal will not force the end");
    }
    !ended
}

impl Node {
    /// Puts the other program in this one's place. For the kernel's part that is as a crash: hooks, links and maps stay,
    /// the heartbeats say that nobody is there. But every terminated connection is reset first.
    ///
    /// When the kernel does not execute it, this program is executed again, by the file that the kernel still has open, and
    /// starts as the other one would have: that way back is the one that every upgrade takes. Returns only if that fails, too.
    pub(super) fn replace(
        mut self,
        candidate: &Candidate,
        id: u64,
        lock: &Lock,
        guard: Guard,
        listener: &Listener,
    ) -> Error {
        let mut handover = self.handover(id);
        let path = candidate.path.as_path();
        tracing::info!(
            binary = %path.display(),
            version = candidate.version,
            "upgrading: stopping the workers; the maps and what they know stay"
        );
        handover.stopped_at = worker::now().as_nanos();
        for side in &self.workers {
            side.running.ask_to_stop();
        }
        for side in &mut self.workers {
            side.running.stop();
        }
        self.workers.clear(); // Their queues are free.
        guard.dismiss(); // Nobody is left who would have to be told of a crash.
        let open = [lock.as_fd(), listener.as_fd()];
        let error = handover.execute(path, path, open, lock.pins());
        let failed = format!("{}: cannot be executed: {error}", path.display());
        tracing::error!("{failed}: starting this program again");
        handover.failed = Some(failed.clone());
        let again = handover.execute(
            Path::new("/proc/self/exe"),
            &self.program,
            open,
            lock.pins(),
        );
        Error::Upgrade { failed, again }
    }

    /// What the next program has to know of what ends with this one.
    fn handover(&self, id: u64) -> Handover {
        let workers = self.control.workers().iter();
        let terminated = (0..self.workers.len()).filter_map(|index| self.tcp(index).ok().flatten());
        Handover {
            pid: std::process::id(),
            id,
            version: env!("CARGO_PKG_VERSION").into(),
            flows: workers.map(|worker| worker.shared.read().flows).sum(),
            terminated: terminated.map(|tcp| tcp.connections).sum(),
            ..Handover::default()
        }
    }
}
