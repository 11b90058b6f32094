//! What Weft answers itself: echo (SVC-44, K-17), hop counts used up (CSM-07), protocols that nobody serves, and the
//! limit on ICMP errors.

use weft_datapath::*;

use crate::support::icmp::{Header, Message, port_unreachable, quote};
use crate::support::*;

/// The node's address towards every pod is known.
fn with_node() -> Tables {
    let pods = [CLIENT, BACKEND_1, BACKEND_2].map(|ifindex| (ifindex, Standing::Settled));
    let mut builder = builder(&pods, Algorithm::Maglev);
    for net in Net::BOTH {
        for (ifindex, _) in pods {
            builder.set_node_address(ifindex, net.node());
        }
    }
    builder.build(1).unwrap()
}

fn echo(net: Net) -> (Header, Header) {
    let (request, reply) = match net {
        Net::V4 => (8, 0),
        Net::V6 => (128, 129),
    };
    let identified = [0x12, 0x34, 0, 7];
    ((request, 0, identified), (reply, 0, identified))
}

/// SVC-44, K-17: the VIP itself answers, whatever the size, and the answer is as if built anew.
#[test]
fn svc_44_k_17_a_vip_answers_echo() {
    for net in Net::BOTH {
        let (request, reply) = echo(net);
        for size in [0, 1, 56, 1452] {
            let (tables, mut state) = (settled(), state(1));
            let body: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let asked = Message::new(net.pod(1), net.vip(80), request, body.clone()).hops(1);
            let mut frame = asked.punted(CLIENT, Hook::FromPod);
            let verdict = run(&mut frame, START, &tables, &mut state);
            assert_eq!(verdict, Verdict::Reply);
            assert_eq!(egress(&frame), Egress::peer(CLIENT));
            assert_eq!(destination_mac(&frame), WEFT0);
            let expected = Message::new(net.vip(80), net.pod(1), reply, body);
            let expected = expected.frame(Egress::peer(CLIENT).encode());
            assert_eq!(frame[6..], expected[6..], "{net:?}, {size} bytes");
            sound(&frame);
            assert!(state.flows.is_empty());
        }
    }
}

/// SVC-44: options and extension headers of the request are not the reply's.
#[test]
fn svc_44_the_reply_has_a_plain_header() {
    for net in Net::BOTH {
        let (tables, mut state) = (settled(), state(1));
        let (request, reply) = echo(net);
        let asked = Message::new(net.pod(1), net.vip(80), request, b"ping".to_vec());
        let mut frame = asked.punted(CLIENT, Hook::FromPod);
        match net {
            Net::V4 => {
                frame[14] = 0x46;
                frame[17] += 4;
                frame.splice(34..34, [1, 1, 1, 0]);
                frame[24..26].fill(0);
                let sum = Checksum::default().with(&frame[14..38]).finish();
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            Net::V6 => frame = extended(frame, &[(60, &[1, 4, 0, 0, 0, 0])]),
        }
        let verdict = run(&mut frame, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Reply);
        let expected = Message::new(net.vip(80), net.pod(1), reply, b"ping".to_vec());
        assert_eq!(
            frame[6..],
            expected.frame(Egress::peer(CLIENT).encode())[6..]
        );
    }
}

/// SVC-44: what is damaged, spoofed, an answer itself or switched off is not answered.
#[test]
fn svc_44_what_is_not_answered() {
    for net in Net::BOTH {
        let mut state = state(1);
        let (request, reply) = echo(net);
        let asked = Message::new(net.pod(1), net.vip(80), request, b"ping".to_vec());
        let frame = asked.punted(CLIENT, Hook::FromPod);
        let damaged = |at: usize| {
            let mut frame = frame.clone();
            frame[at] ^= 1;
            frame
        };
        let bad = Verdict::Drop(DropReason::BadChecksum);
        let silent = Verdict::Drop(DropReason::VipProtocol);
        let answer = Message::new(net.pod(1), net.vip(80), reply, b"pong".to_vec());
        let mut frames = vec![
            (damaged(frame.len() - 1), bad),
            (answer.punted(CLIENT, Hook::FromPod), silent),
            (
                asked.punted(BACKEND_1, Hook::FromPod),
                Verdict::Drop(DropReason::SrcSpoof),
            ),
            (
                asked.punted(CLIENT, Hook::ToPod),
                Verdict::Kernel(KernelReason::NotOurs),
            ),
        ];
        if net == Net::V4 {
            frames.push((damaged(18), bad)); // The identification, in the IP header.
        }
        for (mut frame, expected) in frames {
            let verdict = run(&mut frame, START, &settled(), &mut state);
            assert_eq!(verdict, expected);
        }
        let pods = [(CLIENT, Standing::Settled)];
        let mut builder = builder(&pods, Algorithm::Maglev);
        builder.set_vip_echo(false);
        let off = builder.build(2).unwrap();
        let verdict = run(&mut frame.clone(), START, &off, &mut state);
        assert_eq!(verdict, silent);
    }
}

/// CSM-07: the node answers for a hop count that Weft would use up, to a VIP, to a pod, and on the way back, with the
/// packet as its sender sent it.
#[test]
fn csm_07_the_node_says_that_the_hop_count_is_used_up() {
    for net in Net::BOTH {
        let header = match net {
            Net::V4 => (11, 0, [0; 4]),
            Net::V6 => (3, 0, [0; 4]),
        };
        let (tables, mut state) = (with_node(), state(1));
        let mut first = Spec::udp(net.pod(1), 40000, net.vip(80), ONE_BACKEND);
        let mut frame = first.punted(CLIENT, Hook::FromPod);
        let verdict = run(&mut frame, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Deliver);
        let arrived = tuple(&frame);
        first.hops = 1;
        for (spec, at) in [
            (first.clone(), CLIENT), // Of a known flow.
            (Spec { hops: 0, ..first }, CLIENT),
            (Spec::of(arrived.reversed(), 0).hops(1), BACKEND_1),
            (
                Spec::udp(net.pod(1), 1, net.vip(80), SERVED).hops(1),
                CLIENT,
            ),
            (
                Spec::tcp(net.pod(1), 1, net.vip(80), SERVED, SYN).hops(1),
                CLIENT,
            ),
            (
                Spec::tcp(net.pod(1), 1, net.pod(2), 80, SYN).hops(1),
                CLIENT,
            ),
            (
                Spec::udp(net.pod(1), 1, net.pod(2), 80)
                    .payload(&[7; 1400])
                    .hops(1),
                CLIENT,
            ),
        ] {
            let mut frame = spec.punted(at, Hook::FromPod);
            let verdict = run(&mut frame, START, &tables, &mut state);
            assert_eq!(verdict, Verdict::Reply, "{spec:?}");
            assert_eq!(egress(&frame), Egress::peer(at));
            let mut quoted = quote(&spec);
            let longest = if net == Net::V4 { 576 - 28 } else { 1280 - 48 };
            quoted.truncate(longest);
            let expected = Message::new(net.node(), spec.tuple.src, header, quoted);
            let expected = expected.frame(Egress::peer(at).encode());
            assert_eq!(frame[6..], expected[6..], "{spec:?}");
            sound(&frame);
        }
        assert_eq!(state.flows.len(), 1, "an answer leaves no flow");
        let (_, flow) = state.flows.slice(0, 1).next().unwrap();
        assert_eq!(
            flow.packets(),
            [1, 0],
            "what went no further is not the flow's"
        );
    }
}

/// CSM-07: without an address of the node, or with a damaged header, the packet is dropped by name.
#[test]
fn csm_07_what_is_not_answered() {
    for net in Net::BOTH {
        let spec = Spec::tcp(net.pod(1), 1, net.vip(80), SERVED, SYN).hops(1);
        let mut frame = spec.punted(CLIENT, Hook::FromPod);
        let verdict = run(&mut frame, START, &settled(), &mut state(1));
        assert_eq!(verdict, Verdict::Drop(DropReason::TtlExpired));
    }
    let spec = Spec::tcp(Net::V4.pod(1), 1, Net::V4.vip(80), SERVED, SYN).hops(1);
    let mut frame = spec.punted(CLIENT, Hook::FromPod);
    frame[18] ^= 1;
    let verdict = run(&mut frame, START, &with_node(), &mut state(1));
    assert_eq!(verdict, Verdict::Drop(DropReason::BadChecksum));
}

/// SVC-03: a protocol that nobody serves is refused like a port that nobody serves.
#[test]
fn svc_03_other_protocols_are_refused() {
    for net in Net::BOTH {
        for behind in [false, true] {
            let (tables, mut state) = (settled(), state(1));
            let spec = Spec::udp(net.pod(1), 1, net.vip(80), SERVED);
            let mut frame = spec.punted(CLIENT, Hook::FromPod);
            let at = match net {
                Net::V4 => 23,
                Net::V6 => 20,
            };
            frame[at] = 132; // SCTP.
            if net == Net::V4 {
                frame[24..26].fill(0);
                let sum = Checksum::default().with(&frame[14..34]).finish();
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            } else if behind {
                frame = extended(frame, &[(0, &[1, 4, 0, 0, 0, 0])]);
            }
            let header = match net {
                Net::V4 => (3, 2, [0; 4]),
                Net::V6 => (4, 1, [0, 0, 0, if behind { 40 } else { 6 }]),
            };
            let expected = Message::new(net.vip(80), net.pod(1), header, frame[14..].to_vec());
            let verdict = run(&mut frame, START, &tables, &mut state);
            assert_eq!(verdict, Verdict::Reply);
            assert_eq!(
                frame[6..],
                expected.frame(Egress::peer(CLIENT).encode())[6..]
            );
            sound(&frame);
        }
    }
    // Nothing follows, so nothing is refused (RFC 8200 section 4.7).
    let spec = Spec::udp(Net::V6.pod(1), 1, Net::V6.vip(80), SERVED);
    let mut frame = spec.punted(CLIENT, Hook::FromPod);
    frame[20] = 59;
    let verdict = run(&mut frame, START, &settled(), &mut state(1));
    assert_eq!(verdict, Verdict::Drop(DropReason::VipProtocol));
}

/// How many of `attempts` datagrams of one pod to a port that nobody uses are answered at once.
fn told(ifindex: u32, attempts: u16, now: Now, tables: &Tables, state: &mut State) -> usize {
    let net = Net::V4;
    let pod = net.pod((ifindex - 10) as u8);
    let answers = (0..attempts).filter(|sport| {
        let mut frame = Spec::udp(pod, *sport, net.vip(80), UNUSED).punted(ifindex, Hook::FromPod);
        match run(&mut frame, now, tables, state) {
            Verdict::Reply => true,
            Verdict::Drop(DropReason::IcmpRate) => false,
            other => panic!("{other:?}"),
        }
    });
    answers.count()
}

/// A pod that asks for all the ICMP errors that there are leaves nine tenths of them to the others, and the worker
/// sends no more than ever, however many pods ask.
#[test]
fn svc_03_csm_07_one_pod_does_not_use_up_the_icmp_errors_of_another() {
    let pods: Vec<(u32, Standing)> = (11..31)
        .map(|ifindex| (ifindex, Standing::Settled))
        .collect();
    let tables = builder(&pods, Algorithm::Maglev).build(1).unwrap();
    let mut state = state(1);
    let told = |ifindex, now, state: &mut State| told(ifindex, 200, now, &tables, state);
    assert_eq!(told(11, START, &mut state), 100);
    assert_eq!(told(12, START, &mut state), 100, "as if it were alone");
    let at_once: usize = (13..31).map(|pod| told(pod, START, &mut state)).sum();
    assert_eq!(at_once, 800, "a thousand in all");
    // A pod's second: its burst and its rate, whatever the others do.
    let millis = |n: u64| Now::from_nanos(START.as_nanos() + SECOND + n * SECOND / 1000);
    let mut sums = [0; 2];
    for n in 0..1000 {
        sums[0] += told(11, millis(n), &mut state);
        sums[1] += told(12, millis(n), &mut state);
    }
    assert_eq!(sums, [1099; 2]);
}

/// ICMP errors of Weft's own are limited (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f); resets, echo replies
/// and translated errors are not.
#[test]
fn svc_03_csm_07_icmp_errors_are_limited() {
    let net = Net::V4;
    let (tables, mut state) = (with_node(), state(1));
    let unused = Spec::udp(net.pod(1), 1, net.vip(80), UNUSED);
    let expired = Spec::udp(net.pod(1), 1, net.pod(2), 80).hops(1);
    let mut answered = 0;
    for spec in [&unused, &expired].into_iter().cycle().take(3000) {
        let mut frame = spec.punted(CLIENT, Hook::FromPod);
        match run(&mut frame, START, &tables, &mut state) {
            Verdict::Reply => answered += 1,
            Verdict::Drop(DropReason::IcmpRate) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answered, 100);
    let mut spec = Spec::tcp(net.pod(1), 1, net.vip(80), UNUSED, SYN);
    for port in 0..2000 {
        spec.tuple.sport = port;
        let verdict = run(
            &mut spec.punted(CLIENT, Hook::FromPod),
            START,
            &tables,
            &mut state,
        );
        assert_eq!(verdict, Verdict::Reply);
    }
    let ping = Message::new(net.pod(1), net.vip(80), echo(net).0, vec![]);
    let verdict = run(
        &mut ping.punted(CLIENT, Hook::FromPod),
        START,
        &tables,
        &mut state,
    );
    assert_eq!(verdict, Verdict::Reply);
    let direct = Spec::udp(net.pod(1), 5, net.pod(2), 6);
    let verdict = run(
        &mut direct.punted(CLIENT, Hook::FromPod),
        START,
        &tables,
        &mut state,
    );
    assert_eq!(verdict, Verdict::Deliver);
    let error = Message::new(
        net.pod(2),
        net.pod(1),
        port_unreachable(net),
        quote(&direct),
    );
    let verdict = run(
        &mut error.punted(BACKEND_1, Hook::FromPod),
        START,
        &tables,
        &mut state,
    );
    assert_eq!(verdict, Verdict::Deliver);
    // A second later the bucket is full again.
    let later = Now::from_nanos(START.as_nanos() + SECOND);
    let verdict = run(
        &mut unused.punted(CLIENT, Hook::FromPod),
        later,
        &tables,
        &mut state,
    );
    assert_eq!(verdict, Verdict::Reply);
}

/// Nothing that is cut short gets an answer, or is written to (`run` compares).
#[test]
fn every_truncation_is_a_named_drop() {
    for net in Net::BOTH {
        let (tables, mut state) = (settled(), state(1));
        let ping = Message::new(net.pod(1), net.vip(80), echo(net).0, vec![7; 20]);
        let frame = ping.punted(CLIENT, Hook::FromPod);
        for len in 0..frame.len() {
            let mut cut = frame[..len].to_vec();
            let verdict = run(&mut cut, START, &tables, &mut state);
            assert!(matches!(verdict, Verdict::Drop(_)), "{len}: {verdict:?}");
        }
        // The same with lengths that agree: not even a header.
        for len in 0..8 {
            let at = if net == Net::V4 { 34 } else { 54 };
            let mut cut = frame[..at + len].to_vec();
            match net {
                Net::V4 => cut[17] = 20 + len as u8,
                Net::V6 => cut[19] = len as u8,
            }
            let verdict = run(&mut cut, START, &tables, &mut state);
            assert_eq!(verdict, Verdict::Drop(DropReason::IcmpHeader), "{len}");
        }
    }
}
