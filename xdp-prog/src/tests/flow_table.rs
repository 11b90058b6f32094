//! The fast path's table of flows: who gets a place, and who keeps it.

use std::sync::atomic::Ordering::Relaxed;

use weft_datapath::{FlowKey, PinOp, Protocol, Tuple};

use crate::steering::flow_table::place_hash;
use crate::{Counter, abi};

use super::packets::{Context, FROM_POD, L4, REDIRECT, frame, is_punted, run};
use super::support::node;
use super::world::{CLIENT, PORT, SERVERS, TARGET, World, pod, to, vip};

/// TCP from one pod to another.
fn key(from: u32, to: u32, ports: (u16, u16)) -> FlowKey {
    FlowKey {
        tuple: Tuple {
            src: pod(from, false).into(),
            dst: pod(to, false).into(),
            sport: ports.0,
            dport: ports.1,
            proto: Protocol::Tcp,
        },
        ifindex: from,
    }
}

/// Ports of flows between the two, one entry of which belongs into that set: `of` says which of the flow's.
fn ports_of_set(
    world: &World,
    of: fn(u32, u32, (u16, u16)) -> FlowKey,
    (from, to): (u32, u32),
    set: u64,
) -> impl Iterator<Item = (u16, u16)> {
    let table = &world.steering.table;
    let all = (1000..u16::MAX).flat_map(|sport| (1000..1100).map(move |dport| (sport, dport)));
    all.filter(move |ports| {
        let key = of(from, to, *ports);
        let hash = place_hash(&table.secret, &(&key).into());
        hash % u64::from(abi::MAX_FLOW_SETS) == set
    })
}

/// The answers to that.
fn answers(from: u32, to: u32, ports: (u16, u16)) -> FlowKey {
    key(to, from, (ports.1, ports.0))
}

fn opens(world: &World, from: u32, to: u32, ports: (u16, u16)) -> bool {
    let packet = frame(pod(from, false), pod(to, false), L4::Syn(ports.0, ports.1));
    let program = &world.steering.skel.progs.weft_from_pod;
    run(program, &packet, Context::at(from)).action == REDIRECT
        && world.steering.table_has(&key(from, to, ports))
}

/// Fills the set of a key with connections that go on, of two other pods, so that no entry of the key's flow has room.
pub(super) fn fill_set_of(world: &World, key_there: &FlowKey) {
    let hash = place_hash(&world.steering.table.secret, &key_there.into());
    let set = hash % u64::from(abi::MAX_FLOW_SETS);
    let (ways, most) = (abi::FLOW_WAYS as usize, abi::FLOW_WAYS_A_POD as usize);
    for (ends, flows) in [
        ((SERVERS[0], SERVERS[1]), most),
        ((SERVERS[1], SERVERS[2]), ways - most),
    ] {
        for ports in ports_of_set(world, key, ends, set).take(flows) {
            assert!(opens(world, ends.0, ends.1, ports));
            // What nobody has answered for a second would make room.
            let (from, to) = (pod(ends.0, false), pod(ends.1, false));
            let data = frame(from, to, L4::Ack(ports.0, ports.1));
            let program = &world.steering.skel.progs.weft_from_pod;
            assert_eq!(run(program, &data, Context::at(ends.0)).action, REDIRECT);
        }
    }
}

/// A pod that knew where its entries go could not push out another's, nor keep it from any place.
#[test]
fn a_pod_takes_its_share_of_a_set_and_nobody_takes_anothers() {
    node(|node| {
        let world = World::new(node);
        let set = 12_345;
        let mut theirs = ports_of_set(&world, key, (SERVERS[0], SERVERS[1]), set);
        let mut ours = ports_of_set(&world, key, (CLIENT, SERVERS[2]), set);
        let first = theirs.next().unwrap();
        assert!(opens(&world, SERVERS[0], SERVERS[1], first));
        let taken: Vec<_> = ours.by_ref().take(20).collect();
        let held = taken
            .iter()
            .filter(|ports| opens(&world, CLIENT, SERVERS[2], **ports))
            .count();
        assert_eq!(held, abi::FLOW_WAYS_A_POD as usize);
        let second = theirs.next().unwrap();
        assert!(opens(&world, SERVERS[0], SERVERS[1], second));
        // Full: a new flow is the engine's, and those that are there stay.
        let third = theirs.next().unwrap();
        assert!(!opens(&world, SERVERS[0], SERVERS[1], third));
        for ports in [first, second] {
            assert!(
                world
                    .steering
                    .table_has(&key(SERVERS[0], SERVERS[1], ports))
            );
        }
        for ports in &taken[..held] {
            assert!(world.steering.table_has(&key(CLIENT, SERVERS[2], *ports)));
        }
        let counters = world.steering.counters().unwrap();
        assert_eq!(counters[Counter::FlowsNoRoom], 15);
    });
}

/// Nor could it keep others from a pod that it floods with flows of its own: those count as its, the answers' entries too.
#[test]
fn a_pod_does_not_use_up_the_share_of_one_that_answers_it() {
    node(|node| {
        let world = World::new(node);
        let (set, server) = (4321, SERVERS[2]);
        let ours = ports_of_set(&world, answers, (CLIENT, server), set).take(20);
        let held = ours.filter(|ports| opens(&world, CLIENT, server, *ports));
        assert_eq!(held.count(), abi::FLOW_WAYS_A_POD as usize);
        let mut theirs = ports_of_set(&world, answers, (SERVERS[0], server), set);
        assert!(opens(&world, SERVERS[0], server, theirs.next().unwrap()));
    });
}

#[test]
fn a_flow_that_is_over_makes_room() {
    const RST: u8 = 0x04;
    node(|node| {
        let world = World::new(node);
        let mut ports = ports_of_set(&world, key, (CLIENT, SERVERS[2]), 99);
        let held: Vec<_> = ports.by_ref().take(abi::FLOW_WAYS_A_POD as usize).collect();
        for ports in &held {
            assert!(opens(&world, CLIENT, SERVERS[2], *ports));
        }
        let next = ports.next().unwrap();
        assert!(!opens(&world, CLIENT, SERVERS[2], next));
        let (from, to) = held[0];
        let mut end = frame(
            pod(CLIENT, false),
            pod(SERVERS[2], false),
            L4::Ack(from, to),
        );
        end[14 + 20 + 13] = RST;
        let program = &world.steering.skel.progs.weft_from_pod;
        assert_eq!(run(program, &end, Context::at(CLIENT)).action, REDIRECT);
        assert!(opens(&world, CLIENT, SERVERS[2], next));
        for ports in &held[1..] {
            assert!(world.steering.table_has(&key(CLIENT, SERVERS[2], *ports)));
        }
    });
}

#[test]
fn what_has_run_out_makes_room_and_is_no_flow_any_more() {
    node(|node| {
        let world = World::new(node);
        let set = 777;
        let mut ports = ports_of_set(&world, key, (CLIENT, SERVERS[2]), set);
        let first = ports.next().unwrap();
        assert!(opens(&world, CLIENT, SERVERS[2], first));
        for ports in ports.by_ref().take(abi::FLOW_WAYS_A_POD as usize - 1) {
            assert!(opens(&world, CLIENT, SERVERS[2], ports));
        }
        let next = ports.next().unwrap();
        assert!(!opens(&world, CLIENT, SERVERS[2], next));
        world.steering.run_out(&key(CLIENT, SERVERS[2], first));
        assert!(!world.steering.table_has(&key(CLIENT, SERVERS[2], first)));
        let data = frame(
            pod(CLIENT, false),
            pod(SERVERS[2], false),
            L4::Ack(first.0, first.1),
        );
        world.punts(CLIENT, &data);
        assert!(opens(&world, CLIENT, SERVERS[2], next));
        assert!(!opens(&world, CLIENT, SERVERS[2], first));
    });
}

/// Deadlines come round: what has run out does not begin to live again after half of that.
#[test]
fn what_has_run_out_long_ago_is_no_flow_either() {
    node(|node| {
        let world = World::new(node);
        let ports = (4000, 5000);
        assert!(opens(&world, CLIENT, SERVERS[2], ports));
        let flow = key(CLIENT, SERVERS[2], ports);
        let (spot, _) = world.steering.table.find(&(&flow).into()).unwrap();
        world.steering.table.keep_past();
        assert!(world.steering.table_has(&flow));
        for _ in 0..2 {
            // 35 hours.
            let deadline = world.steering.table.deadline(spot).unwrap();
            deadline.fetch_sub(30_000, Relaxed);
            assert!(!world.steering.table_has(&flow));
            world.steering.table.keep_past();
        }
        let (from, to) = (pod(CLIENT, false), pod(SERVERS[2], false));
        world.punts(CLIENT, &frame(from, to, L4::Ack(ports.0, ports.1)));
    });
}

/// A SYN opens another connection once both sides have closed the former one, or one has reset it.
#[test]
fn svc_19_a_port_is_used_again_after_the_end() {
    const FIN_ACK: u8 = 0x11;
    const RST: u8 = 0x04;
    node(|node| {
        let mut world = World::new(node);
        let (client, service) = (pod(CLIENT, false), vip(false));
        let opened = |world: &World| world.steering.counters().unwrap()[Counter::FlowsOpened];
        let control = |mut packet: Vec<u8>, bits: u8| {
            packet[14 + 20 + 13] = bits;
            packet
        };
        let program = |world: &World, from: u32, packet: &[u8]| {
            let program = &world.steering.skel.progs.weft_from_pod;
            let outcome = run(program, packet, Context::at(from));
            assert_eq!(outcome.action, REDIRECT);
            outcome.data
        };
        let syn = frame(client, service, L4::Syn(4000, PORT));
        let data = frame(client, service, L4::Ack(4000, PORT));
        for ends in [&[FIN_ACK, FIN_ACK][..], &[RST]] {
            let before = opened(&world);
            let there = program(&world, CLIENT, &syn);
            let server = to(&there[14..]);
            program(&world, CLIENT, &syn);
            assert_eq!(opened(&world), before + 1, "a retransmission");
            program(&world, CLIENT, &data);
            let answer = frame(pod(server, false), client, L4::Ack(TARGET, 4000));
            program(&world, server, &control(answer, ends[0]));
            if let Some(bits) = ends.get(1) {
                program(&world, CLIENT, &syn);
                assert_eq!(opened(&world), before + 1, "one side goes on");
                program(&world, CLIENT, &control(data.clone(), *bits));
            }
            // What was under way still goes where it belongs.
            let late = program(&world, CLIENT, &data);
            assert_eq!(to(&late[14..]), server);
            program(&world, CLIENT, &syn);
            assert_eq!(opened(&world), before + 2);
            world.steering.run_out(&FlowKey {
                tuple: Tuple {
                    dst: service.into(),
                    dport: PORT,
                    ..key(CLIENT, CLIENT, (4000, 0)).tuple
                },
                ifindex: CLIENT,
            });
        }
        world.state.pin_ops.clear();
    });
}

/// A worker opens connections of its own from a client's port that the hooks have seen the end of: what the backend answers is
/// no late packet of the former one.
#[test]
fn amb_08_a_connection_that_is_over_leaves_its_answers_to_a_worker() {
    const RST: u8 = 0x04;
    node(|node| {
        let mut world = World::new(node);
        let client = pod(CLIENT, false);
        let syn = frame(client, vip(false), L4::Syn(4000, PORT));
        let server = to(&world.forwards(CLIENT, &syn));
        let late = frame(pod(server, false), client, L4::Ack(TARGET, 4000));
        let mut reset = late.clone();
        reset[14 + 20 + 13] = RST;
        for packet in [&reset, &late] {
            let program = &world.steering.skel.progs.weft_from_pod;
            let outcome = run(program, packet, Context::at(server));
            assert!(!is_punted(&outcome, packet, FROM_POD, server));
        }
        let owned = PinOp::Insert {
            key: key(server, CLIENT, (TARGET, 4000)),
            owner: 0,
            cookie: 1,
            terminated: None,
        };
        world.steering.pin_writer(None).unwrap().apply(&[owned]);
        let accepts = frame(pod(server, false), client, L4::SynAck(TARGET, 4000));
        world.punts(server, &accepts);
        world.punts(server, &late);
    });
}

/// What a pod says alone holds no place for a day.
#[test]
fn a_connection_is_open_when_both_ends_have_said_so() {
    node(|node| {
        let world = World::new(node);
        let program = &world.steering.skel.progs.weft_from_pod;
        let (client, server) = (pod(CLIENT, false), pod(SERVERS[0], false));
        let state = || world.steering.fast_flows()[0].state();
        let send = |from, packet: &[u8]| {
            assert_eq!(run(program, packet, Context::at(from)).action, REDIRECT);
        };
        send(CLIENT, &frame(client, server, L4::Syn(4000, 80)));
        send(CLIENT, &frame(client, server, L4::Ack(4000, 80)));
        assert_eq!(state(), "syn_sent");
        send(SERVERS[0], &frame(server, client, L4::SynAck(80, 4000)));
        assert_eq!(state(), "syn_received");
        send(CLIENT, &frame(client, server, L4::Ack(4000, 80)));
        assert_eq!(state(), "established");
    });
}

impl crate::Steering {
    fn table_has(&self, key: &FlowKey) -> bool {
        self.table.find(&key.into()).is_some()
    }

    /// Makes an entry's deadline one of the past.
    fn run_out(&self, key: &FlowKey) {
        let (spot, _) = self.table.find(&key.into()).unwrap();
        self.table
            .deadline(spot)
            .unwrap()
            .fetch_sub(30_000, Relaxed);
    }
}
