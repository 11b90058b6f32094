//! Outer headers, written and read without Weft's own code: what a peer sends, and what a node must think of it.

use arbitrary::Arbitrary;
use weft_datapath::{Address, Encapsulation};

use crate::frames::{fold, sum};
use crate::support::Net;

/// Where the IP packet starts in a frame.
pub const L3: usize = 14;
const GENEVE_ETHERNET: u16 = 0x6558;
const VXLAN_PORT: u16 = 4789;
const GENEVE_PORT: u16 = 6081;
pub const VNI: u32 = 0x0a_0b0c;

/// How nodes are joined.
#[derive(Copy, Clone, Debug)]
pub struct Joint {
    pub outer: Net,
    pub encapsulation: Encapsulation,
    /// Whether IPv4 has a checksum of UDP, too.
    pub checksum: bool,
    pub mtu: u16,
}

impl Joint {
    pub fn port(&self) -> u16 {
        match self.encapsulation {
            Encapsulation::Geneve => GENEVE_PORT,
            Encapsulation::Vxlan => VXLAN_PORT,
        }
    }
}

/// An option of GENEVE.
#[derive(Arbitrary, Clone, Debug)]
pub enum Opt {
    /// Weft's own, in a right form or, cut to so many words, in a wrong one.
    Front { v6: bool, cut: Option<u8> },
    /// Somebody's; of some kinds a client's name, as Weft says it, or something else in its place.
    Other { class: u16, kind: u8, words: u8 },
}

/// What is not the encapsulation's own about a wrapped packet.
#[derive(Arbitrary, Clone, Debug, Default)]
pub struct Dress {
    options: Vec<Opt>,
    /// GENEVE without an inner Ethernet header.
    bare: bool,
    /// The outer congestion bits, if not the inner ones.
    class: Option<u8>,
    /// Options of the outer IPv4 header: so many words.
    ip_words: u8,
}

impl Opt {
    fn write(&self, into: &mut Vec<u8>) {
        let (class, kind, data) = match self {
            Self::Front { v6, cut } => {
                let mut data = if *v6 { vec![0xfd; 16] } else { vec![10; 4] };
                data.extend([0, 80, 0, 0]);
                if let Some(words) = cut {
                    data.resize(usize::from(words % 8) * 4, 0);
                }
                (0xff77, 1, data)
            }
            Self::Other { class, kind, words } if (2..16).contains(kind) => {
                let [filling, last] = class.to_be_bytes();
                let mut data = vec![filling; usize::from(words % 32) * 4];
                let from = data.len().saturating_sub(usize::from(last % 8));
                data[from..].fill(0);
                (0xff77, 2, data)
            }
            Self::Other { class, kind, words } => {
                (*class, *kind, vec![7; usize::from(words % 32) * 4])
            }
        };
        into.extend(u16::to_be_bytes(class));
        into.extend([kind, (data.len() / 4) as u8]);
        into.extend(data);
    }
}

/// The Ethernet frame's packet as a peer wraps it. Its MACs are left for the hook to write.
pub fn wrapped(
    joint: &Joint,
    inner: &[u8],
    (from, to): (Address, Address),
    dress: &Dress,
) -> Vec<u8> {
    let geneve = joint.encapsulation == Encapsulation::Geneve;
    let ethertype = u16::from_be_bytes([inner[12], inner[13]]);
    let mut frame = vec![0; 12];
    let class = match (ethertype, dress.class) {
        (_, Some(class)) => class,
        (0x0800, None) => inner[L3 + 1],
        (_, None) => inner[L3] << 4 | inner[L3 + 1] >> 4,
    };
    match joint.outer {
        Net::V4 => {
            let words = dress.ip_words % 11;
            frame.extend([8, 0, 0x45 + words, class, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
            frame.extend(from.v4_octets());
            frame.extend(to.v4_octets());
            frame.extend(std::iter::repeat_n(1, usize::from(words) * 4));
        }
        Net::V6 => {
            frame.extend([
                0x86,
                0xdd,
                0x60 | class >> 4,
                class << 4,
                0,
                0,
                0,
                0,
                17,
                64,
            ]);
            frame.extend(from.0);
            frame.extend(to.0);
        }
    }
    frame.extend(0xc123u16.to_be_bytes());
    frame.extend(joint.port().to_be_bytes());
    frame.extend([0; 4]);
    let mut options = Vec::new();
    for option in dress.options.iter().take(8) {
        let before = options.len();
        option.write(&mut options);
        if options.len() > 63 * 4 {
            options.truncate(before);
        }
    }
    let bare = geneve && dress.bare;
    let protocol = if bare { ethertype } else { GENEVE_ETHERNET };
    let [_, a, b, c] = VNI.to_be_bytes();
    if geneve {
        frame.extend([(options.len() / 4) as u8, 0]);
        frame.extend(protocol.to_be_bytes());
        frame.extend([a, b, c, 0]);
        frame.extend(options);
    } else {
        frame.extend([8, 0, 0, 0, a, b, c, 0]);
    }
    frame.extend(&inner[if bare { L3 } else { 0 }..]);
    mend(&mut frame, joint, true, true);
    frame
}

/// Makes lengths and checksums of the outer headers right again, as far as they are there.
pub fn mend(frame: &mut [u8], joint: &Joint, lengths: bool, sums: bool) {
    let ip = match joint.outer {
        Net::V4 => usize::from(frame.get(L3).map_or(5, |first| first & 15)) * 4,
        Net::V6 => 40,
    };
    let udp = L3 + ip;
    if ip < 20 || frame.len() < udp + 8 {
        return;
    }
    let length = (frame.len() - udp) as u16;
    if lengths {
        let (at, whole) = match joint.outer {
            Net::V4 => (L3 + 2, length + ip as u16),
            Net::V6 => (L3 + 4, length),
        };
        frame[at..at + 2].copy_from_slice(&whole.to_be_bytes());
        frame[udp + 4..udp + 6].copy_from_slice(&length.to_be_bytes());
    }
    if !sums {
        return;
    }
    if joint.outer == Net::V4 {
        frame[L3 + 10..L3 + 12].fill(0);
        let right = !fold(sum(&frame[L3..udp]));
        frame[L3 + 10..L3 + 12].copy_from_slice(&right.to_be_bytes());
    }
    frame[udp + 6..udp + 8].fill(0);
    if joint.outer == Net::V6 || joint.checksum {
        let right = match !fold(pseudo(frame, joint, udp, frame.len())) {
            0 => 0xffff,
            right => right,
        };
        frame[udp + 6..udp + 8].copy_from_slice(&right.to_be_bytes());
    }
}

fn pseudo(frame: &[u8], joint: &Joint, udp: usize, end: usize) -> u64 {
    let addresses = match joint.outer {
        Net::V4 => L3 + 12..L3 + 20,
        Net::V6 => L3 + 8..L3 + 40,
    };
    sum(&frame[addresses]) + 17 + (end - udp) as u64 + sum(&frame[udp..end])
}

/// What is inside: a frame without MACs, as the outer headers are right.
#[derive(Clone, Debug)]
pub struct Inner {
    pub from: Address,
    pub to: Address,
    pub ethertype: u16,
    pub packet: Vec<u8>,
    /// The outer congestion bits.
    pub ecn: u8,
    pub udp_sum: bool,
    /// Bytes of options.
    pub options: usize,
    /// What Weft's option calls the client, if that is a name.
    pub client: Option<String>,
}

/// Reads outer headers by their documents; `None` where any of them is wrong.
pub fn unwrapped(frame: &[u8], joint: &Joint) -> Option<Inner> {
    let be16 = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let v4 = match be16(12)? {
        0x0800 => true,
        0x86dd => false,
        _ => return None,
    };
    let first = *frame.get(L3)?;
    let (udp, end, from, to, class) = if v4 {
        let udp = L3 + usize::from(first & 15) * 4;
        let end = L3 + usize::from(be16(L3 + 2)?);
        let header = frame.get(L3..udp).filter(|header| header.len() >= 20)?;
        let address = |at: usize| Address::from_v4(header[at..at + 4].try_into().unwrap());
        let right = first >> 4 == 4 && header[9] == 17 && fold(sum(header)) == 0xffff;
        (right && be16(L3 + 6)? & 0x3fff == 0).then_some(())?;
        (udp, end, address(12), address(16), header[1])
    } else {
        let header = frame.get(L3..L3 + 40)?;
        let address = |at: usize| Address(header[at..at + 16].try_into().unwrap());
        (first >> 4 == 6 && header[6] == 17).then_some(())?;
        let end = L3 + 40 + usize::from(be16(L3 + 4)?);
        let class = first << 4 | header[1] >> 4;
        (L3 + 40, end, address(8), address(24), class)
    };
    let length = usize::from(be16(udp + 4)?);
    if end > frame.len() || udp + length > end || length < 8 {
        return None;
    }
    let end = udp + length;
    let own = Joint {
        outer: if v4 { Net::V4 } else { Net::V6 },
        ..*joint
    };
    let udp_sum = be16(udp + 6)? != 0;
    let right = match udp_sum {
        false => v4,
        true => fold(pseudo(frame, &own, udp, end)) == 0xffff,
    };
    if !right || be16(udp + 2)? != joint.port() {
        return None;
    }
    let tunnel = frame.get(udp + 8..end)?;
    let vni = u32::from_be_bytes([0, *tunnel.get(4)?, *tunnel.get(5)?, *tunnel.get(6)?]);
    let (mut at, mut ethertype, mut client) = (8, GENEVE_ETHERNET, None);
    match joint.encapsulation {
        Encapsulation::Geneve => {
            (tunnel[0] < 64 && tunnel[1] < 128).then_some(())?;
            at += usize::from(tunnel[0]) * 4;
            let mut options = tunnel.get(8..at)?;
            while !options.is_empty() {
                (options[2] < 128).then_some(())?;
                let end = 4 + usize::from(options[3] % 32) * 4;
                if options[..3] == [0xff, 0x77, 2] {
                    client = name(options.get(4..end)?);
                }
                options = options.get(end..)?;
            }
            ethertype = u16::from_be_bytes([tunnel[2], tunnel[3]]);
        }
        Encapsulation::Vxlan => (tunnel[0] & 8 != 0).then_some(())?,
    }
    let options = at - 8;
    if vni != VNI || tunnel.len() < 8 {
        return None;
    }
    if ethertype == GENEVE_ETHERNET {
        let mac = tunnel.get(at..at + 14)?;
        ethertype = u16::from_be_bytes([mac[12], mac[13]]);
        at += 14;
    }
    let packet = tunnel.get(at..)?.to_vec();
    let least = match ethertype {
        0x0800 => 20,
        0x86dd => 40,
        _ => return None,
    };
    (packet.len() >= least).then_some(Inner {
        from,
        to,
        ethertype,
        packet,
        ecn: class & 3,
        udp_sum,
        options,
        client,
    })
}

/// A name as a configuration may have it, but for zeros at its end.
fn name(data: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(data).ok()?.trim_end_matches('\0');
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    (!name.is_empty() && name.chars().all(plain)).then(|| name.into())
}

impl Inner {
    /// The packet of a frame that nobody has wrapped.
    pub fn of(frame: &[u8]) -> Self {
        Self {
            from: Address([0; 16]),
            to: Address([0; 16]),
            ethertype: u16::from_be_bytes([frame[12], frame[13]]),
            packet: frame[L3..].to_vec(),
            ecn: 0,
            udp_sum: false,
            options: 0,
            client: None,
        }
    }

    /// The packet's source and destination; `None` where IPv6 has a mapped one.
    pub fn ends(&self) -> Option<[Address; 2]> {
        if self.ethertype == 0x0800 {
            let at = |at: usize| Address::from_v4(self.packet[at..at + 4].try_into().unwrap());
            return Some([at(12), at(16)]);
        }
        let at = |at: usize| Address(self.packet[at..at + 16].try_into().unwrap());
        let ends = [at(8), at(24)];
        let mapped = |end: &Address| end.0[..10] == [0; 10] && end.0[10..12] == [0xff, 0xff];
        (!ends.iter().any(mapped)).then_some(ends)
    }

    /// The congestion bits that the packet has.
    pub fn inner_ecn(&self) -> u8 {
        match self.ethertype {
            0x0800 => self.packet[1] & 3,
            _ => self.packet[1] >> 4 & 3,
        }
    }

    /// What they become; `None` where there was congestion and the transport would not see it (RFC 6040, figure 4).
    pub fn carried_ecn(&self) -> Option<u8> {
        match (self.inner_ecn(), self.ecn) {
            (0, 3) => None,
            (0, _) => Some(0),
            (_, 3) => Some(3),
            (2, 1) => Some(1),
            (inner, _) => Some(inner),
        }
    }

    /// As a frame with a source MAC, congestion bits as they were.
    pub fn frame(&self, source: [u8; 6]) -> Vec<u8> {
        let mut frame = vec![0; 6];
        frame.extend(source);
        frame.extend(self.ethertype.to_be_bytes());
        frame.extend(&self.packet);
        frame
    }
}
