//! The data core: one worker, run to completion, the same under AF_XDP, in memory and from a pcap.

mod handover;
mod http;
mod idle;
mod stats;
mod tcp;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod thread;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use arrayvec::ArrayVec;
use crossbeam::channel::{Receiver, Sender};
use weft_datapath::{
    BURST_MAX, Claim, DropReason, Flow, FrameBuf, LookAhead, Now, PacketIo, PinOp, State, Tables,
    Verdict, next_fragment, process,
};

use weft_l7::observe::AccessRecord;
use weft_stack::StackConfig;
use weft_xdp::{PinOutcome, PinWriter};

pub use handover::{HandOver, Waker};
pub use http::{HttpCounts, HttpReport};
pub use stats::{Shared, Snapshot, Totals};
pub use tcp::TcpReport;
pub use thread::{Running, Spawn, now, spawn};

use crate::layer7::Layer7;
use http::Http;
use tcp::Tcp;

/// How often at most a worker does what no packet asks for: it moves the clock hand of the flow table
/// and publishes where its frames are.
const HOUSEKEEPING_EVERY: Duration = Duration::from_millis(1);

/// Places of the table of packets in fragments that are looked at as often: with traffic, all 4,096 within
/// 16 ms; idle, within 400 ms.
const FRAGMENTS_BUDGET: usize = 256;

/// Packets that a step takes from the bulk lane: half a megabyte, some 100 us.
const BULK_BUDGET: usize = 8;

/// Where a worker's owner entries go: the kernel's `pins` map, or a list in a test.
pub trait PinSink {
    /// Applies the operations in order.
    fn apply(&mut self, ops: &[PinOp]) -> PinOutcome;
}

impl PinSink for PinWriter {
    fn apply(&mut self, ops: &[PinOp]) -> PinOutcome {
        Self::apply(self, ops)
    }
}

/// What control asks of a worker between two steps.
#[derive(Debug)]
pub enum Command {
    /// Copy the flows in the `flows.capacity()` places of the slab from `start` on.
    Flows {
        /// First place to look at.
        start: usize,
        /// Room for the answer, allocated by the asker so that the worker need not.
        flows: Vec<Flow>,
        /// Where the answer goes.
        reply: Sender<FlowSlice>,
    },
    /// End clients' connections to HTTP stages in order, once they have no request under way.
    Drain,
    /// Say how the HTTP stages do.
    Http {
        /// Where the answer goes.
        reply: Sender<HttpReport>,
    },
    /// Say how the TCP stack does; `None` if there has been no need of one.
    Tcp {
        /// Where the answer goes.
        reply: Sender<Option<TcpReport>>,
    },
}

/// Part of a worker's flow table.
#[derive(Debug)]
pub struct FlowSlice {
    /// The flows found.
    pub flows: Vec<Flow>,
    /// Where to go on, `None` after the last flow.
    pub next: Option<usize>,
}

/// What a frame on the transmit ring counts as.
#[derive(Copy, Clone, Debug)]
enum Outcome {
    /// The fate of a frame that came in.
    Of(Verdict),
    /// One more fragment of such a packet.
    Fragment,
}

/// One worker: its frames, its flows and its way to the other workers.
pub struct Worker<IO: PacketIo, P: PinSink> {
    io: IO,
    pins: P,
    burst: ArrayVec<IO::Frame, BURST_MAX>,
    ahead: LookAhead,
    outgoing: ArrayVec<(IO::Frame, Outcome), BURST_MAX>,
    tables: Cache<Arc<ArcSwap<Tables>>, Arc<Tables>>,
    state: State,
    tcp: Tcp,
    http: Http,
    handover: HandOver,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    local: Snapshot,
    kept_house_at: Now,
    /// The last look at the flow table found some whose time was over.
    forgetting: bool,
    heartbeat_limit: Duration,
    /// When the step before the last one began, and when the last one did.
    stepped_at: [Now; 2],
}

/// What a worker is made of.
pub struct Parts<IO, P> {
    /// Where frames come from and go to.
    pub io: IO,
    /// Where owner entries go.
    pub pins: P,
    /// The published tables.
    pub tables: Arc<ArcSwap<Tables>>,
    /// Flows and cursors.
    pub state: State,
    /// What the TCP stack is made of when a connection ends here for the first time.
    pub stack: StackConfig,
    /// The published HTTP stages.
    pub layer7: Arc<ArcSwap<Layer7>>,
    /// Where requests are logged, if they are.
    pub access_log: Option<Sender<AccessRecord>>,
    /// Decides what the HTTP stages choose at random.
    pub seed: u64,
    /// Rings to and from the other workers.
    pub handover: HandOver,
    /// Questions from control.
    pub commands: Receiver<Command>,
    /// Where the worker publishes what it did.
    pub shared: Arc<Shared>,
    /// After what time without a heartbeat the kernel takes over.
    pub heartbeat_limit: Duration,
}

impl<IO: PacketIo, P: PinSink> Worker<IO, P> {
    /// Puts a worker together.
    pub fn new(parts: Parts<IO, P>) -> Self {
        let Parts {
            io,
            pins,
            tables,
            state,
            stack,
            layer7,
            access_log,
            seed,
            handover,
            commands,
            shared,
            heartbeat_limit,
        } = parts;
        let mut worker = Self {
            io,
            pins,
            burst: ArrayVec::new(),
            ahead: LookAhead::default(),
            outgoing: ArrayVec::new(),
            tables: Cache::new(tables),
            state,
            tcp: Tcp::new(stack),
            http: Http::new(layer7, access_log, seed),
            handover,
            commands,
            shared,
            local: Snapshot::default(),
            kept_house_at: Now::default(),
            forgetting: false,
            heartbeat_limit,
            stepped_at: [Now::default(); 2],
        };
        worker.publish();
        worker
    }

    /// Handles at most one burst from the socket, one of fragments whose first one has come, and one from
    /// the other workers, and returns how many frames that was.
    ///
    /// The caller owns the loop, the clock and the idle policy, so a test steps a worker exactly as
    /// production does. Nothing here logs, locks or reads a clock, and nothing allocates for what is passed on; system
    /// calls come once a burst (doorbell, owner entries), and for each packet of the bulk lane.
    pub fn step(&mut self, now: Now) -> usize {
        let handled = self.turn(now);
        self.flush();
        handled
    }

    /// A step without its doorbell, which the caller rings with [`Self::flush`], or with the wait that
    /// follows.
    pub fn turn(&mut self, now: Now) -> usize {
        let tables = Arc::clone(self.tables.load()); // One generation for the whole step.
        let originated = self.local.totals.originated;
        if self.was_away(now) {
            self.state.was_away(now + tables.grace());
        }
        let bulk = self.take_bulk(now, &tables);
        if self.local.generation != tables.generation {
            self.tcp.tables_changed(now);
            self.http.tables_changed();
        }
        self.io.receive(&mut self.burst);
        let received = self.burst.len();
        self.local.totals.received += received as u64;
        self.look_ahead(&tables);
        self.burst.reverse(); // Taken from its end: to move it out of the worker would copy its whole room.
        while let Some(frame) = self.burst.pop() {
            self.decide(frame, now, &tables);
        }
        self.transmit();
        let released = self.take_released(now, &tables);
        self.transmit();
        let handed = self.take_strays(now, &tables);
        let since = now.since(self.kept_house_at);
        let housekeeping = since >= HOUSEKEEPING_EVERY;
        if housekeeping {
            self.kept_house_at = now;
            self.forget_flows(now, since, &tables);
            self.state.fragments.expire(now, FRAGMENTS_BUDGET);
            self.http.forget_services();
        }
        self.transmit();
        self.serve_tcp(now, &tables);
        self.count_timed_out();
        let changed = self.local.generation != tables.generation;
        self.local.generation = tables.generation;
        let handled = bulk + received + released + handed;
        if handled > 0 || changed || housekeeping || self.local.totals.originated > originated {
            self.publish(); // Before the doorbell: no frame is seen elsewhere that is not counted here.
        }
        self.handover.doorbell();
        self.answer_one();
        handled
    }

    /// The doorbell: one per step, not one per frame.
    pub fn flush(&mut self) {
        self.io.flush();
    }

    /// Frames waiting that no socket event will announce.
    pub fn has_work(&self) -> bool {
        self.handover.waiting() > 0
            || self.state.fragments.released() > 0
            || !self.commands.is_empty()
            || self.http.has_work()
    }

    /// The packet I/O, for the thread that waits on it.
    pub fn io_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// What the worker publishes.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Whether the hooks may have taken this worker for dead since its last step.
    ///
    /// A heartbeat carries the time at which its step began and is written when that has ended, so
    /// until now the hooks may have compared with the step before the last one.
    fn was_away(&mut self, now: Now) -> bool {
        let [heard_of, last] = self.stepped_at;
        self.stepped_at = [last, now];
        now.since(heard_of) > self.heartbeat_limit
    }

    /// Fetches what deciding about the burst will read, if it is large enough for that to pay.
    fn look_ahead(&mut self, tables: &Tables) {
        if self.burst.len() < LookAhead::LEAST {
            return;
        }
        let Self { io, state, .. } = self;
        for frame in &mut self.burst {
            io.with_frame(frame, |buf| self.ahead.note(buf.bytes(), state));
        }
        self.ahead.fetch(tables, state);
    }

    /// Decides one frame and puts it where its verdict says.
    fn decide(&mut self, mut frame: IO::Frame, now: Now, tables: &Tables) {
        let Self {
            io,
            state,
            handover,
            tcp,
            local,
            ..
        } = self;
        let decided = |buf: &mut FrameBuf<'_>, tcp: &Tcp, state: &mut State| {
            if tcp.has_begun(buf.bytes(), now) {
                Verdict::Terminate(Claim::Stack)
            } else {
                process(buf, now, tables, state)
            }
        };
        let verdict = io.with_frame(&mut frame, |buf| match decided(buf, tcp, state) {
            Verdict::HandOver(to) if !handover.push(to, buf.bytes()) => {
                Verdict::Drop(DropReason::HandOverFull)
            }
            Verdict::Terminate(claim) => tcp.take(buf, claim, false, now, tables, state),
            Verdict::Drop(DropReason::UnknownFlow) => tcp.take_unknown(buf, now, tables, state),
            verdict => verdict,
        });
        match verdict {
            Verdict::Deliver | Verdict::Reply | Verdict::Kernel(_) => {
                // Room: a burst comes in, at most a burst goes out, then `transmit` empties it; but for fragments.
                if self.outgoing.is_full() {
                    self.transmit();
                }
                self.outgoing.push((frame, Outcome::Of(verdict)));
                if self.state.has_rest() {
                    self.send_rest(tables);
                }
            }
            Verdict::HandOver(_) | Verdict::Hold | Verdict::Terminate(_) | Verdict::Drop(_) => {
                local.totals.fates.record(verdict);
                io.release(frame);
            }
        }
    }

    /// Takes what waits on the bulk lane, at most [`BULK_BUDGET`] packets: only connections that end here have it.
    fn take_bulk(&mut self, now: Now, tables: &Tables) -> usize {
        if !self.tcp.uses_bulk() {
            return 0;
        }
        let Self {
            io,
            state,
            tcp,
            local,
            ..
        } = self;
        for taken in 0..BULK_BUDGET {
            let verdict = io.receive_bulk(|frame, verified| {
                let length = frame.len();
                let mut buf = FrameBuf::new(frame, length);
                match process(&mut buf, now, tables, state) {
                    Verdict::Terminate(claim) => {
                        tcp.take(&mut buf, claim, verified, now, tables, state)
                    }
                    verdict => verdict,
                }
            });
            let verdict = match verdict {
                None => return taken,
                // Nothing that a hook sent, so nothing that is counted anywhere.
                Some(Verdict::Drop(DropReason::ForeignFrame)) => continue,
                Some(verdict @ (Verdict::Terminate(_) | Verdict::Drop(_))) => verdict,
                Some(_) => Verdict::Drop(DropReason::BulkUnclaimed),
            };
            local.totals.bulk += 1;
            local.totals.fates.record(verdict);
        }
        BULK_BUDGET
    }

    fn record(&mut self, reason: DropReason) {
        self.local.totals.fates.record(Verdict::Drop(reason));
    }

    /// Writes the owner entries of the burst, then sends it, so that no reply can come in before
    /// its owner is known.
    fn transmit(&mut self) {
        self.write_pins();
        let totals = &mut self.local.totals;
        for (frame, outcome) in self.outgoing.drain(..) {
            let sent = self.io.send(frame).map_err(|frame| self.io.release(frame));
            match (outcome, sent) {
                (Outcome::Of(verdict), Ok(())) => totals.fates.record(verdict),
                (Outcome::Of(_), Err(())) => {
                    totals.fates.record(Verdict::Drop(DropReason::TransmitFull));
                }
                (Outcome::Fragment, Ok(())) => totals.fragments += 1,
                (Outcome::Fragment, Err(())) => totals.fragments_lost += 1,
            }
        }
    }

    /// Sends what is left of a packet that was too long for a tunnel. Bound: its length.
    #[cold]
    fn send_rest(&mut self, tables: &Tables) {
        while self.state.has_rest() {
            if self.outgoing.is_full() {
                self.transmit();
            }
            let Self { io, state, .. } = self;
            let Some(mut frame) = io.allocate() else {
                state.forget_rest();
                self.local.totals.fragments_lost += 1;
                return;
            };
            match io.with_frame(&mut frame, |buf| next_fragment(buf, tables, state)) {
                Ok(()) => self.outgoing.push((frame, Outcome::Fragment)),
                Err(_) => {
                    self.io.release(frame);
                    self.local.totals.fragments_lost += 1;
                }
            }
        }
    }

    fn write_pins(&mut self) {
        if self.state.pin_ops.is_empty() {
            return;
        }
        let outcome = self.pins.apply(self.state.pin_ops.as_slice());
        self.local.pins =
            (self.local.pins + outcome.inserted).saturating_sub(outcome.removed + outcome.foreign);
        self.local.pin_errors += outcome.full + outcome.failed;
        self.state.pin_ops.clear();
    }

    /// Takes at most one burst of fragments that were held until the first of their packet came.
    fn take_released(&mut self, now: Now, tables: &Tables) -> usize {
        let mut taken = 0;
        while taken < BURST_MAX && self.state.fragments.released() > 0 {
            taken += 1;
            self.local.totals.released += 1;
            let Some(mut frame) = self.io.allocate() else {
                self.state.fragments.discard();
                self.record(DropReason::FramePoolEmpty);
                continue;
            };
            let fragments = &mut self.state.fragments;
            match self.io.with_frame(&mut frame, |buf| fragments.take(buf)) {
                Ok(()) => self.decide(frame, now, tables),
                Err(reason) => {
                    self.record(reason);
                    self.io.release(frame);
                }
            }
        }
        taken
    }

    /// Fragments that waited in vain: no longer held, and dropped.
    fn count_timed_out(&mut self) {
        let timed_out = self.state.fragments.timed_out();
        let totals = &mut self.local.totals;
        totals.released += timed_out;
        totals.fates.dropped[DropReason::FragmentTimeout as usize] += timed_out;
    }

    /// Takes at most one burst of frames that other workers handed over.
    fn take_strays(&mut self, now: Now, tables: &Tables) -> usize {
        let mut taken = 0;
        while taken < BURST_MAX {
            let Some(handed) = self.handover.pop() else {
                break;
            };
            taken += 1;
            self.local.totals.handed_in += 1;
            let Some(mut frame) = self.io.allocate() else {
                self.record(DropReason::FramePoolEmpty);
                continue;
            };
            let fits = self.io.with_frame(&mut frame, |buf| {
                let fits = buf.resize(handed.bytes().len()).is_ok();
                if fits {
                    buf.bytes_mut().copy_from_slice(handed.bytes());
                }
                fits
            });
            if fits {
                self.decide(frame, now, tables);
            } else {
                self.record(DropReason::FrameRoom);
                self.io.release(frame);
            }
        }
        taken
    }

    /// Answers at most one question of control's: a bounded slice, so the burst after it is not late.
    fn answer_one(&mut self) {
        let Ok(command) = self.commands.try_recv() else {
            return;
        };
        match command {
            Command::Flows {
                start,
                mut flows,
                reply,
            } => {
                let (table, room) = (&self.state.flows, flows.capacity());
                flows.extend(table.slice(start, room).map(|(_, flow)| flow.clone()));
                let end = start.saturating_add(room);
                let next = (end < table.places()).then_some(end);
                let _ = reply.try_send(FlowSlice { flows, next }); // The asker may have left.
            }
            Command::Drain => self.http.drain(),
            Command::Http { reply } => {
                let _ = reply.try_send(self.http.report());
            }
            Command::Tcp { reply } => {
                let _ = reply.try_send(self.tcp.report());
            }
        }
    }

    fn publish(&mut self) {
        self.local.frames = self.io.frames();
        self.local.flows = self.state.flows.len() as u64;
        self.local.flows_evicted = self.state.evicted();
        self.local.affinity_evicted = self.state.affinity.evicted();
        self.local.waiting = self.state.fragments.held() as u64;
        self.shared.publish(&self.local);
    }
}
