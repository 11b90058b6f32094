//! Packets that a pod may send, honest or not, and what may befall them on the way.

use arbitrary::Arbitrary;
use weft_datapath::*;

use crate::support::*;
use crate::world::{PODS, World};

/// A packet in words, so that a case can be read.
#[derive(Arbitrary, Clone, Debug)]
pub struct PacketCase {
    /// Which pod sends.
    pub pod: u8,
    /// Whether it is seen where the kernel delivers it to that pod.
    pub to_pod: bool,
    /// The worker that steering means it for.
    pub target: u8,
    pub v6: bool,
    pub udp: bool,
    /// Another pod's address as source.
    pub spoof: Option<u8>,
    pub to: To,
    /// Few source ports, so that flows meet again.
    pub sport: u8,
    pub flags: u8,
    pub hops: u8,
    pub payload: u8,
    pub fate: Fate,
}

#[derive(Arbitrary, Copy, Clone, Debug)]
pub enum To {
    Service { second: bool, port: u8 },
    Pod { pod: u8, port: u8 },
    Kernel,
    Internet,
}

/// What befalls a packet.
#[derive(Arbitrary, Clone, Debug)]
pub enum Fate {
    Whole,
    /// IPv4 options: so many words of them.
    Options(u8),
    /// A fragment: its offset in 8 bytes, whether more follow, and its number.
    Fragment {
        offset: u16,
        more: bool,
        id: u8,
    },
    /// Bytes overwritten.
    Damage(Vec<(u16, u8)>),
    /// Cut off.
    Cut(u16),
    /// Ethernet padding.
    Padding(u8),
}

impl PacketCase {
    pub fn ingress(&self) -> Ingress {
        Ingress {
            ifindex: PODS[usize::from(self.pod) % PODS.len()],
            hook: if self.to_pod {
                Hook::ToPod
            } else {
                Hook::FromPod
            },
            target: self.target.into(),
        }
    }

    /// The frame as the hook punts it.
    pub fn frame(&self, world: &World) -> Vec<u8> {
        let net = if self.v6 { Net::V6 } else { Net::V4 };
        let ingress = self.ingress();
        let host = match self.spoof {
            Some(host) => host % 8,
            None => world.host(ingress.ifindex),
        };
        const PORTS: [u16; 8] = [
            SERVED,
            WITHOUT_BACKENDS,
            BY_KERNEL,
            ONLY_CLIENT,
            ONE_BACKEND,
            UNUSED,
            TARGET,
            1000,
        ];
        let port = |port: u8| PORTS[usize::from(port) % PORTS.len()];
        let (dst, dport) = match self.to {
            To::Service { second, port: at } => (net.vip(80 + u8::from(second)), port(at)),
            To::Pod { pod, port: at } => (net.pod(pod % 8), port(at)),
            To::Kernel => (net.pod(4), TARGET),
            To::Internet => (net.internet(), 443),
        };
        let sport = match self.sport {
            sport @ 0..8 => port(sport),
            sport => 1000 + u16::from(sport % 16),
        };
        let spec = match self.udp {
            true => Spec::udp(net.pod(host), sport, dst, dport),
            false => Spec::tcp(net.pod(host), sport, dst, dport, self.flags),
        };
        let payload: Vec<u8> = (0..self.payload).collect();
        let spec = spec.payload(&payload).hops(self.hops);
        let mut frame = spec.frame(ingress.encode());
        self.fate.befall(&mut frame);
        frame
    }
}

impl Fate {
    /// It befalls this frame.
    pub fn befall(&self, frame: &mut Vec<u8>) {
        let v4 = frame[12..14] == [0x08, 0x00];
        match self {
            Self::Whole => {}
            Self::Options(words) if v4 => options(frame, usize::from(words % 11)),
            Self::Options(_) => {}
            Self::Fragment { offset, more, id } if v4 => {
                let field = offset & 0x1fff | u16::from(*more) << 13;
                frame[18..20].copy_from_slice(&u16::from(*id).to_be_bytes());
                frame[20..22].copy_from_slice(&field.to_be_bytes());
                right_ipv4_checksum(frame);
            }
            Self::Fragment { offset, more, id } => {
                let next = std::mem::replace(&mut frame[20], 44);
                let [high, low] = (offset << 3 | u16::from(*more)).to_be_bytes();
                frame.splice(54..54, [next, 0, high, low, 0, 0, 0, *id]);
                let length = (frame.len() - 54) as u16;
                frame[18..20].copy_from_slice(&length.to_be_bytes());
            }
            Self::Damage(bytes) => {
                for (at, value) in bytes.iter().take(8) {
                    let at = usize::from(*at) % frame.len();
                    frame[at] = *value;
                }
            }
            Self::Cut(len) => frame.truncate(usize::from(*len) % frame.len()),
            Self::Padding(bytes) => frame.resize(frame.len() + usize::from(*bytes), 0xee),
        }
    }
}

/// Puts so many words of no-operation options behind the IPv4 header.
fn options(frame: &mut Vec<u8>, words: usize) {
    frame.splice(34..34, std::iter::repeat_n(1, 4 * words));
    frame[14] = 0x45 + words as u8;
    let total = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    right_ipv4_checksum(frame);
}

/// The checksum of the IPv4 header again.
pub fn right_ipv4_checksum(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let end = 14 + usize::from(frame[14] & 0x0f) * 4;
    let sum = !fold(sum(&frame[14..end]));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// An ICMP error about `frame`, as a router or its receiver sends it to the source.
///
/// It quotes the packet as it arrived; `kind` picks destination unreachable, fragmentation needed or time
/// exceeded.
pub fn icmp_error(about: &[u8], from: Address, kind: u8, ingress: Ingress) -> Option<Vec<u8>> {
    let v4 = about.get(12..14)? == [0x08, 0x00];
    let quoted = about.get(14..)?;
    let quoted = &quoted[..quoted.len().min(if v4 { 500 } else { 1200 })];
    let (kind, code) = match (v4, kind % 3) {
        (true, 0) => (3, 3),
        (true, 1) => (3, 4),
        (true, _) => (11, 0),
        (false, 0) => (1, 4),
        (false, 1) => (2, 0),
        (false, _) => (3, 0),
    };
    let mut message = vec![kind, code, 0, 0, 0, 0, 0x05, 0x78];
    message.extend_from_slice(quoted);
    let mut frame = ORIGINAL_DST.to_vec();
    frame.extend(ingress.encode());
    let to = if v4 {
        quoted.get(12..16)?
    } else {
        quoted.get(8..24)?
    };
    if v4 {
        let total = (20 + message.len()) as u16;
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 1, 0, 0]);
        frame.extend(from.v4_octets());
        frame.extend(to);
        right_ipv4_checksum(&mut frame);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((message.len() as u16).to_be_bytes());
        frame.extend([58, 64]);
        frame.extend(from.0);
        frame.extend(to);
    }
    let pseudo = if v4 {
        0
    } else {
        sum(&from.0) + sum(to) + message.len() as u64 + 58
    };
    let right = !fold(pseudo + sum(&message));
    message[2..4].copy_from_slice(&right.to_be_bytes());
    frame.extend(message);
    Some(frame)
}

/// The sum of 16-bit words, an odd last byte as if a zero followed: written without Weft's own code.
pub fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0)))
        .sum()
}

/// Carries added until it is one word.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// How far the checksums of a frame that parses are from right, in one's complement arithmetic: 0 is right,
/// and a rewrite changes none. `None` for what has none, or where not the whole packet is here.
pub fn residues(frame: &[u8]) -> [Option<u64>; 2] {
    let (l3, v4) = (&frame[14..], frame[12] == 0x08);
    let be16 = |bytes: &[u8], at: usize| usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1]);
    let (ip, proto, addresses, l4) = if v4 {
        let (header, payload) = l3[..be16(l3, 2)].split_at(usize::from(l3[0] & 15) * 4);
        let whole = be16(l3, 6) & 0x3fff == 0;
        let ip = Some(sum(header) % 0xffff);
        (ip, l3[9], &l3[12..20], whole.then_some(payload))
    } else {
        (None, l3[6], &l3[8..40], Some(&l3[40..40 + be16(l3, 4)]))
    };
    let l4 = l4.and_then(|l4| match proto {
        1 => Some((0, l4)),
        17 if be16(l4, 6) == 0 => None,
        17 => Some((sum(addresses), &l4[..be16(l4, 4)])),
        6 | 58 => Some((sum(addresses), l4)),
        _ => None,
    });
    let l4 = l4.map(|(addresses, l4)| {
        let pseudo = match proto {
            1 => 0,
            _ => addresses + u64::from(proto) + l4.len() as u64,
        };
        // Written checksums are complements, so a right sum is all ones: 0 modulo 0xffff.
        (pseudo + sum(l4)) % 0xffff
    });
    [ip, l4]
}

/// Shows the case in words when a test fails on it.
pub struct Shown<C: std::fmt::Debug>(pub C);

impl<C: std::fmt::Debug> Drop for Shown<C> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:#?}", self.0);
        }
    }
}
