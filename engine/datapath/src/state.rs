//! What one worker owns: its flows, the owner entries to be written, cursors and random numbers.

use arrayvec::ArrayVec;

use crate::adopt::{FastEnds, FastFlows};
use crate::affinity::AffinityTable;
use crate::client_names::ClientNames;
use crate::cut::Rest;
use crate::flow::{Flow, FlowId, FlowTable, InsertError, NewFlow};
use crate::hash::source_hash;
use crate::overlay::is_tunnel;
use crate::rate::IcmpErrors;
use crate::tunnel::{Opening, Said};
use crate::{
    Address, BURST_MAX, Direction, FlowKey, FragmentTable, Hook, Inject, Now, Pod, Ports, SlotRef,
    Tables, TooLong, resident,
};

/// Owner entries that one frame can cause at most: an old flow removed, one evicted for want of room, a dead
/// one in the way of the new one's reply removed, and a new one written, each in both directions; and the new one left
/// to the hooks.
pub const PIN_OPS_PER_FRAME: usize = 9;

/// Owner entries that the buffer holds: a burst's, and as many again for `expire`.
pub const PIN_OPS_MAX: usize = 2 * PIN_OPS_PER_FRAME * BURST_MAX;

/// Round-robin cursors; services whose numbers are equal modulo this share one.
const CURSORS: usize = 1 << 16;

/// A change of the `pins` map, or of the hooks' flows, that the edge makes before it transmits the burst.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum PinOp {
    /// Packets of this key belong to that worker.
    Insert {
        /// The packets.
        key: FlowKey,
        /// The worker.
        owner: u16,
        /// The flow's number.
        cookie: u64,
        /// How packets that answer them are injected, if the flow ends here: whoever finds no worker alive resets
        /// its ends by that.
        terminated: Option<Inject>,
    },
    /// Packets of this key belong to nobody.
    Remove {
        /// The packets.
        key: FlowKey,
        /// The number of the flow that is gone, where another worker may have written the entry since: then it
        /// is that worker's, and stays. `None`: nobody else can have.
        cookie: Option<u64>,
    },
    /// The hooks may carry the flow on, from the next packet on, or for UDP after a pause.
    Leave {
        /// Its ends.
        ends: FastEnds,
        /// What it depends on at the far end, or, where the client is a peer's pod, there.
        slot: SlotRef,
        /// The caller's number of the service port; `None` for a flow from pod to pod.
        service: Option<u32>,
        /// Of one of those, what its client's node has said.
        said: Said,
    },
}

/// Who opens the flows that the hooks carry.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Opens {
    /// The hooks: the engine opens what they leave.
    Hooks,
    /// The engine, which leaves them to the hooks then.
    Engine,
}

/// Owner entries to be written, in order. Bounded: a full buffer drops new flows as `pin_room`.
#[derive(Debug)]
pub struct PinOps(Vec<PinOp>);

impl PinOps {
    fn new() -> Self {
        Self(Vec::with_capacity(PIN_OPS_MAX))
    }

    /// The changes since the last [`clear`](Self::clear), in the order to make them.
    pub fn as_slice(&self) -> &[PinOp] {
        &self.0
    }

    /// Forgets the changes: the edge has made them.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Changes that still fit.
    pub fn room(&self) -> usize {
        PIN_OPS_MAX - self.0.len()
    }

    /// Callers look at `room` first, so this never grows the memory; a change beyond it is lost.
    fn push(&mut self, op: PinOp) {
        debug_assert!(self.room() > 0);
        if self.room() > 0 {
            self.0.push(op);
        }
    }
}

/// A connection of a terminated flow that is no more.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Severed {
    /// The key of packets from its peer.
    pub key: FlowKey,
    /// How packets to that peer are injected.
    pub answer: Inject,
}

/// What a worker's state is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateConfig {
    /// Flows there may be.
    pub max_flows: usize,
    /// Keys the flow index and starts the random numbers; from the system's random source.
    pub seed: u64,
    /// This worker.
    pub worker: u16,
    /// All workers, at least 1.
    pub workers: u16,
    /// The punt pair.
    pub ports: Ports,
    /// What a pod that reaches itself through a service sees as the client, one of each family at most.
    pub hairpin: ArrayVec<Address, 2>,
}

/// What one worker owns. Nothing in it is shared but the memory of `affinity`.
#[derive(Debug)]
pub struct State {
    /// The flows.
    pub flows: FlowTable,
    /// Packets in fragments, and fragments that wait.
    pub fragments: FragmentTable,
    /// Owner entries to be written before the burst is transmitted.
    pub pin_ops: PinOps,
    /// Clients of services with session affinity, and their backends. Of several workers each has the same.
    pub affinity: AffinityTable,
    /// Names of peers' pods. Of several workers each has the same.
    pub client_names: ClientNames,
    /// Of terminated flows that are no more though their connections are, one of these: to be reset, and the other
    /// with it. Never more than [`PIN_OPS_MAX`], so it never grows.
    pub severed: Vec<Severed>,
    /// What the last [`Claim::TooLong`](crate::Claim::TooLong) was about.
    pub too_long: Option<TooLong>,
    /// The MTU that the last packet dropped as [`PodMtu`](crate::DropReason::PodMtu) was longer than.
    pub(crate) narrow: u16,
    /// What is still to be sent of a packet that was too long for a tunnel.
    pub(crate) rest: Rest,
    /// What the peer that the packet goes to is to know of it.
    pub(crate) opening: Option<Opening>,
    /// The last tunnel whose way turned out to be narrower, and bytes of the longest packet that it takes, outer headers
    /// included.
    pub narrowed: Option<(u32, u16)>,
    /// What a peer has said of the packet.
    pub(crate) said: Said,
    pub(crate) worker: u16,
    pub(crate) workers: u16,
    pub(crate) ports: Ports,
    hairpin: ArrayVec<Address, 2>,
    /// On the ICMP errors that the worker sends itself.
    pub(crate) icmp_errors: IcmpErrors,
    /// Where `expire` goes on.
    pub(crate) hand: usize,
    /// Where `make_room` goes on.
    pub(crate) probe: usize,
    pub(crate) evicted: u64,
    cursors: Box<[u32]>,
    random: u64,
    cookies: u64,
    /// Until when an unknown flow may be one that the kernel opened while the worker was away.
    away_until: Now,
    /// Flows that the hooks carry.
    pub(crate) fast: Option<Box<dyn FastFlows>>,
    /// Who opens those.
    opens: Opens,
}

impl State {
    /// Takes all the memory that the worker will need, if it is the only one.
    pub fn new(config: StateConfig) -> Self {
        let affinity = AffinityTable::for_flows(config.max_flows, config.seed);
        let names = ClientNames::for_flows(config.max_flows, config.seed);
        Self::sharing(config, affinity, names)
    }

    /// The same for one of several workers, which have `affinity` ([`AffinityTable::shared`]) and `client_names`, a clone, in common.
    pub fn sharing(
        config: StateConfig,
        affinity: AffinityTable,
        client_names: ClientNames,
    ) -> Self {
        Self {
            flows: FlowTable::new(config.max_flows, config.seed),
            fragments: FragmentTable::new(config.seed),
            pin_ops: PinOps::new(),
            affinity,
            client_names,
            severed: Vec::with_capacity(PIN_OPS_MAX),
            too_long: None,
            narrow: 0,
            rest: Rest::new(),
            opening: None,
            narrowed: None,
            said: Said::default(),
            worker: config.worker,
            workers: config.workers.max(1),
            ports: config.ports,
            hairpin: config.hairpin,
            icmp_errors: IcmpErrors::new(),
            hand: 0,
            probe: 0,
            evicted: 0,
            cursors: vec![0; CURSORS].into(),
            random: config.seed,
            cookies: 0,
            away_until: Now::default(),
            fast: None,
            opens: Opens::Hooks,
        }
    }

    /// Takes the memory that packets reach at random, which would have the first of them wait for the kernel to make it: 32 bytes or
    /// more for each flow there may be, and 2 MiB. For the thread that is to use it, so that it is near that thread's core.
    pub fn take_memory(&mut self) {
        self.flows.take_memory();
        self.fragments.take_memory();
        self.icmp_errors.take_memory();
        resident::take(&mut self.cursors);
    }

    /// The hooks carry flows, too, and these are theirs.
    pub fn set_fast_flows(&mut self, flows: Box<dyn FastFlows>, opens: Opens) {
        self.fast = Some(flows);
        self.opens = opens;
    }

    /// Whether a flow that is opened here is left to the hooks. Those of tunnels are opened nowhere else.
    pub(crate) fn leaves(&self, flow: &Flow) -> bool {
        let opens = self.opens == Opens::Engine || flow.is_tunnelled();
        flow.leaves() && self.fast.is_some() && opens
    }

    /// Leaves the flow to the hooks, if it is one for them.
    pub(crate) fn leave(&mut self, id: FlowId) {
        let Some(flow) = self.flows.at(id).filter(|flow| self.leaves(flow)) else {
            return;
        };
        let [client, answers] = [Direction::Forward, Direction::Reply].map(|way| flow.key(way));
        if let Some((client, answers)) = client.zip(answers) {
            let service = flow.kind().serves().then(|| flow.service());
            // Where a peer's pod is; the hooks ask by themselves where one of this node is.
            let slot = match is_tunnel(client.ifindex) {
                true => flow.client_slot(),
                false => flow.server_slot(),
            };
            let ends = FastEnds { client, answers };
            let said = flow.said();
            self.pin_ops.push(PinOp::Leave {
                ends,
                slot,
                service,
                said,
            });
        }
    }

    /// Says that the worker was away for longer than the hooks wait, so that the kernel may have
    /// opened flows of its own meanwhile. Until the time given, a flow unknown here counts as older
    /// than the enrolment, whatever the pods' own grace.
    pub fn was_away(&mut self, until: Now) {
        self.away_until = until;
    }

    /// Whether more of the last packet is to be sent: [`next_fragment`](crate::next_fragment) has it.
    #[inline]
    pub fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Gives that up.
    pub fn forget_rest(&mut self) {
        self.rest.forget();
    }

    /// The punt pair.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Flows that made room for new ones before their time was over.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Whether an unknown flow of this pod may be one that the kernel knows.
    pub(crate) fn grace(&self, pod: &Pod, now: Now) -> bool {
        now < self.away_until || pod.grace(now)
    }

    /// The flow that a packet with this key is of at this hook, and which way it goes.
    pub(crate) fn known(
        &self,
        key: &FlowKey,
        hook: Hook,
        now: Now,
        tables: &Tables,
    ) -> Option<(FlowId, Direction)> {
        let (id, direction) = self.flows.find(key)?;
        let flow = self.flows.at(id)?;
        (flow.hook(direction) == hook && flow.valid(now, tables)).then_some((id, direction))
    }

    /// The hairpin address of that address's family.
    pub(crate) fn hairpin(&self, family: &Address) -> Option<Address> {
        let mut known = self.hairpin.iter();
        known
            .find(|address| address.is_v4() == family.is_v4())
            .copied()
    }

    /// A number for a new flow: the worker in the upper 16 bits, a count below.
    pub(crate) fn cookie(&mut self) -> u64 {
        self.cookies += 1;
        u64::from(self.worker) << 48 | self.cookies & 0xffff_ffff_ffff
    }

    /// The cursor of a service's round robin.
    pub(crate) fn cursor(&mut self, service: u32) -> &mut u32 {
        &mut self.cursors[service as usize % CURSORS]
    }

    /// A random number (SplitMix64 from the seed): for balance, not for secrets.
    pub(crate) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Changes of owner entries that still fit, and so do the flows that they sever: one for two removals at most.
    pub(crate) fn room(&self) -> usize {
        let severed = PIN_OPS_MAX.saturating_sub(self.severed.len());
        self.pin_ops.room().min(2 * severed)
    }

    /// Adds a flow and asks for its owner entries.
    pub(crate) fn add(&mut self, flow: NewFlow) -> Result<FlowId, InsertError> {
        let (owner, cookie) = (flow.owner, flow.cookie);
        let id = self.flows.insert(flow)?;
        if self.answers_taken(id) {
            self.flows.remove(id);
            return Err(InsertError::NoPort);
        }
        let pinned = self.pinned(id);
        for (direction, key) in [Direction::Forward, Direction::Reply]
            .into_iter()
            .zip(pinned)
        {
            let Some(key) = key else { continue };
            let terminated = self.flows.at(id).and_then(|flow| flow.answer(direction));
            self.pin_ops.push(PinOp::Insert {
                key,
                owner,
                cookie,
                terminated,
            });
        }
        self.leave(id);
        Ok(id)
    }

    /// Removes a flow and its owner entries.
    pub(crate) fn remove(&mut self, id: FlowId) {
        let [forward, reply] = self.pinned(id);
        if let Some(flow) = self.flows.at(id) {
            let (kind, cookie) = (flow.kind(), flow.cookie());
            let open = flow.open_half();
            let ends = open.and_then(|open| flow.key(open).zip(flow.answer(open)));
            if let Some((key, answer)) = ends {
                self.severed.push(Severed { key, answer });
            }
            let to_vip = |key: &FlowKey| kind.serves() && forward == Some(*key);
            for key in [forward, reply].into_iter().flatten() {
                let shared = !to_vip(&key) && self.contested(&key);
                let cookie = shared.then_some(cookie);
                self.pin_ops.push(PinOp::Remove { key, cookie });
            }
        }
        self.flows.remove(id);
    }

    /// Removes a flow's forward key and its owner entry: they are to be another's.
    pub(crate) fn supersede(&mut self, id: FlowId) {
        if let [Some(key), _] = self.pinned(id) {
            self.pin_ops.push(PinOp::Remove { key, cookie: None }); // To a VIP, so never contested.
        }
        self.flows.supersede(id);
    }

    /// The keys of a flow that steering must know: all where there are several workers; with one,
    /// all where the hooks open flows, which have to know what is taken here;
    /// replies that come by the kernel, which would reach the pod untranslated, and those of terminated flows, which
    /// may be to the node's address, and whose ends are to be reset when no worker is left.
    fn pinned(&self, id: FlowId) -> [Option<FlowKey>; 2] {
        let Some(flow) = self.flows.at(id) else {
            return [None, None];
        };
        [Direction::Forward, Direction::Reply].map(|direction| {
            let pinned = self.workers > 1
                || self.fast.is_some() && self.opens == Opens::Hooks
                || flow.hook(direction) == Hook::ToPod
                || flow.kind().ends_here();
            flow.key(direction).filter(|_| pinned)
        })
    }

    /// Whether another worker may write an entry of this key: as that of the packets that open a flow, or of the
    /// replies to those. It opens what comes to it by the hash of a source. (A VIP is the source of nothing, so
    /// what is sent to one is never contested.)
    fn contested(&self, key: &FlowKey) -> bool {
        let tuple = &key.tuple;
        [(&tuple.src, tuple.sport), (&tuple.dst, tuple.dport)]
            .into_iter()
            .any(|(end, port)| source_hash(end, port, tuple.proto) % self.workers != self.worker)
    }
}
