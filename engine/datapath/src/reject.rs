//! Answering what nobody serves: a TCP reset, or ICMP port unreachable (SVC-03, SVC-04).

use crate::answer::{self, ErrorKind, ip_header, ip_len};
use crate::checksum::{Checksum, l4_checksum};
use crate::parse::{Family, Packet};
use crate::rate::Allowance;
use crate::wire::{be16, be32, ethernet, tcp, udp};
use crate::{DropReason, FrameBuf, Protocol};

/// Turns the packet into its rejection, from the address it was sent to. The MACs are the caller's.
///
/// Nothing is written on an error: wrong checksums are not answered, and what does not fit is not cut.
/// ICMP errors are limited, resets are not: each answers one SYN, as any closed port does.
pub(crate) fn reject(
    frame: &mut FrameBuf<'_>,
    packet: &Packet,
    limit: Allowance<'_>,
) -> Result<(), DropReason> {
    verify(frame.bytes(), packet)?;
    let tuple = packet.tuple();
    match tuple.proto {
        // What it acknowledges would be a guess.
        Protocol::Tcp if !packet.whole() => Err(DropReason::FragmentRefused),
        Protocol::Tcp => reset(frame, packet),
        Protocol::Udp => {
            let ends = (&tuple.dst, &tuple.src);
            answer::error(frame, ErrorKind::PortUnreachable, ends, packet.end(), limit)
        }
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
    let ends = (&tuple.dst, &tuple.src);
    ip_header(
        bytes,
        packet.family(),
        ends,
        Protocol::Tcp.number(),
        tcp::LEN,
    );
    Ok(())
}
