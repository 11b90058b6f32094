//! A look ahead over a burst: what deciding about its packets will read is asked of memory all at once.
//!
//! A flow among 100,000 costs its packet several cache misses, a service among as many a dozen, each of which waits
//! for the one before. Those of different packets do not, so they are made to overlap: a short pass over the burst for
//! each step of the way, in which no packet waits for another.

use std::hint::black_box;

use arrayvec::ArrayVec;

use crate::parse::{Parsed, parse};
use crate::tables::BackendPath;
use crate::wire::ethernet;
use crate::{BURST_MAX, FlowKey, Ingress, State, Tables, Tuple, flow_hash};

/// What is to be known of a packet to find what it will need.
#[derive(Debug)]
struct Glimpse {
    key: FlowKey,
    /// The key's in the flow index.
    hash: u32,
    opens: bool,
}

/// The packets of one burst. It decides nothing: what it reads, [`process`](crate::process) reads again, and finds
/// in the cache.
#[derive(Debug, Default)]
pub struct LookAhead {
    seen: ArrayVec<Glimpse, BURST_MAX>,
}

impl LookAhead {
    /// Frames of a burst from which on it pays: fewer have too little to overlap.
    pub const LEAST: usize = 4;

    /// Notes a frame; one that has no flow, or is beyond [`BURST_MAX`], is passed over.
    #[inline]
    pub fn note(&mut self, frame: &[u8], state: &State) {
        let Some(source) = frame.get(ethernet::SRC).and_then(<[u8]>::as_array) else {
            return;
        };
        let Some(Ingress { ifindex, .. }) = Ingress::decode(source) else {
            return;
        };
        let Ok(Parsed::Flow(packet)) = parse(frame) else {
            return;
        };
        let key = FlowKey {
            tuple: *packet.tuple(),
            ifindex,
        };
        let hash = state.flows.hash(&key);
        // A full burst is handled as far as it goes.
        let _ = self.seen.try_push(Glimpse {
            key,
            hash,
            opens: packet.opens(),
        });
    }

    /// Reads what the noted packets will need, and forgets them.
    pub fn fetch(&mut self, tables: &Tables, state: &State) {
        fetch(&self.seen, tables, state);
        self.seen.clear();
    }
}

fn fetch(seen: &[Glimpse], tables: &Tables, state: &State) {
    for packet in seen {
        state.flows.touch_index(packet.hash);
    }
    let mut new = ArrayVec::<_, BURST_MAX>::new();
    for packet in seen {
        if !state.flows.touch_flow(packet.hash) && packet.opens {
            new.push(packet);
        }
    }
    if !new.is_empty() {
        fetch_services(&new, tables, state);
    }
}

/// The same for packets that open flows: their services, the backends that their hashes choose, and where the replies
/// will be looked for.
#[inline(never)]
fn fetch_services(new: &[&Glimpse], tables: &Tables, state: &State) {
    let mut hashed = ArrayVec::<_, BURST_MAX>::new();
    for packet in new.iter().copied() {
        let Tuple {
            dst, dport, proto, ..
        } = packet.key.tuple;
        let port = (dst, dport, proto);
        hashed.push((&packet.key, port, Tables::port_hash(&port)));
    }
    for (_, _, hash) in &hashed {
        tables.touch_service(*hash);
    }
    let mut services = ArrayVec::<_, BURST_MAX>::new();
    for (key, port, hash) in &hashed {
        if let Some(service) = tables.service_hashed(port, *hash) {
            service.touch();
            services.push((*key, service));
        }
    }
    let mut choices = ArrayVec::<_, BURST_MAX>::new();
    for (key, service) in services {
        state.flows.touch_served(service.id());
        if let Some(table) = service.maglev() {
            let entry = table.entry(flow_hash(&key.tuple));
            table.touch(entry);
            choices.push((key, service, entry));
        }
    }
    let mut backends = ArrayVec::<_, BURST_MAX>::new();
    for (key, service, entry) in choices {
        let chosen = service.maglev().and_then(|table| table.at(entry));
        if let Some(backend) = chosen.and_then(|at| service.backends().get(at)) {
            black_box(backend.weight);
            backends.push((key, backend));
        }
    }
    let mut replies = ArrayVec::<_, BURST_MAX>::new();
    for (key, backend) in backends {
        let FlowKey { tuple, ifindex } = key;
        replies.push(state.flows.hash(&FlowKey {
            tuple: Tuple {
                src: backend.address,
                dst: tuple.src,
                sport: backend.port,
                dport: tuple.sport,
                proto: tuple.proto,
            },
            ifindex: match backend.path {
                BackendPath::Pod { ifindex } => ifindex,
                BackendPath::Kernel => *ifindex,
            },
        }));
    }
    for hash in replies {
        state.flows.touch_index(hash);
    }
}
