//! Packets of connections that ended in a worker that does not step: dropped, or answered with a reset.

use std::net::IpAddr;
use std::time::Duration;

use etherparse::{IpNumber, NetHeaders, PacketBuilder, PacketHeaders, TcpHeader, TransportHeader};
use weft_datapath::{FlowKey, Inject, PinOp, Protocol, Tuple};

use crate::{Counter, Steering};

use super::hooks::*;
use super::packets::*;
use super::support::{Node, monotonic_ns, node};

const LIMIT_NS: u64 = 100_000_000;
const OUR_ACK: u32 = 0x1122_3344;
const SEQUENCE: u32 = 0xffff_fff0;

/// A steering whose worker can be dead, and the pod's interface.
fn mortal(node: &Node) -> (Steering, u32) {
    let (steering, ifindex) = bench(node);
    let mut config = steering.config.clone();
    config.heartbeat_limit = Duration::from_nanos(LIMIT_NS);
    drop(steering);
    (Steering::open(config).unwrap(), ifindex)
}

/// Packets from `src` to `dst` belong to a connection that ended in worker 0.
fn end_here(
    steering: &Steering,
    (src, dst): (IpAddr, IpAddr),
    ifindex: u32,
    answer: Option<Inject>,
) {
    let tuple = Tuple {
        src: src.into(),
        dst: dst.into(),
        sport: 4000,
        dport: 80,
        proto: Protocol::Tcp,
    };
    let op = PinOp::Insert {
        key: FlowKey { tuple, ifindex },
        owner: 0,
        cookie: 1,
        terminated: answer,
    };
    assert_eq!(steering.pin_writer(None).unwrap().apply(&[op]).inserted, 1);
}

/// A TCP packet with that header between these ends.
fn segment(
    (src, dst): (IpAddr, IpAddr),
    payload: &[u8],
    header: impl FnOnce(&mut TcpHeader),
) -> Vec<u8> {
    let mut tcp = TcpHeader::new(4000, 80, SEQUENCE, 512);
    header(&mut tcp);
    let link = PacketBuilder::ethernet2(POD_MAC, GATEWAY_MAC);
    let step = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => link.ipv4(src.octets(), dst.octets(), 17),
        (IpAddr::V6(src), IpAddr::V6(dst)) => link.ipv6(src.octets(), dst.octets(), 17),
        _ => panic!("two families"),
    };
    let mut bytes = Vec::new();
    step.tcp_header(tcp).write(&mut bytes, payload).unwrap();
    bytes
}

fn acknowledges(tcp: &mut TcpHeader) {
    tcp.ack = true;
    tcp.acknowledgment_number = OUR_ACK;
}

const ENDS: [(&str, &str); 2] = [(POD4, VIP4), (POD6, "fd96::1")];

fn ends(index: usize) -> (IpAddr, IpAddr) {
    (at(ENDS[index].0), at(ENDS[index].1))
}

/// The reset in a frame, once everything around it has proven right.
#[track_caller]
fn reset((src, dst): (IpAddr, IpAddr), frame: &[u8]) -> TcpHeader {
    assert_eq!(frame[..6], POD_MAC, "back to where it came from");
    let packet = PacketHeaders::from_ethernet_slice(frame).expect("a whole packet");
    let Some(TransportHeader::Tcp(tcp)) = packet.transport else {
        panic!("{packet:?}");
    };
    assert!(packet.payload.slice().is_empty());
    let tcp_bytes = &frame[frame.len() - 20..];
    let (found, computed, pseudo) = match packet.net.expect("IP") {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(IpAddr::from(ip.source), dst);
            assert_eq!(IpAddr::from(ip.destination), src);
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(usize::from(ip.total_len), frame.len() - 14);
            assert_eq!((ip.time_to_live, ip.protocol), (64, IpNumber::TCP));
            let pseudo = sum(&[&ip.source, &ip.destination, &[0, 6, 0, 20]]);
            (
                tcp.checksum,
                tcp.calc_checksum_ipv4(&ip, &[]).unwrap(),
                pseudo,
            )
        }
        NetHeaders::Ipv6(ip, _) => {
            assert_eq!(IpAddr::from(ip.source), dst);
            assert_eq!(IpAddr::from(ip.destination), src);
            assert_eq!(usize::from(ip.payload_length), frame.len() - 54);
            assert_eq!(ip.hop_limit, 64);
            let pseudo = sum(&[&ip.source, &ip.destination, &[0, 6, 0, 20]]);
            (
                tcp.checksum,
                tcp.calc_checksum_ipv6(&ip, &[]).unwrap(),
                pseudo,
            )
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(found, computed, "as it stands");
    // As the kernel or a device would complete it (`skb_checksum_help`).
    assert_eq!(
        found, pseudo,
        "what is to be completed begins with the pseudo-header"
    );
    assert_eq!(found, !sum(&[tcp_bytes]), "completed");
    assert_eq!((tcp.source_port, tcp.destination_port), (80, 4000));
    assert!(tcp.rst && !tcp.syn && !tcp.fin && !tcp.psh && !tcp.urg);
    tcp
}

fn sum(pieces: &[&[u8]]) -> u16 {
    let words = pieces.iter().flat_map(|piece| piece.chunks(2));
    let mut sum: u32 = words
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn pinned(steering: &Steering) -> usize {
    steering.pins().unwrap().len()
}

#[test]
fn a_segment_for_a_dead_worker_is_answered_with_a_reset() {
    node(|node| {
        let (steering, ifindex) = mortal(node);
        let from_pod = &steering.skel.progs.weft_from_pod;
        let heartbeat = steering.heartbeat(0).unwrap();
        let mut answered = 0;
        for ends in [ends(0), ends(1)] {
            end_here(&steering, ends, ifindex, Some(Inject::Peer));
            let packet = segment(ends, b"hello", acknowledges);
            let silent = segment(ends, b"hello", |tcp| tcp.fin = true);
            for last in [0, monotonic_ns() - 11 * LIMIT_NS] {
                heartbeat.beat(last);
                let outcome = run(from_pod, &packet, Context::at(ifindex));
                assert_eq!(outcome.action, REDIRECT);
                let tcp = reset(ends, &outcome.data);
                assert_eq!((tcp.sequence_number, tcp.ack), (OUR_ACK, false));

                let outcome = run(from_pod, &silent, Context::at(ifindex));
                let tcp = reset(ends, &outcome.data);
                assert_eq!((tcp.sequence_number, tcp.ack), (0, true));
                assert_eq!(tcp.acknowledgment_number, SEQUENCE.wrapping_add(5 + 1));
                answered += 2;
            }
        }
        assert_eq!(pinned(&steering), 2, "a challenge will be answered, too");
        let counters = steering.counters().unwrap();
        assert_eq!(counters[Counter::FromPod], answered);
        assert_eq!(counters[Counter::FromPodOrphan], answered);
        assert_eq!(counters[Counter::Stale], 0);
    });
}

#[test]
fn a_stall_resets_nothing_and_gives_nothing_away() {
    node(|node| {
        let (steering, ifindex) = mortal(node);
        let from_pod = &steering.skel.progs.weft_from_pod;
        let heartbeat = steering.heartbeat(0).unwrap();
        end_here(&steering, ends(0), ifindex, Some(Inject::Peer));
        for flags in [acknowledges, |tcp: &mut TcpHeader| tcp.syn = true] {
            let packet = segment(ends(0), b"hello", flags);
            heartbeat.beat(monotonic_ns());
            assert_eq!(
                run(from_pod, &packet, Context::at(ifindex)).action,
                REDIRECT
            );
            heartbeat.beat(monotonic_ns() - 5 * LIMIT_NS);
            let outcome = run(from_pod, &packet, Context::at(ifindex));
            assert_eq!((outcome.action, outcome.data), (DROP, packet));
        }
        assert_eq!(pinned(&steering), 1);
        let counters = steering.counters().unwrap();
        assert_eq!(counters[Counter::FromPodOrphan], 2);
        assert_eq!(counters[Counter::FromPodPunted], 2);
    });
}

#[test]
fn what_begins_or_ends_a_connection_of_a_dead_worker_ends_its_entry() {
    node(|node| {
        let (steering, ifindex) = mortal(node);
        let from_pod = &steering.skel.progs.weft_from_pod;
        steering.heartbeat(0).unwrap().stop();
        let pin = || end_here(&steering, ends(0), ifindex, Some(Inject::Peer));
        let run = |packet: &[u8]| run(from_pod, packet, Context::at(ifindex));

        pin();
        let packet = segment(ends(0), &[], |tcp| tcp.rst = true);
        let outcome = run(&packet);
        assert_eq!(
            (outcome.action, outcome.data),
            (DROP, packet),
            "never answered"
        );
        assert_eq!(pinned(&steering), 0);

        pin();
        let packet = segment(ends(0), &[], |tcp| tcp.syn = true);
        let outcome = run(&packet);
        assert_eq!(
            (outcome.action, outcome.data),
            (NEXT, packet),
            "a new connection is the kernel's"
        );
        assert_eq!(pinned(&steering), 0);

        pin();
        let packet = segment(ends(0), &[], |tcp| {
            tcp.syn = true;
            acknowledges(tcp);
        });
        let outcome = run(&packet);
        assert_eq!(reset(ends(0), &outcome.data).sequence_number, OUR_ACK);
        assert_eq!((outcome.action, pinned(&steering)), (REDIRECT, 0));
    });
}

#[test]
fn other_flows_of_a_dead_worker_are_the_kernels() {
    node(|node| {
        let (steering, ifindex) = mortal(node);
        let from_pod = &steering.skel.progs.weft_from_pod;
        steering.heartbeat(0).unwrap().stop();
        end_here(&steering, ends(0), ifindex, None); // Translated, not terminated.
        end_here(&steering, ends(1), ifindex + 1, Some(Inject::Peer)); // Another pod's.
        for ends in [ends(0), ends(1)] {
            let packet = segment(ends, b"hello", acknowledges);
            let outcome = run(from_pod, &packet, Context::at(ifindex));
            assert_eq!((outcome.action, outcome.data), (NEXT, packet));
        }
        assert_eq!(pinned(&steering), 2);
        assert_eq!(steering.counters().unwrap()[Counter::Stale], 2);
    });
}

#[test]
fn packets_of_every_shape_are_answered_with_one_of_forty_or_sixty_bytes() {
    node(|node| {
        let (steering, ifindex) = mortal(node);
        let from_pod = &steering.skel.progs.weft_from_pod;
        steering.heartbeat(0).unwrap().stop();
        let plain = Context::at(ifindex);
        let merged = Context {
            gso_segs: 3,
            gso_size: 1000,
            ..plain
        };
        for ends in [ends(0), ends(1)] {
            end_here(&steering, ends, ifindex, Some(Inject::Peer));
            let l4 = if ends.0.is_ipv4() { 34 } else { 54 };
            let mut padded = segment(ends, &[], |tcp| tcp.fin = true);
            padded.extend([0; 6]);
            let options = segment(ends, &[], |tcp| {
                acknowledges(tcp);
                tcp.set_options_raw(&[1; 40]).unwrap();
            });
            for (packet, context) in [
                (segment(ends, &[7; 3000], acknowledges), merged),
                (segment(ends, &[], acknowledges), plain),
                (padded, plain),
                (options, plain),
            ] {
                let outcome = run(from_pod, &packet, context);
                let tcp = reset(ends, &outcome.data);
                assert_eq!(outcome.data.len(), l4 + 20);
                if tcp.ack {
                    assert_eq!(
                        tcp.acknowledgment_number,
                        SEQUENCE.wrapping_add(1),
                        "no padding"
                    );
                }
            }
        }
        // Options of IP and extension headers stay: a checksum to be completed begins behind them.
        let mut options4 = segment(ends(0), b"hello", acknowledges);
        options4[14] = 0x46;
        let total = u16::from_be_bytes([options4[16], options4[17]]) + 4;
        options4[16..18].copy_from_slice(&total.to_be_bytes());
        options4.splice(34..34, [1, 1, 1, 0]);
        options4[24..26].fill(0);
        let header = !sum(&[&options4[14..38]]);
        options4[24..26].copy_from_slice(&header.to_be_bytes());
        let mut options6 = segment(ends(1), b"hello", acknowledges);
        let length = u16::from_be_bytes([options6[18], options6[19]]) + 8;
        options6[18..20].copy_from_slice(&length.to_be_bytes());
        options6.splice(54..54, [options6[20], 0, 1, 4, 0, 0, 0, 0]);
        options6[20] = 60;
        for (ends, packet, length) in [(ends(0), options4, 58), (ends(1), options6, 82)] {
            let outcome = run(from_pod, &packet, plain);
            assert_eq!(reset(ends, &outcome.data).sequence_number, OUR_ACK);
            assert_eq!(outcome.data.len(), length);
        }
        let counters = steering.counters().unwrap();
        assert_eq!(
            counters[Counter::FromPodOrphan],
            2 * (3 + 3) + 2,
            "as the wire counts"
        );
        assert_eq!(counters[Counter::FromPod], 2 * (3 + 3) + 2);
    });
}

/// A backend that is not enrolled is reached by way of the kernel, and so is its reset.
#[test]
fn a_reply_by_the_kernel_is_answered_from_the_pods_side() {
    node(|node| {
        let (steering, ifindex) = mortal(node);
        let (from_pod, to_pod) = (
            &steering.skel.progs.weft_from_pod,
            &steering.skel.progs.weft_to_pod,
        );
        let heartbeat = steering.heartbeat(0).unwrap();
        heartbeat.beat(monotonic_ns());
        // Teaches the pod's MAC, which is the other way round in what the kernel delivers.
        let mut taught = syn4();
        taught[6..12].copy_from_slice(&GATEWAY_MAC);
        run(from_pod, &taught, Context::at(ifindex));
        heartbeat.stop();
        for ends in [("192.0.2.7", POD4), ("2001:db8::7", POD6)] {
            let ends = (at(ends.0), at(ends.1));
            end_here(&steering, ends, ifindex, Some(Inject::Reingress));
            let packet = segment(ends, b"hello", acknowledges);
            let outcome = run(to_pod, &packet, Context::at(ifindex));
            assert_eq!((outcome.action, outcome.mark), (REDIRECT, crate::abi::MARK));
            assert_eq!(outcome.data[6..12], GATEWAY_MAC, "the pod's own");
            assert_eq!(reset(ends, &outcome.data).sequence_number, OUR_ACK);
            heartbeat.beat(monotonic_ns() - 5 * LIMIT_NS);
            assert_eq!(run(to_pod, &packet, Context::at(ifindex)).action, DROP);
            heartbeat.stop();
        }
        let counters = steering.counters().unwrap();
        assert_eq!(counters[Counter::ToPodOrphan], 4);
        assert_eq!(counters[Counter::ToPod], 4);
    });
}
