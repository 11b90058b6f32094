//! The choice that the hooks make by themselves: service ports, their backends and Maglev tables as maps.
//!
//! A port's table is written to a place where no program looks, then its entry in `services` is exchanged, which a
//! program sees whole. What it had before is free a moment later, when no program can still be reading it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use weft_datapath::{
    Address, BackendPath, MaglevTable, Protocol, ServicePort, SlotRef, Stage, TUNNELS,
};
use zerocopy::FromZeros;
use zerocopy::byteorder::big_endian::U16;

use crate::abi;
use crate::maps::{MapError, TypedMap};

use super::{Error, ServiceKey, Steering};

/// Longer than any program runs.
const QUARANTINE: Duration = Duration::from_millis(10);
/// Elements of one call.
const BATCH: usize = 1024;

/// What the hooks need to choose a backend for a service port as the engine would.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The caller's number of the service port.
    pub id: u32,
    /// The table.
    pub maglev: MaglevTable,
    /// The backends, in the table's order.
    pub backends: Vec<ChoiceBackend>,
}

impl Choice {
    /// The choice of a service port that is plain; `None`: the engine alone chooses.
    pub fn of(port: &ServicePort) -> Option<Self> {
        let options = port.options();
        let plain = options.affinity.is_none()
            && options.max_flows.is_none()
            && !options.reset_on_removal
            && options.stage == Stage::L4;
        let maglev = port.maglev().filter(|_| plain)?;
        let backends = port.backends().iter().map(|backend| ChoiceBackend {
            end: (backend.address, backend.port),
            ifindex: match backend.path {
                // What goes to a peer is the engine's to wrap.
                BackendPath::Pod { ifindex } if ifindex < TUNNELS => ifindex,
                BackendPath::Pod { .. } | BackendPath::Kernel => 0,
            },
            slot: port.dependence(backend),
        });
        Some(Self {
            id: port.id(),
            maglev: maglev.clone(),
            backends: backends.collect(),
        })
    }
}

/// A backend as the hooks know it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ChoiceBackend {
    /// Its address and port.
    pub end: (Address, u16),
    /// Its veth; 0: the kernel brings packets there, so its flows are the engine's.
    pub ifindex: u32,
    /// What its flows depend on.
    pub slot: SlotRef,
}

/// Places of an array, given out in runs.
#[derive(Debug)]
pub(super) struct Runs {
    free: BTreeMap<u32, u32>,
    waiting: VecDeque<(Instant, u32, u32)>,
}

impl Runs {
    pub(super) fn new(places: u32) -> Self {
        Self {
            free: BTreeMap::from([(0, places)]),
            waiting: VecDeque::new(),
        }
    }

    /// The first run that is long enough.
    fn take(&mut self, count: u32) -> Option<u32> {
        while let Some((since, start, count)) = self.waiting.front().copied() {
            if since.elapsed() < QUARANTINE {
                break;
            }
            self.waiting.pop_front();
            self.put(start, count);
        }
        let (start, length) = self
            .free
            .iter()
            .find(|(_, length)| **length >= count)
            .map(|(start, length)| (*start, *length))?;
        self.free.remove(&start);
        if length > count {
            self.free.insert(start + count, length - count);
        }
        Some(start)
    }

    /// Gives a run back, for use after a moment.
    fn give_back(&mut self, start: u32, count: u32) {
        self.waiting.push_back((Instant::now(), start, count));
    }

    fn put(&mut self, mut start: u32, mut count: u32) {
        if let Some(length) = self.free.remove(&(start + count)) {
            count += length;
        }
        if let Some((&before, &length)) = self.free.range(..start).next_back()
            && before + length == start
        {
            self.free.remove(&before);
            (start, count) = (before, count + length);
        }
        self.free.insert(start, count);
    }
}

/// A Maglev table in the map, for all ports that share it.
#[derive(Debug)]
struct Table {
    table: MaglevTable,
    start: u32,
    packs: u32,
    ports: u32,
}

/// A service port's runs, and its backends as they answer datagrams.
#[derive(Debug)]
struct Port {
    table: u32,
    backends: (u32, u32),
    answerers: Vec<abi::ServiceKey>,
}

/// What is where.
#[derive(Debug)]
pub(super) struct Choices {
    packs: Runs,
    places: Runs,
    /// By where they begin.
    tables: HashMap<u32, Table>,
    ports: HashMap<ServiceKey, Port>,
    /// The service ports of each backend that answers datagrams.
    pub(super) asked: HashMap<abi::ServiceKey, Vec<ServiceKey>>,
    /// Backends that are none any more since then, but may still answer.
    pub(super) leaving: VecDeque<(Instant, abi::ServiceKey)>,
    /// The epochs as the map has them, as far as they were written.
    epochs: [Vec<u32>; 2],
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            packs: Runs::new(abi::MAX_MAGLEV_PACKS),
            places: Runs::new(abi::MAX_BACKENDS),
            tables: HashMap::new(),
            ports: HashMap::new(),
            asked: HashMap::new(),
            leaving: VecDeque::new(),
            epochs: Default::default(),
        }
    }
}

/// Where in `epochs` a slot's is; `None` where there is no place for it.
pub(super) fn epoch_place(slot: SlotRef) -> Option<u32> {
    let (place, end) = match slot.as_member() {
        Some(member) => (member.checked_add(abi::MAX_POD_SLOTS)?, abi::MAX_EPOCHS),
        None => (slot.slot, abi::MAX_POD_SLOTS),
    };
    (place < end).then_some(place)
}

impl Steering {
    /// Lets the hooks choose for the service port, or no more. False: there is no room, and the port stays the
    /// engine's.
    pub fn set_choice(&mut self, key: ServiceKey, choice: Option<&Choice>) -> Result<bool, Error> {
        let before = self.choices.ports.remove(&key);
        let placed = match choice {
            Some(choice) => self.place(key, choice)?,
            None => None,
        };
        // A backend that gets a second port is no port's own before the choice says so, and one that has lost its
        // second port is the first one's own only then.
        let [old, new] = [&before, &placed].map(answerers_of);
        self.ask(key, new.iter().filter(|end| !among(end, old)))?;
        let service = placed
            .as_ref()
            .zip(choice)
            .map(|(port, choice)| abi::Service {
                id: choice.id,
                flags: abi::SERVICE_COMPILED,
                maglev_offset: port.table,
                maglev_size: choice.maglev.size() as u32,
                backends_offset: port.backends.0,
                backends: port.backends.1,
            });
        // A port that is gone has no entry to be taken back.
        if service.is_some() || before.is_some() && self.services.lookup(&key.to_abi())?.is_some() {
            let value = service.unwrap_or_else(abi::Service::new_zeroed);
            self.services.insert(&key.to_abi(), &value)?;
        }
        self.ask_no_more(key, old.iter().filter(|end| !among(end, new)))?;
        if let Some(before) = before {
            self.release(&before);
        }
        let done = placed.is_some();
        if let Some(port) = placed {
            self.choices.ports.insert(key, port);
        }
        Ok(done)
    }

    fn place(&mut self, key: ServiceKey, choice: &Choice) -> Result<Option<Port>, Error> {
        let instance = self.instance;
        let backends: Option<Vec<abi::Backend>> = choice
            .backends
            .iter()
            .map(|backend| {
                Some(abi::Backend {
                    addr: backend.end.0.0,
                    port: U16::new(backend.end.1),
                    pad: 0,
                    ifindex: backend.ifindex,
                    slot: epoch_place(backend.slot)?,
                    epoch: backend.slot.epoch,
                    instance,
                    reserved: 0,
                })
            })
            .collect();
        let Some(backends) = backends.filter(|backends| !backends.is_empty()) else {
            return Ok(None);
        };
        let count = backends.len() as u32;
        let Some(start) = self.choices.places.take(count) else {
            return Ok(None);
        };
        let written = write(&self.backends, start, &backends);
        let table = written.and_then(|()| self.place_table(&choice.maglev));
        match table {
            Ok(Some(table)) => Ok(Some(Port {
                table,
                backends: (start, count),
                answerers: answerers(key, choice),
            })),
            other => {
                self.choices.places.give_back(start, count);
                other.map(|_| None)
            }
        }
    }

    fn place_table(&mut self, maglev: &MaglevTable) -> Result<Option<u32>, Error> {
        let shared = self
            .choices
            .tables
            .values_mut()
            .find(|table| table.table.shares(maglev));
        if let Some(table) = shared {
            table.ports += 1;
            return Ok(Some(table.start));
        }
        let packs: Vec<abi::Maglev> = maglev
            .entries()
            .chunks(abi::MAGLEV_PACK as usize)
            .map(|chunk| {
                let mut pack = abi::Maglev::new_zeroed();
                pack.entries[..chunk.len()].copy_from_slice(chunk);
                pack
            })
            .collect();
        let count = packs.len() as u32;
        let Some(start) = self.choices.packs.take(count) else {
            return Ok(None);
        };
        if let Err(error) = write(&self.maglev, start, &packs) {
            self.choices.packs.give_back(start, count);
            return Err(error);
        }
        let table = Table {
            table: maglev.clone(),
            start,
            packs: count,
            ports: 1,
        };
        self.choices.tables.insert(start, table);
        Ok(Some(start))
    }

    fn release(&mut self, port: &Port) {
        let Choices {
            packs,
            places,
            tables,
            ..
        } = &mut self.choices;
        places.give_back(port.backends.0, port.backends.1);
        if let Some(table) = tables.get_mut(&port.table) {
            table.ports -= 1;
            if table.ports == 0 {
                packs.give_back(table.start, table.packs);
                tables.remove(&port.table);
            }
        }
    }

    /// Makes the epochs these: of the pods' slots, and of the backends' places. What has no place in the map is left out.
    pub fn set_epochs(&mut self, pods: &[u32], members: &[u32]) -> Result<(), Error> {
        let starts = [0, abi::MAX_POD_SLOTS];
        let rooms = [abi::MAX_POD_SLOTS, abi::MAX_EPOCHS - abi::MAX_POD_SLOTS];
        for (at, epochs) in [pods, members].into_iter().enumerate() {
            let epochs = &epochs[..epochs.len().min(rooms[at] as usize)];
            let known = &mut self.choices.epochs[at];
            let same = |(place, epoch): (usize, &u32)| known.get(place) == Some(epoch);
            let mut place = 0;
            // Bound: each round goes past a run of places that differ, or one that does not.
            while place < epochs.len() {
                let differ = (place..epochs.len())
                    .take_while(|at| !same((*at, &epochs[*at])))
                    .count();
                if differ > 0 {
                    write(
                        &self.epochs,
                        starts[at] + place as u32,
                        &epochs[place..place + differ],
                    )?;
                }
                place += differ.max(1);
            }
            if known.len() <= epochs.len() {
                *known = epochs.to_vec();
            } else {
                known[..epochs.len()].copy_from_slice(epochs);
            }
        }
        Ok(())
    }
}

fn answerers_of(port: &Option<Port>) -> &[abi::ServiceKey] {
    port.as_ref().map_or(&[], |port| &port.answerers)
}

fn among(end: &abi::ServiceKey, ends: &[abi::ServiceKey]) -> bool {
    ends.binary_search_by_key(&place_of(end), place_of).is_ok()
}

/// What such ends are sorted by.
fn place_of(end: &abi::ServiceKey) -> ([u8; 16], u16) {
    (end.vip, end.port.get())
}

/// The backends of a choice for datagrams, as their answers come, sorted.
fn answerers(key: ServiceKey, choice: &Choice) -> Vec<abi::ServiceKey> {
    let Some((_, Protocol::Udp)) = key.port else {
        return Vec::new();
    };
    let pods = choice
        .backends
        .iter()
        .filter(|backend| backend.ifindex != 0);
    let mut ends: Vec<_> = pods
        .map(|backend| ServiceKey::port(backend.end.0, backend.end.1, Protocol::Udp).to_abi())
        .collect();
    ends.sort_by_key(place_of);
    ends.dedup();
    ends
}

/// Writes elements of an array one after another.
fn write<V: crate::maps::Plain>(
    map: &TypedMap<u32, V>,
    start: u32,
    values: &[V],
) -> Result<(), Error> {
    for (batch, values) in (0u32..).zip(values.chunks(BATCH)) {
        let from = start + batch * BATCH as u32;
        let keys: Vec<u32> = (from..from + values.len() as u32).collect();
        let (_, result) = map.sized().update(&keys, values);
        result.map_err(|source| MapError::Operation {
            map: map.name(),
            operation: "write",
            source,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_given_out_once_and_come_back_after_a_moment() {
        let mut runs = Runs::new(100);
        let taken: Vec<u32> = (0..10).filter_map(|_| runs.take(10)).collect();
        assert_eq!(taken, (0..10).map(|n| n * 10).collect::<Vec<_>>());
        assert_eq!(runs.take(1), None);
        for start in [20, 40, 30] {
            runs.give_back(start, 10);
        }
        assert_eq!(runs.take(1), None, "a program may still be reading there");
        std::thread::sleep(2 * QUARANTINE);
        assert_eq!(runs.take(30), Some(20), "they are one run again");
        assert_eq!(runs.take(1), None);
    }
}
