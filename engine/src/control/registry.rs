//! Which pods are enrolled, since when, and under which slot: the memory that outlives a reload.

use std::net::IpAddr;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use weft_datapath::{Now, SlotRef};

use crate::config;

/// Slot 0 never moves: it stands for what needs no validity check.
const FIRST_SLOT: u32 = 1;

/// The host side of a pod's veth.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub ifindex: u32,
    /// Its MTU in bytes.
    pub mtu: u16,
}

/// One pod as the node process knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// As configured.
    pub config: config::Pod,
    /// Index of the host side of its veth, none while the interface does not exist.
    pub ifindex: Option<u32>,
    /// Its MTU in bytes, the last known one while the interface does not exist.
    pub mtu: u16,
    /// Validity of the flows that depend on it.
    pub slot: SlotRef,
    /// When it joined.
    pub enrolled_at: Now,
    /// Until when a packet of an unknown flow may be older than the enrolment.
    pub grace_until: Now,
    /// Set once it has left the configuration: when its last flows end.
    pub draining_until: Option<Now>,
}

impl Pod {
    /// Whether packets of the pod are ours at all: its interface is there.
    pub fn is_present(&self) -> bool {
        self.ifindex.is_some()
    }
}

/// All pods, and the epoch of every slot.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    pods: Vec<Pod>,
    epochs: Vec<u32>,
    /// The last epoch given to any slot. An epoch is never given twice, not even by a change that was
    /// put back: a flow made under it must not become valid again.
    last_epoch: u32,
}

/// How long things may take, from the configuration.
#[derive(Copy, Clone, Debug)]
pub struct Patience {
    /// How long unknown flows count as older than an enrolment.
    pub grace: Duration,
    /// How long the flows of a pod that left may go on.
    pub drain: Duration,
}

impl Registry {
    /// The pods, those that drain included.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The current epoch of every slot; slot 0 is always 0.
    pub fn epochs(&self) -> Vec<u32> {
        if self.epochs.is_empty() {
            vec![0; FIRST_SLOT as usize]
        } else {
            self.epochs.clone()
        }
    }

    /// Undoes a change that led from `before` to here, but goes on counting epochs.
    pub fn put_back(&mut self, before: &Self) {
        self.pods.clone_from(&before.pods);
        self.epochs = before.epochs();
    }

    /// The registry after the configuration names `pods`.
    ///
    /// A pod with the same interface and addresses stays what it is, whatever its name. One that is
    /// gone drains. One whose interface or address another pod takes over ends at once: its slot's
    /// epoch moves, so none of its flows can reach the newcomer. The same goes for one whose
    /// address has become a VIP.
    #[must_use]
    pub fn with_pods(
        &self,
        pods: &[config::Pod],
        is_vip: impl Fn(&IpAddr) -> bool,
        link_of: impl Fn(&str) -> Option<Link>,
        patience: Patience,
        now: Now,
    ) -> Self {
        let mut next = Self {
            pods: Vec::with_capacity(pods.len()),
            epochs: self.epochs(),
            last_epoch: self.last_epoch,
        };
        let taken: FxHashSet<u32> = self.pods.iter().map(|pod| pod.slot.slot).collect();
        let mut free = (FIRST_SLOT..).filter(|slot| !taken.contains(slot));
        let mut old: Vec<Option<Pod>> = self.pods.iter().cloned().map(Some).collect();
        let known: FxHashMap<_, usize> = (self.pods.iter().enumerate())
            .map(|(index, pod)| ((pod.ifindex, &pod.config.addresses), index))
            .collect();
        for pod in pods {
            let link = link_of(&pod.interface);
            let ifindex = link.map(|link| link.ifindex);
            let mtu = link.map_or(0, |link| link.mtu);
            let same = known.get(&(ifindex, &pod.addresses));
            let entry = match same.and_then(|&index| old[index].take()) {
                Some(known) if known.draining_until.is_none() => Pod {
                    config: pod.clone(),
                    mtu,
                    ..known
                },
                // It left and came back before its flows had ended: they go on, and what it opened
                // through the kernel meanwhile is older than this enrolment.
                Some(known) => Pod {
                    config: pod.clone(),
                    mtu,
                    enrolled_at: now,
                    grace_until: now + patience.grace,
                    draining_until: None,
                    ..known
                },
                None => {
                    let slot = next.allocate(&mut free);
                    Pod {
                        config: pod.clone(),
                        ifindex,
                        mtu,
                        slot,
                        enrolled_at: now,
                        grace_until: now + patience.grace,
                        draining_until: None,
                    }
                }
            };
            next.pods.push(entry);
        }
        let interfaces: FxHashSet<u32> = next.pods.iter().filter_map(|pod| pod.ifindex).collect();
        let addresses: FxHashSet<IpAddr> = pods
            .iter()
            .flat_map(|pod| pod.addresses.iter().copied())
            .collect();
        for known in old.into_iter().flatten() {
            let mut own = known.config.addresses.iter();
            let replaced = known
                .ifindex
                .is_some_and(|index| interfaces.contains(&index))
                || own.any(|address| addresses.contains(address) || is_vip(address));
            if replaced || !known.is_present() {
                next.end(known.slot);
            } else {
                let until = known.draining_until.unwrap_or(now + patience.drain);
                next.pods.push(Pod {
                    draining_until: Some(until),
                    ..known
                });
            }
        }
        next
    }

    /// The registry without the pods whose draining is over, or itself if there are none.
    pub fn without_drained(&self, now: Now) -> Option<Self> {
        let over = |pod: &Pod| pod.draining_until.is_some_and(|until| until <= now);
        if !self.pods.iter().any(over) {
            return None;
        }
        let mut next = self.clone();
        let (ended, kept) = next.pods.into_iter().partition(over);
        next.pods = kept;
        let ended: Vec<Pod> = ended;
        for pod in &ended {
            next.end(pod.slot);
        }
        Some(next)
    }

    /// The registry after interfaces came, changed or went, or itself if that changes nothing.
    ///
    /// A pod whose interface is gone, or was replaced by another of the same name, loses its flows
    /// at once. It is enrolled anew when its interface is back.
    pub fn with_interfaces(
        &self,
        link_of: impl Fn(&str) -> Option<Link>,
        patience: Patience,
        now: Now,
    ) -> Option<Self> {
        let mut next = self.clone();
        next.epochs = self.epochs();
        let mut changed = false;
        let mut pods = std::mem::take(&mut next.pods);
        pods.retain_mut(|pod| {
            let link = link_of(&pod.config.interface);
            let ifindex = link.map(|link| link.ifindex);
            let mtu = link.map_or(pod.mtu, |link| link.mtu);
            changed |= mtu != pod.mtu;
            pod.mtu = mtu;
            if ifindex == pod.ifindex {
                return true;
            }
            changed = true;
            pod.slot = next.end(pod.slot);
            pod.ifindex = ifindex;
            pod.enrolled_at = now;
            pod.grace_until = now + patience.grace;
            // One that had left has nothing to come back for: the new interface is somebody else's.
            pod.draining_until.is_none()
        });
        next.pods = pods;
        changed.then_some(next)
    }

    /// Makes every flow that depends on the slot invalid, and returns its new epoch.
    fn end(&mut self, slot: SlotRef) -> SlotRef {
        self.last_epoch = self.last_epoch.wrapping_add(1);
        self.epochs[slot.slot as usize] = self.last_epoch;
        SlotRef {
            epoch: self.last_epoch,
            ..slot
        }
    }

    /// The first of the slots that no pod uses, at a new epoch, since flows may still name it under the epoch of its
    /// last user. Slots are reused, so their number stays that of the most pods enrolled at once.
    fn allocate(&mut self, free: &mut impl Iterator<Item = u32>) -> SlotRef {
        let slot = free.next().unwrap_or(FIRST_SLOT);
        if slot as usize >= self.epochs.len() {
            self.epochs.resize(slot as usize + 1, 0);
        }
        self.end(SlotRef { slot, epoch: 0 })
    }
}
