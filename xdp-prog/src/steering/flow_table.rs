//! The table of the fast path's flows (`bpf/flows.h`), in memory shared with the programs.
//!
//! Programs put entries in. Here they are read as the programs read them, without a lock, and taken out by their tag.

use std::mem::offset_of;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU16, AtomicU32};

use rustix::time::{ClockId, clock_gettime};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::FlowSecret;
use crate::abi::{self, FLOW_WAYS, FlowSet};
use crate::edge::memory::MappedArray;

const WAYS: usize = FLOW_WAYS as usize;
const COOKIE: usize = offset_of!(abi::Flow, value) + offset_of!(abi::FlowValue, cookie);

/// The sets, their ways and the first packets without entries.
#[derive(Debug)]
pub(crate) struct FlowTable {
    pub(crate) sets: MappedArray,
    pub(crate) flows: MappedArray,
    pub(crate) firsts: MappedArray,
    pub(crate) backends: MappedArray,
    pub(crate) secret: FlowSecret,
}

/// Where an entry was found. Another flow may be there by now, but not under the same tag.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    set: usize,
    way: usize,
    tag: u32,
}

impl FlowTable {
    /// Every entry that has not run out.
    pub(crate) fn for_each(&self, mut entry: impl FnMut(Spot, abi::Flow)) {
        let now = clock();
        for set in 0..self.sets.count() {
            for way in 0..WAYS {
                let Some(tag) = self.tag(set, way) else {
                    continue;
                };
                let spot = Spot { set, way, tag };
                if let Some(flow) = self.read(spot, now) {
                    entry(spot, flow);
                }
            }
        }
    }

    /// The entry of a key, if it has not run out. Some cache misses.
    pub(crate) fn find(&self, key: &abi::FlowKey) -> Option<(Spot, abi::Flow)> {
        let hash = place_hash(&self.secret, key);
        let set = self.set_of(hash);
        let wanted = (hash >> 32) as u32 | 1;
        let way = (0..WAYS).find(|way| self.tag(set, *way) == Some(wanted))?;
        let spot = Spot {
            set,
            way,
            tag: wanted,
        };
        let flow = self.read(spot, clock())?;
        (flow.key == *key).then_some((spot, flow))
    }

    fn set_of(&self, hash: u64) -> usize {
        hash as usize & (self.sets.count() - 1)
    }

    /// How many owner entries have keys that belong into the key's set, or more than there are: programs look for none
    /// where it is 0. Raised before one is made, and lowered after one is taken out.
    pub(crate) fn pins(&self, key: &abi::FlowKey) -> Option<&AtomicU32> {
        self.pins_of(self.set_of(place_hash(&self.secret, key)))
    }

    fn pins_of(&self, set: usize) -> Option<&AtomicU32> {
        self.sets.half(set, offset_of!(FlowSet, pins))
    }

    /// There are no owner entries at all.
    pub(crate) fn forget_pins(&self) {
        for set in 0..self.sets.count() {
            if let Some(pins) = self.pins_of(set) {
                pins.store(0, Release);
            }
        }
    }

    /// Takes an entry out, unless another flow has its place by now.
    pub(crate) fn remove(&self, spot: Spot) {
        if let Some(tag) = self.sets.half(spot.set, tag_offset(spot.way)) {
            _ = tag.compare_exchange(spot.tag, 0, AcqRel, Relaxed);
        }
    }

    /// Gives an entry of a former process the numbers of this one. It counts as that one's until all are written.
    pub(crate) fn renumber(&self, spot: Spot, depends: (u32, u32), service: u32, instance: u32) {
        let index = self.index(spot);
        let store = |offset: usize, number: u32| {
            let offset = offset_of!(abi::Flow, value) + offset;
            if let Some(word) = self.flows.half(index, offset) {
                word.store(number, Release);
            }
        };
        store(offset_of!(abi::FlowValue, slot), depends.0);
        store(offset_of!(abi::FlowValue, epoch), depends.1);
        store(offset_of!(abi::FlowValue, service), service);
        store(offset_of!(abi::FlowValue, instance), instance);
    }

    fn tag(&self, set: usize, way: usize) -> Option<u32> {
        let tag = self.sets.half(set, tag_offset(way))?.load(Acquire);
        (tag != 0).then_some(tag)
    }

    /// When the entry runs out, in units of 2^32 ns.
    pub(crate) fn deadline(&self, spot: Spot) -> Option<&AtomicU16> {
        self.deadline_of(spot.set, spot.way)
    }

    fn deadline_of(&self, set: usize, way: usize) -> Option<&AtomicU16> {
        let offset = offset_of!(FlowSet, deadlines) + way * size_of::<u16>();
        self.sets.quarter(set, offset)
    }

    fn live(&self, spot: Spot, now: u64) -> bool {
        self.deadline(spot).is_some_and(|deadline| {
            let left = deadline.load(Relaxed).wrapping_sub((now >> 32) as u16);
            left.cast_signed() >= 0
        })
    }

    fn index(&self, spot: Spot) -> usize {
        spot.way * self.sets.count() + spot.set
    }

    /// The entry, if it has not run out and was one flow's all the while.
    fn read(&self, spot: Spot, now: u64) -> Option<abi::Flow> {
        if !self.live(spot, now) {
            return None;
        }
        let index = self.index(spot);
        let cookie = || Some(self.flows.word(index, COOKIE)?.load(Acquire));
        let before = cookie()?;
        let flow = copied(&self.flows, index)?;
        let same = before != 0
            && cookie() == Some(before)
            && self.tag(spot.set, spot.way) == Some(spot.tag);
        same.then_some(flow)
    }

    /// What is remembered of a flow that had its first packet alone, by its hash: its backend's print.
    pub(crate) fn first(&self, ifindex: u32, hash: u64) -> Option<u16> {
        let line = ifindex % abi::FIRST_REGIONS * abi::FIRST_LINES
            + (hash % u64::from(abi::FIRST_LINES)) as u32;
        let now = (clock() >> 28) as u16;
        let mut words = (0..size_of::<abi::Firsts>())
            .step_by(size_of::<u64>())
            .filter_map(|offset| Some(self.firsts.word(line as usize, offset)?.load(Relaxed)));
        let ours = |word: &u64| {
            (word ^ hash) >> 32 == 0 && now.wrapping_sub(*word as u16) <= abi::FIRST_LIFETIME as u16
        };
        Some((words.find(ours)? >> 17) as u16 & 0x7fff)
    }

    /// Their clocks have 16 bits, by which what ran out long ago would be to come: an entry after 39 hours, a first packet
    /// after 4.9. Keeps the one in the past and takes the other out. Some milliseconds.
    pub(crate) fn keep_past(&self) {
        let now = (clock() >> 32) as u16;
        for set in 0..self.sets.count() {
            for way in 0..WAYS {
                let Some(deadline) = self.deadline_of(set, way) else {
                    continue;
                };
                let end = deadline.load(Relaxed);
                if end.wrapping_sub(now).cast_signed() < -1 {
                    // Unless another flow has the way by now.
                    _ = deadline.compare_exchange(end, now.wrapping_sub(1), AcqRel, Relaxed);
                }
            }
        }
        for line in 0..self.firsts.count() {
            let now = (clock() >> 28) as u16;
            for offset in (0..size_of::<abi::Firsts>()).step_by(size_of::<u64>()) {
                let Some(first) = self.firsts.word(line, offset) else {
                    continue;
                };
                let word = first.load(Relaxed);
                // Programs may be ahead of our clock.
                let age = now.wrapping_add(1).wrapping_sub(word as u16);
                if word != 0 && age > abi::FIRST_LIFETIME as u16 + 1 {
                    _ = first.compare_exchange(word, 0, AcqRel, Relaxed);
                }
            }
        }
    }

    /// A backend of the compiled choices.
    pub(crate) fn backend(&self, place: u32) -> Option<abi::Backend> {
        copied(&self.backends, place as usize)
    }
}

/// Where a key belongs: `place_hash` of `bpf/flows.h`.
pub(crate) fn place_hash(secret: &FlowSecret, key: &abi::FlowKey) -> u64 {
    let mut words = [0_u32; size_of::<abi::FlowKey>() / size_of::<u32>()];
    words.as_mut_bytes().copy_from_slice(key.as_bytes());
    words[9] ^= words[10] << 24; // The protocol to the interface.
    let (secret, _) = secret.as_chunks();
    let sum = |at: usize| u64::from(words[at].wrapping_add(u32::from_ne_bytes(secret[at])));
    let hash = (0..secret.len()).step_by(2).fold(0_u64, |hash, at| {
        hash.wrapping_add(sum(at).wrapping_mul(sum(at + 1)))
    });
    let hash = (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = (hash ^ hash >> 29).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ hash >> 32
}

/// A value of the array, word by word: another may be there before the last one.
fn copied<T: FromZeros + FromBytes + IntoBytes>(array: &MappedArray, index: usize) -> Option<T> {
    let mut value = T::new_zeroed();
    for (n, word) in value
        .as_mut_bytes()
        .chunks_mut(size_of::<u64>())
        .enumerate()
    {
        let read = array.word(index, n * size_of::<u64>())?.load(Acquire);
        word.copy_from_slice(&read.to_ne_bytes());
    }
    Some(value)
}

const fn tag_offset(way: usize) -> usize {
    offset_of!(FlowSet, tags) + way * size_of::<u32>()
}

/// `CLOCK_MONOTONIC`, in nanoseconds.
fn clock() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Values that are copied are whole words.
const _: () = {
    assert!(size_of::<abi::Flow>().is_multiple_of(size_of::<u64>()));
    assert!(size_of::<abi::Backend>().is_multiple_of(size_of::<u64>()));
};
