//! The fast path, packet by packet against the engine: the same backend, and the same bytes into the other pod.

use weft_datapath::{FlowKey, Opens, Protocol, Verdict};

use crate::{Counter, Steering};

use super::packets::{Context, FROM_POD, L4, REDIRECT, frame, is_punted, run};
use super::support::node;
use super::world::{CLIENT, PORT, SERVERS, TARGET, World, open, pod, tables, tell, to, vip};

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
        let flows = world.steering.fast_flows();
        assert_eq!(flows.len(), 1600);
        for flow in flows {
            let length = if flow.key.tuple.src.is_v4() { 20 } else { 40 } + 32;
            let l4 = if flow.key.tuple.proto == Protocol::Tcp {
                20
            } else {
                8
            };
            // The first datagram and the first answer went without entries.
            let packets = match flow.key.tuple.proto {
                Protocol::Tcp => [2, 1],
                Protocol::Udp => [1, 0],
            };
            assert_eq!(flow.packets, packets);
            assert_eq!(flow.bytes, packets.map(|packets| packets * (length + l4)));
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
        let flows = world.steering.fast_flows();
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
        assert_eq!(world.steering.fast_flows(), []);
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
        world.state.set_fast_flows(Box::new(fast), Opens::Hooks);
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
        assert_eq!((adopted.kept, adopted.removed), (1, 0));
        assert!(goes_on(&steering));
        assert_eq!(steering.adopt_flows(depends).unwrap().kept, 0, "once");
        let flows = steering.fast_flows();
        assert_eq!(flows[0].packets, [4, 0]);
    });
}
