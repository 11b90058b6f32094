//! Checksums after a rewrite, for every value that they can have before it: as if computed anew.

use super::packets::{Context, L4, REDIRECT, frame, run};
use super::support::node;
use super::world::{CLIENT, PORT, TARGET, World, pod, to, vip};

const IP: usize = 14;
const IP_SUM: usize = IP + 10;
const PORTS: usize = IP + 20;
const TCP: u8 = 6;

/// Ones' complement sum (RFC 1071).
fn sum(bytes: &[u8], start: u32) -> u32 {
    let words = bytes.chunks(2);
    let sum = words.fold(start, |sum, word| {
        sum + u32::from(u16::from_be_bytes([
            word[0],
            word.get(1).copied().unwrap_or(0),
        ]))
    });
    (sum & 0xffff) + (sum >> 16)
}

/// Computes both checksums of an IPv4 packet.
fn complete(packet: &mut [u8]) {
    let proto = packet[IP + 9];
    let l4_sum = PORTS + if proto == TCP { 16 } else { 6 };
    packet[IP_SUM..IP_SUM + 2].fill(0);
    packet[l4_sum..l4_sum + 2].fill(0);
    let folded = |sum: u32| !((sum & 0xffff) + (sum >> 16)) as u16;
    let header = folded(sum(&packet[IP..PORTS], 0));
    let pseudo = u32::from(proto) + (packet.len() - PORTS) as u32;
    let whole = match folded(sum(&packet[PORTS..], sum(&packet[IP + 12..PORTS], pseudo))) {
        0 if proto != TCP => 0xffff, // RFC 768
        whole => whole,
    };
    packet[IP_SUM..IP_SUM + 2].copy_from_slice(&header.to_be_bytes());
    packet[l4_sum..l4_sum + 2].copy_from_slice(&whole.to_be_bytes());
}

#[test]
fn svc_02_checksums_are_what_they_would_be_if_computed_anew() {
    node(|node| {
        let mut world = World::new(node);
        let client = pod(CLIENT, false);
        type Ends = fn(u16, u16) -> L4;
        for (opens, goes_on) in [(L4::Udp as Ends, L4::Udp as Ends), (L4::Syn, L4::Ack)] {
            let first = frame(client, vip(false), opens(4000, PORT));
            let server = to(&world.forwards(CLIENT, &first));
            let there = frame(client, vip(false), goes_on(4000, PORT));
            let back = frame(pod(server, false), client, goes_on(TARGET, 4000));
            world.forwards(CLIENT, &there);
            for (from, mut packet) in [(CLIENT, there), (server, back)] {
                let last = packet.len() - 2;
                for n in 0..=u16::MAX {
                    packet[IP + 4..IP + 6].copy_from_slice(&n.to_be_bytes());
                    packet[IP + 8] = [255, 2, 64, 128][usize::from(n % 4)];
                    packet[last..].copy_from_slice(&n.to_be_bytes());
                    complete(&mut packet);
                    let program = &world.steering.skel.progs.weft_from_pod;
                    let outcome = run(program, &packet, Context::at(from));
                    assert_eq!(outcome.action, REDIRECT);
                    assert_eq!(outcome.data[IP + 8], packet[IP + 8] - 1);
                    let mut anew = outcome.data.clone();
                    complete(&mut anew);
                    assert_eq!(outcome.data, anew, "{packet:?}");
                }
            }
        }
    });
}
