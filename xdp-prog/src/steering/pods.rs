//! Enrolled pods: their entry, their links.

use std::fs;

use weft_datapath::{Address, MAX_IFINDEX, Now};

use crate::abi;
use crate::links::{Attach, attach_pinned, detach_pinned, link_path, parse_link_file};

use super::link_names::{FROM_POD, TO_POD};
use super::{Error, Steering};

const NANOS: u64 = 1_000_000_000;

/// What the programs know of an enrolled pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEntry {
    /// The host side of its veth.
    pub ifindex: u32,
    /// Its addresses: at most one of each family. Anything else it sends from is a spoof.
    pub addresses: Vec<Address>,
    /// Whether it has left the configuration and only its flows are still served.
    pub draining: bool,
    /// Packets a second that it may have punted; 0: as many as it likes.
    pub punt_rate: u64,
    /// Packets it may have punted at once.
    pub punt_burst: u32,
    /// Until when its flows may be older than its enrolment.
    pub grace_until: Now,
}

impl PodEntry {
    fn to_abi(&self) -> Result<abi::Pod, Error> {
        let refuse = |reason| Error::Pod {
            ifindex: self.ifindex,
            reason,
        };
        if self.ifindex == 0 || self.ifindex > MAX_IFINDEX {
            return Err(refuse("its interface index does not fit into a source MAC"));
        }
        let mut pod = abi::Pod {
            ip4: [0; 4],
            ip6: [0; 16],
            flags: if self.draining { abi::POD_DRAINING } else { 0 },
            punt_interval_ns: 0,
            punt_burst_ns: 0,
            grace_until: self.grace_until.as_nanos(),
        };
        for address in &self.addresses {
            let flag = if address.is_v4() {
                abi::POD_HAS4
            } else {
                abi::POD_HAS6
            };
            if pod.flags & flag != 0 {
                return Err(refuse("two addresses of one family"));
            }
            pod.flags |= flag;
            if address.is_v4() {
                pod.ip4 = address.v4_octets();
            } else {
                pod.ip6 = address.0;
            }
        }
        if let Some(interval) = NANOS.checked_div(self.punt_rate) {
            pod.punt_interval_ns = interval.max(1);
            pod.punt_burst_ns = pod.punt_interval_ns.saturating_mul(self.punt_burst.into());
        }
        Ok(pod)
    }

    /// The rate comes back rounded to whole nanoseconds a packet.
    fn from_abi(ifindex: u32, pod: &abi::Pod) -> Self {
        let mut addresses = Vec::new();
        if pod.flags & abi::POD_HAS4 != 0 {
            addresses.push(Address::from_v4(pod.ip4));
        }
        if pod.flags & abi::POD_HAS6 != 0 {
            addresses.push(Address(pod.ip6));
        }
        let per = |interval: u64, of: u64| of.checked_div(interval).unwrap_or(0);
        Self {
            ifindex,
            addresses,
            draining: pod.flags & abi::POD_DRAINING != 0,
            punt_rate: per(pod.punt_interval_ns, NANOS),
            punt_burst: per(pod.punt_interval_ns, pod.punt_burst_ns)
                .try_into()
                .unwrap_or(u32::MAX),
            grace_until: Now::from_nanos(pod.grace_until),
        }
    }
}

impl Steering {
    /// Makes or changes a pod's entry. Nothing is punted before [`Self::attach_pod`].
    pub fn set_pod(&self, pod: &PodEntry) -> Result<(), Error> {
        let entry = pod.to_abi()?;
        // The state first: a pod without one is not punted.
        let fresh = abi::PodState {
            tat: 0,
            mac: [0; 6],
            gateway: [0; 6],
            pad: [0; 4],
        };
        self.pod_state.insert_new(&pod.ifindex, &fresh)?;
        self.pods.insert(&pod.ifindex, &entry)?;
        Ok(())
    }

    /// Attaches both programs to a pod's veth, or exchanges those that are there.
    pub fn attach_pod(&self, ifindex: u32) -> Result<(), Error> {
        let (dir, progs) = (&self.config.pin_dir, &self.skel.progs);
        // Replies must be translated before anything is asked.
        attach_pinned(dir, TO_POD, Attach::TcxEgress, ifindex, &progs.weft_to_pod)?;
        attach_pinned(
            dir,
            FROM_POD,
            Attach::TcxIngress,
            ifindex,
            &progs.weft_from_pod,
        )?;
        Ok(())
    }

    /// Takes both programs off a pod's veth. Its entry stays; no links, or no interface, is no error.
    pub fn detach_pod(&self, ifindex: u32) -> Result<(), Error> {
        detach_pinned(&link_path(&self.config.pin_dir, FROM_POD, ifindex))?;
        detach_pinned(&link_path(&self.config.pin_dir, TO_POD, ifindex))?;
        Ok(())
    }

    /// Removes a pod's entry and state. Detach it first; false if there was no entry.
    pub fn remove_pod(&self, ifindex: u32) -> Result<bool, Error> {
        let there = self.pods.remove(&ifindex)?;
        self.pod_state.remove(&ifindex)?;
        Ok(there)
    }

    /// The entries, by interface.
    pub fn pods(&self) -> Result<Vec<PodEntry>, Error> {
        let mut pods = Vec::new();
        self.pods
            .for_each(|ifindex, pod| pods.push(PodEntry::from_abi(ifindex, &pod)))?;
        pods.sort_by_key(|pod| pod.ifindex);
        Ok(pods)
    }

    /// The MAC that a pod sends from, once it has had something punted.
    pub fn pod_mac(&self, ifindex: u32) -> Result<Option<[u8; 6]>, Error> {
        let state = self.pod_state.lookup(&ifindex)?;
        Ok(state.map(|state| state.mac).filter(|mac| *mac != [0; 6]))
    }

    /// Interfaces that hold a link of ours on a pod's hooks, also from a run before.
    pub fn attached_pods(&self) -> Result<Vec<u32>, Error> {
        self.attached(&[FROM_POD, TO_POD])
    }

    /// Interfaces that hold a pinned link of one of these names.
    pub(super) fn attached(&self, names: &[&str]) -> Result<Vec<u32>, Error> {
        let dir = &self.config.pin_dir;
        let error = |source| Error::PinDir {
            path: dir.clone(),
            source,
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(error)? {
            let file = entry.map_err(error)?.file_name();
            if let Some((name, ifindex)) = file.to_str().and_then(parse_link_file)
                && names.contains(&name)
            {
                found.push(ifindex);
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}
