//! First datagrams: no entry is made for them, and they are answered all the same.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use weft_datapath::{FastFlows, FlowKey, Protocol, Tuple};

use crate::{Choice, Counter, ServiceKey, abi};

use super::flow_table::fill_set_of;
use super::hooks::at;
use super::packets::{Context, L4, REDIRECT, frame, run};
use super::support::node;
use super::world::{CLIENT, PORT, SERVERS, TARGET, World, pod, to, vip};

/// When a first packet is remembered no more.
const LATER: u16 = abi::FIRST_LIFETIME as u16 + 1;

fn source(ip: &[u8]) -> IpAddr {
    match ip[0] >> 4 {
        4 => IpAddr::from(<[u8; 4]>::try_from(&ip[12..16]).unwrap()),
        _ => IpAddr::from(<[u8; 16]>::try_from(&ip[8..24]).unwrap()),
    }
}

/// The client's datagram to the service; who gets it.
fn ask(world: &mut World, v6: bool, port: u16) -> u32 {
    let packet = frame(pod(CLIENT, v6), vip(v6), L4::Udp(port, PORT));
    to(&world.forwards(CLIENT, &packet))
}

/// The backend's datagram to the client; whom it comes from, as the client sees it.
fn answer(world: &mut World, server: u32, v6: bool, port: u16) -> IpAddr {
    let packet = frame(pod(server, v6), pod(CLIENT, v6), L4::Udp(TARGET, port));
    source(&world.forwards(server, &packet))
}

#[test]
fn dns_02_a_question_and_its_answer_leave_nothing_behind() {
    node(|node| {
        let mut world = World::new(node);
        for port in 20_000..20_100 {
            for v6 in [false, true] {
                let server = ask(&mut world, v6, port);
                assert_eq!(answer(&mut world, server, v6, port), vip(v6));
            }
        }
        assert_eq!(world.steering.fast_flows(), []);
        let counters = world.steering.counters().unwrap();
        assert_eq!(counters[Counter::FlowsOpened], 0);
        assert_eq!(counters[Counter::FromPodFirst], 400);
        // The engine knows where it went, whatever becomes of the service.
        let server = ask(&mut world, false, 30_000);
        let went = world
            .steering
            .fast_lookup()
            .unwrap()
            .first(&question(30_000));
        let address = pod(server, false).into();
        assert_eq!(went, Some(weft_datapath::backend_print(&address, TARGET)));
        // The second question of a flow makes its entries.
        let server = ask(&mut world, false, 20_000);
        assert_eq!(answer(&mut world, server, false, 20_000), vip(false));
        let flows = world.steering.fast_flows();
        assert_eq!((flows.len(), flows[0].packets), (1, [1, 1]));
        assert_eq!(flows[0].state(), "two_way");
    });
}

#[test]
fn svc_27_a_second_answer_makes_entries() {
    node(|node| {
        let mut world = World::new(node);
        let server = ask(&mut world, false, 4000);
        for answers in 1..4 {
            assert_eq!(answer(&mut world, server, false, 4000), vip(false));
            let flows = world.steering.fast_flows();
            assert_eq!(flows.len(), usize::from(answers > 1));
        }
    });
}

fn question(port: u16) -> FlowKey {
    FlowKey {
        tuple: Tuple {
            src: pod(CLIENT, false).into(),
            dst: vip(false).into(),
            sport: port,
            dport: PORT,
            proto: Protocol::Udp,
        },
        ifindex: CLIENT,
    }
}

/// The same where the flow's entries have no room: the answers go by what is remembered.
#[test]
fn svc_27_further_answers_arrive_without_room_for_entries() {
    node(|node| {
        let mut world = World::new(node);
        let server = ask(&mut world, false, 4000);
        fill_set_of(&world, &question(4000));
        for _ in 0..4 {
            assert_eq!(answer(&mut world, server, false, 4000), vip(false));
        }
        let counters = world.steering.counters().unwrap();
        assert_eq!(counters[Counter::FlowsNoRoom], 3);
        // The second question is the engine's, which finds out as before whose answers those are.
        let packet = frame(pod(CLIENT, false), vip(false), L4::Udp(4000, PORT));
        world.punts(CLIENT, &packet);
        let found = world.steering.fast_lookup().unwrap().find(&question(4000));
        assert_eq!(found.unwrap().answers.ifindex, server);
    });
}

/// AMB-08: a backend that knows the client's port cannot take over what another one was asked.
#[test]
fn svc_32_another_backend_of_the_service_was_not_asked() {
    node(|node| {
        let mut world = World::new(node);
        let server = ask(&mut world, false, 4000);
        let other = SERVERS.into_iter().find(|other| *other != server).unwrap();
        let mut answers = question(4000);
        (answers.tuple.src, answers.tuple.sport) = (pod(other, false).into(), TARGET);
        (answers.tuple.dst, answers.tuple.dport) = (pod(CLIENT, false).into(), 4000);
        answers.ifindex = other;
        let fast = world.steering.fast_lookup().unwrap();
        assert_eq!(fast.find(&answers), None);
        let program = &world.steering.skel.progs.weft_from_pod;
        let packet = frame(pod(other, false), pod(CLIENT, false), L4::Udp(TARGET, 4000));
        for _ in 0..2 {
            let outcome = run(program, &packet, Context::at(other));
            assert_eq!(outcome.action, REDIRECT);
            assert_eq!(source(&outcome.data[14..]), pod(other, false));
        }
        assert_eq!(answer(&mut world, server, false, 4000), vip(false));
        assert_eq!(ask(&mut world, false, 4000), server);
    });
}

/// A client that uses its ports again, as a resolver does, opens flows by that, and leaves nothing behind all the same.
#[test]
fn dns_02_a_port_that_is_used_again_later_leaves_nothing_behind() {
    node(|node| {
        let mut world = World::new(node);
        for _ in 0..2 {
            for port in 20_000..20_100 {
                let server = ask(&mut world, false, port);
                assert_eq!(answer(&mut world, server, false, port), vip(false));
            }
            assert_eq!(world.steering.fast_flows(), []);
            world.steering.let_first_packets_age(LATER);
        }
    });
}

/// More flows in turn than a client's words remember are known to be no first packets all the same.
#[test]
fn svc_27_many_live_flows_of_one_client_get_entries() {
    node(|node| {
        let world = World::new(node);
        let program = &world.steering.skel.progs.weft_from_pod;
        let flows = 12_000;
        let turn = || {
            for port in 20_000..20_000 + flows {
                let packet = frame(pod(CLIENT, false), vip(false), L4::Udp(port, PORT));
                assert_eq!(run(program, &packet, Context::at(CLIENT)).action, REDIRECT);
            }
            world.steering.fast_flows().len()
        };
        assert_eq!(turn(), 0);
        let entered = turn();
        // What one set is asked to remember beyond three flows it forgets.
        assert!(entered > usize::from(flows) * 99 / 100, "{entered}");
    });
}

/// The engine finds such a flow by an error that quotes its first packet, and takes no tuple of it.
#[test]
fn svc_34_a_first_packet_is_found_by_its_answers_key() {
    node(|node| {
        let mut world = World::new(node);
        let server = ask(&mut world, false, 4000);
        let fast = world.steering.fast_lookup().unwrap();
        let mut answers = FlowKey {
            tuple: Tuple {
                src: pod(server, false).into(),
                dst: pod(CLIENT, false).into(),
                sport: TARGET,
                dport: 4000,
                proto: Protocol::Udp,
            },
            ifindex: server,
        };
        let found = fast.find(&answers).unwrap();
        assert_eq!((found.answers, found.client.ifindex), (answers, CLIENT));
        assert_eq!(found.client.tuple.dst, vip(false).into());
        answers.tuple.dport = 4001;
        assert_eq!(fast.find(&answers), None);
    });
}

/// Gossip, NTP between peers: a datagram from a service's backend that nobody has asked for.
#[test]
fn svc_32_a_backend_that_speaks_of_itself_keeps_its_address() {
    node(|node| {
        let mut world = World::new(node);
        let server = SERVERS[0];
        for port in [TARGET, 4000] {
            let from = answer(&mut world, server, false, port);
            assert_eq!(from, pod(server, false));
        }
        let flows = world.steering.fast_flows();
        assert_eq!(flows.len(), 2);
        assert!(flows.iter().all(|flow| flow.service.is_none()));
    });
}

/// Nor is a question of five hours ago one of now, by a clock that has come round.
#[test]
fn svc_32_a_question_is_not_asked_again_by_the_clock() {
    node(|node| {
        let mut world = World::new(node);
        let server = ask(&mut world, false, 4000);
        world.steering.table.keep_past();
        assert_eq!(answer(&mut world, server, false, 4000), vip(false));
        world.steering.let_first_packets_age(LATER);
        world.steering.table.keep_past();
        world.steering.let_first_packets_age(LATER.wrapping_neg());
        let program = &world.steering.skel.progs.weft_from_pod;
        let packet = frame(
            pod(server, false),
            pod(CLIENT, false),
            L4::Udp(TARGET, 4000),
        );
        let outcome = run(program, &packet, Context::at(server));
        assert_eq!(source(&outcome.data[14..]), pod(server, false));
    });
}

/// With two ports for one backend nobody could tell whose answers its packets are: entries from the first packet on.
#[test]
fn amb_08_a_backend_of_two_services_gets_entries_at_once() {
    node(|node| {
        let mut world = World::new(node);
        let before = ask(&mut world, false, 3999);
        let mut ports = world.tables.services().into_iter();
        let port =
            ports.find(|port| (port.address(), port.proto()) == (vip(false).into(), Protocol::Udp));
        let choice = Choice::of(port.unwrap()).unwrap();
        let second = ServiceKey::port(at("10.96.0.2").into(), PORT, Protocol::Udp);
        world.steering.set_choice(second, Some(&choice)).unwrap();
        ask(&mut world, false, 4000);
        assert_eq!(world.steering.fast_flows().len(), 1);
        // What was under way then is still answered.
        assert_eq!(answer(&mut world, before, false, 3999), vip(false));
        // Alone again, the first one's own again.
        world.steering.set_choice(second, None).unwrap();
        ask(&mut world, false, 4001);
        assert_eq!(world.steering.fast_flows().len(), 1);
    });
}

/// A client that asks a service and one of its backends by one port: the second is the engine's.
#[test]
fn amb_08_a_backend_that_was_asked_by_its_service_is_not_asked_directly_by_the_same_port() {
    node(|node| {
        let mut world = World::new(node);
        let server = ask(&mut world, false, 4000);
        let (client, backend) = (pod(CLIENT, false), pod(server, false));
        let direct = frame(client, backend, L4::Udp(4000, TARGET));
        world.punts(CLIENT, &direct);
        let other = frame(client, backend, L4::Udp(4001, TARGET));
        let there = world.forwards(CLIENT, &other);
        assert_eq!(source(&there), client);
    });
}

impl crate::Steering {
    /// As if that time had passed since.
    fn let_first_packets_age(&self, by: u16) {
        let older = |word: u64| {
            let clock = (word as u16).wrapping_sub(by);
            word >> 16 << 16 | u64::from(clock)
        };
        let table = &self.table;
        for set in 0..table.sets.count() {
            let seen = std::mem::offset_of!(abi::FlowSet, seen);
            let word = table.sets.word(set, seen).unwrap();
            word.store(older(word.load(Relaxed)), Relaxed);
        }
        for line in 0..table.firsts.count() {
            for at in (0..size_of::<abi::Firsts>()).step_by(size_of::<u64>()) {
                let word = table.firsts.word(line, at).unwrap();
                if word.load(Relaxed) != 0 {
                    word.store(older(word.load(Relaxed)), Relaxed);
                }
            }
        }
    }
}
