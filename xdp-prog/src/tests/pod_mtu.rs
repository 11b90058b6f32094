//! What is longer than the MTU of the pod that it goes to is the engine's, and leaves the fast path's tables alone
//! (SVC-34, K-01). Large packets that are to be cut cannot be told by `BPF_PROG_TEST_RUN`: labs have those.

use crate::{Counter, FastFlow};

use super::packets::{L4, frame};
use super::support::{ip, node};
use super::world::{CLIENT, PORT, SERVERS, TARGET, World, pod, to, vip};

const NARROW: usize = 1400;

/// The same packet with so many bytes of IP. Its checksums are wrong, which is nobody's affair here.
fn sized(frame: &[u8], length: usize) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame.resize(14 + length, 0x55);
    let be = |length: usize| (length as u16).to_be_bytes();
    let l4 = match frame[14] >> 4 {
        4 => {
            frame[16..18].copy_from_slice(&be(length));
            20
        }
        _ => {
            frame[18..20].copy_from_slice(&be(length - 40));
            40
        }
    };
    let udp = frame[if l4 == 20 { 23 } else { 20 }] == 17;
    if udp {
        frame[14 + l4 + 4..14 + l4 + 6].copy_from_slice(&be(length - l4));
    }
    frame
}

fn narrow(ifindex: u32, mtu: usize) {
    ip(&format!("link set p{ifindex} mtu {mtu}"));
}

fn state(world: &World) -> (Vec<FastFlow>, [u64; 3]) {
    let counters = world.steering.counters().unwrap();
    let forwarding = [
        Counter::FromPodForwarded,
        Counter::FromPodFirst,
        Counter::FlowsOpened,
    ];
    let flows = world.steering.fast_flows();
    (flows, forwarding.map(|counter| counters[counter]))
}

#[test]
fn svc_34_k_01_what_is_longer_than_its_pods_mtu_is_the_engines() {
    node(|node| {
        let mut world = World::new(node);
        for server in SERVERS {
            narrow(server, NARROW);
        }
        for v6 in [false, true] {
            let client = pod(CLIENT, v6);
            for (syn, port) in [(true, 4000), (false, 4001)] {
                let l4 = |from, to| {
                    if syn {
                        L4::Ack(from, to)
                    } else {
                        L4::Udp(from, to)
                    }
                };
                let opens = |to| {
                    if syn {
                        L4::Syn(port, to)
                    } else {
                        L4::Udp(port, to)
                    }
                };
                let server = SERVERS[0];
                for (there, at) in [(vip(v6), PORT), (pod(server, v6), 5000)] {
                    let first = frame(client, there, opens(at));
                    let forwarded = |world: &World| state(world).1[..2].to_vec();
                    let before = forwarded(&world);
                    world.punts(CLIENT, &sized(&first, NARROW + 1));
                    assert_eq!(forwarded(&world), before);
                    world.forwards(CLIENT, &sized(&first, NARROW));
                    let again = frame(client, there, l4(port, at));
                    world.forwards(CLIENT, &sized(&again, NARROW));
                    let before = state(&world);
                    world.punts(CLIENT, &sized(&again, NARROW + 1));
                    assert_eq!(state(&world), before, "it is not counted");
                    // Nor is the other way compared with this one's MTU.
                    let server = to(&world.forwards(CLIENT, &again));
                    let from = if at == PORT { TARGET } else { at };
                    let answer = frame(pod(server, v6), client, l4(from, port));
                    world.forwards(server, &sized(&answer, 1500));
                }
            }
        }
    });
}

/// The answers to a first datagram, for which there are no entries, go to a pod of its own MTU.
#[test]
fn svc_34_dns_02_first_answers_are_compared_with_the_clients_mtu() {
    node(|node| {
        let mut world = World::new(node);
        narrow(CLIENT, NARROW);
        for v6 in [false, true] {
            let client = pod(CLIENT, v6);
            let mut asked = |port| {
                let there = world.forwards(CLIENT, &frame(client, vip(v6), L4::Udp(port, PORT)));
                let server = to(&there);
                let answer = frame(pod(server, v6), client, L4::Udp(TARGET, port));
                (server, sized(&answer, NARROW), sized(&answer, NARROW + 1))
            };
            let (first, second) = (asked(4000), asked(4001));
            let (server, fits, long) = first;
            let before = state(&world);
            world.punts(server, &long);
            assert_eq!(state(&world), before);
            world.forwards(server, &fits);
            // Nor does a second answer that is too long make entries: whose the third one is, is still known.
            let (server, fits, long) = second;
            world.forwards(server, &fits);
            let before = state(&world);
            world.punts(server, &long);
            assert_eq!(state(&world), before);
            world.forwards(server, &fits);
        }
    });
}

/// An interface that is gone fits nothing; what is short is not compared.
#[test]
fn k_01_what_is_short_is_not_compared() {
    node(|node| {
        let mut world = World::new(node);
        for server in SERVERS {
            narrow(server, 1000);
        }
        let first = frame(pod(CLIENT, false), vip(false), L4::Udp(4000, PORT));
        world.forwards(CLIENT, &sized(&first, 1280));
        world.punts(CLIENT, &sized(&first, 1281));
        for server in SERVERS {
            ip(&format!("link del p{server}"));
        }
        world.punts(CLIENT, &sized(&first, 1281));
    });
}
