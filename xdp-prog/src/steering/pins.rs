//! Owner entries: which worker a flow belongs to, so that its packets come to that worker's queue.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::AcqRel;

use weft_datapath::{FastEnds, FlowKey, NameId, PinOp, Protocol, Said, SlotRef};
use zerocopy::FromZeros;

use crate::abi;
use crate::bulk::BulkLane;
use crate::edge::batch::run_syscall;
use crate::maps::{MapError, TypedMap};

use super::choice::epoch_place;
use super::flow_table::FlowTable;
use super::{Error, Steering};

/// Entries of one call: 0.56 us each in batches of 256, 1.2 us alone.
const BATCH: usize = 256;

/// One owner entry.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The flow.
    pub key: FlowKey,
    /// Its worker.
    pub owner: u16,
    /// Tells this flow from an earlier one under the same key.
    pub cookie: u64,
}

/// What became of the operations given to [`PinWriter::apply`].
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct PinOutcome {
    /// Entries written.
    pub inserted: u64,
    /// Entries removed.
    pub removed: u64,
    /// Removals of what was not there: nothing to do.
    pub absent: u64,
    /// Removals of what another flow has written since: left alone.
    pub foreign: u64,
    /// Entries that found no room. Their flows stay with the worker that the hash names.
    pub full: u64,
    /// Flows that the hooks carry on.
    pub left: u64,
    /// Operations that the kernel refused for another reason.
    pub failed: u64,
}

/// Writes owner entries from a worker's thread: batches, own buffers, no allocation a call.
pub struct PinWriter {
    map: TypedMap<abi::FlowKey, abi::FlowValue>,
    /// Where programs see whose keys they need not look for.
    table: Arc<FlowTable>,
    keys: Box<[abi::FlowKey; BATCH]>,
    values: Box<[abi::FlowValue; BATCH]>,
    used: usize,
    /// The bulk lane's device, 0 if there is none.
    lane: u32,
    /// Where the programs are told that there are entries with a lane.
    config: TypedMap<u32, abi::Config>,
    announced: bool,
    inserting: bool,
    /// The program that makes entries of flows, and whose they are.
    enter: OwnedFd,
    instance: u32,
    outcome: PinOutcome,
}

impl PinWriter {
    /// Applies the operations in order. Nothing is left undone silently: the outcome counts it.
    pub fn apply<'a>(&mut self, ops: impl IntoIterator<Item = &'a PinOp>) -> PinOutcome {
        self.outcome = PinOutcome::default();
        for op in ops {
            let inserting = matches!(op, PinOp::Insert { .. });
            // The order between an insert and a removal of one key matters, so a batch is of one kind.
            if self.used == BATCH || inserting != self.inserting {
                self.write();
            }
            self.inserting = inserting;
            match op {
                PinOp::Insert {
                    key,
                    owner,
                    cookie,
                    terminated,
                } => {
                    self.keys[self.used] = key.into();
                    let terminated = terminated.map(|answer| (answer, self.lane));
                    if terminated.is_some() && self.lane != 0 && !self.announced {
                        self.announce_lanes();
                    }
                    self.values[self.used] = abi::FlowValue::owner(*owner, *cookie, terminated);
                }
                PinOp::Remove { key, cookie } => {
                    let key = key.into();
                    if cookie.is_some_and(|cookie| !self.holds(&key, cookie)) {
                        continue;
                    }
                    self.keys[self.used] = key;
                }
                PinOp::Leave {
                    ends,
                    slot,
                    service,
                    said,
                } => {
                    self.write();
                    self.enter(ends, *slot, *service, *said);
                    continue;
                }
            }
            self.used += 1;
        }
        self.write();
        self.outcome
    }

    /// Puts a flow's entries into the hooks' table. A system call of 1.5 us.
    fn enter(&mut self, ends: &FastEnds, slot: SlotRef, service: Option<u32>, said: Said) {
        let Some(place) = epoch_place(slot) else {
            return; // Nothing could tell that the far end is gone.
        };
        let (client, answers) = (&ends.client.tuple, &ends.answers.tuple);
        let held = match client.proto {
            Protocol::Udp => abi::FLOW_HELD,
            Protocol::Tcp => 0, // Its client waits for the answer.
        };
        let mode = |to| match service {
            Some(_) => to,
            None => abi::MODE_PLAIN,
        };
        // Nothing is rewritten of a flow between pods, and it has no service: there stands what its client's node has said.
        let far = match (service, said.front) {
            (Some(_), _) => (answers.src, answers.sport),
            (None, Some(front)) => (front.address, front.port),
            (None, None) => (client.dst, client.dport),
        };
        let there = abi::FlowValue {
            rewrite_addr: far.0.0,
            rewrite_port: far.1.into(),
            mode: mode(abi::MODE_TO_BACKEND) as u8,
            egress_ifindex: ends.answers.ifindex,
            slot: place,
            epoch: slot.epoch,
            instance: self.instance,
            service: service.unwrap_or(said.client.map_or(0, NameId::number)),
            tcp_state: held,
            ..abi::FlowValue::new_zeroed()
        };
        let back = abi::FlowValue {
            rewrite_addr: client.dst.0,
            rewrite_port: client.dport.into(),
            mode: mode(abi::MODE_FROM_BACKEND) as u8,
            ..abi::FlowValue::new_zeroed()
        };
        let mut opening = abi::Opening {
            key: (&ends.client).into(),
            back_key: (&ends.answers).into(),
            there,
            back,
        };
        match run_syscall(self.enter.as_fd(), &mut opening) {
            Ok(0) => self.outcome.left += 1,
            Ok(_) => {} // The program has counted it.
            Err(_) => self.outcome.failed += 1,
        }
    }

    /// From now on the programs ask about small packets, too, whether they follow large ones.
    #[cold]
    fn announce_lanes(&mut self) {
        self.announced = true;
        let config = self.config.lookup(&0).ok().flatten();
        let told = config.is_some_and(|config| {
            let config = abi::Config { lanes: 1, ..config };
            self.config.insert(&0, &config).is_ok()
        });
        if !told {
            self.outcome.failed += 1; // Small packets may overtake large ones then, which TCP mends.
        }
    }

    /// Whether the entry is that flow's; otherwise counts why not. A system call of 1 us. The batch that removes it
    /// follows within 0.4 ms: what is written over it in between is lost.
    fn holds(&mut self, key: &abi::FlowKey, cookie: u64) -> bool {
        let mut entry = abi::FlowValue::new_zeroed();
        match self.map.sized().lookup(key, &mut entry) {
            Ok(()) if entry.cookie == cookie => return true,
            Ok(()) => self.outcome.foreign += 1,
            Err(error) => self.count_failure(&error),
        }
        false
    }

    fn lower(&self, gone: &[abi::FlowKey]) {
        for key in gone {
            self.table.pins(key).map(|pins| pins.fetch_sub(1, AcqRel));
        }
    }

    fn write(&mut self) {
        let mut from = 0;
        // Bounded by the batch: every round takes at least one operation.
        while from < self.used {
            let keys = &self.keys[from..self.used];
            let (done, result) = if self.inserting {
                for key in keys {
                    self.table.pins(key).map(|pins| pins.fetch_add(1, AcqRel));
                }
                self.map.sized().update(keys, &self.values[from..self.used])
            } else {
                self.map.sized().delete(keys)
            };
            let count = done as u64;
            if self.inserting {
                self.outcome.inserted += count;
                self.lower(&keys[done..]);
            } else {
                self.outcome.removed += count;
                self.lower(&keys[..done]);
            }
            from += done;
            if let Err(error) = result {
                self.count_failure(&error);
                from += 1; // The kernel stopped at this one; go on behind it.
            }
        }
        self.used = 0;
    }

    fn count_failure(&mut self, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::ENOENT) => self.outcome.absent += 1,
            // No room in the map, or no memory for an element.
            Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM) => self.outcome.full += 1,
            _ => self.outcome.failed += 1,
        }
    }
}

impl Steering {
    /// A writer with a descriptor and buffers of its own, one for each worker. `lane` is the worker's bulk lane.
    pub fn pin_writer(&self, lane: Option<&BulkLane>) -> Result<PinWriter, Error> {
        Ok(PinWriter {
            map: self.pins.duplicate()?,
            table: Arc::clone(&self.table),
            keys: Box::new([abi::FlowKey::new_zeroed(); BATCH]),
            values: Box::new([abi::FlowValue::owner(0, 0, None); BATCH]),
            used: 0,
            lane: lane.map_or(0, BulkLane::ifindex),
            config: super::typed(&self.skel.maps.config)?,
            announced: false,
            inserting: true,
            enter: self
                .skel
                .progs
                .weft_enter
                .as_fd()
                .try_clone_to_owned()
                .map_err(Error::Mapping)?,
            instance: self.instance,
            outcome: PinOutcome::default(),
        })
    }

    /// All owner entries. 80 ms for 200,000: for the control thread.
    pub fn pins(&self) -> Result<Vec<Pin>, Error> {
        let mut pins = Vec::new();
        self.pins.for_each(|key, value| {
            if let Some(key) = key.to_datapath() {
                pins.push(Pin {
                    key,
                    owner: value.owner,
                    cookie: value.cookie,
                });
            }
        })?;
        Ok(pins)
    }

    /// Removes all owner entries, and returns how many.
    pub fn clear_pins(&self) -> Result<usize, Error> {
        let mut keys = Vec::new();
        self.pins.for_each(|key, _| keys.push(key))?;
        let mut removed = 0;
        let mut left = keys.as_slice();
        while !left.is_empty() {
            let batch = &left[..left.len().min(4096)];
            let (done, result) = self.pins.sized().delete(batch);
            removed += done;
            let skip = match result {
                Ok(()) => 0,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => 1,
                Err(source) => {
                    let (map, operation) = ("pins".to_owned(), "remove");
                    return Err(MapError::Operation {
                        map,
                        operation,
                        source,
                    }
                    .into());
                }
            };
            left = &left[done + skip..];
        }
        self.table.forget_pins();
        Ok(removed)
    }
}
