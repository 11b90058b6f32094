//! ICMP errors with the flows that they speak of (SVC-34, K-01, K-02, AMB-06).

use weft_datapath::*;

use crate::support::icmp::{Header, Message, errors, port_unreachable, quote};
use crate::support::*;

pub(crate) const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
const PAYLOAD: &[u8] = b"what the error is about";

/// A flow of the client, and its first packet's tuple as the backend sees it.
pub(crate) fn flow(spec: &Spec) -> (Tables, State, Tuple) {
    let (tables, mut state) = (settled(), state(1));
    let mut frame = spec.punted(CLIENT, Hook::FromPod);
    let verdict = run(&mut frame, START, &tables, &mut state);
    assert_eq!(verdict, Verdict::Deliver);
    (tables, state, tuple(&frame))
}

/// What an end of the flow sends or gets: a packet of `tuple` with a payload.
pub(crate) fn packet_of(tuple: Tuple) -> Spec {
    Spec::of(tuple, ACK).payload(PAYLOAD).hops(63)
}

/// Runs an error and compares what comes out with what an independent library builds, byte by byte.
fn translates(
    (tables, state): (&Tables, &mut State),
    before: (&Message, u32, Hook),
    after: (&Message, Egress),
) {
    let mut frame = before.0.punted(before.1, before.2);
    let verdict = run(&mut frame, START, tables, state);
    assert_eq!(verdict, Verdict::Deliver, "{before:?}");
    assert_eq!(egress(&frame), after.1);
    let expected = after.0.frame(after.1.encode());
    assert_eq!(frame[6..], expected[6..], "{before:?}");
}

/// The verdict on an error that does not get through; `run` checks that a drop leaves the frame alone.
pub(crate) fn verdict(
    tables: &Tables,
    state: &mut State,
    message: &Message,
    ifindex: u32,
    hook: Hook,
) -> Verdict {
    run(&mut message.punted(ifindex, hook), START, tables, state)
}

/// SVC-34, K-01, K-02: the backend's pod sends an error about what the client sent. The client sees it from the VIP
/// and about the VIP, whatever the error, with every checksum as if computed anew.
#[test]
fn svc_34_k_01_k_02_a_backends_error_reaches_the_client() {
    for net in Net::BOTH {
        for proto in PROTOCOLS {
            let spec = open(net, proto, ONE_BACKEND);
            let (tables, mut state, arrived) = flow(&spec);
            for header in errors(net) {
                let seen = quote(&packet_of(arrived));
                let sent = Message::new(net.pod(2), net.pod(1), header, seen);
                let meant = quote(&packet_of(spec.tuple));
                let got = Message::new(net.vip(80), net.pod(1), header, meant).hops(63);
                translates(
                    (&tables, &mut state),
                    (&sent, BACKEND_1, Hook::FromPod),
                    (&got, Egress::peer(CLIENT)),
                );
            }
        }
    }
}

/// SVC-34: the client's pod sends an error about a reply; the backend, enrolled or the kernel's, sees it from the
/// client and about itself.
#[test]
fn svc_34_a_clients_error_reaches_the_backend() {
    for net in Net::BOTH {
        for proto in PROTOCOLS {
            for (port, to, hops) in [
                (ONE_BACKEND, Egress::peer(BACKEND_1), 63),
                (BY_KERNEL, Egress::reingress(CLIENT), 64),
            ] {
                let spec = open(net, proto, port);
                let (tables, mut state, arrived) = flow(&spec);
                for header in errors(net) {
                    let seen = quote(&packet_of(spec.tuple.reversed()));
                    let sent = Message::new(net.pod(1), net.vip(80), header, seen);
                    let meant = quote(&packet_of(arrived.reversed()));
                    let got = Message::new(net.pod(1), arrived.dst, header, meant).hops(hops);
                    translates(
                        (&tables, &mut state),
                        (&sent, CLIENT, Hook::FromPod),
                        (&got, to),
                    );
                }
            }
        }
    }
}

/// SVC-31, SVC-34: where the far end sees the client elsewhere, by the hairpin address or at another port, an error of
/// either end is translated as the flow is, client's own address and port included.
#[test]
fn svc_31_svc_34_errors_of_flows_with_another_source() {
    for net in Net::BOTH {
        for proto in PROTOCOLS {
            // The second flow of one source port to one backend has another port there.
            let first = open(net, proto, ONE_BACKEND);
            let mut second = first.clone();
            second.tuple.dst = net.vip(81);
            for (specs, server) in [
                (vec![open(net, proto, ONLY_CLIENT)], CLIENT),
                (vec![first, second], BACKEND_1),
            ] {
                let (tables, mut state) = (settled(), state(1));
                let mut arrived = Tuple::clone(&specs[0].tuple);
                for spec in &specs {
                    let mut frame = spec.punted(CLIENT, Hook::FromPod);
                    let verdict = run(&mut frame, START, &tables, &mut state);
                    assert_eq!(verdict, Verdict::Deliver);
                    arrived = tuple(&frame);
                }
                let asked = specs[specs.len() - 1].tuple;
                assert_ne!((arrived.src, arrived.sport), (asked.src, asked.sport));
                for header in errors(net) {
                    let seen = quote(&packet_of(arrived));
                    let sent = Message::new(arrived.dst, arrived.src, header, seen);
                    let meant = quote(&packet_of(asked));
                    let got = Message::new(asked.dst, asked.src, header, meant).hops(63);
                    translates(
                        (&tables, &mut state),
                        (&sent, server, Hook::FromPod),
                        (&got, Egress::peer(CLIENT)),
                    );
                    let seen = quote(&packet_of(asked.reversed()));
                    let sent = Message::new(asked.src, asked.dst, header, seen);
                    let meant = quote(&packet_of(arrived.reversed()));
                    let got = Message::new(arrived.src, arrived.dst, header, meant).hops(63);
                    translates(
                        (&tables, &mut state),
                        (&sent, CLIENT, Hook::FromPod),
                        (&got, Egress::peer(server)),
                    );
                }
            }
        }
    }
}

/// SVC-34, K-01: an error that the kernel delivers, from a router, the node or the backend: the packet inside is the
/// client's again, and only the backend's own address becomes the VIP.
#[test]
fn svc_34_k_01_an_error_by_the_kernel_is_translated_at_the_clients_veth() {
    for net in Net::BOTH {
        for proto in PROTOCOLS {
            let spec = open(net, proto, BY_KERNEL);
            let (tables, mut state, arrived) = flow(&spec);
            for (from, seen_from) in [
                (net.internet(), net.internet()),
                (net.node(), net.node()),
                (net.pod(4), net.vip(80)),
            ] {
                for header in errors(net) {
                    let seen = quote(&packet_of(arrived));
                    let sent = Message::new(from, net.pod(1), header, seen).hops(1);
                    let meant = quote(&packet_of(spec.tuple));
                    let got = Message::new(seen_from, net.pod(1), header, meant).hops(1);
                    translates(
                        (&tables, &mut state),
                        (&sent, CLIENT, Hook::ToPod),
                        (&got, Egress::peer(CLIENT)),
                    );
                }
            }
        }
    }
}

/// SVC-34: errors about direct flows pass in both directions, as they are but for the hop.
#[test]
fn svc_34_errors_of_direct_flows_pass() {
    for net in Net::BOTH {
        let spec = Spec::udp(net.pod(1), 40000, net.pod(2), 53);
        let (tables, mut state, _) = flow(&spec);
        for (from, to, at, tuple, into) in [
            (net.pod(2), net.pod(1), BACKEND_1, spec.tuple, CLIENT),
            (
                net.pod(1),
                net.pod(2),
                CLIENT,
                spec.tuple.reversed(),
                BACKEND_1,
            ),
        ] {
            for header in errors(net) {
                let sent = Message::new(from, to, header, quote(&packet_of(tuple)));
                let got = sent.clone().hops(63);
                translates(
                    (&tables, &mut state),
                    (&sent, at, Hook::FromPod),
                    (&got, Egress::peer(into)),
                );
            }
        }
    }
}

/// RFC 792 promises eight bytes of the quoted transport header, and UDP's checksum is the last two of them.
#[test]
fn svc_34_eight_quoted_bytes_are_enough() {
    for net in Net::BOTH {
        let ip = if net == Net::V4 { 20 } else { 40 };
        for proto in PROTOCOLS {
            let spec = open(net, proto, ONE_BACKEND);
            let (tables, mut state, arrived) = flow(&spec);
            for quoted in [8, 9, 16, 18, 20] {
                let cut = |tuple| quote(&packet_of(tuple))[..ip + quoted].to_vec();
                let header = port_unreachable(net);
                let sent = Message::new(net.pod(2), net.pod(1), header, cut(arrived));
                let got = Message::new(net.vip(80), net.pod(1), header, cut(spec.tuple));
                translates(
                    (&tables, &mut state),
                    (&sent, BACKEND_1, Hook::FromPod),
                    (&got.hops(63), Egress::peer(CLIENT)),
                );
            }
            for quoted in 0..8 {
                let body = quote(&packet_of(arrived))[..ip + quoted].to_vec();
                let sent = Message::new(net.pod(2), net.pod(1), port_unreachable(net), body);
                let verdict = verdict(&tables, &mut state, &sent, BACKEND_1, Hook::FromPod);
                assert_eq!(verdict, Verdict::Drop(DropReason::IcmpError), "{quoted}");
            }
        }
    }
}

/// RFC 4884: extensions behind the quotation are no part of it, even where the TCP checksum would be.
#[test]
fn svc_34_extensions_of_an_error_are_left_alone() {
    const EXTENSION: [u8; 12] = [0x20, 0, 0x12, 0x34, 0, 8, 1, 1, 0, 1, 0x11, 0x40];
    for (net, ip, unit) in [(Net::V4, 20, 4), (Net::V6, 40, 8)] {
        let spec = open(net, Protocol::Tcp, ONE_BACKEND);
        let (tables, mut state, arrived) = flow(&spec);
        for pad in [false, true] {
            let body = |tuple| {
                let mut body = quote(&packet_of(tuple))[..ip + 12].to_vec();
                if pad {
                    body.resize(128, 0);
                } else {
                    body.truncate(ip + 8); // Not compliant, and still no harm.
                }
                let length = (body.len() / unit) as u8;
                body.extend(EXTENSION);
                (body, length)
            };
            let (kind, code, mut rest) = port_unreachable(net);
            rest[if net == Net::V4 { 1 } else { 0 }] = body(arrived).1;
            let header: Header = (kind, code, rest);
            let sent = Message::new(net.pod(2), net.pod(1), header, body(arrived).0);
            let got = Message::new(net.vip(80), net.pod(1), header, body(spec.tuple).0);
            if pad {
                // The quotation's own length says that the packet was longer than what is quoted, and the padding
                // is where its checksum would be: patched, as what it claims to be.
                let mut frame = sent.punted(BACKEND_1, Hook::FromPod);
                let verdict = run(&mut frame, START, &tables, &mut state);
                assert_eq!(verdict, Verdict::Deliver);
                let end = ip + 14;
                let sum = Checksum::default();
                let sum = match net {
                    Net::V4 => sum,
                    Net::V6 => sum.pseudo_header(&net.vip(80), &net.pod(1), 58, frame.len() - end),
                };
                assert_eq!(sum.with(&frame[end..]).finish(), 0);
                assert!(frame.ends_with(&EXTENSION));
            } else {
                translates(
                    (&tables, &mut state),
                    (&sent, BACKEND_1, Hook::FromPod),
                    (&got.hops(63), Egress::peer(CLIENT)),
                );
            }
        }
    }
}

/// A UDP packet without a checksum is quoted without one.
#[test]
fn svc_34_no_checksum_stays_none() {
    let net = Net::V4;
    let spec = open(net, Protocol::Udp, ONE_BACKEND);
    let (tables, mut state, arrived) = flow(&spec);
    let without = |tuple| {
        let mut body = quote(&packet_of(tuple));
        body[26..28].fill(0);
        body
    };
    let header = port_unreachable(net);
    let sent = Message::new(net.pod(2), net.pod(1), header, without(arrived));
    let got = Message::new(net.vip(80), net.pod(1), header, without(spec.tuple)).hops(63);
    translates(
        (&tables, &mut state),
        (&sent, BACKEND_1, Hook::FromPod),
        (&got, Egress::peer(CLIENT)),
    );
}

/// First fragments have ports; those behind them are nobody's here.
#[test]
fn svc_34_a_quoted_first_fragment_finds_its_flow() {
    for net in Net::BOTH {
        let spec = open(net, Protocol::Udp, ONE_BACKEND);
        let (tables, mut state, arrived) = flow(&spec);
        let fragment = |tuple, offset: u16| {
            let mut body = quote(&packet_of(tuple));
            match net {
                Net::V4 => {
                    let old = u16::from_be_bytes([body[6], body[7]]);
                    let sum = u16::from_be_bytes([body[10], body[11]]);
                    let new = 0x2000 | offset;
                    body[6..8].copy_from_slice(&new.to_be_bytes());
                    let sum = u32::from(!sum) + u32::from(!old) + u32::from(new);
                    let sum = (sum & 0xffff) + (sum >> 16);
                    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
                    body[10..12].copy_from_slice(&sum.to_be_bytes());
                }
                Net::V6 => {
                    let [high, low] = (offset << 3 | 1).to_be_bytes();
                    let header = [
                        std::mem::replace(&mut body[6], 44),
                        0,
                        high,
                        low,
                        0,
                        0,
                        0,
                        7,
                    ];
                    body.splice(40..40, header);
                    let length = (body.len() - 40) as u16;
                    body[4..6].copy_from_slice(&length.to_be_bytes());
                }
            }
            body
        };
        let header = errors(net)[1];
        let sent = Message::new(net.pod(2), net.pod(1), header, fragment(arrived, 0));
        let got = Message::new(net.vip(80), net.pod(1), header, fragment(spec.tuple, 0));
        translates(
            (&tables, &mut state),
            (&sent, BACKEND_1, Hook::FromPod),
            (&got.hops(63), Egress::peer(CLIENT)),
        );
        let later = Message::new(net.pod(2), net.pod(1), header, fragment(arrived, 100));
        let verdict = verdict(&tables, &mut state, &later, BACKEND_1, Hook::FromPod);
        assert_eq!(verdict, Verdict::Kernel(KernelReason::NotOurs));
    }
}

/// An error is no packet of its flow: it neither keeps it alive nor closes it.
#[test]
fn svc_34_an_error_changes_nothing_about_its_flow() {
    let net = Net::V4;
    for proto in PROTOCOLS {
        let spec = open(net, proto, ONE_BACKEND);
        let (tables, mut state, arrived) = flow(&spec);
        let look = |state: &State| {
            let (_, flow) = state.flows.slice(0, 1).next().unwrap();
            (flow.packets(), flow.bytes(), flow.state(), flow.last_seen())
        };
        let before = look(&state);
        let header = port_unreachable(net);
        let sent = Message::new(net.pod(2), net.pod(1), header, quote(&packet_of(arrived)));
        let at = |seconds| Now::from_nanos(START.as_nanos() + seconds * SECOND);
        for seconds in [0, 10, 20, 29] {
            let mut frame = sent.punted(BACKEND_1, Hook::FromPod);
            let verdict = run(&mut frame, at(seconds), &tables, &mut state);
            assert_eq!(verdict, Verdict::Deliver);
        }
        assert_eq!(look(&state), before);
        // Long after its last packet the flow is over, whatever errors came meanwhile.
        let mut frame = sent.punted(BACKEND_1, Hook::FromPod);
        let verdict = run(&mut frame, at(3600), &tables, &mut state);
        assert_eq!(verdict, Verdict::Kernel(KernelReason::NotOurs));
    }
}

/// An error about nothing we know: never to a VIP's backend by guess, and between pods the kernel's.
#[test]
fn svc_34_an_error_of_no_known_flow() {
    for net in Net::BOTH {
        let mut state = state(1);
        let quoted = Spec::udp(net.vip(80), SERVED, net.pod(1), 40000);
        let message = Message::new(
            net.pod(1),
            net.vip(80),
            port_unreachable(net),
            quote(&quoted),
        );
        for (stage, expected) in [
            (Standing::Settled, Verdict::Drop(DropReason::UnknownFlow)),
            (
                Standing::Grace,
                Verdict::Kernel(KernelReason::OlderThanEnrolment),
            ),
            (Standing::Draining, Verdict::Kernel(KernelReason::Draining)),
        ] {
            let tables = tables(stage, Standing::Settled);
            let verdict = verdict(&tables, &mut state, &message, CLIENT, Hook::FromPod);
            assert_eq!(verdict, expected);
        }
        let quoted = Spec::udp(net.pod(2), 5, net.pod(1), 6);
        let to_pod = Message::new(
            net.pod(1),
            net.pod(2),
            port_unreachable(net),
            quote(&quoted),
        );
        for hook in [Hook::FromPod, Hook::ToPod] {
            let verdict = verdict(&settled(), &mut state, &to_pod, CLIENT, hook);
            assert_eq!(verdict, Verdict::Kernel(KernelReason::NotOurs));
        }
        assert!(state.flows.is_empty());
    }
}

/// What the kernel knows stays the kernel's, and a hop count that is used up ends an error in silence.
#[test]
fn svc_34_csm_07_errors_of_older_flows_and_at_their_last_hop() {
    for net in Net::BOTH {
        let spec = open(net, Protocol::Udp, ONE_BACKEND);
        let (tables, mut state, arrived) = flow(&spec);
        let header = port_unreachable(net);
        let body = quote(&packet_of(arrived));
        let last = Message::new(net.pod(2), net.pod(1), header, body).hops(1);
        let verdict = verdict(&tables, &mut state, &last, BACKEND_1, Hook::FromPod);
        assert_eq!(verdict, Verdict::Drop(DropReason::TtlExpired));

        let tables = crate::support::tables(Standing::Grace, Standing::Grace);
        let mut state = crate::support::state(1);
        let older = Spec::udp(net.pod(1), 5, net.pod(2), 6);
        let mut frame = older.punted(CLIENT, Hook::FromPod);
        let kernel = Verdict::Kernel(KernelReason::OlderThanEnrolment);
        assert_eq!(run(&mut frame, START, &tables, &mut state), kernel);
        let body = quote(&packet_of(older.tuple));
        let message = Message::new(net.pod(2), net.pod(1), header, body);
        let mut frame = message.punted(BACKEND_1, Hook::FromPod);
        assert_eq!(run(&mut frame, START, &tables, &mut state), kernel);
        assert_eq!(egress(&frame), Egress::reingress(BACKEND_1));
    }
}
