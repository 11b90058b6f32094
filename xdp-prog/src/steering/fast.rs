//! Flows on the fast path: what the hooks know of them.

use std::collections::HashMap;
use std::sync::Arc;

use weft_datapath::{
    Address, FastEnds, FastFlows, FlowKey, Front, NameId, Protocol, Said, SlotRef, TUNNELS, Tuple,
    backend_print, flow_hash,
};
use zerocopy::FromZeros;

use crate::abi;
use crate::maps::TypedMap;

use super::choice::epoch_place;
use super::flow_table::FlowTable;
use super::{Error, ServiceKey, Steering};

/// A flow on the fast path, by its client's entry and that of the answers.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct FastFlow {
    /// The client's packets, as it sends them.
    pub key: FlowKey,
    /// The answers, as the other pod sends them.
    pub answers: FlowKey,
    /// The number of the service port; `None` for a flow from pod to pod.
    pub service: Option<u32>,
    /// Of one of those, what its client's node has said.
    pub said: Said,
    /// Packets from the client and to it, as the wire would see them, since it has entries.
    pub packets: [u64; 2],
    /// Bytes of IP packets from the client and to it.
    pub bytes: [u64; 2],
    /// Whether something came back (UDP), or the handshake is over (TCP).
    pub answered: bool,
    /// Whether that direction has sent a FIN.
    pub fins: [bool; 2],
    /// Whether one end has reset it.
    pub reset: bool,
    /// Monotonic clock, in nanoseconds: when it was opened.
    pub created: u64,
    /// The same: its last packet.
    pub last_seen: u64,
}

/// What became of a former process's flows, each counted by its client's entry.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Those that go on.
    pub kept: usize,
    /// Those whose backend is none any more.
    pub removed: usize,
}

impl Steering {
    /// All flows on the fast path that are not over. A few milliseconds, and one more for 10,000 flows: for the control thread.
    pub fn fast_flows(&self) -> Vec<FastFlow> {
        let mut openers = Vec::new();
        let mut answers = HashMap::new();
        self.table.for_each(|_, abi::Flow { key, value, .. }| {
            if value.tcp_state & abi::FLOW_OPENER == 0 {
                answers.insert(key, value);
            } else {
                openers.push((key, value));
            }
        });
        let flow = |(key, value): (abi::FlowKey, abi::FlowValue)| {
            let back = answer_key(&key, &value);
            let answer = answers
                .get(&back)
                .copied()
                .unwrap_or_else(abi::FlowValue::new_zeroed);
            Some(FastFlow {
                key: key.to_datapath()?,
                answers: back.to_datapath()?,
                service: (u32::from(value.mode) != abi::MODE_PLAIN).then_some(value.service),
                said: said(&key, &value),
                packets: [value.packets, answer.packets],
                bytes: [value.bytes, answer.bytes],
                answered: value.tcp_state & abi::FLOW_ANSWERED != 0,
                fins: [abi::FLOW_FIN, abi::FLOW_PEER_FIN].map(|fin| value.tcp_state & fin != 0),
                reset: value.tcp_state & (abi::FLOW_RST | abi::FLOW_PEER_RST) != 0,
                created: value.cookie,
                last_seen: value.last_seen.max(answer.last_seen),
            })
        };
        openers.into_iter().filter_map(flow).collect()
    }

    /// Looks at what a former process has left: `still` says what the flow of the client's packets `key` to `backend`
    /// depends on now, and the number of its service port; `None`: it has no backend any more.
    ///
    /// # Errors
    /// When what first packets were answered by cannot be brought up to date.
    pub fn adopt_flows(
        &self,
        mut still: impl FnMut(&FlowKey, &FlowKey) -> Option<(SlotRef, u32)>,
    ) -> Result<Adopted, Error> {
        self.forget_unknown_reverses()?;
        let mut adopted = Adopted::default();
        let (table, instance) = (&self.table, self.instance);
        table.for_each(|spot, abi::Flow { key, value, .. }| {
            if value.instance == instance {
                return;
            }
            let back = answer_key(&key, &value);
            let opener = value.tcp_state & abi::FLOW_OPENER != 0;
            let (client, answers) = match opener {
                true => (key, back),
                false => (back, key),
            };
            let local = [key.ifindex, value.egress_ifindex]
                .iter()
                .all(|port| *port < TUNNELS);
            let depends = match u32::from(value.mode) == abi::MODE_PLAIN && local {
                true => Some((SlotRef::FIXED, 0)),
                false => client
                    .to_datapath()
                    .zip(answers.to_datapath())
                    .and_then(|(client, answers)| still(&client, &answers)),
            };
            let place =
                depends.and_then(|(slot, service)| Some((epoch_place(slot)?, slot.epoch, service)));
            match place {
                Some((slot, epoch, service)) => {
                    table.renumber(spot, (slot, epoch), service, instance);
                    adopted.kept += usize::from(opener);
                }
                None => {
                    table.remove(spot);
                    adopted.removed += usize::from(opener);
                }
            }
        });
        Ok(adopted)
    }

    /// To be called every hour at least, or what ran out long ago counts as a flow again. Some milliseconds: for the control
    /// thread.
    pub fn keep_past(&self) {
        self.table.keep_past();
    }

    /// What a worker asks about flows of the fast path.
    ///
    /// # Errors
    /// When there is no descriptor for it.
    pub fn fast_lookup(&self) -> Result<FastLookup, Error> {
        Ok(FastLookup {
            table: Arc::clone(&self.table),
            reverse: self.reverse.duplicate()?,
            endpoints: self.endpoints.duplicate()?,
            services: self.services.duplicate()?,
        })
    }
}

/// Looks for single flows of the fast path.
#[derive(Debug)]
pub struct FastLookup {
    table: Arc<FlowTable>,
    reverse: TypedMap<abi::ServiceKey, abi::Reverse>,
    endpoints: TypedMap<[u8; 16], abi::Endpoint>,
    services: TypedMap<abi::ServiceKey, abi::Service>,
}

impl FastFlows for FastLookup {
    /// 0.2 us for a flow with entries, a system call or two without.
    fn find(&self, key: &FlowKey) -> Option<FastEnds> {
        let wanted = abi::FlowKey::from(key);
        let Some((_, abi::Flow { value, .. })) = self.table.find(&wanted) else {
            return self
                .first_by_answers(key)
                .or_else(|| self.first_by_client(key));
        };
        let back = answer_key(&wanted, &value).to_datapath()?;
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

    fn is_over(&self, key: &FlowKey) -> bool {
        let found = self.table.find(&abi::FlowKey::from(key));
        found.is_some_and(|(_, flow)| {
            let states = flow.value.tcp_state;
            let has = |bits| states & bits != 0;
            has(abi::FLOW_RST | abi::FLOW_PEER_RST) || has(abi::FLOW_FIN) && has(abi::FLOW_PEER_FIN)
        })
    }

    fn first(&self, client: &FlowKey) -> Option<u16> {
        self.table.first(client.ifindex, flow_hash(&client.tuple))
    }
}

impl FastLookup {
    /// The flow of which only the first packet has been seen.
    fn first_by_client(&self, client: &FlowKey) -> Option<FastEnds> {
        let tuple = client.tuple;
        if tuple.proto != Protocol::Udp {
            return None;
        }
        let print = self.first(client)?;
        let port = ServiceKey::port(tuple.dst, tuple.dport, tuple.proto).to_abi();
        let service: abi::Service = self.services.lookup(&port).ok()??;
        let places = service.backends_offset..service.backends_offset + service.backends;
        let backend = places
            .filter_map(|place| self.table.backend(place))
            .find(|backend| backend_print(&Address(backend.addr), backend.port.get()) == print)?;
        let answers = FlowKey {
            tuple: Tuple {
                src: Address(backend.addr),
                dst: tuple.src,
                sport: backend.port.get(),
                dport: tuple.sport,
                proto: tuple.proto,
            },
            ifindex: backend.ifindex,
        };
        Some(FastEnds {
            client: *client,
            answers,
        })
    }

    /// The same, by the key of the answers.
    fn first_by_answers(&self, answers: &FlowKey) -> Option<FastEnds> {
        let tuple = answers.tuple;
        if tuple.proto != Protocol::Udp {
            return None;
        }
        let from = ServiceKey::port(tuple.src, tuple.sport, tuple.proto).to_abi();
        let asked: abi::Reverse = self.reverse.lookup(&from).ok()??;
        let end: abi::Endpoint = self.endpoints.lookup(&tuple.dst.0).ok()??;
        let client = FlowKey {
            tuple: Tuple {
                src: tuple.dst,
                dst: Address(asked.vip),
                sport: tuple.dport,
                dport: asked.port.get(),
                proto: tuple.proto,
            },
            ifindex: end.ifindex,
        };
        let print = self.first(&client)?;
        // Another backend of the service was not asked.
        (print == backend_print(&tuple.src, tuple.sport)).then_some(FastEnds {
            client,
            answers: *answers,
        })
    }
}

/// Of a flow between pods, what its client's node has said: where others have what is rewritten, and their service.
fn said(key: &abi::FlowKey, value: &abi::FlowValue) -> Said {
    if u32::from(value.mode) != abi::MODE_PLAIN {
        return Said::default();
    }
    let fronted = value.rewrite_port.get() != 0 && value.rewrite_addr != key.dst;
    Said {
        front: fronted.then(|| Front {
            address: Address(value.rewrite_addr),
            port: value.rewrite_port.get(),
        }),
        client: NameId::from_number(value.service),
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
        match (self.key.tuple.proto, self.fins) {
            (Protocol::Udp, _) if self.answered => "two_way",
            (Protocol::Udp, _) => "one_way",
            _ if self.reset => "closed",
            (_, [true, true]) => "time_wait",
            (_, [true, false]) => "fin_wait_2",
            (_, [false, true]) => "close_wait",
            _ if self.answered => "established",
            _ if self.packets[1] > 0 => "syn_received",
            _ => "syn_sent",
        }
    }
}
