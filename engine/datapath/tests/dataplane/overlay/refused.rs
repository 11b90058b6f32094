//! Wrapped packets that are not what they should be: one counted drop with a name, and nothing touched.

use super::*;

/// Where UDP begins in a frame with the outer family's header.
const UDP: [usize; 2] = [34, 54];

fn wrapped(joint: Joint) -> (Vec<u8>, Node) {
    let [mut a, b] = joined(joint);
    (a.sends(&between(Net::V4, Protocol::Udp, 0)), b)
}

fn refused(joint: Joint, change: impl FnOnce(&mut Vec<u8>)) -> DropReason {
    let (mut frame, mut node) = wrapped(joint);
    change(&mut frame);
    let before = arriving(&frame);
    let mut after = before.clone();
    let verdict = node.run(&mut after);
    let Verdict::Drop(reason) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(before, after, "{reason} leaves the bytes alone");
    reason
}

/// Puts options before what is wrapped, with all lengths that go with it.
fn with_options(frame: &mut Vec<u8>, options: &[u8]) {
    let at = UDP[0] + 8 + 8;
    frame.splice(at..at, options.iter().copied());
    frame[UDP[0] + 8] = (options.len() / 4) as u8;
    fix_lengths(frame);
}

/// The outer lengths and header checksum again.
fn fix_lengths(frame: &mut [u8]) {
    for (field, header) in [(16, 14), (UDP[0] + 4, UDP[0])] {
        let length = (frame.len() - header) as u16;
        frame[field..field + 2].copy_from_slice(&length.to_be_bytes());
    }
    fix_header(frame);
}

/// The IPv4 header checksum again.
fn fix_header(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum = Checksum::default().with(&frame[14..34]).finish();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

type Case = (DropReason, fn(&mut Vec<u8>));

#[test]
fn tun_01_each_fault_has_its_name() {
    let udp = UDP[0];
    let cases: [Case; 14] = [
        (DropReason::TunnelVersion, |f| f[UDP[0] + 8] |= 0x40),
        (DropReason::GeneveOam, |f| f[UDP[0] + 9] |= 0x80),
        (DropReason::TunnelVni, |f| f[UDP[0] + 14] ^= 1),
        (DropReason::GeneveOptions, |f| f[UDP[0] + 8] = 63),
        (DropReason::TunnelPayload, |f| f[UDP[0] + 10] = 8),
        // ARP, whose answer nobody here would know.
        (DropReason::TunnelPayload, |f| f[INNER[0] - 1] = 6),
        (DropReason::TunnelHeader, |f| f[UDP[0] + 3] ^= 1),
        (DropReason::TunnelHeader, |f| f[UDP[0] + 4] = 0xff),
        (DropReason::TunnelHeader, |f| f[UDP[0] + 5] = 7),
        (DropReason::TunnelChecksum, |f| f[24] ^= 1),
        (DropReason::TunnelChecksum, |f| f[UDP[0] + 6] = 0x12),
        (DropReason::TunnelPeer, |f| {
            f[29] ^= 4;
            fix_header(f);
        }),
        (DropReason::TunnelHeader, |f| {
            f[33] ^= 4; // To another node.
            fix_header(f);
        }),
        (DropReason::TunnelHeader, |f| {
            f[20] = 0x20; // A fragment.
            fix_header(f);
        }),
    ];
    for (at, (expected, change)) in cases.into_iter().enumerate() {
        assert_eq!(refused(Joint::PLAIN, change), expected, "case {at}");
    }
    let vxlan = Joint {
        encapsulation: Encapsulation::Vxlan,
        ..Joint::PLAIN
    };
    assert_eq!(refused(vxlan, |f| f[udp + 8] = 0), DropReason::TunnelHeader);
    assert_eq!(refused(vxlan, |f| f[udp + 13] ^= 1), DropReason::TunnelVni);
}

/// Options of others pass in any order, unless they must be understood.
#[test]
fn tun_01_options_in_any_order_and_critical_ones_by_name() {
    let ours = [0xff, 0x77, 1, 2, 10, 96, 0, 80, 0, 80, 0, 0];
    let others = [0x01, 0x02, 0x7f, 1, 1, 2, 3, 4];
    let empty = [0x01, 0x03, 0x05, 0];
    for options in [
        [&ours[..], &others, &empty].concat(),
        [&empty[..], &others, &ours].concat(),
        [&others[..], &empty].concat(),
    ] {
        let (mut frame, mut node) = wrapped(Joint::PLAIN);
        with_options(&mut frame, &options);
        sound(&node.receives(&frame));
    }
    let (mut critical, mut long) = (others, others);
    critical[2] |= 0x80;
    long[3] = 2;
    for (options, expected) in [
        (
            [&ours[..], &critical].concat(),
            DropReason::GeneveCriticalOption,
        ),
        ([&ours[..], &long].concat(), DropReason::GeneveOptions),
        (vec![0x01, 0x02, 0x03, 31], DropReason::GeneveOptions),
    ] {
        let reason = refused(Joint::PLAIN, |frame| with_options(frame, &options));
        assert_eq!(reason, expected);
    }
}

/// A peer speaks for its own pods only, and for itself where it has something to say about a packet.
#[test]
fn tun_02_the_inner_source_is_one_of_the_peers() {
    let strangers = [
        Side::B.pod(Net::V4),
        v4(10, 244, 9, 7),
        Net::V4.vip(80),
        Net::V4.internet(),
    ];
    for source in strangers {
        let (mut frame, mut node) = wrapped(Joint::PLAIN);
        frame[INNER[0] + 12..INNER[0] + 16].copy_from_slice(&source.v4_octets());
        let verdict = node.refuses(&frame);
        assert_eq!(verdict, Verdict::Drop(DropReason::SrcSpoof), "{source}");
    }
}

/// A range of the peer's may have everything in it: what is here is not there.
#[test]
fn tun_02_no_range_makes_a_pod_or_a_service_of_this_node_the_peers() {
    for source in [Side::B.pod(Net::V4), Net::V4.vip(80)] {
        let (mut frame, mut node) = wrapped(Joint::PLAIN);
        let mut spec = node.tables.overlay().clone();
        spec.peers[0]
            .ranges
            .push((Prefix::new(v4(10, 0, 0, 0), 8), SlotRef::FIXED));
        let mut builder = TablesBuilder::editing(&node.tables);
        builder.set_overlay(spec);
        node.tables = builder.build(2).unwrap();
        frame[INNER[0] + 12..INNER[0] + 16].copy_from_slice(&source.v4_octets());
        let verdict = node.refuses(&frame);
        assert_eq!(verdict, Verdict::Drop(DropReason::SrcSpoof), "{source}");
    }
}

/// Over IPv6 there is a checksum, and it is right (RFC 8200 section 8.1).
#[test]
fn tun_07_a_missing_or_wrong_checksum_over_ipv6() {
    const SUM: usize = UDP[1] + 6;
    let joint = Joint {
        outer: Net::V6,
        ..Joint::PLAIN
    };
    let missing = refused(joint, |f| f[SUM..SUM + 2].fill(0));
    assert_eq!(missing, DropReason::TunnelChecksum);
    assert_eq!(refused(joint, |f| f[SUM] ^= 1), DropReason::TunnelChecksum);
}

/// However short it is: a name, and no byte touched.
#[test]
fn tun_01_every_truncation_is_a_named_drop() {
    for joint in Joint::ALL {
        let (frame, mut node) = wrapped(joint);
        for length in 14..frame.len() {
            let mut short = arriving(&frame[..length]);
            let verdict = node.run(&mut short);
            assert!(matches!(verdict, Verdict::Drop(_)), "{length}: {verdict:?}");
        }
        if joint.outer == Net::V6 || joint.checksum {
            continue;
        }
        // With lengths that agree, so that what is inside is short.
        for length in UDP[0] + 8..frame.len() {
            let mut short = frame[..length].to_vec();
            fix_lengths(&mut short);
            let verdict = node.refuses(&short);
            assert!(matches!(verdict, Verdict::Drop(_)), "{length}: {verdict:?}");
        }
    }
}
