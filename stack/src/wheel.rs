//! Timers: a hierarchical wheel over ids, driven by the time it is told.
//!
//! Each id has at most one deadline. Setting, moving and clearing one costs the same however many there
//! are, and allocates only when an id beyond all former ones comes.

use weft_datapath::Now;

/// Bits of a tick in nanoseconds: 1.05 ms, well under every timeout of TCP.
const TICK_BITS: u32 = 20;
/// Slots of a level: as many as a word has bits, so that one instruction finds the next one in use.
const SLOTS: usize = 64;
const SLOT_BITS: u32 = 6;
/// Levels: 64^5 ticks are 13 days. Later deadlines fire then, and whoever set them looks again.
const LEVELS: usize = 5;
const NONE: u32 = u32::MAX;

#[derive(Copy, Clone, Debug)]
struct Link {
    due: u64,
    next: u32,
    prev: u32,
    /// Level and slot, or [`NONE`] for an id without a deadline.
    slot: u32,
}

const UNSET: Link = Link {
    due: 0,
    next: NONE,
    prev: NONE,
    slot: NONE,
};

/// The deadlines of many ids.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// Every deadline up to this tick has fired.
    tick: u64,
    heads: [u32; SLOTS * LEVELS],
    used: [u64; LEVELS],
    links: Vec<Link>,
}

impl Wheel {
    /// A wheel that starts at time 0, with room for `ids` ids before it allocates.
    pub(crate) fn new(ids: usize) -> Self {
        Self {
            tick: 0,
            heads: [NONE; SLOTS * LEVELS],
            used: [0; LEVELS],
            links: Vec::with_capacity(ids),
        }
    }

    /// When the deadline of `id` is, rounded up to a tick.
    pub(crate) fn due(&self, id: u32) -> Option<Now> {
        let link = self.links.get(id as usize)?;
        (link.slot != NONE).then(|| Now::from_nanos(link.due << TICK_BITS))
    }

    /// Sets the deadline of `id`, in place of any it had. It never fires early.
    pub(crate) fn set(&mut self, id: u32, at: Now) {
        self.clear(id);
        let at_index = id as usize;
        if at_index >= self.links.len() {
            self.links.resize(at_index + 1, UNSET);
        }
        let due = at.as_nanos().div_ceil(1 << TICK_BITS).max(self.tick + 1);
        // A slot short of a whole turn of the last level, or it would be taken for the present one.
        let horizon = (SLOTS as u64 - 1) << (SLOT_BITS * (LEVELS as u32 - 1));
        self.links[at_index].due = due.min(self.tick + horizon);
        self.insert(id);
    }

    /// Takes the deadline of `id` away, if it has one.
    pub(crate) fn clear(&mut self, id: u32) {
        let Some(link) = self.links.get(id as usize).copied() else {
            return;
        };
        if link.slot == NONE {
            return;
        }
        if link.prev == NONE {
            self.heads[link.slot as usize] = link.next;
            if link.next == NONE {
                let (level, slot) = (link.slot as usize / SLOTS, link.slot as usize % SLOTS);
                self.used[level] &= !(1 << slot);
            }
        } else {
            self.links[link.prev as usize].next = link.next;
        }
        if link.next != NONE {
            self.links[link.next as usize].prev = link.prev;
        }
        self.links[id as usize] = UNSET;
    }

    fn insert(&mut self, id: u32) {
        let due = self.links[id as usize].due;
        // The highest digit in which due and now differ is where it must be looked at again.
        let digit = (due ^ self.tick).checked_ilog2().unwrap_or(0) / SLOT_BITS;
        let level = (digit as usize).min(LEVELS - 1);
        let slot = (due >> (SLOT_BITS * level as u32)) as usize % SLOTS;
        let at = level * SLOTS + slot;
        let head = self.heads[at];
        if head != NONE {
            self.links[head as usize].prev = id;
        }
        self.links[id as usize] = Link {
            due,
            next: head,
            prev: NONE,
            slot: at as u32,
        };
        self.heads[at] = id;
        self.used[level] |= 1 << slot;
    }

    /// The slot to look at first, and the tick at which it begins; of two, the one of the higher level, whose
    /// ids may belong into the lower.
    fn next_slot(&self) -> Option<(usize, u64)> {
        let of_level = |(level, used): (usize, &u64)| {
            let shift = SLOT_BITS * level as u32;
            let position = (self.tick >> shift) % SLOTS as u64;
            let ahead = u64::from(used.rotate_right(position as u32).trailing_zeros());
            let begins = ((self.tick >> shift) + ahead) << shift;
            let slot = (position + ahead) as usize % SLOTS;
            (level * SLOTS + slot, begins.max(self.tick))
        };
        let in_use = self.used.iter().enumerate().filter(|(_, used)| **used != 0);
        in_use.map(of_level).rev().min_by_key(|(_, tick)| *tick)
    }

    /// The earliest time at which there may be something to do: a deadline, or some ticks before one.
    pub(crate) fn next(&self) -> Option<Now> {
        let (_, tick) = self.next_slot()?;
        Some(Now::from_nanos(tick << TICK_BITS))
    }

    /// Takes one id whose deadline has come by `now`. Each id moves down at most [`LEVELS`] times before it fires.
    pub(crate) fn expire(&mut self, now: Now) -> Option<u32> {
        let to = now.as_nanos() >> TICK_BITS;
        // Bound: each turn moves the clock to another slot in use or an id one level down.
        while let Some((at, tick)) = self.next_slot() {
            if tick > to {
                break;
            }
            self.tick = tick;
            let id = self.heads[at];
            let due = self.links[id as usize].due;
            self.clear(id);
            if due <= tick {
                return Some(id);
            }
            self.links[id as usize].due = due;
            self.insert(id);
        }
        self.tick = self.tick.max(to);
        None
    }
}

#[cfg(test)]
mod tests;
