//! A case in words, and the packets that it speaks of.

use arbitrary::Arbitrary;
use weft_datapath::*;

use super::{HOSTS, Sender, host, underlay};
use crate::frames::{Fate, icmp_error, right_ipv4_checksum};
use crate::outer::{Dress, Inner, L3};
use crate::support::*;

/// One case in words.
#[derive(Arbitrary, Debug)]
pub(super) struct Case {
    pub(super) vxlan: bool,
    pub(super) outer_v6: bool,
    pub(super) checksum: bool,
    pub(super) narrow: bool,
    pub(super) several_workers: bool,
    pub(super) steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
pub(super) enum Step {
    /// A peer sends.
    Wrapped(Wrapped),
    /// A pod of this node sends.
    Local { pod: u8, packet: PacketCase },
    /// Whoever got the last packet answers it.
    Answer { flags: u8 },
    /// Any bytes behind the source MAC of the uplink or a pod.
    Raw { pod: Option<u8>, bytes: Vec<u8> },
    /// Seconds pass.
    Wait(u8),
    /// Flows are looked through.
    Expire(u8),
    /// Half of a peer's range goes to the other.
    Move,
    /// A pod of this node goes, or comes again.
    Enrol(u8),
    /// An uplink goes, or comes again.
    Link(u8),
}

#[derive(Arbitrary, Debug)]
pub(super) struct Wrapped {
    pub(super) peer: u8,
    pub(super) target: u8,
    pub(super) packet: PacketCase,
    pub(super) dress: Dress,
    pub(super) padding: u8,
    pub(super) harm: Option<Harm>,
}

/// What befalls a wrapped packet.
#[derive(Arbitrary, Debug)]
pub(super) enum Harm {
    /// Nothing, so that most get through.
    None,
    NoneEither,
    /// Bytes overwritten, and lengths and checksums made right behind them, or not.
    Damage {
        bytes: Vec<(u16, u8)>,
        lengths: bool,
        sums: bool,
    },
    /// Cut off.
    Cut(u16),
}

/// What is inside, or a pod sends.
#[derive(Arbitrary, Debug)]
pub(super) struct PacketCase {
    pub(super) v6: bool,
    pub(super) kind: u8,
    pub(super) from: u8,
    pub(super) to: u8,
    pub(super) sport: u8,
    pub(super) dport: u8,
    pub(super) flags: u8,
    pub(super) hops: u8,
    pub(super) length: u16,
    pub(super) class: u8,
    pub(super) segment: Option<u16>,
    pub(super) fate: Option<Fate>,
}

impl PacketCase {
    /// Its ends: most from one of the sender's own to whom it can reach, others from and to anybody and nobody.
    fn ends(&self, net: Net, sender: Sender) -> [Address; 2] {
        let anybody = |number: u8| match number % 14 {
            number @ (0 | 1) => host(net, 1, HOSTS[usize::from(number)]),
            2 => host(net, 1, 9),
            3 => host(net, 2, 9),
            4 => host(net, 2, 10),
            5 => host(net, 2, 200),
            6 => host(net, 3, 9),
            7 => host(net, 3, 200),
            number @ 8..11 => underlay(net, number - 7),
            11 => net.internet(),
            12 => net.vip(80),
            _ => net.hairpin(),
        };
        let (own, others): (&[u8], &[u8]) = match sender {
            Sender::Pod(0) => (&[0], &[1, 3, 4, 5, 6, 7, 12, 12]),
            Sender::Pod(_) => (&[1], &[0, 3, 4, 5, 6, 7, 12, 12]),
            Sender::Peer(0) => (&[3, 4, 5], &[0, 1]),
            Sender::Peer(_) => (&[6, 7, 5], &[0, 1]),
        };
        let end = |number: u8, likely: &[u8]| match number {
            0..192 => anybody(likely[usize::from(number) % likely.len()]),
            number => anybody(number),
        };
        [end(self.from, own), end(self.to, others)]
    }

    /// The frame, with any source MAC. `about`: what an ICMP error can speak of.
    pub(super) fn frame(&self, sender: Sender, about: Option<&[u8]>) -> Vec<u8> {
        let net = if self.v6 { Net::V6 } else { Net::V4 };
        let [src, dst] = self.ends(net, sender);
        const FLAGS: [u8; 6] = [SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK];
        let flags = match self.flags {
            flags @ 0..128 => FLAGS[usize::from(flags) % FLAGS.len()],
            flags => flags,
        };
        const PORTS: [u16; 4] = [SERVED, TARGET, UNUSED, 40_000];
        let port = |port: u8| match port {
            port @ 0..4 => PORTS[usize::from(port)],
            port => 1000 + u16::from(port % 16),
        };
        let payload: Vec<u8> = (0..self.length % 1700).map(|at| at as u8).collect();
        let ports = (port(self.sport), port(self.dport));
        let nobody = Ingress {
            ifindex: 0,
            hook: Hook::FromPod,
            target: 0,
        };
        let mut frame = match (self.kind % 6, about) {
            (0 | 1, _) => Spec::tcp(src, ports.0, dst, ports.1, flags)
                .payload(&payload)
                .hops(self.hops)
                .frame([0; 6]),
            (4, _) => {
                let kind = if self.v6 { 128 } else { 8 };
                let ping = icmp::Message::new(src, dst, (kind, 0, [0, 1, 0, 1]), payload);
                ping.hops(self.hops).frame([0; 6])
            }
            (5, Some(about)) => {
                icmp_error(about, src, self.flags, nobody).unwrap_or_else(|| about.to_vec())
            }
            _ => Spec::udp(src, ports.0, dst, ports.1)
                .payload(&payload)
                .hops(self.hops)
                .frame([0; 6]),
        };
        if let (0 | 1, Some(segment)) = (self.kind % 6, self.segment) {
            with_segment(&mut frame, segment);
        }
        if frame[L3] >> 4 == 4 {
            frame[L3 + 1] = self.class;
            right_ipv4_checksum(&mut frame);
        } else {
            frame[L3] = 0x60 | self.class >> 4;
            frame[L3 + 1] = self.class << 4;
        }
        if let Some(fate) = &self.fate {
            fate.befall(&mut frame);
        }
        frame
    }
}

/// Asks for segments of that size, behind a no-operation or not.
fn with_segment(frame: &mut Vec<u8>, segment: u16) {
    let v4 = frame[L3] >> 4 == 4;
    let (l4, length_at) = if v4 { (34, 16) } else { (54, 18) };
    let [high, low] = segment.to_be_bytes();
    let option = match segment % 2 {
        0 => [2, 4, high, low, 1, 1, 1, 0],
        _ => [1, 2, 4, high, low, 1, 1, 0],
    };
    frame.splice(l4 + 20..l4 + 20, option);
    frame[l4 + 12] += 2 << 4;
    let length = u16::from_be_bytes([frame[length_at], frame[length_at + 1]]) + 8;
    frame[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    frame[l4 + 16..l4 + 18].fill(0);
    let ends = Inner::of(frame).ends().expect("two ends");
    let sum = l4_checksum(&ends[0], &ends[1], Protocol::Tcp, &frame[l4..]);
    frame[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
}
