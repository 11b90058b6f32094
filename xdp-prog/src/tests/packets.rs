//! Packets, and running a hook on one.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use libbpf_rs::{ProgramInput, ProgramMut};

use crate::abi;

/// The MAC that pods send from here.
pub(super) const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
/// The destination MAC that must survive every punt.
pub(super) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x22];

/// What a packet carries.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum L4 {
    Syn(u16, u16),
    SynAck(u16, u16),
    Ack(u16, u16),
    Udp(u16, u16),
    Icmp,
    /// ICMP of another type, without a quoted packet.
    IcmpType(u8),
    /// Port unreachable about a UDP packet that came the other way: to the sender's port, from the receiver's.
    Unreachable(u16, u16),
    /// The same about a TCP packet.
    TcpUnreachable(u16, u16),
    /// A TCP packet that came the other way was too long for its path.
    TcpTooBig(u16, u16),
    /// A protocol by its number.
    Protocol(u8),
    /// A first fragment of UDP.
    Fragment(u16, u16),
    /// Another one: what stands where ports would is payload.
    LaterFragment(u16, u16),
    /// UDP behind that many IPv6 destination options headers of 8 bytes.
    Extensions(u16, u16, u8),
}

/// An Ethernet frame from a pod.
pub(super) fn frame(src: IpAddr, dst: IpAddr, l4: L4) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(POD_MAC, GATEWAY_MAC);
    let step = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => link.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => link.ipv6(src.octets(), dst.octets(), 64),
        _ => panic!("{src} and {dst} are of two families"),
    };
    let mut bytes = Vec::new();
    let payload = [0x55; 32];
    match l4 {
        L4::Syn(from, to) => step
            .tcp(from, to, 1, 1024)
            .syn()
            .write(&mut bytes, &payload),
        L4::SynAck(from, to) => step
            .tcp(from, to, 1, 1024)
            .syn()
            .ack(9)
            .write(&mut bytes, &payload),
        L4::Ack(from, to) => step
            .tcp(from, to, 1, 1024)
            .ack(9)
            .write(&mut bytes, &payload),
        L4::Udp(from, to)
        | L4::Fragment(from, to)
        | L4::LaterFragment(from, to)
        | L4::Extensions(from, to, _) => step.udp(from, to).write(&mut bytes, &payload),
        L4::Protocol(_) => step.udp(1, 2).write(&mut bytes, &payload),
        L4::IcmpType(kind) if src.is_ipv4() => {
            step.icmpv4_raw(kind, 0, [0; 4]).write(&mut bytes, &payload)
        }
        L4::IcmpType(kind) => step.icmpv6_raw(kind, 0, [0; 4]).write(&mut bytes, &payload),
        L4::Unreachable(from, to) => {
            let quoted = &frame(dst, src, L4::Udp(to, from))[14..];
            if src.is_ipv4() {
                step.icmpv4_raw(3, 3, [0; 4]).write(&mut bytes, quoted)
            } else {
                step.icmpv6_raw(1, 4, [0; 4]).write(&mut bytes, quoted)
            }
        }
        L4::TcpUnreachable(from, to) | L4::TcpTooBig(from, to) => {
            let quoted = &frame(dst, src, L4::Ack(to, from))[14..];
            let too_big = matches!(l4, L4::TcpTooBig(..));
            let (kind, code, rest) = match (src.is_ipv4(), too_big) {
                (true, false) => (3, 3, [0; 4]),
                (true, true) => (3, 4, [0, 0, 5, 0]),
                (false, false) => (1, 4, [0; 4]),
                (false, true) => (2, 0, [0, 0, 5, 0]),
            };
            if src.is_ipv4() {
                step.icmpv4_raw(kind, code, rest).write(&mut bytes, quoted)
            } else {
                step.icmpv6_raw(kind, code, rest).write(&mut bytes, quoted)
            }
        }
        L4::Icmp if src.is_ipv4() => step.icmpv4_echo_request(1, 1).write(&mut bytes, &payload),
        L4::Icmp => step.icmpv6_echo_request(1, 1).write(&mut bytes, &payload),
    }
    .expect("a packet");
    if let L4::Protocol(number) = l4 {
        bytes[if src.is_ipv4() { 23 } else { 20 }] = number;
    }
    if let L4::Extensions(_, _, count) = l4 {
        for _ in 0..count {
            // RFC 8200 section 4.6, padded (PadN).
            let header = [bytes[20], 0, 1, 4, 0, 0, 0, 0];
            bytes[20] = 60;
            bytes.splice(54..54, header);
        }
        let length = (bytes.len() - 54) as u16;
        bytes[18..20].copy_from_slice(&length.to_be_bytes());
    }
    // How far in, in units of 8 bytes, and whether more fragments follow.
    let fragment = match l4 {
        L4::Fragment(..) => Some((0, 1)),
        L4::LaterFragment(..) => Some((5, 0)),
        _ => None,
    };
    if let Some((offset, more)) = fragment {
        if src.is_ipv4() {
            bytes[14 + 6..14 + 8].copy_from_slice(&[more << 5, offset]);
        } else {
            // A fragment header (RFC 8200 section 4.5) between the headers.
            bytes[14 + 6] = 44;
            let header = [17, 0, 0, offset << 3 | more, 0, 0, 0, 7];
            bytes.splice(54..54, header);
            let length = u16::from_be_bytes([bytes[18], bytes[19]]) + 8;
            bytes[18..20].copy_from_slice(&length.to_be_bytes());
        }
    }
    bytes
}

/// What a program did to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) action: i32,
    pub(super) data: Vec<u8>,
    pub(super) mark: u32,
}

pub(super) const NEXT: i32 = -1;
pub(super) const DROP: i32 = 2;
pub(super) const REDIRECT: i32 = 7;

/// Context of a run: fields of `struct __sk_buff`.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Context {
    pub(super) ifindex: u32,
    pub(super) mark: u32,
    pub(super) gso_segs: u32,
    pub(super) gso_size: u32,
}

impl Context {
    /// A plain packet at that interface.
    pub(super) fn at(ifindex: u32) -> Self {
        Self {
            ifindex,
            ..Self::default()
        }
    }
}

/// Runs a program on `bytes`. The context goes as zeroed bytes with fields at their offsets in
/// `struct __sk_buff`: the kernel refuses what libbpf's own struct leaves in the gaps.
pub(super) fn run(program: &ProgramMut<'_>, bytes: &[u8], context: Context) -> Outcome {
    const SK_BUFF: usize = 192;
    const MARK: usize = 8;
    let mut input = [0_u8; SK_BUFF];
    let mut put = |at: usize, value: u32| input[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    put(MARK, context.mark);
    put(36, context.ifindex); // ingress_ifindex
    put(40, context.ifindex);
    put(164, context.gso_segs);
    put(176, context.gso_size);
    let mut output = [0_u8; SK_BUFF];
    let mut data = vec![0; bytes.len() + 64];
    let result = program
        .test_run(ProgramInput {
            context_in: Some(&mut input),
            context_out: Some(&mut output),
            data_in: Some(bytes),
            data_out: Some(&mut data),
            ..Default::default()
        })
        .expect("test run");
    let action = result.return_value as i32;
    let length = result.data.map_or(0, |data| data.len());
    data.truncate(length);
    let mark = u32::from_ne_bytes(output[MARK..MARK + 4].try_into().expect("four bytes"));
    Outcome { action, data, mark }
}

/// Whether `data` is `before`, punted from the pod: the source MAC says so and all else is as it was.
pub(super) fn is_punted(outcome: &Outcome, before: &[u8], tag: u32, ifindex: u32) -> bool {
    let mac = &outcome.data[6..12];
    outcome.action == REDIRECT
        && u32::from(mac[0]) == tag
        && mac[1..4] == ifindex.to_be_bytes()[1..]
        && outcome.data[..6] == before[..6]
        && outcome.data[12..] == before[12..]
}

pub(super) const FROM_POD: u32 = abi::TAG_FROM_POD;
pub(super) const TO_POD: u32 = abi::TAG_TO_POD;
