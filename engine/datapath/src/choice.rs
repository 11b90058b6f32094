//! Choosing a backend for a new flow.

use std::ops::Range;

use crate::flow::{FlowEnd, FlowId, FlowKind, FlowSource, InsertError, NewFlow};
use crate::hash::{client_hash, finish, mix, reduce};
use crate::overlay::is_tunnel;
use crate::process::Part;
use crate::tables::{Algorithm, Backend, BackendPath, Pod, ServicePort, Stage, UpstreamSource};
use crate::{
    Address, DropReason, FlowKey, Now, Said, SlotRef, State, Tables, flow_hash, source_hash,
};

/// How often the algorithm is asked before the backends are tried one after another.
const TRIES: usize = 8;
/// How many backends are then tried: enough for any real clash, few enough for a burst of clashes.
const SCAN: usize = 64;

/// Source ports tried where every backend's reply tuple is another flow's.
const SOURCE_PORTS: usize = 32;

/// Chooses a backend for the packet of `key` from `client` and adds the flow: translated, or, with a stage above
/// layer 4, terminated.
///
/// A backend that is the client itself sees the hairpin address, since a pod drops its own as a martian
/// (SVC-31); without one it is skipped. Where a backend's reply tuple is another flow's (Linux reuses a
/// source port per destination), another backend is tried, and in the end another source port.
pub(crate) fn open_service(
    (service, stage): (&ServicePort, Stage),
    key: FlowKey,
    client: &Pod,
    part: &Part,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Result<FlowId, DropReason> {
    let affinity = service.spec.options.affinity;
    let hash = match affinity {
        // By the client alone, so that a worker or a node that does not remember it chooses the same.
        Some(_) => client_hash(&key.tuple),
        None => flow_hash(&key.tuple),
    };
    let of = (&key.tuple.src, service.spec.id);
    let found = affinity.and_then(|timeout| state.affinity.find(of.0, of.1, timeout, now));
    let ready = |at: &usize| service.spec.backends[*at].weight > 0;
    let usable = |backend| service.position(backend).filter(ready);
    // The client's backend, and the one that is to be tried before the algorithm is asked.
    let mut last = found.and_then(usable);
    let mut taken = state.first_backend(service, &key).filter(ready).or(last);
    let count = service.spec.backends.len();
    let mut first = None;
    let mut at = 0;
    for attempt in 0..TRIES + count.min(SCAN) {
        at = if let Some(last) = taken.take() {
            last
        } else if attempt < TRIES {
            pick(service, hash, attempt as u64, state)
        } else {
            (at + 1) % count
        };
        let Some(backend) = service
            .spec
            .backends
            .get(at)
            .filter(|backend| backend.weight > 0)
        else {
            continue;
        };
        // Weft is the router there; all checks come before the flow.
        if let BackendPath::Pod { ifindex } = backend.path {
            part.routable(ifindex, tables, &mut state.narrow)?;
        }
        let Some(flow) = service_flow((service, stage), backend, key, client, now, tables, state)
        else {
            continue;
        };
        // A clash sends one flow elsewhere, not the client.
        if let Some(timeout) = affinity
            && last.is_none_or(|last| last == at)
        {
            last = Some(at);
            let backend = (backend.address, backend.port);
            // Another worker may just have given the client a backend.
            if let Err(other) = (state.affinity).settle(of, found, backend, timeout, now) {
                if let Some(other) = usable(other) {
                    (last, taken) = (Some(other), Some(other));
                    continue;
                }
                _ = (state.affinity).settle(of, Some(other), backend, timeout, now);
            }
        }
        match add_from(flow.clone(), now, tables, state) {
            Ok(id) => return Ok(id),
            Err(clash @ (InsertError::Clash(_) | InsertError::NoPort)) => {
                _ = first.get_or_insert((flow, clash));
            }
            Err(full) => return Err(refusal(full)),
        }
    }
    let (flow, clash) = first.ok_or(DropReason::Hairpin)?;
    with_other_port(flow, clash, now, tables, state).map_err(refusal)
}

impl State {
    /// A flow without a service: as it is from end to end.
    pub(crate) fn unserved(
        &mut self,
        key: FlowKey,
        kind: FlowKind,
        (client_slot, end, reply): (SlotRef, FlowEnd, bool),
        now: Now,
    ) -> NewFlow {
        NewFlow {
            key,
            end,
            source: None,
            kind,
            reply,
            client_slot,
            service: 0,
            member: SlotRef::FIXED,
            max_flows: None,
            reset: false,
            said: Said::default(),
            backend: None,
            leaves: kind == FlowKind::Direct,
            owner: self.worker,
            cookie: self.cookie(),
            now,
        }
    }
}

/// Adds a flow, from a port of the node's if it is one that the node opens.
fn add_from(
    flow: NewFlow,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Result<FlowId, InsertError> {
    match flow.source {
        // No port is the node's by right.
        Some(FlowSource { port: 0, .. }) => {
            with_other_port(flow, InsertError::NoPort, now, tables, state)
        }
        _ => add(flow, now, tables, state),
    }
}

/// A connection that is wanted to a backend, for requests of a client's.
#[derive(Copy, Clone, Debug)]
pub struct UpstreamSpec<'t> {
    /// The service port that the client asks: its number, and the flows that it may have.
    pub service: (u32, Option<u32>),
    /// The client's packets; with [`UpstreamSource::Node`], those of the first client.
    pub client: FlowKey,
    /// The service port that the backend is one of.
    pub through: &'t ServicePort,
    /// The backend.
    pub backend: (Address, u16),
    /// Whom the backend is to see.
    pub source: UpstreamSource,
}

/// Adds the flow of a connection to a backend.
pub(crate) fn open_upstream(
    wanted: &UpstreamSpec<'_>,
    client: &Pod,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Result<FlowId, DropReason> {
    let through = wanted.through;
    let at = through.position(wanted.backend);
    let at = at.ok_or(DropReason::UnknownFlow)?; // It has left since it was chosen.
    let backend = &through.spec.backends[at];
    let stage = Stage::Http(wanted.source);
    let parts = (through, stage);
    let flow = service_flow(parts, backend, wanted.client, client, now, tables, state)
        .ok_or(DropReason::Hairpin)?;
    let (service, max_flows) = wanted.service;
    // One that is opened from the node's address is no client's.
    let nodes = flow.source.is_some_and(|source| source.port == 0);
    let flow = NewFlow {
        service,
        max_flows,
        client_slot: if nodes { SlotRef::FIXED } else { client.slot },
        ..flow
    };
    match add_from(flow.clone(), now, tables, state) {
        Err(clash @ InsertError::Clash(_)) if !nodes => {
            with_other_port(flow, clash, now, tables, state)
        }
        added => added,
    }
    .map_err(refusal)
}

/// The flow to `backend`; `None` if that is the client itself and there is no hairpin address.
fn service_flow(
    (service, stage): (&ServicePort, Stage),
    backend: &Backend,
    key: FlowKey,
    client: &Pod,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Option<NewFlow> {
    let node = match (stage, backend.path) {
        // From there the node's own packets would be martians to the kernel, and a peer would answer the node's address
        // by the kernel, so the client's address it is.
        (
            Stage::Tcp(UpstreamSource::Node) | Stage::Http(UpstreamSource::Node),
            BackendPath::Pod { ifindex },
        ) if !is_tunnel(ifindex) => tables.node_address(ifindex, backend.address.family()),
        _ => None,
    };
    let source = if let Some(address) = node {
        Some(FlowSource { address, port: 0 })
    } else if client.addresses.contains(&backend.address) {
        Some(FlowSource {
            address: state.hairpin(&key.tuple.src)?,
            port: key.tuple.sport,
        })
    } else {
        None
    };
    let ifindex = match backend.path {
        BackendPath::Pod { ifindex } => ifindex,
        BackendPath::Kernel => 0,
    };
    Some(NewFlow {
        key,
        end: FlowEnd {
            address: backend.address,
            port: backend.port,
            ifindex,
            slot: service.dependence(backend),
        },
        source,
        kind: match stage {
            Stage::L4 => FlowKind::Service,
            Stage::Tcp(_) => FlowKind::Terminated,
            Stage::Http(_) => FlowKind::Upstream,
        },
        reply: true,
        client_slot: client.slot,
        service: service.spec.id,
        member: backend.member,
        max_flows: service.spec.options.max_flows,
        reset: service.spec.options.reset_on_removal,
        said: Said::default(),
        backend: backend.name,
        leaves: stage == Stage::L4
            && service.spec.algorithm != Algorithm::LeastConnections
            && service.spec.options.max_flows.is_none()
            && !service.spec.options.reset_on_removal,
        owner: state.worker,
        cookie: state.cookie(),
        now,
    })
}

/// What a flow that found no place is dropped as.
pub(crate) fn refusal(error: InsertError) -> DropReason {
    match error {
        InsertError::Full => DropReason::FlowTableFull,
        InsertError::Share => DropReason::FlowShare,
        InsertError::ServiceShare => DropReason::ServiceFlowShare,
        InsertError::Clash(_) | InsertError::NoPort => DropReason::TupleClash,
    }
}

/// Adds a flow whose reply tuple is another's, as `clash` says: its far end sees the client at another port.
///
/// Only ports whose own flows this worker would own, or two workers could give out the same one.
pub(crate) fn with_other_port(
    flow: NewFlow,
    clash: InsertError,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Result<FlowId, InsertError> {
    let tuple = flow.key.tuple;
    // The node's flows hash as the node's, the client's as the client's whatever the backend sees.
    let (address, hashed, ports) = match flow.source {
        Some(FlowSource { address, port: 0 }) => (address, address, EPHEMERAL),
        Some(source) => (source.address, tuple.src, port_range(tuple.sport)),
        None => (tuple.src, tuple.src, port_range(tuple.sport)),
    };
    let count = ports.len();
    let start = reduce(state.random(), count as u32) as usize;
    let (mut result, mut tried) = (Err(clash), 0);
    // Bound: the range, or as many hashes as find SOURCE_PORTS of this worker's own.
    for at in 0..count.min(SOURCE_PORTS * 2 * usize::from(state.workers)) {
        let port = ports.start + ((start + at) % count) as u16;
        if source_hash(&hashed, port, tuple.proto) % state.workers != state.worker {
            continue;
        }
        let source = Some(FlowSource { address, port });
        result = add(
            NewFlow {
                source,
                ..flow.clone()
            },
            now,
            tables,
            state,
        );
        tried += 1;
        if !matches!(result, Err(InsertError::Clash(_))) || tried == SOURCE_PORTS {
            break;
        }
    }
    result
}

/// Ports that stand in for `port`: reserved ones for a reserved one (RFC 6056 section 3.2 keeps below 1024
/// apart), else those of [`EPHEMERAL`].
fn port_range(port: u16) -> Range<u16> {
    match port {
        0..1024 => 600..1024,
        _ => EPHEMERAL,
    }
}

/// Ports above what Linux gives out by itself (`ip_local_port_range`).
const EPHEMERAL: Range<u16> = 61_000..65_535;

/// Adds a flow; one in the way of its keys makes way if it is over.
pub(crate) fn add(
    mut flow: NewFlow,
    now: Now,
    tables: &Tables,
    state: &mut State,
) -> Result<FlowId, InsertError> {
    let carries = |ifindex| tables.tunnels().carries(ifindex);
    flow.leaves &= carries(flow.key.ifindex) && carries(flow.end.ifindex);
    match state.add(flow.clone()) {
        Err(bound @ (InsertError::Full | InsertError::Share | InsertError::ServiceShare)) => {
            if state.make_room(bound, &flow, now, tables) {
                state.add(flow)
            } else {
                Err(bound)
            }
        }
        Err(InsertError::Clash(holder))
            if state.flows.at(holder).is_some_and(|other| {
                other.state().over()
                    || !other.valid(now, tables)
                    || state.ended_there(other)
                    || flow.kind.serves() && other.unanswered_datagrams()
            }) =>
        {
            state.remove(holder);
            state.add(flow)
        }
        result => result,
    }
}

/// Up to how many backends the least loaded is looked for among all: as many cache misses at worst.
const LOOK_AT_ALL: usize = 32;

/// The backend that would have the fewest live flows for its weight with one more. Among many, of two drawn by
/// weight (Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001).
fn least_connections(service: &ServicePort, state: &mut State) -> usize {
    let backends = &service.spec.backends;
    let count = backends.len();
    let lighter = |a: usize, b: usize, state: &State| {
        let load = |at: usize| u64::from(state.flows.load(backends[at].member)) + 1;
        let weight = |at: usize| u64::from(backends[at].weight);
        load(a) * weight(b) < load(b) * weight(a)
    };
    if count <= LOOK_AT_ALL {
        // From a random one on, so that equals take turns.
        let start = reduce(state.random(), count as u32) as usize;
        return (0..count)
            .map(|step| (start + step) % count)
            .filter(|at| backends[*at].weight > 0)
            .reduce(|best, at| if lighter(at, best, state) { at } else { best })
            .unwrap_or(0);
    }
    let turns = &service.schedule;
    let [a, b] = [state.random(), state.random()].map(|random| {
        let turn = reduce(random, turns.len() as u32) as usize;
        turns.get(turn).map_or(0, |index| usize::from(*index))
    });
    if lighter(b, a, state) { b } else { a }
}

/// What the algorithm says, the `attempt`-th time for the same flow.
fn pick(service: &ServicePort, hash: u64, attempt: u64, state: &mut State) -> usize {
    let turns = &service.schedule;
    let turn = match service.spec.algorithm {
        Algorithm::Maglev => {
            let hash = if attempt == 0 {
                hash
            } else {
                finish(mix(hash, attempt))
            };
            return service
                .maglev
                .as_ref()
                .and_then(|table| table.lookup(hash))
                .unwrap_or(0);
        }
        Algorithm::RoundRobin => {
            let cursor = state.cursor(service.spec.id);
            // Kept below the turn's length, so that it never jumps when the number wraps.
            let turn = *cursor as usize % turns.len().max(1);
            *cursor = (turn + 1) as u32;
            turn
        }
        Algorithm::LeastConnections if attempt == 0 => return least_connections(service, state),
        Algorithm::Random | Algorithm::LeastConnections => {
            reduce(state.random(), turns.len() as u32) as usize
        }
    };
    turns.get(turn).map_or(0, |index| usize::from(*index))
}
