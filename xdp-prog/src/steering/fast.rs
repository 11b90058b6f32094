//! Flows on the fast path: what the hooks know of them.

use std::collections::HashMap;

use weft_datapath::{FastEnds, FastFlows, FlowKey, Protocol, SlotRef};
use zerocopy::FromZeros;

use crate::abi;
use crate::maps::TypedMap;

use super::choice::epoch_place;
use super::{Error, Steering};

/// A flow on the fast path, by its client's entry and that of the answers.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct FastFlow {
    /// The client's packets, as it sends them.
    pub key: FlowKey,
    /// The answers, as the other pod sends them.
    pub answers: FlowKey,
    /// The number of the service port; `None` for a flow from pod to pod.
    pub service: Option<u32>,
    /// Packets from the client and to it, as the wire would see them.
    pub packets: [u64; 2],
    /// Bytes of IP packets from the client and to it.
    pub bytes: [u64; 2],
    /// Whether that direction has sent a FIN.
    pub fins: [bool; 2],
    /// Whether one end has reset it.
    pub reset: bool,
    /// Monotonic clock, in nanoseconds: when it was opened.
    pub created: u64,
    /// The same: its last packet.
    pub last_seen: u64,
}

/// What became of a former process's flows.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Entries that go on.
    pub kept: usize,
    /// Entries whose backend is none any more.
    pub removed: usize,
}

impl Steering {
    /// All flows on the fast path. 80 ms for 200,000 entries: for the control thread.
    pub fn fast_flows(&self) -> Result<Vec<FastFlow>, Error> {
        let mut openers = Vec::new();
        let mut answers = HashMap::new();
        self.flows.for_each(|key, value| {
            if value.tcp_state & abi::FLOW_OPENER == 0 {
                answers.insert(key, value);
            } else {
                openers.push((key, value));
            }
        })?;
        let flow = |(key, value): (abi::FlowKey, abi::FlowValue)| {
            let back = answer_key(&key, &value);
            let answer = answers
                .get(&back)
                .copied()
                .unwrap_or_else(abi::FlowValue::new_zeroed);
            let states = [value.tcp_state, answer.tcp_state];
            Some(FastFlow {
                key: key.to_datapath()?,
                answers: back.to_datapath()?,
                service: (u32::from(value.mode) != abi::MODE_PLAIN).then_some(value.service),
                packets: [value.packets, answer.packets],
                bytes: [value.bytes, answer.bytes],
                fins: states.map(|state| state & abi::FLOW_FIN != 0),
                reset: states.iter().any(|state| state & abi::FLOW_RST != 0),
                created: value.cookie,
                last_seen: value.last_seen.max(answer.last_seen),
            })
        };
        Ok(openers.into_iter().filter_map(flow).collect())
    }

    /// Looks at what a former process has left: `still` says what the flow of the client's packets `key` to `backend`
    /// depends on now, and the number of its service port; `None`: it has no backend any more.
    pub fn adopt_flows(
        &self,
        mut still: impl FnMut(&FlowKey, &FlowKey) -> Option<(SlotRef, u32)>,
    ) -> Result<Adopted, Error> {
        let mut old = Vec::new();
        self.flows.for_each(|key, value| {
            if value.instance != self.instance {
                old.push((key, value));
            }
        })?;
        let mut adopted = Adopted::default();
        for (key, value) in old {
            let back = answer_key(&key, &value);
            let (client, answers) = match value.tcp_state & abi::FLOW_OPENER == 0 {
                true => (back, key),
                false => (key, back),
            };
            let depends = match u32::from(value.mode) == abi::MODE_PLAIN {
                true => Some((SlotRef::FIXED, 0)),
                false => client
                    .to_datapath()
                    .zip(answers.to_datapath())
                    .and_then(|(client, answers)| still(&client, &answers)),
            };
            let place =
                depends.and_then(|(slot, service)| Some((epoch_place(slot)?, slot.epoch, service)));
            match place {
                // What the hooks count meanwhile is lost with the entry that it was counted in.
                Some((slot, epoch, service)) => {
                    let value = abi::FlowValue {
                        slot,
                        epoch,
                        service,
                        instance: self.instance,
                        ..value
                    };
                    self.flows.insert(&key, &value)?;
                    adopted.kept += 1;
                }
                None => {
                    self.flows.remove(&key)?;
                    adopted.removed += 1;
                }
            }
        }
        Ok(adopted)
    }
}

/// Looks for single flows of the fast path, with a descriptor of its own.
#[derive(Debug)]
pub struct FastLookup(TypedMap<abi::FlowKey, abi::FlowValue>);

impl FastFlows for FastLookup {
    /// 1 us.
    fn find(&self, key: &FlowKey) -> Option<FastEnds> {
        let mut value = abi::FlowValue::new_zeroed();
        let found = abi::FlowKey::from(key);
        self.0.sized().lookup(&found, &mut value).ok()?;
        let back = answer_key(&found, &value).to_datapath()?;
        Some(match value.tcp_state & abi::FLOW_OPENER {
            0 => FastEnds {
                client: back,
                answers: *key,
            },
            _ => FastEnds {
                client: *key,
                answers: back,
            },
        })
    }
}

impl Steering {
    /// What a worker asks about flows of the fast path.
    pub fn fast_lookup(&self) -> Result<FastLookup, Error> {
        Ok(FastLookup(self.flows.duplicate()?))
    }
}

/// As `answer_key` of `bpf/fast.h`.
fn answer_key(key: &abi::FlowKey, value: &abi::FlowValue) -> abi::FlowKey {
    let mut back = abi::FlowKey {
        src: key.dst,
        dst: key.src,
        sport: key.dport,
        dport: key.sport,
        ifindex: value.egress_ifindex,
        ..*key
    };
    match u32::from(value.mode) {
        abi::MODE_TO_BACKEND => (back.src, back.sport) = (value.rewrite_addr, value.rewrite_port),
        abi::MODE_FROM_BACKEND => (back.dst, back.dport) = (value.rewrite_addr, value.rewrite_port),
        _ => {}
    }
    back
}

impl FastFlow {
    /// Where it stands, in the words of the engine's flows.
    pub fn state(&self) -> &'static str {
        let answered = self.packets[1] > 0;
        match (self.key.tuple.proto, self.fins) {
            (Protocol::Udp, _) if answered => "two_way",
            (Protocol::Udp, _) => "one_way",
            _ if self.reset => "closed",
            (_, [true, true]) => "time_wait",
            (_, [true, false]) => "fin_wait_2",
            (_, [false, true]) => "close_wait",
            _ if answered && self.packets[0] > 1 => "established",
            _ if answered => "syn_received",
            _ => "syn_sent",
        }
    }
}
