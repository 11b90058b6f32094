//! Which packets in fragments are under way, and what their first fragments decided.

use super::held::{Chain, Held};
use super::share::Shares;
use crate::flow::{Direction, FlowId, Index, KeyHash};
use crate::parse::Fragment;
use crate::{DropReason, FlowKey, FrameBuf, Hook, Ingress, KernelReason, Now, Tuple, timeouts};

/// Packets in fragments that one worker tells apart at a time. A packet takes its place for a moment after its
/// last fragment, so this is 40,000 whole packets a second.
const PACKETS_MAX: usize = 4096;
/// Fragments of one packet that wait for its first (K-18).
const WAITING_MAX: usize = 16;

/// What the fragments of one packet have in common at one hook (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct PacketKey {
    /// The tuple's ports are the halves of the identification.
    key: FlowKey,
    hook: Hook,
}

impl PacketKey {
    pub(super) fn new(ingress: Ingress, fragment: &Fragment) -> Self {
        let tuple = Tuple {
            src: fragment.src(),
            dst: fragment.dst(),
            sport: (fragment.id() >> 16) as u16,
            dport: fragment.id() as u16,
            proto: fragment.proto(),
        };
        Self {
            key: FlowKey {
                tuple,
                ifindex: ingress.ifindex,
            },
            hook: ingress.hook,
        }
    }
}

/// What becomes of a packet's fragments, by the verdict on its first one.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Route {
    /// Translated as the flow says, if it is still the one with this number.
    Flow {
        id: FlowId,
        direction: Direction,
        cookie: u64,
    },
    /// To the worker that owns the flow.
    Worker(u16),
    /// Given back.
    Kernel(KernelReason),
    /// The first one went nowhere.
    Refused,
}

/// A place in the table; good until the packet is removed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct PacketId(u16);

#[derive(Debug)]
struct Packet {
    key: PacketKey,
    hash: u32,
    live: bool,
    /// `None` until the first fragment comes; then with its ports.
    settled: Option<(Route, [u16; 2])>,
    until: Now,
    /// Bytes of payload seen since, and all that there are once the last fragment is known.
    seen: usize,
    total: Option<usize>,
    waiting: Chain,
}

impl Packet {
    /// Whether all of its fragments went their way, as far as their lengths tell.
    fn complete(&self) -> bool {
        self.total.is_some_and(|total| self.seen >= total)
    }
}

/// Packets in fragments, each with its first fragment's verdict or with the fragments that wait for it.
///
/// Bounded in every way: packets, fragments waiting for one packet, fragments waiting in all, one pod's part of
/// both, and time ([`timeouts::FRAGMENTS`]). All memory is taken at the start.
#[derive(Debug)]
pub struct FragmentTable {
    packets: Vec<Packet>,
    free: Vec<u16>,
    index: Index,
    hash: KeyHash,
    shares: Shares,
    held: Held,
    /// Where `expire` goes on.
    hand: usize,
    timed_out: u64,
}

impl FragmentTable {
    /// An empty table: 1.5 MiB, touched as it is used. `seed` keys the index's hash.
    pub fn new(seed: u64) -> Self {
        Self {
            packets: Vec::with_capacity(PACKETS_MAX),
            free: Vec::with_capacity(PACKETS_MAX),
            index: Index::new(PACKETS_MAX),
            hash: KeyHash::new(seed),
            shares: Shares::new(),
            held: Held::new(),
            hand: 0,
            timed_out: 0,
        }
    }

    /// Takes the memory of the index and the counts at once.
    pub(crate) fn take_memory(&mut self) {
        self.index.take_memory();
        self.shares.take_memory();
        self.held.take_memory();
    }

    /// Packets under way.
    pub fn len(&self) -> usize {
        self.packets.len() - self.free.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fragments held, those that may go on but were not taken yet included.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Fragments that may go on, to be taken one by one with [`take`](Self::take) and processed again.
    pub fn released(&self) -> usize {
        self.held.released()
    }

    /// Moves the first released fragment into `frame`, as it was punted.
    ///
    /// # Errors
    /// [`DropReason::FrameRoom`] when the frame is too small or nothing is released. The fragment is gone.
    pub fn take(&mut self, frame: &mut FrameBuf<'_>) -> Result<(), DropReason> {
        self.held.take(frame)
    }

    /// Gives the first released fragment up, when there is no frame for it.
    pub fn discard(&mut self) {
        self.held.discard();
    }

    /// Fragments given up because their first did not come in time, since the last call. They are no longer
    /// held, and to be counted as [`DropReason::FragmentTimeout`].
    pub fn timed_out(&mut self) -> u64 {
        std::mem::take(&mut self.timed_out)
    }

    /// Moves the clock hand over at most `budget` places and forgets packets whose time is over. A lookup
    /// checks the time by itself, so that nothing is used after it, however slow the hand is.
    pub fn expire(&mut self, now: Now, budget: usize) {
        if self.is_empty() {
            return;
        }
        // Bound: the budget, and once round the table.
        for _ in 0..budget.min(self.packets.len()) {
            if self.hand >= self.packets.len() {
                self.hand = 0;
            }
            let packet = &self.packets[self.hand];
            if packet.live && packet.until < now {
                self.remove(PacketId(self.hand as u16));
            }
            self.hand += 1;
        }
    }

    /// The packet with this key, if its time is not over.
    pub(super) fn find(&mut self, key: &PacketKey, now: Now) -> Option<PacketId> {
        let hash = self.hash.hash(&key.key);
        let reference = self.index.find(hash, |reference| {
            self.packets[reference as usize - 1].key == *key
        })?;
        let id = PacketId((reference - 1) as u16);
        if self.packet(id).until < now {
            self.remove(id);
            return None;
        }
        Some(id)
    }

    /// What the first fragment decided, and its ports; `None` while it has not come.
    pub(super) fn settled(&self, id: PacketId) -> Option<(Route, [u16; 2])> {
        self.packet(id).settled
    }

    /// Makes the place of a packet that is complete that of the next one with its identification, and says whether
    /// it was. A sender may use a number again as soon as nothing of the packet is on its way (RFC 6864 section 4),
    /// and Linux draws the first one of each socket at random.
    pub(super) fn reuse(&mut self, id: PacketId) -> bool {
        let packet = &mut self.packets[usize::from(id.0)];
        let complete = packet.complete();
        if complete {
            packet.settled = None;
            packet.seen = 0;
            packet.total = None;
        }
        complete
    }

    /// A place for a packet that is new.
    pub(super) fn open(&mut self, key: PacketKey, now: Now) -> Result<PacketId, DropReason> {
        self.admits(&key)?;
        let hash = self.hash.hash(&key.key);
        self.shares.take(key.key.ifindex);
        let packet = Packet {
            key,
            hash,
            live: true,
            settled: None,
            until: now + timeouts::FRAGMENTS,
            seen: 0,
            total: None,
            waiting: Chain::EMPTY,
        };
        // Neither branch allocates: a place is free, or the slab is below the capacity it was made with.
        let at = match self.free.pop() {
            Some(at) => {
                self.packets[usize::from(at)] = packet;
                at
            }
            None => {
                self.packets.push(packet);
                (self.packets.len() - 1) as u16
            }
        };
        self.index.insert(hash, u32::from(at) + 1);
        Ok(PacketId(at))
    }

    fn admits(&self, key: &PacketKey) -> Result<(), DropReason> {
        let left = PACKETS_MAX - self.len();
        if left == 0 {
            Err(DropReason::FragmentTable)
        } else if !self.shares.admits(key.key.ifindex, left) {
            Err(DropReason::FragmentShare)
        } else {
            Ok(())
        }
    }

    /// Copies a fragment that came before the first one of its packet. Nothing changes on an error.
    pub(super) fn hold(
        &mut self,
        key: PacketKey,
        id: Option<PacketId>,
        bytes: &[u8],
        now: Now,
    ) -> Result<(), DropReason> {
        if id.is_some_and(|id| self.packet(id).waiting.len() >= WAITING_MAX) {
            return Err(DropReason::FragmentQueue);
        }
        let ifindex = key.key.ifindex;
        self.held.admits(ifindex, bytes.len())?;
        let id = match id {
            Some(id) => id,
            None => self.open(key, now)?,
        };
        let waiting = &mut self.packets[usize::from(id.0)].waiting;
        self.held.push(waiting, ifindex, bytes);
        Ok(())
    }

    /// The first fragment has come: those that waited may follow it.
    pub(super) fn settle(&mut self, id: PacketId, route: Route, ports: [u16; 2]) {
        let packet = &mut self.packets[usize::from(id.0)];
        packet.settled = Some((route, ports));
        self.held.release(&mut packet.waiting);
    }

    /// A fragment of a settled packet goes its way.
    pub(super) fn passed(&mut self, id: PacketId, fragment: &Fragment, now: Now) {
        let packet = &mut self.packets[usize::from(id.0)];
        packet.seen += fragment.len();
        if !fragment.more() {
            packet.total = Some(fragment.offset() + fragment.len());
        }
        // Duplicates count twice, so this may be early: what is late then still finds its packet for a while.
        let time = if packet.complete() {
            timeouts::FRAGMENTS_COMPLETE
        } else {
            timeouts::FRAGMENTS
        };
        packet.until = now + time;
    }

    fn packet(&self, id: PacketId) -> &Packet {
        &self.packets[usize::from(id.0)]
    }

    fn remove(&mut self, id: PacketId) {
        let packet = &mut self.packets[usize::from(id.0)];
        packet.live = false;
        self.timed_out += self.held.forget(&mut packet.waiting) as u64;
        self.shares.give(packet.key.key.ifindex);
        self.index.remove(packet.hash, u32::from(id.0) + 1);
        self.free.push(id.0);
    }
}
