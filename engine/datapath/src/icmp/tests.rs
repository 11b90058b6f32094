use proptest::prelude::*;

use super::*;
use crate::checksum::{Checksum, l4_checksum};
use crate::parse::{Parsed, parse};

/// The ends of a flow as one side sees it.
fn tuple(v6: bool, proto: Protocol) -> impl Strategy<Value = Tuple> {
    let address = move || {
        any::<[u8; 16]>().prop_map(move |mut octets| {
            if v6 {
                octets[0] = 0xfd; // Not v4-mapped.
                Address(octets)
            } else {
                Address::from_v4([octets[0], octets[1], octets[2], octets[3]])
            }
        })
    };
    let ends = (address(), address(), any::<u16>(), any::<u16>());
    ends.prop_map(move |(src, dst, sport, dport)| Tuple {
        src,
        dst,
        sport,
        dport,
        proto,
    })
}

/// An IP header with a right checksum, and `payload` behind it.
fn ip(src: &Address, dst: &Address, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let family = if src.is_v4() { Family::V4 } else { Family::V6 };
    let mut frame = vec![0; L3 + crate::answer::ip_len(family)];
    crate::answer::ip_header(&mut frame, family, (src, dst), protocol, payload.len());
    frame.extend(payload);
    frame.split_off(L3)
}

/// What a flow's packet looks like: eight bytes of ports and UDP, or a whole TCP header, and a payload.
fn packet(tuple: &Tuple, payload: &[u8]) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(tuple.sport.to_be_bytes());
    l4.extend(tuple.dport.to_be_bytes());
    let sum_at = match tuple.proto {
        Protocol::Udp => {
            l4.extend(((udp::LEN + payload.len()) as u16).to_be_bytes());
            l4.extend([0; 2]);
            udp::CHECKSUM
        }
        Protocol::Tcp => {
            l4.extend([1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x10, 1, 1, 0, 0, 0, 0]);
            tcp::CHECKSUM
        }
    };
    l4.extend(payload);
    let sum = l4_checksum(&tuple.src, &tuple.dst, tuple.proto, &l4);
    l4[sum_at].copy_from_slice(&sum.to_be_bytes());
    ip(&tuple.src, &tuple.dst, tuple.proto.number(), &l4)
}

/// An error from `src` about what was sent to the other end of `seen`.
fn error(src: &Address, seen: &Tuple, number: u8, body: &[u8]) -> Vec<u8> {
    let v4 = src.is_v4();
    let protocol = if v4 { icmp::V4 } else { icmp::V6 };
    let mut message = vec![number, 0, 0, 0, 0, 0, 0, 0];
    message.extend(body);
    let sum = message_sum(src, &seen.dst, protocol, &message);
    message[icmp::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0; 12];
    frame.extend(if v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    frame.extend(ip(src, &seen.dst, protocol, &message));
    frame
}

fn message_sum(src: &Address, dst: &Address, protocol: u8, message: &[u8]) -> u16 {
    let sum = Checksum::default();
    let sum = match protocol {
        icmp::V4 => sum,
        _ => sum.pseudo_header(src, dst, protocol, message.len()),
    };
    sum.with(message).finish()
}

fn read(frame: &[u8]) -> (IcmpMessage, Quoted) {
    let Ok(Parsed::Icmp(message)) = parse(frame) else {
        panic!("no ICMP");
    };
    let quoted = Quoted::parse(frame, &message).unwrap().expect("ports");
    (message, quoted)
}

/// One flow as two sides see it.
fn sides() -> impl Strategy<Value = (Tuple, Tuple)> {
    (any::<bool>(), any::<bool>()).prop_flat_map(|(v6, tcp)| {
        let proto = if tcp { Protocol::Tcp } else { Protocol::Udp };
        (tuple(v6, proto), tuple(v6, proto))
    })
}

proptest! {
    /// SVC-34: an error translated is the error that the other side would have built, with checksums computed in
    /// full; translated back, it is what it was.
    #[test]
    fn svc_34_translation_is_exact_and_reversible(
        (seen, other) in sides(),
        payload in prop::collection::vec(any::<u8>(), 0..60),
        cut in any::<prop::sample::Index>(),
        router: bool,
        kind in any::<prop::sample::Index>(),
    ) {
        let v4 = seen.src.is_v4();
        let number = if v4 { *kind.get(&icmp::V4_ERRORS) } else { *kind.get(&icmp::V6_ERRORS) };
        let via = if v4 { Address::from_v4([9, 9, 9, 9]) } else { Address([0xfe; 16]) };
        prop_assume!(seen.src != via && other.src != via);
        let whole = |tuple: &Tuple| packet(&tuple.reversed(), &payload);
        let least = if v4 { 28 } else { 48 };
        let length = least + cut.index(whole(&seen).len() - least + 1);
        // Half a checksum cannot be patched, since nobody knows what the other half was.
        let half = least + 9;
        let length = if length == half && seen.proto == Protocol::Tcp { half + 1 } else { length };
        let from = |end: &Address| if router { via } else { *end };
        let before = error(&from(&seen.src), &seen, number, &whole(&seen)[..length]);
        let after = error(&from(&other.src), &other, number, &whole(&other)[..length]);
        let mut frame = before.clone();
        let (message, quoted) = read(&frame);
        prop_assert_eq!(quoted.tuple, seen.reversed());
        translate_error(&mut frame, &message, &quoted, (&seen, &other), false);
        prop_assert_eq!(&frame, &after);
        let (message, quoted) = read(&frame);
        translate_error(&mut frame, &message, &quoted, (&other, &seen), false);
        prop_assert_eq!(&frame, &before);
    }

    /// What was wrong stays wrong: a translation never makes a damaged message right.
    #[test]
    fn svc_34_a_wrong_checksum_stays_wrong((seen, other) in sides(), damage in 1_u16..) {
        let mut frame = error(&seen.src, &seen, 3, &packet(&seen.reversed(), b""));
        let (message, quoted) = read(&frame);
        let at = message.l4 + icmp::CHECKSUM.start;
        let sum = be16(&frame, at..at + 2) ^ damage;
        // 0x0000 and 0xffff are the same number.
        prop_assume!(sum != 0xffff && (sum != 0 || damage != 0xffff));
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        translate_error(&mut frame, &message, &quoted, (&seen, &other), true);
        let (message, _) = read(&frame);
        let protocol = if seen.src.is_v4() { icmp::V4 } else { icmp::V6 };
        let sum = message_sum(&message.src, &message.dst, protocol, &frame[message.l4..message.end]);
        prop_assert_ne!(sum, 0);
    }
}
