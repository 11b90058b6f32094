//! TCP and UDP behind IPv6 extension headers (RFC 8200 section 4).

use weft_datapath::*;

use crate::support::*;

/// Hop-by-hop options, a routing header that is done, and destination options.
const HEADERS: [(u8, &[u8]); 3] = [
    (0, &[1, 4, 0, 0, 0, 0]),
    (43, &[4, 0, 0, 0, 0, 0]),
    (60, &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
];

fn open(proto: Protocol) -> Spec {
    let net = Net::V6;
    match proto {
        Protocol::Tcp => Spec::tcp(net.pod(1), 40000, net.vip(80), SERVED, SYN),
        Protocol::Udp => Spec::udp(net.pod(1), 40000, net.vip(80), SERVED),
    }
}

/// SVC-01: the ports behind the headers choose the service, both directions are translated, the headers stay.
#[test]
fn svc_01_ports_behind_extension_headers_reach_a_service() {
    for proto in [Protocol::Tcp, Protocol::Udp] {
        let (tables, mut state) = (tables(Standing::Settled, Standing::Settled), state(1));
        let plain = open(proto).payload(b"hello");
        let sent = extended(plain.punted(CLIENT, Hook::FromPod), &HEADERS);
        let mut frame = sent.clone();
        let verdict = run(&mut frame, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Deliver);
        let arrived = tuple(&frame);
        assert_eq!((arrived.sport, arrived.dport), (40000, TARGET));
        assert_eq!(frame[54..54 + 32], sent[54..54 + 32], "the headers");

        let back = Spec::of(arrived.reversed(), SYN | ACK).payload(b"you too");
        let backend = egress(&frame).ifindex;
        let mut reply = extended(back.punted(backend, Hook::FromPod), &HEADERS);
        let verdict = run(&mut reply, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Deliver);
        assert_eq!(tuple(&reply), plain.tuple.reversed());

        // The same flow without the headers.
        let mut frame = plain.punted(CLIENT, Hook::FromPod);
        let verdict = run(&mut frame, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Deliver);
        assert_eq!((tuple(&frame), state.flows.len()), (arrived, 1));
    }
}

/// SVC-03: what nobody serves is answered there too, and the answer has no extension headers.
#[test]
fn svc_03_an_unused_port_behind_extension_headers_is_rejected() {
    let net = Net::V6;
    for spec in [
        Spec::tcp(net.pod(1), 40000, net.vip(80), UNUSED, SYN),
        Spec::udp(net.pod(1), 40000, net.vip(80), UNUSED),
    ] {
        let (tables, mut state) = (tables(Standing::Settled, Standing::Settled), state(1));
        let mut frame = extended(spec.punted(CLIENT, Hook::FromPod), &HEADERS);
        let verdict = run(&mut frame, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Reply);
        sound(&frame);
    }
}

/// Whatever cuts the headers short is a named drop that leaves the frame alone (`run` compares).
#[test]
fn every_truncation_behind_extension_headers_is_a_named_drop() {
    let (tables, mut state) = (tables(Standing::Settled, Standing::Settled), state(1));
    let frame = extended(open(Protocol::Tcp).punted(CLIENT, Hook::FromPod), &HEADERS);
    for len in 54..frame.len() {
        let mut cut = frame[..len].to_vec();
        cut[18..20].copy_from_slice(&((len - 54) as u16).to_be_bytes());
        let verdict = run(&mut cut, START, &tables, &mut state);
        assert!(matches!(verdict, Verdict::Drop(_)), "{len}: {verdict:?}");
    }
}
