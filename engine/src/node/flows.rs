//! Flows of the workers and of the hooks, as people see them.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use crossbeam::channel;
use weft_datapath::{Address, Direction, FlowKey, FlowKind, Front, Now, Said};
use weft_xdp::{FastFlow, FastPath};

use super::status::ask;
use super::{Error, Node};
use crate::admin::view::{Flow, Flows};
use crate::worker::{self, Command, FlowSlice, Waker};

/// Flows asked of a worker at a time: about 20 us of its time.
const SLICE: usize = 256;

/// The pods' names by their addresses.
pub(super) type PodNames<'n> = HashMap<IpAddr, &'n str>;

impl Node {
    pub(super) fn flows(&self) -> Result<Flows, Error> {
        let now = worker::now();
        let ((own, fast), pods) = (self.both_flows()?, self.pod_names());
        // Without packets: one of the fast path that an error was about.
        let flows = own.iter().filter(|flow| flow.packets() != [0; 2]);
        let flows = flows.map(|flow| self.flow(flow, &pods, now));
        let fast = fast.iter().map(|flow| self.fast_flow(flow, &pods, now));
        Ok(Flows {
            flows: flows.chain(fast).collect(),
        })
    }

    fn flow(&self, flow: &weft_datapath::Flow, pods: &PodNames<'_>, now: Now) -> Flow {
        let pod_name = |address: Address| pods.get(&address.into()).map(ToString::to_string);
        let said = flow.said();
        let (front, back) = (flow.tuple(), flow.backend_tuple());
        let socket = |address: Address, port| SocketAddr::new(address.into(), port);
        let service = self.control.names().service(flow.service()).0;
        // What the stack sends on behalf of the HTTP stage is not looked up in the flow table.
        let counted = |[out, back]: [u64; 2]| match flow.kind() {
            FlowKind::Client => (Some(out), None),
            FlowKind::Upstream => (None, Some(back)),
            _ => (Some(out), Some(back)),
        };
        let (packets_out, packets_in) = counted(flow.packets());
        let (bytes_out, bytes_in) = counted(flow.bytes());
        let ends_here = flow.kind() == FlowKind::Client;
        Flow {
            protocol: front.proto.to_string(),
            client: socket(front.src, front.sport),
            destination: socket(front.dst, front.dport),
            backend: (!ends_here).then(|| socket(back.dst, back.dport)),
            kind: match flow.kind() {
                FlowKind::Service => "service",
                FlowKind::Direct => "direct",
                FlowKind::Kernel => "kernel",
                FlowKind::Terminated => "terminated",
                FlowKind::Client => "client",
                FlowKind::Upstream => "upstream",
            }
            .into(),
            service: flow.kind().serves().then(|| service.to_string()),
            asked: said.front.map(asked),
            client_pod: pod_name(front.src).or_else(|| self.client_name(said)),
            backend_pod: pod_name(back.dst),
            state: flow.state().name().into(),
            packets_out,
            packets_in,
            bytes_out,
            bytes_in,
            age_ms: now.since(flow.created()).as_millis() as u64,
            idle_ms: now.since(flow.last_seen()).as_millis() as u64,
            tier: match flow.kind() {
                kind if kind.ends_here() => 2,
                _ => 1,
            },
            worker: Some(flow.owner()),
        }
    }

    /// A flow that the hooks forward by themselves.
    fn fast_flow(&self, flow: &FastFlow, pods: &PodNames<'_>, now: Now) -> Flow {
        let pod_name = |address: Address| pods.get(&address.into()).map(ToString::to_string);
        let (front, back) = (&flow.key.tuple, &flow.answers.tuple);
        let socket = |address: Address, port| SocketAddr::new(address.into(), port);
        let since = |nanos: u64| now.since(Now::from_nanos(nanos)).as_millis() as u64;
        let service = flow
            .service
            .map(|service| self.control.names().service(service).0);
        let ([packets_out, packets_in], [bytes_out, bytes_in]) = (flow.packets, flow.bytes);
        Flow {
            protocol: front.proto.to_string(),
            client: socket(front.src, front.sport),
            destination: socket(front.dst, front.dport),
            backend: Some(socket(back.src, back.sport)),
            kind: service.map_or("direct", |_| "service").into(),
            service: service.map(ToString::to_string),
            asked: flow.said.front.map(asked),
            client_pod: pod_name(front.src).or_else(|| self.client_name(flow.said)),
            backend_pod: pod_name(back.src),
            state: flow.state().into(),
            packets_out: Some(packets_out),
            packets_in: Some(packets_in),
            bytes_out: Some(bytes_out),
            bytes_in: Some(bytes_in),
            age_ms: since(flow.created),
            idle_ms: since(flow.last_seen),
            tier: 0,
            worker: None,
        }
    }

    /// What the client's own node calls it.
    fn client_name(&self, said: Said) -> Option<String> {
        self.client_names.name(said.client?)
    }

    pub(super) fn pod_names(&self) -> PodNames<'_> {
        let pods = self.control.registry().pods().iter();
        pods.map(|pod| &pod.config)
            .flat_map(|pod| pod.addresses.iter().map(|ip| (*ip, pod.name.as_str())))
            .collect()
    }

    /// The workers' flows, without those that are left to the hooks, and the hooks'.
    pub(super) fn both_flows(&self) -> Result<(Vec<weft_datapath::Flow>, Vec<FastFlow>), Error> {
        let fast = self.control.kernel().fast_flows();
        let mut own = self.all_flows()?;
        if self.launched.workers.fast_path != FastPath::Off {
            let keys: HashSet<FlowKey> = fast.iter().map(|flow| flow.key).collect();
            let left = |flow: &weft_datapath::Flow| {
                let key = flow.key(Direction::Forward);
                flow.leaves() && key.is_some_and(|key| keys.contains(&key))
            };
            own.retain(|flow| !left(flow));
        }
        Ok((own, fast))
    }

    /// All flows of all workers, asked for in slices.
    fn all_flows(&self) -> Result<Vec<weft_datapath::Flow>, Error> {
        let mut all = Vec::new();
        for (index, (side, handle)) in (0u16..).zip(self.workers.iter().zip(self.control.workers()))
        {
            let mut start = Some(0);
            // Bound: each slice goes on where the last one ended, through a table of fixed size.
            while let Some(from) = start {
                let slice = flow_slice(&side.commands, &handle.waker, from)
                    .ok_or(Error::WorkerSilent(index))?;
                all.extend(slice.flows);
                start = slice.next;
            }
        }
        Ok(all)
    }
}

fn asked(front: Front) -> SocketAddr {
    SocketAddr::new(front.address.into(), front.port)
}

/// Asks one worker for a slice of its flows. `None` when it does not answer in time.
fn flow_slice(
    commands: &channel::Sender<Command>,
    waker: &Waker,
    start: usize,
) -> Option<FlowSlice> {
    let (reply, answer) = channel::bounded(1);
    let asked = Command::Flows {
        start,
        flows: Vec::with_capacity(SLICE),
        reply,
    };
    ask(commands, waker, asked, &answer)
}
