//! Answering what nobody serves: a TCP reset, or ICMP port unreachable (SVC-03, SVC-04).

use crate::checksum::{Checksum, l4_checksum};
use crate::parse::{Family, Packet};
use crate::wire::{be16, be32, ethernet, icmp, ipv4, ipv6, tcp, udp};
use crate::{Address, DropReason, FrameBuf, Protocol};

/// TTL and hop limit of what we send ourselves (RFC 1700).
const HOPS: u8 = 64;
/// Longest ICMP error (RFC 1812 section 4.3.2.3).
const ICMPV4_MAX: usize = 576;
/// Longest ICMPv6 error: the least MTU (RFC 4443 section 2.4 c).
const ICMPV6_MAX: usize = 1280;

/// Turns the packet into its rejection, from the address it was sent to. The MACs are the caller's.
///
/// Nothing is written on an error: wrong checksums are not answered, and what does not fit is not cut.
pub(crate) fn reject(frame: &mut FrameBuf<'_>, packet: &Packet) -> Result<(), DropReason> {
    verify(frame.bytes(), packet)?;
    match packet.tuple().proto {
        // What it acknowledges would be a guess.
        Protocol::Tcp if !packet.whole() => Err(DropReason::FragmentRefused),
        Protocol::Tcp => reset(frame, packet),
        Protocol::Udp => unreachable(frame, packet),
    }
}

fn verify(frame: &[u8], packet: &Packet) -> Result<(), DropReason> {
    let (l4, tuple) = (packet.l4(), packet.tuple());
    if packet.family() == Family::V4
        && Checksum::default().with(&frame[ethernet::LEN..l4]).finish() != 0
    {
        return Err(DropReason::BadChecksum);
    }
    if !packet.whole() {
        return Ok(()); // Its checksum covers more than is here. Only an error goes back, never data.
    }
    let payload = &frame[l4..packet.end()];
    let (payload, right) = match tuple.proto {
        Protocol::Tcp => (payload, 0),
        // None given: legal in IPv4, and in IPv6 not ours to judge (RFC 6935).
        Protocol::Udp if be16(payload, udp::CHECKSUM) == 0 => return Ok(()),
        Protocol::Udp => (&payload[..usize::from(be16(payload, udp::LENGTH))], 0xffff),
    };
    if l4_checksum(&tuple.src, &tuple.dst, tuple.proto, payload) == right {
        Ok(())
    } else {
        Err(DropReason::BadChecksum)
    }
}

/// The reset that a closed port sends (RFC 9293 section 3.10.7.1). Never in answer to a reset.
fn reset(frame: &mut FrameBuf<'_>, packet: &Packet) -> Result<(), DropReason> {
    let flags = packet.flags();
    if flags.rst() {
        return Err(DropReason::UnknownFlow);
    }
    let segment = &frame.bytes()[packet.l4()..packet.end()];
    let (sequence, acknowledgement, control) = if flags.0 & tcp::ACK != 0 {
        (be32(segment, tcp::ACKNOWLEDGEMENT), 0, tcp::RST)
    } else {
        let data = segment.len() - usize::from(segment[tcp::DATA_OFFSET] >> 4) * 4;
        let length = data as u32 + u32::from(flags.0 & tcp::SYN != 0) + u32::from(flags.fin());
        (
            0,
            be32(segment, tcp::SEQUENCE).wrapping_add(length),
            tcp::RST | tcp::ACK,
        )
    };
    let l4 = ethernet::LEN + ip_len(packet.family());
    frame.resize(l4 + tcp::LEN)?;
    let bytes = frame.bytes_mut();
    let (tuple, header) = (packet.tuple(), &mut bytes[l4..]);
    header.fill(0);
    header[tcp::SPORT].copy_from_slice(&tuple.dport.to_be_bytes());
    header[tcp::DPORT].copy_from_slice(&tuple.sport.to_be_bytes());
    header[tcp::SEQUENCE].copy_from_slice(&sequence.to_be_bytes());
    header[tcp::ACKNOWLEDGEMENT].copy_from_slice(&acknowledgement.to_be_bytes());
    header[tcp::DATA_OFFSET] = (tcp::LEN as u8 / 4) << 4;
    header[tcp::FLAGS] = control;
    let sum = l4_checksum(&tuple.dst, &tuple.src, Protocol::Tcp, header);
    header[tcp::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    ip_header(bytes, packet, Protocol::Tcp.number(), tcp::LEN);
    Ok(())
}

/// Port unreachable, with as much of the packet as an error may carry.
fn unreachable(frame: &mut FrameBuf<'_>, packet: &Packet) -> Result<(), DropReason> {
    let ip = ip_len(packet.family());
    let (longest, protocol, (kind, code)) = match packet.family() {
        Family::V4 => (ICMPV4_MAX, icmp::V4, icmp::V4_PORT_UNREACHABLE),
        Family::V6 => (ICMPV6_MAX, icmp::V6, icmp::V6_PORT_UNREACHABLE),
    };
    let quoted = (packet.end() - ethernet::LEN).min(longest - ip - icmp::LEN);
    let l4 = ethernet::LEN + ip;
    frame.resize(l4 + icmp::LEN + quoted)?;
    let bytes = frame.bytes_mut();
    bytes.copy_within(ethernet::LEN..ethernet::LEN + quoted, l4 + icmp::LEN);
    let (tuple, message) = (packet.tuple(), &mut bytes[l4..]);
    message[..icmp::LEN].fill(0);
    message[icmp::TYPE] = kind;
    message[icmp::CODE] = code;
    let sum = match packet.family() {
        Family::V4 => Checksum::default(),
        Family::V6 => {
            Checksum::default().pseudo_header(&tuple.dst, &tuple.src, protocol, message.len())
        }
    };
    let sum = sum.with(message).finish();
    message[icmp::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    ip_header(bytes, packet, protocol, icmp::LEN + quoted);
    Ok(())
}

fn ip_len(family: Family) -> usize {
    match family {
        Family::V4 => ipv4::LEN,
        Family::V6 => ipv6::LEN,
    }
}

/// Writes the IP header of an answer to `packet` with `payload` bytes behind it.
fn ip_header(frame: &mut [u8], packet: &Packet, protocol: u8, payload: usize) {
    let (src, dst): (&Address, &Address) = (&packet.tuple().dst, &packet.tuple().src);
    let header = &mut frame[ethernet::LEN..ethernet::LEN + ip_len(packet.family())];
    header.fill(0);
    match packet.family() {
        Family::V4 => {
            header[ipv4::VERSION_IHL] = 0x40 | (ipv4::LEN as u8 / 4);
            header[ipv4::TOTAL_LENGTH]
                .copy_from_slice(&((ipv4::LEN + payload) as u16).to_be_bytes());
            // Atomic, so the identification needs no value (RFC 6864 section 4.1).
            header[ipv4::FRAGMENT].copy_from_slice(&ipv4::DONT_FRAGMENT.to_be_bytes());
            header[ipv4::TTL] = HOPS;
            header[ipv4::PROTOCOL] = protocol;
            header[ipv4::SRC].copy_from_slice(&src.v4_octets());
            header[ipv4::DST].copy_from_slice(&dst.v4_octets());
            let sum = Checksum::default().with(header).finish();
            header[ipv4::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        }
        Family::V6 => {
            header[ipv6::VERSION_CLASS_FLOW.start] = 0x60;
            header[ipv6::PAYLOAD_LENGTH].copy_from_slice(&(payload as u16).to_be_bytes());
            header[ipv6::NEXT_HEADER] = protocol;
            header[ipv6::HOP_LIMIT] = HOPS;
            header[ipv6::SRC].copy_from_slice(&src.0);
            header[ipv6::DST].copy_from_slice(&dst.0);
        }
    }
}
