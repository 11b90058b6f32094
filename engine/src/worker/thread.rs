//! The edge around a worker: its thread, its core, its clock and when it sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fd::AsFd;
use rustix::time::{ClockId, clock_gettime};
use weft_datapath::Now;
use weft_xdp::{Heartbeat, XskIo};

use super::{Parts, PinSink, Waker, Worker};
use crate::config::Poll;

/// How long `poll = "adaptive"` keeps looking after the last frame: longer than a request's round
/// trip inside a node (20-40 us), short enough that an idle node sleeps.
const SPIN: Duration = Duration::from_micros(100);

/// How long a worker may take to stop: a step, or the longest nap that a late wake-up leaves it in
/// (2.5 s, a quarter of the longest heartbeat limit).
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How long a worker may take to have its memory: some milliseconds, unless the machine is busy.
const MEMORY_PATIENCE: Duration = Duration::from_secs(5);

/// How long resetting every connection may take: 100,000 of them take some 300 ms.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// The monotonic clock, the one that `bpf_ktime_get_ns` reads.
pub fn now() -> Now {
    let time = clock_gettime(ClockId::Monotonic);
    Now::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// What a worker's thread needs besides the worker.
pub struct Spawn {
    /// Number of the worker, for the thread's name.
    pub index: u16,
    /// The core to run on.
    pub core: usize,
    /// When to sleep.
    pub poll: Poll,
    /// Where to say that it is alive.
    pub heartbeat: Heartbeat,
    /// How others wake it.
    pub waker: Waker,
}

/// A worker's thread. Dropping it stops the worker.
pub struct Running {
    index: u16,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Whether the thread has ended, which before [`Self::stop`] means that it panicked.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Asks the worker to stop after its current step.
    pub fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Asks the worker to stop after its current step and waits for it, but not for ever: a thread
    /// that is stuck ends with the process.
    pub fn stop(&mut self) {
        self.ask_to_stop();
        let Some(thread) = self.thread.take() else {
            return;
        };
        let deadline = Instant::now() + STOP_PATIENCE;
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                return tracing::warn!(worker = self.index, "the worker does not stop");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = thread.join(); // A panic was logged by its own thread.
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts a worker on its own thread, pinned to its core. It takes its memory there, and this waits for it: what follows expects
/// its first step soon.
///
/// # Errors
/// When the kernel refuses another thread.
pub fn spawn<P>(mut parts: Parts<XskIo, P>, spawn: Spawn) -> std::io::Result<Running>
where
    P: PinSink + Send + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let (index, waker) = (spawn.index, spawn.waker.clone());
    let (taken, has_memory) = crossbeam::channel::bounded(1);
    let thread = std::thread::Builder::new()
        .name(format!("weft-worker-{}", spawn.index))
        .spawn(move || {
            let _ = weft_xdp::hold_ends(); // Signals are control's, which waits for them.
            if !core_affinity::set_for_current(core_affinity::CoreId { id: spawn.core }) {
                tracing::warn!(
                    worker = spawn.index,
                    core = spawn.core,
                    "cannot pin the worker"
                );
            }
            parts.state.take_memory();
            let _ = taken.send(()); // Nobody waits any more: then it took too long.
            run(&mut Worker::new(parts), &spawn, &stopped);
        })?;
    let _ = has_memory.recv_timeout(MEMORY_PATIENCE); // Until then, its packets are the kernel's.
    Ok(Running {
        index,
        stop,
        waker,
        thread: Some(thread),
    })
}

/// Tells the hooks that the worker is no more, however its thread ends: its packets are the kernel's at
/// once, not only after the heartbeat limit.
struct LastBeat<'h>(&'h Heartbeat);

impl Drop for LastBeat<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn run<P: PinSink>(worker: &mut Worker<XskIo, P>, spawn: &Spawn, stop: &AtomicBool) {
    let _last = LastBeat(&spawn.heartbeat);
    let mut last_frame = now();
    // Bound: until control stops the worker; each turn is one bounded step.
    while !stop.load(Ordering::Acquire) {
        let time = now();
        let handled = worker.turn(time);
        spawn.heartbeat.beat(time.as_nanos());
        if handled > 0 {
            last_frame = time;
        }
        let wait = match spawn.poll {
            Poll::Spin => false,
            Poll::Adaptive => handled == 0 && time.since(last_frame) >= SPIN,
            // At once: an empty step and a doorbell of its own would cost a request a microsecond each way.
            Poll::Sleep => true,
        };
        if wait {
            sleep(worker, spawn);
        } else {
            worker.flush();
            if handled == 0 {
                std::hint::spin_loop();
            }
        }
    }
    close(worker);
}

/// Tells the peers of terminated connections, which would otherwise wait for whom there is no more.
fn close<P: PinSink>(worker: &mut Worker<XskIo, P>) {
    let deadline = Instant::now() + CLOSE_PATIENCE;
    // Bound: the time it may take.
    while !worker.close_tcp(now()) && Instant::now() < deadline {
        worker.flush();
    }
    worker.flush();
}

/// Waits for frames or for work, and sends what the last step left to be sent.
fn sleep<P: PinSink>(worker: &mut Worker<XskIo, P>, spawn: &Spawn) {
    worker.shared().set_sleeping(true);
    if worker.has_work() {
        worker.flush();
    } else {
        let nap = worker.nap(now());
        let woken = worker.io_mut().wait(nap, &[spawn.waker.fd().as_fd()]);
        // An interrupted or failed wait only means one more empty step.
        if woken.is_ok_and(|ready| ready.waker) {
            spawn.waker.clear();
        }
    }
    worker.shared().set_sleeping(false);
}
