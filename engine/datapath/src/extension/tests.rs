use super::*;

/// An IPv6 header and the extension headers given as (number, length in bytes), with `last` behind them.
fn packet(headers: &[(u8, usize)], last: u8) -> Vec<u8> {
    let mut l3 = vec![0; ipv6::LEN];
    let mut named_at = ipv6::NEXT_HEADER;
    for (number, length) in headers {
        l3[named_at] = *number;
        named_at = l3.len();
        let mut header = vec![0; *length];
        header[ipv6::EXTENSION_LENGTH] = (length / ipv6::EXTENSION_UNIT - 1) as u8;
        l3.extend(header);
    }
    l3[named_at] = last;
    l3
}

const TCP: u8 = 6;
const DESTINATION: u8 = ipv6::DESTINATION_OPTIONS;

#[test]
fn the_walk_ends_at_the_payload() {
    let headers = [
        (ipv6::HOP_BY_HOP, 8),
        (DESTINATION, 24),
        (ipv6::ROUTING, 8),
        (DESTINATION, 8),
    ];
    for n in 0..=headers.len() {
        let l3 = packet(&headers[..n], TCP);
        let chain = walk(&l3).unwrap();
        assert_eq!((chain.next, chain.at), (TCP, l3.len()));
        assert_eq!(l3[chain.named_at], TCP);
    }
}

#[test]
fn what_it_does_not_know_ends_it() {
    // Fragment, ESP, AH, no next header, mobility, ICMPv6.
    for next in [44, 50, 51, 59, 135, 58] {
        let l3 = packet(&[(DESTINATION, 8)], next);
        assert_eq!(walk(&l3).unwrap().next, next);
    }
}

#[test]
fn the_bounds_hold() {
    let walked = |headers: &[(u8, usize)]| walk(&packet(headers, TCP)).unwrap().next;
    assert_eq!(walked(&[(DESTINATION, 8); ipv6::EXTENSIONS_MAX]), TCP);
    assert_eq!(
        walked(&[(DESTINATION, 8); ipv6::EXTENSIONS_MAX + 1]),
        DESTINATION
    );
    assert_eq!(walked(&[(DESTINATION, ipv6::EXTENSION_BYTES_MAX)]), TCP);
    assert_eq!(
        walked(&[(DESTINATION, ipv6::EXTENSION_BYTES_MAX + 8)]),
        DESTINATION
    );
    assert_eq!(
        walked(&[(DESTINATION, 8), (DESTINATION, ipv6::EXTENSION_BYTES_MAX)]),
        DESTINATION
    );
}

#[test]
fn segments_left_and_a_late_hop_by_hop_header_end_it() {
    let mut l3 = packet(&[(ipv6::ROUTING, 8)], TCP);
    l3[ipv6::LEN + ipv6::SEGMENTS_LEFT] = 1;
    assert_eq!(walk(&l3).unwrap().next, ipv6::ROUTING);
    let l3 = packet(&[(DESTINATION, 8), (ipv6::HOP_BY_HOP, 8)], TCP);
    assert_eq!(walk(&l3).unwrap().next, ipv6::HOP_BY_HOP);
}

#[test]
fn a_header_that_ends_behind_the_packet_is_malformed() {
    let l3 = packet(&[(DESTINATION, 24)], TCP);
    for cut in ipv6::LEN..l3.len() {
        assert_eq!(walk(&l3[..cut]), Err(DropReason::Ipv6Length), "{cut}");
    }
}
