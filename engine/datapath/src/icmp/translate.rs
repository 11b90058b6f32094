//! Translating an ICMP error with the flow that it speaks of: outside and inside.

use std::ops::Range;

use super::{IcmpMessage, L3, Quoted, address_fields, octets};
use crate::parse::Family;
use crate::wire::{icmp, ipv4, ipv6, tcp};
use crate::{Delta, Protocol, Tuple};

/// Rewrites an error of a flow, which travels from the side where the flow's packets look like `seen` to that where
/// they look like `other`; both tuples point the way that the error goes. Counts the hop if Weft is one.
///
/// Outside, the destination becomes that of `other`, and so does the source if it is the flow's own end;
/// a router in between keeps its address. Inside, the quoted packet went the other way. Every checksum is patched in
/// place (RFC 1624), so what was wrong stays wrong: IP header outside and inside, the quoted TCP or UDP
/// checksum where the quotation reaches it, and the message's own. Half a quoted checksum is left, since it cannot
/// be patched without the other half.
///
/// `frame` is the one that `message` and `quoted` were parsed from; `quoted.tuple` is `seen` reversed,
/// `message.dst` is `seen.dst`, and with `hop` its hop count is above 1.
pub(crate) fn translate_error(
    frame: &mut [u8],
    message: &IcmpMessage,
    quoted: &Quoted,
    (seen, other): (&Tuple, &Tuple),
    hop: bool,
) {
    let family = message.family;
    let [src_at, dst_at] = address_fields(family);
    // Inside first: what changes there changes the sum over the message.
    let mut message_delta = Delta::default();
    let mut put = |frame: &mut [u8], at: Range<usize>, new: &[u8]| {
        message_delta = message_delta.replace(&frame[at.clone()], new);
        frame[at].copy_from_slice(new);
    };
    let inside = other.reversed();
    let addresses = Delta::default()
        .replace(&quoted.tuple.src.0, &inside.src.0)
        .replace(&quoted.tuple.dst.0, &inside.dst.0);
    let at = |field: &Range<usize>| quoted.l3 + field.start..quoted.l3 + field.end;
    put(frame, at(&src_at), octets(&inside.src, family));
    put(frame, at(&dst_at), octets(&inside.dst, family));
    if family == Family::V4 {
        let at = at(&ipv4::CHECKSUM);
        let mut sum = [frame[at.start], frame[at.start + 1]];
        addresses.patch(&mut sum);
        put(frame, at, &sum);
    }
    let port = |field: Range<usize>| quoted.l4 + field.start..quoted.l4 + field.end;
    put(frame, port(tcp::SPORT), &inside.sport.to_be_bytes());
    put(frame, port(tcp::DPORT), &inside.dport.to_be_bytes());
    if let Some(at) = quoted.checksum() {
        let delta = addresses
            .replace(
                &quoted.tuple.sport.to_be_bytes(),
                &inside.sport.to_be_bytes(),
            )
            .replace(
                &quoted.tuple.dport.to_be_bytes(),
                &inside.dport.to_be_bytes(),
            );
        let mut sum = [frame[at.start], frame[at.start + 1]];
        match quoted.tuple.proto {
            Protocol::Tcp => delta.patch(&mut sum),
            Protocol::Udp => delta.patch_udp(&mut sum),
        }
        put(frame, at, &sum);
    }
    // Outside.
    let src = if message.src == seen.src {
        other.src
    } else {
        message.src
    };
    let addresses = Delta::default()
        .replace(&message.src.0, &src.0)
        .replace(&message.dst.0, &other.dst.0);
    let l3 = &mut frame[L3..];
    l3[src_at].copy_from_slice(octets(&src, family));
    l3[dst_at].copy_from_slice(octets(&other.dst, family));
    match family {
        Family::V4 => {
            let mut delta = addresses;
            if hop {
                l3[ipv4::TTL] -= 1;
                delta = delta.and(Delta::DECREMENT_HIGH);
            }
            delta.patch(&mut l3[ipv4::CHECKSUM]);
        }
        // The pseudo-header counts in ICMPv6 (RFC 4443 section 2.3).
        Family::V6 => {
            message_delta = message_delta.and(addresses);
            if hop {
                l3[ipv6::HOP_LIMIT] -= 1;
            }
        }
    }
    let at = message.l4 + icmp::CHECKSUM.start;
    message_delta.patch(&mut frame[at..at + 2]);
}
