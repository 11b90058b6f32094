//! What Weft sends of its own: ICMP errors, echo replies, and the IP header before them.

use crate::checksum::Checksum;
use crate::icmp::{IcmpMessage, L3, octets};
use crate::parse::Family;
use crate::rate::Allowance;
use crate::wire::{be16, icmp, ipv4, ipv6};
use crate::{Address, DropReason, FrameBuf};

/// TTL and hop limit of what we send ourselves (RFC 1700).
const HOPS: u8 = 64;
/// Longest ICMP error (RFC 1812 section 4.3.2.3).
const ICMPV4_MAX: usize = 576;
/// Longest ICMPv6 error: the least MTU (RFC 4443 section 2.4 c).
const ICMPV6_MAX: usize = 1280;

/// Which error, in both families.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum ErrorKind {
    /// Nothing listens at the port.
    PortUnreachable,
    /// Nothing speaks the protocol (RFC 1122 section 3.2.2.1, RFC 4443 section 3.4).
    ProtocolUnreachable,
    /// The hop count is used up (RFC 1812 section 5.2.7.3, RFC 4443 section 3.3).
    TimeExceeded,
    /// The packet is longer than the next hop takes, which is so many bytes (RFC 1191 section 4, RFC 4443 section 3.2).
    TooLong(u16),
}

impl ErrorKind {
    fn type_and_code(self, family: Family) -> (u8, u8) {
        match (self, family) {
            (Self::PortUnreachable, Family::V4) => icmp::V4_PORT_UNREACHABLE,
            (Self::PortUnreachable, Family::V6) => icmp::V6_PORT_UNREACHABLE,
            (Self::ProtocolUnreachable, Family::V4) => icmp::V4_PROTOCOL_UNREACHABLE,
            (Self::ProtocolUnreachable, Family::V6) => icmp::V6_NEXT_HEADER,
            (Self::TimeExceeded, Family::V4) => icmp::V4_TIME_EXCEEDED,
            (Self::TimeExceeded, Family::V6) => icmp::V6_TIME_EXCEEDED,
            (Self::TooLong(_), Family::V4) => icmp::V4_FRAGMENTATION_NEEDED,
            (Self::TooLong(_), Family::V6) => icmp::V6_TOO_BIG,
        }
    }
}

/// Turns the packet in `frame`, which came from `dst` and ends at `end`, into an error about it from `src`,
/// with as much of it as an error may carry. The MACs are the caller's.
///
/// Nothing is written on an error: [`DropReason::BadChecksum`] where the IPv4 header is damaged,
/// [`DropReason::IcmpRate`] above the rate of the pod or of all (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f),
/// [`DropReason::FrameRoom`] where it does not fit.
pub(crate) fn error(
    frame: &mut FrameBuf<'_>,
    kind: ErrorKind,
    (src, dst): (&Address, &Address),
    end: usize,
    limit: Allowance<'_>,
) -> Result<(), DropReason> {
    let family = src.family();
    verify_ipv4(frame.bytes(), family)?;
    let ip = ip_len(family);
    let (longest, protocol) = match family {
        Family::V4 => (ICMPV4_MAX, icmp::V4),
        Family::V6 => (ICMPV6_MAX, icmp::V6),
    };
    let rest = match (kind, family) {
        (ErrorKind::ProtocolUnreachable, Family::V6) => {
            crate::extension::walk(&frame.bytes()[L3..end])?.named_at as u32
        }
        (ErrorKind::TooLong(mtu), _) => u32::from(mtu),
        _ => 0,
    };
    let quoted = (end - L3).min(longest - ip - icmp::LEN);
    let l4 = L3 + ip;
    let length = l4 + icmp::LEN + quoted;
    if length > frame.capacity() {
        return Err(DropReason::FrameRoom);
    }
    if !limit.take() {
        return Err(DropReason::IcmpRate);
    }
    frame.resize(length)?;
    let bytes = frame.bytes_mut();
    bytes.copy_within(L3..L3 + quoted, l4 + icmp::LEN);
    let message = &mut bytes[l4..];
    let (number, code) = kind.type_and_code(family);
    message[icmp::TYPE] = number;
    message[icmp::CODE] = code;
    message[icmp::CHECKSUM].fill(0);
    message[icmp::REST].copy_from_slice(&rest.to_be_bytes());
    let sum = match family {
        Family::V4 => Checksum::default(),
        Family::V6 => Checksum::default().pseudo_header(src, dst, protocol, message.len()),
    };
    let sum = sum.with(message).finish();
    message[icmp::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    ip_header(bytes, family, (src, dst), protocol, icmp::LEN + quoted);
    Ok(())
}

/// Turns an echo request into its reply, behind a plain IP header (RFC 792, RFC 4443 section 4.2).
///
/// [`DropReason::BadChecksum`], and nothing written, where the request is damaged.
pub(crate) fn echo(frame: &mut FrameBuf<'_>, request: &IcmpMessage) -> Result<(), DropReason> {
    let family = request.family;
    verify_ipv4(frame.bytes(), family)?;
    let message = &frame.bytes()[request.l4..request.end];
    let (sum, protocol, reply) = match family {
        Family::V4 => (Checksum::default(), icmp::V4, icmp::V4_ECHO_REPLY),
        Family::V6 => {
            let sum = Checksum::default().pseudo_header(
                &request.src,
                &request.dst,
                icmp::V6,
                message.len(),
            );
            (sum, icmp::V6, icmp::V6_ECHO_REPLY)
        }
    };
    if sum.with(message).finish() != 0 {
        return Err(DropReason::BadChecksum);
    }
    let (l4, length) = (L3 + ip_len(family), message.len());
    // Options and extension headers of the request are not the reply's.
    let bytes = frame.bytes_mut();
    bytes.copy_within(request.l4..request.end, l4);
    let code = bytes[l4 + icmp::CODE];
    let delta = crate::Delta::default().replace(&[request.number, code], &[reply, code]);
    bytes[l4 + icmp::TYPE] = reply;
    delta.patch(&mut bytes[l4 + icmp::CHECKSUM.start..l4 + icmp::CHECKSUM.end]);
    ip_header(
        bytes,
        family,
        (&request.dst, &request.src),
        protocol,
        length,
    );
    frame.resize(l4 + length)
}

/// A router looks at the header's checksum before anything else (RFC 1812 section 5.2.2).
fn verify_ipv4(frame: &[u8], family: Family) -> Result<(), DropReason> {
    if family == Family::V6 {
        return Ok(());
    }
    let header_len = usize::from(frame[L3 + ipv4::VERSION_IHL] & 0x0f) * 4;
    match Checksum::default()
        .with(&frame[L3..L3 + header_len])
        .finish()
    {
        0 => Ok(()),
        _ => Err(DropReason::BadChecksum),
    }
}

/// Where the IP packet of a parsed frame ends.
pub(crate) fn packet_end(frame: &[u8], family: Family) -> usize {
    match family {
        Family::V4 => L3 + usize::from(be16(&frame[L3..], ipv4::TOTAL_LENGTH)),
        Family::V6 => L3 + ipv6::LEN + usize::from(be16(&frame[L3..], ipv6::PAYLOAD_LENGTH)),
    }
}

/// The length of an IP header without options.
pub(crate) fn ip_len(family: Family) -> usize {
    match family {
        Family::V4 => ipv4::LEN,
        Family::V6 => ipv6::LEN,
    }
}

/// Writes the IP header of an answer with `payload` bytes behind it.
pub(crate) fn ip_header(
    frame: &mut [u8],
    family: Family,
    (src, dst): (&Address, &Address),
    protocol: u8,
    payload: usize,
) {
    let header = &mut frame[L3..L3 + ip_len(family)];
    header.fill(0);
    match family {
        Family::V4 => {
            header[ipv4::VERSION_IHL] = 0x40 | (ipv4::LEN as u8 / 4);
            header[ipv4::TOTAL_LENGTH]
                .copy_from_slice(&((ipv4::LEN + payload) as u16).to_be_bytes());
            // Atomic, so the identification needs no value (RFC 6864 section 4.1).
            header[ipv4::FRAGMENT].copy_from_slice(&ipv4::DONT_FRAGMENT.to_be_bytes());
            header[ipv4::TTL] = HOPS;
            header[ipv4::PROTOCOL] = protocol;
            header[ipv4::SRC].copy_from_slice(octets(src, family));
            header[ipv4::DST].copy_from_slice(octets(dst, family));
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
