//! The fast path, packet by packet against the engine: the same backend, and the same bytes into the other pod.

use std::net::IpAddr;

use weft_datapath::{
    Address, Algorithm, Backend, BackendPath, BackendState, FlowKey, FrameBuf, Now, Pod, PodState,
    Ports, Protocol, ServiceOptions, ServicePortSpec, SlotRef, State, StateConfig, Tables,
    TablesBuilder, Verdict, process,
};

use crate::{Choice, Counter, PodEntry, ServiceKey, Steering, SteeringConfig};

use super::hooks::at;
use super::packets::{Context, FROM_POD, L4, REDIRECT, frame, is_punted, run};
use super::support::{Node, block_on, ip, monotonic_ns, node};

const CLIENT: u32 = 101;
const SERVERS: [u32; 3] = [111, 112, 113];
const PORT: u16 = 80;
const TARGET: u16 = 8080;

fn vip(v6: bool) -> IpAddr {
    at(if v6 { "fd96::1" } else { "10.96.0.1" })
}

fn pod(ifindex: u32, v6: bool) -> IpAddr {
    match v6 {
        true => at(&format!("fd09::{ifindex}")),
        false => at(&format!("10.9.0.{ifindex}")),
    }
}

/// The node as the engine and the hooks know it: a client, three backends of a service, both protocols and families.
struct World {
    steering: Steering,
    tables: Tables,
    state: State,
}

impl World {
    fn new(node: &Node) -> Self {
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
    fn both(&mut self, ifindex: u32, packet: &[u8]) -> (super::packets::Outcome, Verdict, Vec<u8>) {
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
    fn forwards(&mut self, ifindex: u32, packet: &[u8]) -> Vec<u8> {
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
    fn punts(&self, ifindex: u32, packet: &[u8]) {
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

fn open(node: &Node, instance: u32) -> Steering {
    let pair = block_on(crate::netlink::ensure_pair(1)).unwrap();
    let config = SteeringConfig {
        fast_path: true,
        instance,
        ..node.config(pair, 1)
    };
    let steering = Steering::open(config).unwrap();
    steering.heartbeat(0).unwrap().beat(monotonic_ns());
    steering
}

/// `epochs` of the three backends' places.
fn tables(epochs: &[u32; 3], generation: u64) -> Tables {
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
            addresses: [false, true].map(|v6| pod(ifindex, v6).into()).into(),
            slot: SlotRef { slot, epoch: 0 },
            state: PodState::Enrolled {
                grace_until: Now::default(),
            },
        })
        .collect(),
    );
    builder.set_epochs(vec![0; 8]);
    builder.set_members(epochs.to_vec());
    builder.build(generation).unwrap()
}

/// Tells the hooks what the tables say.
fn tell(steering: &mut Steering, tables: &Tables) {
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
fn to(ip: &[u8]) -> u32 {
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

#[test]
fn svc_43_flows_go_where_the_engine_sends_them_byte_for_byte_and_back() {
    node(|node| {
        let mut world = World::new(node);
        let mut reached = std::collections::BTreeMap::<u32, u32>::new();
        for n in 0..400_u16 {
            for v6 in [false, true] {
                let (client, port) = (pod(CLIENT, v6), 20_000 + n * 7);
                for l4 in [L4::Syn(port, PORT), L4::Udp(port, PORT)] {
                    let there = world.forwards(CLIENT, &frame(client, vip(v6), l4));
                    let server = to(&there);
                    *reached.entry(server).or_default() += 1;
                    let answer = match l4 {
                        L4::Syn(..) => L4::Ack(TARGET, port),
                        _ => L4::Udp(TARGET, port),
                    };
                    let back = world.forwards(server, &frame(pod(server, v6), client, answer));
                    assert_eq!(to(&back), CLIENT);
                    let again = match l4 {
                        L4::Syn(..) => L4::Ack(port, PORT),
                        _ => l4,
                    };
                    let there = world.forwards(CLIENT, &frame(client, vip(v6), again));
                    assert_eq!(to(&there), server);
                }
            }
        }
        assert!(
            reached.len() == 3 && reached.values().all(|n| *n > 400),
            "{reached:?}"
        );
        let counters = world.steering.counters().unwrap();
        assert_eq!(counters[Counter::FlowsOpened], 1600);
        assert_eq!(counters[Counter::FromPodForwarded], 4800);
        assert_eq!(counters[Counter::FromPod], 4800);
        let flows = world.steering.fast_flows().unwrap();
        assert_eq!(flows.len(), 1600);
        for flow in flows {
            let length = if flow.key.tuple.src.is_v4() { 20 } else { 40 } + 32;
            let l4 = if flow.key.tuple.proto == Protocol::Tcp {
                20
            } else {
                8
            };
            assert_eq!(flow.packets, [2, 1]);
            assert_eq!(flow.bytes, [2, 1].map(|packets| packets * (length + l4)));
            assert!(
                ["established", "two_way"].contains(&flow.state()),
                "{flow:?}"
            );
        }
    });
}

#[test]
fn flows_between_pods_go_as_they_are() {
    node(|node| {
        let mut world = World::new(node);
        for v6 in [false, true] {
            let ends = (pod(CLIENT, v6), pod(SERVERS[0], v6));
            for l4 in [L4::Syn(4000, 5000), L4::Udp(4000, 5000)] {
                world.forwards(CLIENT, &frame(ends.0, ends.1, l4));
            }
            world.forwards(SERVERS[0], &frame(ends.1, ends.0, L4::Ack(5000, 4000)));
            world.forwards(SERVERS[0], &frame(ends.1, ends.0, L4::Udp(5000, 4000)));
        }
        let flows = world.steering.fast_flows().unwrap();
        assert_eq!(flows.len(), 4);
        assert!(
            flows
                .iter()
                .all(|flow| flow.service.is_none() && flow.key.ifindex == CLIENT)
        );
    });
}

#[test]
fn what_is_not_plain_is_the_engines() {
    node(|node| {
        let world = World::new(node);
        let (client, vip4) = (pod(CLIENT, false), vip(false));
        world.punts(CLIENT, &frame(client, vip4, L4::Ack(4000, PORT))); // Nothing of a flow is known.
        world.punts(CLIENT, &frame(client, vip4, L4::Syn(4000, 81)));
        world.punts(CLIENT, &frame(client, vip4, L4::Icmp));
        world.punts(CLIENT, &frame(client, vip4, L4::Fragment(4000, PORT)));
        let mut last_hop = frame(client, vip4, L4::Udp(4000, PORT));
        last_hop[14 + 8] = 1;
        world.punts(CLIENT, &last_hop);
        let options = frame(pod(CLIENT, true), vip(true), L4::Extensions(4000, PORT, 1));
        world.punts(CLIENT, &options);
        assert_eq!(world.steering.fast_flows().unwrap(), []);
    });
}

/// A datagram without a checksum has none afterwards (RFC 768).
#[test]
fn svc_02_no_checksum_stays_none() {
    node(|node| {
        let mut world = World::new(node);
        let mut packet = frame(pod(CLIENT, false), vip(false), L4::Udp(4000, PORT));
        packet[14 + 20 + 6..14 + 20 + 8].fill(0);
        let ip = world.forwards(CLIENT, &packet);
        assert_eq!(ip[26..28], [0, 0]);
    });
}

/// Two services with one backend, and a client that uses one port for both: the second is the engine's, who finds
/// another port.
#[test]
fn amb_08_a_reply_tuple_that_is_taken_is_not_taken_again() {
    node(|node| {
        let mut world = World::new(node);
        let (client, port) = (pod(CLIENT, false), 4000);
        let there = world.forwards(CLIENT, &frame(client, vip(false), L4::Udp(port, PORT)));
        let server = to(&there);
        // The engine looks, and takes another source port.
        let fast = world.steering.fast_lookup().unwrap();
        world.state.set_fast_flows(Box::new(fast));
        let direct = frame(client, pod(server, false), L4::Udp(port, TARGET));
        world.punts(CLIENT, &direct);
        let (_, verdict, punted) = world.both(CLIENT, &direct);
        assert_eq!(verdict, Verdict::Deliver);
        assert_ne!(punted[34..36], port.to_be_bytes());
        let back = world.forwards(
            server,
            &frame(pod(server, false), client, L4::Udp(TARGET, port)),
        );
        assert_eq!(to(&back), CLIENT);
        // An owner entry says that a key is the engine's.
        let key = FlowKey {
            tuple: weft_datapath::Tuple {
                src: client.into(),
                dst: vip(false).into(),
                sport: 4001,
                dport: PORT,
                proto: Protocol::Udp,
            },
            ifindex: CLIENT,
        };
        world
            .steering
            .pin_writer(None)
            .unwrap()
            .apply(&[weft_datapath::PinOp::Insert {
                key,
                owner: 0,
                cookie: 1,
                terminated: None,
            }]);
        world.punts(CLIENT, &frame(client, vip(false), L4::Udp(4001, PORT)));
    });
}

/// SVC-27: a backend that leaves takes its UDP flows along, and none of TCP.
#[test]
fn svc_27_datagrams_leave_a_backend_that_is_gone_and_connections_do_not() {
    node(|node| {
        let mut world = World::new(node);
        let client = pod(CLIENT, false);
        let open = |world: &mut World, l4: fn(u16, u16) -> L4| -> Vec<u32> {
            let ports = 20_000..20_100;
            let packets = ports.map(|port| frame(client, vip(false), l4(port, PORT)));
            packets
                .map(|packet| to(&world.forwards(CLIENT, &packet)))
                .collect()
        };
        let (tcp, udp) = (open(&mut world, L4::Syn), open(&mut world, L4::Udp));
        // The second backend's place is another's from now on: as if it had left and come again.
        world.tables = tables(&[0, 1, 0], 2);
        world
            .steering
            .set_epochs(world.tables.epochs(), world.tables.members())
            .unwrap();
        let run = |world: &World, packet: &[u8]| {
            run(
                &world.steering.skel.progs.weft_from_pod,
                packet,
                Context::at(CLIENT),
            )
        };
        for (n, before) in (20_000..20_100).zip(&tcp) {
            let outcome = run(&world, &frame(client, vip(false), L4::Ack(n, PORT)));
            assert_eq!(
                (outcome.action, to(&outcome.data[14..])),
                (REDIRECT, *before)
            );
        }
        // Between the epochs and the choice that goes with them, such flows are the engine's.
        for (n, before) in (20_000..20_100).zip(&udp) {
            let packet = frame(client, vip(false), L4::Udp(n, PORT));
            let outcome = run(&world, &packet);
            let punted = is_punted(&outcome, &packet, FROM_POD, CLIENT);
            assert_eq!(punted, *before == SERVERS[1], "{n}");
        }
        tell(&mut world.steering, &world.tables);
        for (n, before) in (20_000..20_100).zip(&udp) {
            let outcome = run(&world, &frame(client, vip(false), L4::Udp(n, PORT)));
            assert_eq!(
                (outcome.action, to(&outcome.data[14..])),
                (REDIRECT, *before)
            );
        }
    });
}

/// A restart numbers places and services anew: flows of the process before go on all the same, until it is known
/// what their backends are now, and then by the new numbers.
#[test]
fn flows_outlive_the_process_that_compiled_their_choice() {
    node(|node| {
        let mut world = World::new(node);
        let client = pod(CLIENT, false);
        let packet = frame(client, vip(false), L4::Syn(4000, PORT));
        let server = to(&world.forwards(CLIENT, &packet));
        drop(world.steering);
        let mut steering = open(node, 2);
        let data = frame(client, vip(false), L4::Ack(4000, PORT));
        let goes_on = |steering: &Steering| {
            let outcome = run(
                &steering.skel.progs.weft_from_pod,
                &data,
                Context::at(CLIENT),
            );
            (outcome.action, to(&outcome.data[14..])) == (REDIRECT, server)
        };
        assert!(goes_on(&steering));
        let tables = tables(&[9, 9, 9], 1);
        tell(&mut steering, &tables);
        assert!(goes_on(&steering), "nobody has looked at it yet");
        let depends = |client: &FlowKey, answers: &FlowKey| {
            let (front, back) = (&client.tuple, &answers.tuple);
            let front = (&front.dst, front.dport, front.proto);
            tables.depends(front, (back.src, back.sport), answers.ifindex)
        };
        let adopted = steering.adopt_flows(depends).unwrap();
        assert_eq!((adopted.kept, adopted.removed), (2, 0));
        assert!(goes_on(&steering));
        assert_eq!(steering.adopt_flows(depends).unwrap().kept, 0, "once");
        let flows = steering.fast_flows().unwrap();
        assert_eq!(flows[0].packets, [4, 0]);
    });
}
