//! ICMP errors about what the TCP stack sent.

use super::*;
use crate::support::icmp::{Header, Message, errors, quote};

const SEQUENCE: u32 = 0x8123_4567;

/// The error about a packet of the stack's with these ends, as whoever got it at `ifindex` sends it.
fn about(sent: Tuple, header: Header, (ifindex, hook): (u32, Hook), from: Address) -> Vec<u8> {
    let mut quoted = quote(&Spec::of(sent, ACK).payload(&[7; 64]));
    let l4 = if sent.src.is_v4() { 20 } else { 40 };
    quoted[l4 + 4..l4 + 8].copy_from_slice(&SEQUENCE.to_be_bytes());
    Message::new(from, sent.src, header, quoted).punted(ifindex, hook)
}

#[test]
fn k_21_packets_that_are_too_long_are_the_stacks_and_other_errors_are_nobodys() {
    for net in Net::BOTH {
        for (backend, at) in [
            (BACKEND_1, (BACKEND_1, Hook::FromPod)),
            (BY_KERNEL_ONLY, (CLIENT, Hook::ToPod)),
        ] {
            let stage = Stage::Tcp(UpstreamSource::Client);
            let (tables, mut state) = (World::new(stage, &[backend]).tables(), state(1));
            let client = key(net, 1, 40_000);
            let id = open(client, &tables, &mut state);
            let to_backend = ends(id, &state);
            let flow = state.flows.at(id).unwrap();
            let (seen, packets) = (flow.last_seen(), flow.packets());
            let [to_client, to_server] = [
                (
                    client.tuple.reversed(),
                    (CLIENT, Hook::FromPod),
                    client,
                    Inject::Peer,
                ),
                (
                    to_backend,
                    at,
                    reply(id, &state),
                    flow.answer(Direction::Reply).unwrap(),
                ),
            ];
            for (sent, at, key, answer) in [to_client, to_server] {
                for header in errors(net) {
                    let mut frame = about(sent, header, at, sent.dst);
                    let verdict = run(&mut frame, START, &tables, &mut state);
                    if header != errors(net)[1] {
                        assert_eq!(verdict, Verdict::Drop(DropReason::IcmpTerminated));
                        assert_eq!(state.too_long, None);
                        continue;
                    }
                    assert_eq!(verdict, Verdict::Terminate(Claim::TooLong));
                    let said = TooLong {
                        key,
                        answer,
                        mtu: 1280,
                        sequence: SEQUENCE,
                    };
                    assert_eq!(state.too_long.take(), Some(said));
                }
            }
            let flow = state.flows.at(id).unwrap();
            assert_eq!(
                (flow.last_seen(), flow.packets()),
                (seen, packets),
                "no packet of it"
            );
        }
    }
}

/// What is said is bounded by what every path carries, and by what fits in 16 bits.
#[test]
fn k_21_sizes_that_cannot_be_are_not_believed() {
    for (net, rest, mtu) in [
        (Net::V4, [0; 4], 576),
        (Net::V4, [0, 0, 0, 68], 576),
        (Net::V4, [0, 0, 0xff, 0xff], 65_535),
        (Net::V6, [0; 4], 1280),
        (Net::V6, [0, 1, 0, 0], 65_535),
        (Net::V6, [0, 0, 5, 0xdc], 1500),
    ] {
        let stage = Stage::Tcp(UpstreamSource::Client);
        let (tables, mut state) = (World::new(stage, &[BACKEND_1]).tables(), state(1));
        let client = key(net, 1, 40_000);
        open(client, &tables, &mut state);
        let (kind, code, _) = errors(net)[1];
        let sent = client.tuple.reversed();
        let mut frame = about(sent, (kind, code, rest), (CLIENT, Hook::FromPod), sent.dst);
        let verdict = run(&mut frame, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Terminate(Claim::TooLong));
        assert_eq!(state.too_long.unwrap().mtu, mtu);
    }
}

/// AMB-06: no pod speaks of another's connection, and none from an address that is not its own.
#[test]
fn amb_06_errors_of_strangers_are_not_believed() {
    for net in Net::BOTH {
        let stage = Stage::Tcp(UpstreamSource::Client);
        let (tables, mut state) = (World::new(stage, &[BACKEND_1]).tables(), state(1));
        let client = key(net, 1, 40_000);
        open(client, &tables, &mut state);
        let (sent, too_long) = (client.tuple.reversed(), errors(net)[1]);
        for (at, from, expected) in [
            (BACKEND_2, net.pod(3), DropReason::IcmpError),
            (BACKEND_2, net.pod(1), DropReason::SrcSpoof),
            (CLIENT, net.internet(), DropReason::SrcSpoof),
        ] {
            let mut frame = about(sent, too_long, (at, Hook::FromPod), from);
            let verdict = run(&mut frame, START, &tables, &mut state);
            assert_eq!(verdict, Verdict::Drop(expected));
            assert_eq!(state.too_long, None);
        }
        // And not where that flow's packets are not seen.
        let mut frame = about(sent, too_long, (CLIENT, Hook::ToPod), net.pod(3));
        let verdict = run(&mut frame, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Kernel(KernelReason::NotOurs));
    }
}
