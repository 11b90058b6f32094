//! A node as the engine and the hooks know it, for the tests of the fast path.

use std::net::IpAddr;

use weft_datapath::{
    Address, Algorithm, Backend, BackendPath, BackendState, FrameBuf, Now, Pod, PodState, Ports,
    Protocol, ServiceOptions, ServicePortSpec, SlotRef, State, StateConfig, Tables, TablesBuilder,
    Verdict, process,
};

use crate::{Choice, FastPath, PodEntry, ServiceKey, Steering, SteeringConfig};

use super::hooks::at;
use super::packets::{Context, FROM_POD, Outcome, REDIRECT, is_punted, run};
use super::support::{Node, block_on, ip, monotonic_ns};

pub(super) const CLIENT: u32 = 101;
pub(super) const SERVERS: [u32; 3] = [111, 112, 113];
pub(super) const PORT: u16 = 80;
pub(super) const TARGET: u16 = 8080;

pub(super) fn vip(v6: bool) -> IpAddr {
    at(if v6 { "fd96::1" } else { "10.96.0.1" })
}

pub(super) fn pod(ifindex: u32, v6: bool) -> IpAddr {
    match v6 {
        true => at(&format!("fd09::{ifindex}")),
        false => at(&format!("10.9.0.{ifindex}")),
    }
}

/// The node as the engine and the hooks know it: a client, three backends of a service, both protocols and families.
pub(super) struct World {
    pub(super) steering: Steering,
    pub(super) tables: Tables,
    pub(super) state: State,
}

impl World {
    pub(super) fn new(node: &Node) -> Self {
        for ifindex in [CLIENT].into_iter().chain(SERVERS) {
            ip(&format!(
                "link add p{ifindex} index {ifindex} type veth peer name far{ifindex}"
            ));
        }
        let mut steering = open(node, 1);
        let tables = tables(&[0, 0, 0], 1);
        tell(&mut steering, &tables);
        let state = State::new(StateConfig {
            max_flows: 8192,
            seed: 7,
            worker: 0,
            workers: 1,
            ports: Ports {
                weft0_mac: [2, 0x77, 0x65, 0x66, 0x74, 0],
            },
            hairpin: Default::default(),
        });
        Self {
            steering,
            tables,
            state,
        }
    }

    /// What the hook makes of a packet, and what the engine would.
    pub(super) fn both(&mut self, ifindex: u32, packet: &[u8]) -> (Outcome, Verdict, Vec<u8>) {
        let outcome = run(
            &self.steering.skel.progs.weft_from_pod,
            packet,
            Context::at(ifindex),
        );
        let mut bytes = packet.to_vec();
        let [_, a, b, c] = ifindex.to_be_bytes();
        bytes[6..12].copy_from_slice(&[FROM_POD as u8, a, b, c, 0, 0]);
        let length = bytes.len();
        let mut buf = FrameBuf::new(&mut bytes, length);
        let now = Now::from_nanos(monotonic_ns());
        let verdict = process(&mut buf, now, &self.tables, &mut self.state);
        self.state.pin_ops.clear();
        (outcome, verdict, bytes)
    }

    /// The packet goes on by the fast path exactly as it would by the engine; the bytes behind the Ethernet header.
    #[track_caller]
    pub(super) fn forwards(&mut self, ifindex: u32, packet: &[u8]) -> Vec<u8> {
        let (outcome, verdict, engine) = self.both(ifindex, packet);
        assert_eq!(verdict, Verdict::Deliver);
        assert_eq!(outcome.action, REDIRECT);
        assert_eq!(outcome.data[14..], engine[14..], "{packet:?}");
        assert_eq!(
            outcome.data[..14],
            packet[..14],
            "the frame's own addresses do not matter"
        );
        outcome.data[14..].to_vec()
    }

    /// The packet is the engine's.
    #[track_caller]
    pub(super) fn punts(&self, ifindex: u32, packet: &[u8]) {
        let outcome = run(
            &self.steering.skel.progs.weft_from_pod,
            packet,
            Context::at(ifindex),
        );
        assert!(
            is_punted(&outcome, packet, FROM_POD, ifindex),
            "{outcome:?}"
        );
    }
}

pub(super) fn open(node: &Node, instance: u32) -> Steering {
    let pair = block_on(crate::netlink::ensure_pair(1)).unwrap();
    let config = SteeringConfig {
        fast_path: FastPath::Full,
        instance,
        ..node.config(pair, 1)
    };
    let steering = Steering::open(config).unwrap();
    steering.heartbeat(0).unwrap().beat(monotonic_ns());
    steering
}

/// `epochs` of the three backends' places.
pub(super) fn tables(epochs: &[u32; 3], generation: u64) -> Tables {
    let mut builder = TablesBuilder::new();
    for v6 in [false, true] {
        for proto in [Protocol::Tcp, Protocol::Udp] {
            builder.add_service_port(ServicePortSpec {
                id: u32::from(v6),
                address: vip(v6).into(),
                port: PORT,
                proto,
                algorithm: Algorithm::Maglev,
                backends: (0..3)
                    .map(|n| Backend {
                        address: pod(SERVERS[n], v6).into(),
                        port: TARGET,
                        path: BackendPath::Pod {
                            ifindex: SERVERS[n],
                        },
                        slot: SlotRef {
                            slot: n as u32 + 2,
                            epoch: 0,
                        },
                        member: SlotRef::member(n as u32, epochs[n]),
                        state: BackendState::Ready,
                        weight: 1,
                        name: None,
                    })
                    .collect(),
                options: ServiceOptions::default(),
            });
        }
    }
    let pods = [CLIENT].into_iter().chain(SERVERS).zip(1..);
    builder.set_pods(
        pods.map(|(ifindex, slot)| Pod {
            ifindex,
            name: Box::default(),
            addresses: [false, true].map(|v6| pod(ifindex, v6).into()).into(),
            slot: SlotRef { slot, epoch: 0 },
            state: PodState::Enrolled {
                grace_until: Now::default(),
            },
            mtu: 1500,
        })
        .collect(),
    );
    builder.set_epochs(vec![0; 8]);
    builder.set_members(epochs.to_vec());
    builder.build(generation).unwrap()
}

/// Tells the hooks what the tables say.
pub(super) fn tell(steering: &mut Steering, tables: &Tables) {
    let pods: Vec<u32> = [CLIENT].into_iter().chain(SERVERS).collect();
    let mut endpoints = Vec::new();
    for ifindex in pods {
        let addresses: Vec<Address> = [false, true].map(|v6| pod(ifindex, v6).into()).to_vec();
        endpoints.extend(addresses.iter().map(|address| (*address, ifindex)));
        steering
            .set_pod(&PodEntry {
                ifindex,
                addresses,
                draining: false,
                punt_rate: 0,
                punt_burst: 0,
                grace_until: Default::default(),
            })
            .unwrap();
    }
    steering.sync_endpoints(&endpoints).unwrap();
    let keys: Vec<ServiceKey> = tables
        .service_keys()
        .flat_map(|(vip, port, proto)| {
            [
                ServiceKey::port(vip, port, proto),
                ServiceKey::wildcard(vip),
            ]
        })
        .collect();
    steering.sync_services(&keys).unwrap();
    for port in tables.services() {
        let choice = Choice::of(port).unwrap();
        let key = ServiceKey::port(port.address(), port.port(), port.proto());
        assert!(steering.set_choice(key, Some(&choice)).unwrap());
    }
    steering
        .set_epochs(tables.epochs(), tables.members())
        .unwrap();
}

/// Who a packet behind its Ethernet header is to: the backend's interface.
pub(super) fn to(ip: &[u8]) -> u32 {
    let destination = match ip[0] >> 4 {
        4 => IpAddr::from(<[u8; 4]>::try_from(&ip[16..20]).unwrap()),
        _ => IpAddr::from(<[u8; 16]>::try_from(&ip[24..40]).unwrap()),
    };
    SERVERS
        .into_iter()
        .chain([CLIENT])
        .find(|server| {
            [false, true]
                .iter()
                .any(|v6| pod(*server, *v6) == destination)
        })
        .unwrap_or_else(|| panic!("nobody has {destination}"))
}
