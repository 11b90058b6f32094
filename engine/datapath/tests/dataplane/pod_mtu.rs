//! Packets that are longer than the MTU of the pod that they go to (SVC-34, K-01, U-09).

use weft_datapath::*;

use crate::support::fragments::cut;
use crate::support::icmp::{Header, Message};
use crate::support::*;

const NARROW: u16 = 1400;

/// The pods, of which one is narrow.
fn with_narrow(narrow: u32, node: bool) -> Tables {
    let pods = [CLIENT, BACKEND_1, BACKEND_2];
    let mut builder = builder(&[], Algorithm::Maglev);
    for ifindex in pods {
        let wide = pod(ifindex, Standing::Settled);
        let mtu = if ifindex == narrow { NARROW } else { wide.mtu };
        builder.add_pod(Pod { mtu, ..wide });
        for net in Net::BOTH.into_iter().filter(|_| node) {
            builder.set_node_address(ifindex, net.node());
        }
    }
    builder.build(1).unwrap()
}

fn header(net: Net) -> Header {
    let [high, low] = NARROW.to_be_bytes();
    match net {
        Net::V4 => (3, 4, [0, 0, high, low]), // RFC 1191 section 4.
        Net::V6 => (2, 0, [0, 0, high, low]), // RFC 4443 section 3.2.
    }
}

/// As `spec`, but an IP packet of so many bytes.
fn sized(spec: &Spec, length: u16) -> Spec {
    let headers = spec.clone().payload(&[]).frame([0; 6]).len() - 14;
    let payload: Vec<u8> = (headers..length.into()).map(|n| n as u8).collect();
    spec.clone().payload(&payload)
}

/// The same where it may be fragmented.
fn divisible(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20] &= !0x40;
    frame[24..26].fill(0);
    let sum = Checksum::default().with(&frame[14..34]).finish();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The error about a frame of the pod at `ifindex`, from the node unless said otherwise.
#[track_caller]
fn assert_told(answer: &[u8], about: &[u8], net: Net, from: Address, ifindex: u32) {
    let mut quoted = about[14..].to_vec();
    quoted.truncate(if net == Net::V4 { 576 - 28 } else { 1280 - 48 });
    let sender = net.pod((ifindex - 10) as u8);
    let expected = Message::new(from, sender, header(net), quoted);
    let expected = expected.frame(Egress::peer(ifindex).encode());
    assert_eq!(answer[6..], expected[6..]);
    sound(answer);
}

/// SVC-34, K-01: to a VIP, to a pod, of a known flow and of none, and back: what just fits goes on, one byte more makes
/// an error with the packet as its sender sent it, whether or not it may be fragmented.
#[test]
fn svc_34_k_01_what_fits_goes_on_and_one_byte_more_is_answered() {
    for net in Net::BOTH {
        for proto in [Protocol::Tcp, Protocol::Udp] {
            let (there, mut state) = (with_narrow(BACKEND_1, true), state(1));
            let mut frame = open(net, proto, ONE_BACKEND).punted(CLIENT, Hook::FromPod);
            assert_eq!(run(&mut frame, START, &there, &mut state), Verdict::Deliver);
            let answers = Spec::of(tuple(&frame).reversed(), ACK);
            let known = Spec {
                flags: ACK,
                ..open(net, proto, ONE_BACKEND)
            };
            let opens = |port, to, at| match proto {
                Protocol::Tcp => Spec::tcp(net.pod(1), port, to, at, SYN),
                Protocol::Udp => Spec::udp(net.pod(1), port, to, at),
            };
            let back = with_narrow(CLIENT, true);
            for (spec, at, tables) in [
                (known, CLIENT, &there),
                (answers, BACKEND_1, &back),
                (opens(1, net.vip(80), ONE_BACKEND), CLIENT, &there),
                (opens(2, net.pod(2), 80), CLIENT, &there),
            ] {
                let long = sized(&spec, NARROW + 1).punted(at, Hook::FromPod);
                let mut longs = vec![long.clone()];
                if net == Net::V4 {
                    longs.push(divisible(long));
                }
                let before = state.flows.len();
                for long in longs {
                    let mut frame = long.clone();
                    let verdict = run(&mut frame, START, tables, &mut state);
                    assert_eq!(verdict, Verdict::Reply, "{spec:?}");
                    assert_told(&frame, &long, net, net.node(), at);
                }
                assert_eq!(state.flows.len(), before, "nothing is opened for it");
                let mut frame = sized(&spec, NARROW).punted(at, Hook::FromPod);
                let verdict = run(&mut frame, START, tables, &mut state);
                assert_eq!(verdict, Verdict::Deliver, "{spec:?}");
            }
            let (_, flow) = state.flows.slice(0, 1).next().unwrap();
            assert_eq!(flow.packets(), [2, 1], "what did not go on is not counted");
        }
    }
}

/// K-01: what the kernel routes, before Weft or after it, the kernel compares with the MTU.
#[test]
fn k_01_what_the_kernel_routes_is_not_compared() {
    for net in Net::BOTH {
        let (tables, mut state) = (with_narrow(CLIENT, true), state(1));
        let spec = sized(&open(net, Protocol::Udp, BY_KERNEL), NARROW + 1);
        let mut frame = spec.punted(CLIENT, Hook::FromPod);
        let verdict = run(&mut frame, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Deliver);
        let back = sized(&Spec::of(tuple(&frame).reversed(), 0), NARROW + 1);
        let mut frame = back.punted(CLIENT, Hook::ToPod);
        let verdict = run(&mut frame, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Deliver);
    }
}

/// SVC-34: nothing gets through before the sender has heard, so where the node has no address that the pod may see, the
/// VIP speaks.
#[test]
fn svc_34_without_an_address_of_the_node_the_vip_answers() {
    for net in Net::BOTH {
        let (tables, mut state) = (with_narrow(BACKEND_1, false), state(1));
        let spec = sized(&open(net, Protocol::Udp, ONE_BACKEND), NARROW + 1);
        let long = spec.punted(CLIENT, Hook::FromPod);
        let mut frame = long.clone();
        let verdict = run(&mut frame, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Reply);
        assert_told(&frame, &long, net, net.vip(80), CLIENT);
    }
}

/// U-09, SVC-35: each fragment is a packet of its own. Of those of IPv4 only the first one is spoken of.
#[test]
fn u_09_fragments_are_compared_one_by_one() {
    for net in Net::BOTH {
        let (tables, mut state) = (with_narrow(BACKEND_1, true), state(1));
        let whole = sized(&open(net, Protocol::Udp, ONE_BACKEND), 4000);
        let whole = whole.punted(CLIENT, Hook::FromPod);
        let pieces = cut(&whole, 7, 1440);
        let mut first = pieces[0].clone();
        let verdict = run(&mut first, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Reply);
        assert_told(&first, &pieces[0], net, net.node(), CLIENT);
        let mut rest = pieces[1].clone();
        let verdict = run(&mut rest, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Drop(DropReason::FragmentRefused));
        // The first one is short, the next is not.
        let pieces = [
            cut(&whole, 8, 1000)[0].clone(),
            cut(&whole, 8, 1440)[1].clone(),
        ];
        let mut first = pieces[0].clone();
        let verdict = run(&mut first, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Deliver);
        let mut rest = pieces[1].clone();
        let verdict = run(&mut rest, START, &tables, &mut state);
        match net {
            Net::V4 => assert_eq!(verdict, Verdict::Drop(DropReason::PodMtu)),
            Net::V6 => {
                assert_eq!(verdict, Verdict::Reply);
                assert_told(&rest, &pieces[1], net, net.node(), CLIENT);
            }
        }
    }
}

/// K-01: a pod hears a hundred errors at once, and of the rest nothing.
#[test]
fn k_01_errors_about_length_are_limited() {
    for net in Net::BOTH {
        let (tables, mut state) = (with_narrow(BACKEND_1, true), state(1));
        let spec = sized(&open(net, Protocol::Udp, ONE_BACKEND), NARROW + 1);
        let mut told = 0;
        for _ in 0..200 {
            let mut frame = spec.punted(CLIENT, Hook::FromPod);
            match run(&mut frame, START, &tables, &mut state) {
                Verdict::Reply => told += 1,
                verdict => assert_eq!(verdict, Verdict::Drop(DropReason::IcmpRate)),
            }
        }
        assert_eq!(told, 100);
    }
}
