//! The way of a stray: from the worker whose queue it came in on to the worker that owns its flow.
//!
//! One bounded single-producer ring per ordered pair of workers. The bytes are copied, because each
//! worker's frames live in its own UMEM; strays are a few in a hundred at most.

use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use weft_datapath::BURST_MAX;

use super::stats::Shared;

/// Largest frame that can be handed over: what a 4 KiB chunk can hold at most.
pub const HANDED_MAX: usize = 4096;

/// Strays in flight between two workers: two bursts, so one burst never fills it by itself.
const RING: usize = 2 * BURST_MAX;

/// One frame's bytes on their way to another worker.
pub struct Handed {
    len: usize,
    bytes: [u8; HANDED_MAX],
}

impl Handed {
    /// The frame.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Wakes a worker that sleeps in `poll`.
#[derive(Clone, Debug)]
pub struct Waker {
    fd: Arc<OwnedFd>,
    shared: Arc<Shared>,
}

impl Waker {
    /// A waker for the worker that publishes to `shared`.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn new(shared: Arc<Shared>) -> std::io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self {
            fd: Arc::new(fd),
            shared,
        })
    }

    /// Makes the worker take one more step soon. Costs a system call only when it sleeps.
    pub fn wake(&self) {
        if self.shared.is_sleeping() {
            // A full counter means that a wake-up is pending already.
            let _ = rustix::io::write(&*self.fd, &1u64.to_ne_bytes());
        }
    }

    /// Forgets the wake-ups so far.
    pub fn clear(&self) {
        let _ = rustix::io::read(&*self.fd, &mut [0u8; 8]);
    }

    /// What to poll for.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}

struct Outgoing {
    ring: rtrb::Producer<Handed>,
    waker: Waker,
    pushed: bool,
}

/// One worker's ends of the rings.
pub struct HandOver {
    outgoing: Vec<Option<Outgoing>>,
    incoming: Vec<rtrb::Consumer<Handed>>,
    /// The incoming ring to look at first.
    turn: usize,
}

impl HandOver {
    /// The rings between `wakers.len()` workers; element *n* belongs to worker *n*.
    pub fn mesh(wakers: &[Waker]) -> Vec<Self> {
        let workers = wakers.len();
        let mut ends: Vec<Self> = (0..workers)
            .map(|_| Self {
                outgoing: (0..workers).map(|_| None).collect(),
                incoming: Vec::new(),
                turn: 0,
            })
            .collect();
        for from in 0..workers {
            for to in (0..workers).filter(|&to| to != from) {
                let (producer, consumer) = rtrb::RingBuffer::new(RING);
                ends[from].outgoing[to] = Some(Outgoing {
                    ring: producer,
                    waker: wakers[to].clone(),
                    pushed: false,
                });
                ends[to].incoming.push(consumer);
            }
        }
        ends
    }

    /// Copies a frame to the ring of worker `to`. False when that ring is full or there is no such
    /// worker.
    pub fn push(&mut self, to: u16, bytes: &[u8]) -> bool {
        let Some(Some(outgoing)) = self.outgoing.get_mut(usize::from(to)) else {
            return false;
        };
        if bytes.len() > HANDED_MAX || outgoing.ring.is_full() {
            return false;
        }
        let mut handed = Handed {
            len: bytes.len(),
            bytes: [0; HANDED_MAX],
        };
        handed.bytes[..bytes.len()].copy_from_slice(bytes);
        outgoing.pushed = outgoing.ring.push(handed).is_ok();
        outgoing.pushed
    }

    /// Wakes every worker that something was pushed to since the last call.
    pub fn doorbell(&mut self) {
        for outgoing in self.outgoing.iter_mut().flatten() {
            if std::mem::take(&mut outgoing.pushed) {
                outgoing.waker.wake();
            }
        }
    }

    /// Frames waiting for this worker, over all rings.
    pub fn waiting(&self) -> usize {
        self.incoming.iter().map(rtrb::Consumer::slots).sum()
    }

    /// Takes one frame that another worker handed over. The rings have turns, so that a flood of one
    /// worker's does not fill the others'.
    pub fn pop(&mut self) -> Option<Handed> {
        for _ in 0..self.incoming.len() {
            let ring = self.turn;
            self.turn = (ring + 1) % self.incoming.len();
            if let Ok(handed) = self.incoming[ring].pop() {
                return Some(handed);
            }
        }
        None
    }
}
