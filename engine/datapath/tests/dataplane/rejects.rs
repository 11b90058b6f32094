//! Answers where nobody serves: SVC-03 (another port of a VIP) and SVC-04 (no backends).

use etherparse::{Icmpv4Type, Icmpv6Type, TransportHeader};
use weft_datapath::*;

use crate::support::*;

fn reply(spec: &Spec) -> Vec<u8> {
    let (tables, mut state) = (tables(Standing::Settled, Standing::Settled), state(1));
    let mut frame = spec.punted(CLIENT, Hook::FromPod);
    assert_eq!(
        run(&mut frame, START, &tables, &mut state),
        Verdict::Reply,
        "{spec:?}"
    );
    assert!(state.flows.is_empty(), "an answer leaves no state");
    assert_eq!(egress(&frame), Egress::peer(CLIENT));
    assert_eq!(destination_mac(&frame), WEFT0);
    frame
}

/// SVC-03, SVC-04: RFC 9293 section 3.10.7.1: <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>.
#[test]
fn svc_03_svc_04_tcp_gets_a_reset() {
    for net in Net::BOTH {
        for port in [UNUSED, WITHOUT_BACKENDS] {
            for (payload, acknowledged) in [(&b""[..], 1001), (b"early data", 1011)] {
                let spec = Spec::tcp(net.pod(1), 40000, net.vip(80), port, SYN).payload(payload);
                let frame = reply(&spec);
                assert_eq!(tuple(&frame), spec.tuple.reversed());
                let Some(TransportHeader::Tcp(header)) = sound(&frame).transport else {
                    panic!()
                };
                assert!(header.rst && header.ack && !header.syn);
                assert_eq!(
                    (header.sequence_number, header.acknowledgment_number),
                    (0, acknowledged)
                );
                assert_eq!(frame.len(), if net == Net::V4 { 54 } else { 74 });
                assert_eq!(packet(&frame).hops(), 64);
            }
        }
    }
}

/// SVC-03, SVC-04: the error quotes the packet as the client sent it, so its socket recognises it.
#[test]
fn svc_03_svc_04_udp_gets_port_unreachable() {
    for net in Net::BOTH {
        for (port, size) in [(UNUSED, 8), (WITHOUT_BACKENDS, 0), (WITHOUT_BACKENDS, 1400)] {
            let spec = Spec::udp(net.pod(1), 40000, net.vip(80), port).payload(&vec![7; size]);
            let original = spec.punted(CLIENT, Hook::FromPod);
            let frame = reply(&spec);
            let headers = sound(&frame);
            match headers.transport.unwrap() {
                TransportHeader::Icmpv4(icmp) => {
                    assert!(matches!(
                        icmp.icmp_type,
                        Icmpv4Type::DestinationUnreachable(
                            etherparse::icmpv4::DestUnreachableHeader::Port
                        )
                    ));
                    assert!(frame.len() - 14 <= 576);
                }
                TransportHeader::Icmpv6(icmp) => {
                    assert_eq!(
                        icmp.icmp_type,
                        Icmpv6Type::DestinationUnreachable(
                            etherparse::icmpv6::DestUnreachableCode::Port
                        )
                    );
                    assert!(frame.len() - 14 <= 1280);
                }
                other => panic!("{other:?}"),
            }
            let quoted = headers.payload.slice();
            assert_eq!(quoted, &original[14..14 + quoted.len()]);
            assert!(quoted.len() == original.len() - 14 || frame.len() - 14 >= 576);
            let (source, destination) = match net {
                Net::V4 => (frame[26..30].to_vec(), frame[30..34].to_vec()),
                Net::V6 => (frame[22..38].to_vec(), frame[38..54].to_vec()),
            };
            assert!(net.vip(80).0.ends_with(&source) && net.pod(1).0.ends_with(&destination));
        }
    }
}

#[test]
fn an_answer_that_does_not_fit_is_a_named_drop() {
    let (tables, mut state) = (tables(Standing::Settled, Standing::Settled), state(1));
    let mut frame =
        Spec::udp(Net::V4.pod(1), 40000, Net::V4.vip(80), UNUSED).punted(CLIENT, Hook::FromPod);
    let (original, len) = (frame.clone(), frame.len());
    let verdict = process(
        &mut FrameBuf::new(&mut frame, len),
        START,
        &tables,
        &mut state,
    );
    assert_eq!(verdict, Verdict::Drop(DropReason::FrameRoom));
    assert_eq!(frame, original);
}

#[test]
fn a_wrong_checksum_is_not_answered() {
    let (tables, mut state) = (tables(Standing::Settled, Standing::Settled), state(1));
    for net in Net::BOTH {
        for spec in [
            Spec::udp(net.pod(1), 40000, net.vip(80), UNUSED),
            Spec::tcp(net.pod(1), 40000, net.vip(80), UNUSED, SYN).payload(b"x"),
        ] {
            let mut frame = spec.punted(CLIENT, Hook::FromPod);
            *frame.last_mut().unwrap() ^= 1;
            assert_eq!(
                run(&mut frame, START, &tables, &mut state),
                Verdict::Drop(DropReason::BadChecksum)
            );
        }
    }
    // No checksum is none that could be wrong.
    let mut frame =
        Spec::udp(Net::V4.pod(1), 40000, Net::V4.vip(80), UNUSED).punted(CLIENT, Hook::FromPod);
    frame[40..42].fill(0);
    assert_eq!(run(&mut frame, START, &tables, &mut state), Verdict::Reply);
}
