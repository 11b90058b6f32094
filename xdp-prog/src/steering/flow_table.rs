//! The table of the fast path's flows (`bpf/flows.h`), in memory shared with the programs.
//!
//! Programs put entries in. Here they are read as the programs read them, without a lock, and taken out by their tag.

use std::mem::offset_of;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use rustix::time::{ClockId, clock_gettime};
use weft_datapath::seeded_flow_hash;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::abi::{self, FLOW_WAYS, FlowSet};
use crate::edge::memory::MappedArray;

const WAYS: usize = FLOW_WAYS as usize;
/// A flow in words.
const WORDS: usize = size_of::<abi::Flow>() / size_of::<u64>();
const COOKIE: usize = offset_of!(abi::Flow, value) + offset_of!(abi::FlowValue, cookie);

/// The sets, their ways and the first packets without entries.
#[derive(Debug)]
pub(crate) struct FlowTable {
    pub(crate) sets: MappedArray,
    pub(crate) flows: MappedArray,
    pub(crate) firsts: MappedArray,
    pub(crate) backends: MappedArray,
    pub(crate) seed: u64,
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
                let Some((spot, flow)) = self.tag(set, way).and_then(|tag| {
                    let spot = Spot { set, way, tag };
                    self.live(spot, now).then(|| self.read(spot))?
                }) else {
                    continue;
                };
                entry(spot, flow);
            }
        }
    }

    /// The entry of a key, if it has not run out. Some cache misses.
    pub(crate) fn find(&self, key: &abi::FlowKey) -> Option<(Spot, abi::Flow)> {
        let tuple = key.to_datapath()?.tuple;
        let hash = seeded_flow_hash(self.seed ^ u64::from(key.ifindex), &tuple);
        let set = hash as usize & (self.sets.count() - 1);
        let wanted = (hash >> 32) as u32 | 1;
        let way = (0..WAYS).find(|way| self.tag(set, *way) == Some(wanted))?;
        let spot = Spot {
            set,
            way,
            tag: wanted,
        };
        let (spot, flow) = self.live(spot, clock()).then(|| self.read(spot))??;
        (flow.key == *key).then_some((spot, flow))
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
        let offset = offset_of!(FlowSet, deadlines) + spot.way * size_of::<u16>();
        self.sets.quarter(spot.set, offset)
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

    /// The entry, if it was one flow's all the while.
    fn read(&self, spot: Spot) -> Option<(Spot, abi::Flow)> {
        let index = self.index(spot);
        let cookie = || Some(self.flows.word(index, COOKIE)?.load(Acquire));
        let before = cookie()?;
        let mut words = [0_u64; WORDS];
        for (n, word) in words.iter_mut().enumerate() {
            *word = self.flows.word(index, n * size_of::<u64>())?.load(Acquire);
        }
        let mut flow = abi::Flow::new_zeroed();
        flow.as_mut_bytes().copy_from_slice(words.as_bytes());
        let same = before != 0
            && cookie() == Some(before)
            && self.tag(spot.set, spot.way) == Some(spot.tag);
        same.then_some((spot, flow))
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
            (word ^ hash) >> 32 == 0 && now.wrapping_sub(*word as u16) <= FIRST_LIFETIME
        };
        Some((words.find(ours)? >> 17) as u16 & 0x7fff)
    }

    /// A backend of the compiled choices.
    pub(crate) fn backend(&self, place: u32) -> Option<abi::Backend> {
        let mut words = [0_u64; size_of::<abi::Backend>() / size_of::<u64>()];
        for (n, word) in words.iter_mut().enumerate() {
            let part = self.backends.word(place as usize, n * size_of::<u64>())?;
            *word = part.load(Relaxed);
        }
        abi::Backend::read_from_bytes(words.as_bytes()).ok()
    }
}

/// As `FIRST_LIFETIME` of `bpf/first.h`.
const FIRST_LIFETIME: u16 = 112;

const fn tag_offset(way: usize) -> usize {
    offset_of!(FlowSet, tags) + way * size_of::<u32>()
}

/// `CLOCK_MONOTONIC`, in nanoseconds.
fn clock() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

const _: () = assert!(size_of::<abi::Flow>().is_multiple_of(size_of::<u64>()));
