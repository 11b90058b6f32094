//! What a worker publishes: one writer, any number of readers, no lock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use weft_datapath::{Counters, DropReason, FrameLedger, KernelReason};

/// What became of every frame that one worker took. The worker owns it; [`Shared`] is its mirror.
///
/// `received + handed_in + released + bulk` is the sum of all fates, always: see [`Totals::unaccounted`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Frames taken from the AF_XDP socket.
    pub received: u64,
    /// Frames of ours that another worker received and handed over.
    pub handed_in: u64,
    /// Fragments that were held and no longer are: decided about again, or given up.
    pub released: u64,
    /// Large packets taken from the bulk lane.
    pub bulk: u64,
    /// Packets of the TCP stack's, put on the transmit ring or the bulk lane besides.
    pub originated: u64,
    /// Fragments of packets that were too long for a tunnel, beyond the first of each, which counts as its packet.
    pub fragments: u64,
    /// Of those, the ones that found no room: with each the rest of its packet is lost.
    pub fragments_lost: u64,
    /// Packets of the TCP stack's to a peer that no route leads to: lost, and sent again.
    pub unrouted: u64,
    /// Their fates.
    pub fates: Counters,
}

impl Totals {
    /// Frames that came in and have no fate. Zero, or there is a bug.
    pub fn unaccounted(&self) -> i128 {
        i128::from(self.received)
            + i128::from(self.handed_in)
            + i128::from(self.released)
            + i128::from(self.bulk)
            - i128::from(self.fates.received())
    }

    /// Frames that the worker put on its transmit ring.
    pub fn transmitted(&self) -> u64 {
        let fates = &self.fates;
        let passed = fates.forwarded + fates.replied + fates.total_kernel();
        passed + self.originated + self.fragments
    }

    /// Adds another worker's totals to these.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.handed_in += other.handed_in;
        self.released += other.released;
        self.bulk += other.bulk;
        self.originated += other.originated;
        self.unrouted += other.unrouted;
        self.fragments += other.fragments;
        self.fragments_lost += other.fragments_lost;
        let (mine, theirs) = (&mut self.fates, &other.fates);
        mine.forwarded += theirs.forwarded;
        mine.replied += theirs.replied;
        mine.terminated += theirs.terminated;
        mine.handed_over += theirs.handed_over;
        mine.held += theirs.held;
        for (mine, theirs) in mine.kernel.iter_mut().zip(theirs.kernel) {
            *mine += theirs;
        }
        for (mine, theirs) in mine.dropped.iter_mut().zip(theirs.dropped) {
            *mine += theirs;
        }
    }
}

/// The part of a worker that other threads may look at.
///
/// A sequence lock of one writer: `version` is odd while the worker writes, so a reader never sees
/// totals of two different steps, and the worker never waits for a reader.
#[derive(Debug)]
pub struct Shared {
    version: AtomicU64,
    received: AtomicU64,
    handed_in: AtomicU64,
    released: AtomicU64,
    forwarded: AtomicU64,
    replied: AtomicU64,
    terminated: AtomicU64,
    bulk: AtomicU64,
    originated: AtomicU64,
    unrouted: AtomicU64,
    fragments: AtomicU64,
    fragments_lost: AtomicU64,
    handed_over: AtomicU64,
    held: AtomicU64,
    kernel: [AtomicU64; KernelReason::ALL.len()],
    dropped: [AtomicU64; DropReason::ALL.len()],
    frames: [AtomicU64; 6],
    flows: AtomicU64,
    flows_evicted: AtomicU64,
    affinity_evicted: AtomicU64,
    waiting: AtomicU64,
    pins: AtomicU64,
    pin_errors: AtomicU64,
    generation: AtomicU64,
    sleeping: AtomicBool,
}

/// One consistent look at a worker.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What became of the frames.
    pub totals: Totals,
    /// Where the frames of the UMEM are.
    pub frames: FrameLedger,
    /// Flows in the worker's table.
    pub flows: u64,
    /// Flows that made room for new ones.
    pub flows_evicted: u64,
    /// Clients that were pushed out of the affinity table, or found no way in.
    pub affinity_evicted: u64,
    /// Fragments that the worker holds.
    pub waiting: u64,
    /// Owner entries that the worker has written and not removed.
    pub pins: u64,
    /// Owner entries that the kernel refused (map full).
    pub pin_errors: u64,
    /// Generation of the tables that the last burst saw.
    pub generation: u64,
}

// By hand: the standard library has it for arrays of up to 32.
impl Default for Shared {
    fn default() -> Self {
        Self {
            version: AtomicU64::default(),
            received: AtomicU64::default(),
            handed_in: AtomicU64::default(),
            released: AtomicU64::default(),
            forwarded: AtomicU64::default(),
            replied: AtomicU64::default(),
            terminated: AtomicU64::default(),
            bulk: AtomicU64::default(),
            originated: AtomicU64::default(),
            unrouted: AtomicU64::default(),
            fragments: AtomicU64::default(),
            fragments_lost: AtomicU64::default(),
            handed_over: AtomicU64::default(),
            held: AtomicU64::default(),
            kernel: std::array::from_fn(|_| AtomicU64::default()),
            dropped: std::array::from_fn(|_| AtomicU64::default()),
            frames: std::array::from_fn(|_| AtomicU64::default()),
            flows: AtomicU64::default(),
            flows_evicted: AtomicU64::default(),
            affinity_evicted: AtomicU64::default(),
            waiting: AtomicU64::default(),
            pins: AtomicU64::default(),
            pin_errors: AtomicU64::default(),
            generation: AtomicU64::default(),
            sleeping: AtomicBool::default(),
        }
    }
}

impl Shared {
    /// Publishes the state after a step. Called by the one worker that owns this.
    pub fn publish(&self, snapshot: &Snapshot) {
        let totals = &snapshot.totals;
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let store = |cell: &AtomicU64, value: u64| cell.store(value, Ordering::Relaxed);
        store(&self.received, totals.received);
        store(&self.handed_in, totals.handed_in);
        store(&self.released, totals.released);
        let fates = &totals.fates;
        store(&self.forwarded, fates.forwarded);
        store(&self.replied, fates.replied);
        store(&self.terminated, fates.terminated);
        store(&self.bulk, totals.bulk);
        store(&self.originated, totals.originated);
        store(&self.unrouted, totals.unrouted);
        store(&self.fragments, totals.fragments);
        store(&self.fragments_lost, totals.fragments_lost);
        store(&self.handed_over, fates.handed_over);
        store(&self.held, fates.held);
        for (cell, value) in self.kernel.iter().zip(fates.kernel) {
            store(cell, value);
        }
        for (cell, value) in self.dropped.iter().zip(fates.dropped) {
            store(cell, value);
        }
        for (cell, value) in self.frames.iter().zip(frames_to_array(&snapshot.frames)) {
            store(cell, value);
        }
        store(&self.flows, snapshot.flows);
        store(&self.flows_evicted, snapshot.flows_evicted);
        store(&self.affinity_evicted, snapshot.affinity_evicted);
        store(&self.waiting, snapshot.waiting);
        store(&self.pins, snapshot.pins);
        store(&self.pin_errors, snapshot.pin_errors);
        store(&self.generation, snapshot.generation);
        self.version.store(version + 2, Ordering::Release);
    }

    /// A consistent look, from any thread.
    pub fn read(&self) -> Snapshot {
        // Bound: the writer is inside `publish` for well under a microsecond, so a reader that
        // loses a thousand races in a row looks at a torn snapshot at worst.
        for _ in 0..1_000 {
            let before = self.version.load(Ordering::Acquire);
            let snapshot = self.copy();
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return snapshot;
            }
            std::hint::spin_loop();
        }
        self.copy()
    }

    fn copy(&self) -> Snapshot {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Snapshot {
            totals: Totals {
                received: load(&self.received),
                handed_in: load(&self.handed_in),
                released: load(&self.released),
                bulk: load(&self.bulk),
                originated: load(&self.originated),
                unrouted: load(&self.unrouted),
                fragments: load(&self.fragments),
                fragments_lost: load(&self.fragments_lost),
                fates: Counters {
                    forwarded: load(&self.forwarded),
                    replied: load(&self.replied),
                    terminated: load(&self.terminated),
                    handed_over: load(&self.handed_over),
                    held: load(&self.held),
                    kernel: std::array::from_fn(|i| load(&self.kernel[i])),
                    dropped: std::array::from_fn(|i| load(&self.dropped[i])),
                },
            },
            frames: frames_from_array(std::array::from_fn(|i| load(&self.frames[i]))),
            flows: load(&self.flows),
            flows_evicted: load(&self.flows_evicted),
            affinity_evicted: load(&self.affinity_evicted),
            waiting: load(&self.waiting),
            pins: load(&self.pins),
            pin_errors: load(&self.pin_errors),
            generation: load(&self.generation),
        }
    }

    /// Generation of the tables that the worker's last burst saw.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Says that the worker is about to sleep, or is awake again.
    ///
    /// A worker that is about to sleep looks at its rings once more after this, a producer looks
    /// here ([`Self::is_sleeping`]) after its push. The fence on either side keeps the load behind
    /// the store, so at least one of the two sees the other.
    pub fn set_sleeping(&self, sleeping: bool) {
        self.sleeping.store(sleeping, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Whether the worker needs a wake-up to see what was pushed to it.
    pub fn is_sleeping(&self) -> bool {
        fence(Ordering::SeqCst);
        self.sleeping.load(Ordering::Relaxed)
    }
}

fn frames_to_array(frames: &FrameLedger) -> [u64; 6] {
    [
        frames.total,
        frames.free,
        frames.fill,
        frames.rx,
        frames.app,
        frames.tx,
    ]
    .map(|n| n as u64)
}

fn frames_from_array(cells: [u64; 6]) -> FrameLedger {
    let [total, free, fill, rx, app, tx] = cells.map(|n| n as _);
    FrameLedger {
        total,
        free,
        fill,
        rx,
        app,
        tx,
    }
}
