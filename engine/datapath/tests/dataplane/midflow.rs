//! Segments that a stateful firewall would call invalid (SVC-28, K-21).

use weft_datapath::*;

use crate::support::*;

/// The frame with that sequence number and those control bits, its checksum computed anew.
fn segment(spec: &Spec, (ifindex, hook): (u32, Hook), sequence: u32, flags: u8) -> Vec<u8> {
    let mut frame = spec.punted(ifindex, hook);
    let (l4, tuple) = (packet(&frame).l4(), spec.tuple);
    frame[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
    frame[l4 + 13] = flags;
    frame[l4 + 16..l4 + 18].fill(0);
    let sum = l4_checksum(&tuple.src, &tuple.dst, tuple.proto, &frame[l4..]);
    frame[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
    frame
}

const SEQUENCES: [u32; 5] = [0, 999, 0x7fff_ffff, 0x8000_0000, u32::MAX];

/// SVC-28, K-21: what belongs to a known flow is translated, both ways, wherever its sequence number lies and whatever its
/// flags: one segment that leaks with the backend's address makes the client reset the connection.
#[test]
fn svc_28_k_21_a_known_flow_is_translated_out_of_its_window() {
    for net in Net::BOTH {
        for (port, at) in [
            (ONE_BACKEND, (BACKEND_1, Hook::FromPod)),
            (BY_KERNEL, (CLIENT, Hook::ToPod)),
        ] {
            let tables = tables(Standing::Settled, Standing::Settled);
            let mut state = state(1);
            let there = Spec::tcp(net.pod(1), 40000, net.vip(80), port, SYN);
            let mut frame = there.punted(CLIENT, Hook::FromPod);
            let verdict = run(&mut frame, START, &tables, &mut state);
            assert_eq!(verdict, Verdict::Deliver);
            let arrived = tuple(&frame);
            let back = Spec::of(arrived.reversed(), ACK);
            // Stray acknowledgements, a null scan, everything set, data; at last resets.
            for flags in [
                SYN | ACK,
                ACK,
                0,
                ACK | FIN,
                0x38,
                0xff ^ SYN,
                RST,
                RST | ACK,
            ] {
                for sequence in SEQUENCES {
                    let mut frame = segment(&there, (CLIENT, Hook::FromPod), sequence, flags);
                    let verdict = run(&mut frame, START, &tables, &mut state);
                    assert_eq!((verdict, tuple(&frame)), (Verdict::Deliver, arrived));
                    let mut frame = segment(&back, at, sequence, flags);
                    let verdict = run(&mut frame, START, &tables, &mut state);
                    let seen = there.tuple.reversed();
                    assert_eq!((verdict, tuple(&frame)), (Verdict::Deliver, seen));
                }
            }
        }
    }
}

/// SVC-28, K-21: what belongs to no flow and opens none is dropped by name and stays as it is: neither a VIP nor a pod's own
/// address leaves for where nobody expects it.
#[test]
fn svc_28_k_21_an_unknown_segment_is_never_forwarded() {
    for net in Net::BOTH {
        let (tables, mut state) = (tables(Standing::Settled, Standing::Settled), state(1));
        for (to, port) in [
            (net.vip(80), SERVED),
            (net.vip(80), WITHOUT_BACKENDS),
            (net.vip(80), UNUSED),
            (net.pod(2), TARGET),
        ] {
            for flags in [SYN | ACK, ACK, 0, FIN | ACK, RST, SYN | RST, SYN | FIN] {
                let spec = Spec::tcp(net.pod(1), 40000, to, port, ACK);
                let mut frame = segment(&spec, (CLIENT, Hook::FromPod), 1, flags);
                let verdict = run(&mut frame, START, &tables, &mut state);
                let unknown = Verdict::Drop(DropReason::UnknownFlow);
                assert_eq!(verdict, unknown, "{to} {port} {flags:#x}");
            }
        }
        assert!(state.flows.is_empty());
    }
}
