//! Fragments that wait: copies in memory of our own, so that none of the kernel's frames is kept.

use super::share::Shares;
use crate::{DropReason, FrameBuf};

/// Fragments that one worker can hold: a burst of large packets whose first fragments come last.
pub(super) const HELD_MAX: usize = 256;
/// The largest, Ethernet header included: what a frame of an AF_XDP socket can hold at most.
const SIZE_MAX: usize = 4096;
/// No place.
const NONE: u16 = u16::MAX;

/// Held fragments in the order they came: a list through the slab.
#[derive(Copy, Clone, Debug)]
pub(super) struct Chain {
    head: u16,
    tail: u16,
    len: u16,
}

impl Chain {
    pub(super) const EMPTY: Self = Self {
        head: NONE,
        tail: NONE,
        len: 0,
    };

    pub(super) fn len(&self) -> usize {
        self.len.into()
    }
}

/// What is known of a held fragment.
#[derive(Copy, Clone, Debug)]
struct Place {
    next: u16,
    len: u16,
    ifindex: u32,
}

/// The memory of all held fragments of a worker: 1 MiB, touched as it is used.
#[derive(Debug)]
pub(super) struct Held {
    memory: Box<[u8]>,
    places: Box<[Place]>,
    free: Vec<u16>,
    shares: Shares,
    released: Chain,
}

impl Held {
    pub(super) fn new() -> Self {
        let place = Place {
            next: NONE,
            len: 0,
            ifindex: 0,
        };
        Self {
            memory: vec![0; HELD_MAX * SIZE_MAX].into(),
            places: vec![place; HELD_MAX].into(),
            free: (0..HELD_MAX as u16).rev().collect(),
            shares: Shares::new(),
            released: Chain::EMPTY,
        }
    }

    /// Takes the memory of the counts at once.
    pub(super) fn take_memory(&mut self) {
        self.shares.take_memory();
    }

    /// Fragments held, those released but not taken yet included.
    pub(super) fn len(&self) -> usize {
        HELD_MAX - self.free.len()
    }

    /// Fragments released and not taken yet.
    pub(super) fn released(&self) -> usize {
        self.released.len()
    }

    /// Whether a fragment of `len` bytes of this pod fits.
    pub(super) fn admits(&self, ifindex: u32, len: usize) -> Result<(), DropReason> {
        if len > SIZE_MAX {
            Err(DropReason::FrameRoom)
        } else if self.free.is_empty() {
            Err(DropReason::FragmentMemory)
        } else if !self.shares.admits(ifindex, self.free.len()) {
            Err(DropReason::FragmentShare)
        } else {
            Ok(())
        }
    }

    /// Copies a fragment to the end of a chain. The caller has asked [`admits`](Self::admits).
    pub(super) fn push(&mut self, chain: &mut Chain, ifindex: u32, bytes: &[u8]) {
        let Some(at) = self.free.pop() else { return };
        let start = usize::from(at) * SIZE_MAX;
        self.memory[start..start + bytes.len()].copy_from_slice(bytes);
        self.places[usize::from(at)] = Place {
            next: NONE,
            len: bytes.len() as u16,
            ifindex,
        };
        self.shares.take(ifindex);
        self.append(
            chain,
            Chain {
                head: at,
                tail: at,
                len: 1,
            },
        );
    }

    /// Lets a chain go out, behind those that already may.
    pub(super) fn release(&mut self, chain: &mut Chain) {
        let (mut released, chain) = (self.released, std::mem::replace(chain, Chain::EMPTY));
        self.append(&mut released, chain);
        self.released = released;
    }

    /// Forgets a chain and returns how many fragments that were.
    pub(super) fn forget(&mut self, chain: &mut Chain) -> usize {
        let count = chain.len();
        // Bound: the chain's own length.
        while self.pop(chain).is_some() {}
        count
    }

    /// Moves the first released fragment into `frame`, or only away if the frame is smaller.
    pub(super) fn take(&mut self, frame: &mut FrameBuf<'_>) -> Result<(), DropReason> {
        let mut released = self.released;
        let Some(at) = self.pop(&mut released) else {
            return Err(DropReason::FrameRoom);
        };
        self.released = released;
        let (start, len) = (
            usize::from(at) * SIZE_MAX,
            usize::from(self.places[usize::from(at)].len),
        );
        frame.resize(len)?;
        frame
            .bytes_mut()
            .copy_from_slice(&self.memory[start..start + len]);
        Ok(())
    }

    /// Forgets the first released fragment.
    pub(super) fn discard(&mut self) {
        let mut released = self.released;
        let _ = self.pop(&mut released);
        self.released = released;
    }

    fn append(&mut self, chain: &mut Chain, more: Chain) {
        if more.len == 0 {
            return;
        }
        match chain.tail {
            NONE => chain.head = more.head,
            tail => self.places[usize::from(tail)].next = more.head,
        }
        chain.tail = more.tail;
        chain.len += more.len;
    }

    /// Frees the first place of a chain; its bytes stay until the next `push`.
    fn pop(&mut self, chain: &mut Chain) -> Option<u16> {
        if chain.len == 0 {
            return None;
        }
        let at = chain.head;
        let place = self.places[usize::from(at)];
        chain.head = place.next;
        chain.len -= 1;
        if chain.len == 0 {
            *chain = Chain::EMPTY;
        }
        self.shares.give(place.ifindex);
        self.free.push(at);
        Some(at)
    }
}
