//! What fragments cannot do: wait for ever, take all memory, switch a flow, or lose count (SVC-35, K-18).

use std::time::Duration;

use proptest::prelude::*;
use weft_datapath::*;

use super::fragments::Driver;
use crate::support::fragments::{cut, piece, question, whole};
use crate::support::*;

const PIECE: usize = 1000;
/// As `K-18` has it: fragments of one packet that wait.
const WAITING_MAX: usize = 16;
/// Fragments that a worker holds, and packets that it tells apart.
const HELD_MAX: u64 = 256;
const PACKETS_MAX: u64 = 4096;

/// Fragments of a datagram from the client to the VIP.
fn asked(net: Net, id: u32, len: usize) -> Vec<Vec<u8>> {
    let frame = question(net, 40000, ONE_BACKEND, len).punted(CLIENT, Hook::FromPod);
    cut(&frame, id, PIECE)
}

#[test]
fn k_18_fragments_wait_at_most_a_second_for_the_first() {
    for net in Net::BOTH {
        for (late, in_time) in [(Duration::ZERO, true), (Duration::from_nanos(1), false)] {
            for swept in [false, true] {
                let mut driver = Driver::new(1);
                let pieces = asked(net, 1, 2900);
                driver.push(&pieces[1], START);
                driver.push(&pieces[2], START + Duration::from_millis(900));
                let end = START + timeouts::FRAGMENTS + late;
                if swept {
                    driver.expire(end);
                    assert_eq!(driver.state.fragments.len(), usize::from(in_time));
                }
                assert_eq!(driver.verdict(&pieces[0], end), Verdict::Deliver);
                let dropped = driver.dropped(DropReason::FragmentTimeout);
                let expected = if in_time { (3, 0) } else { (1, 2) };
                assert_eq!((driver.take().len(), dropped), expected);
                assert_eq!(driver.state.fragments.held(), 0);
            }
        }
    }
}

/// After the first, the rest may take their time, but not for ever, and a complete packet soon makes room.
#[test]
fn k_18_what_the_first_decided_is_forgotten() {
    let mut driver = Driver::new(1);
    let pieces = asked(Net::V4, 1, 2900);
    let mut now = START;
    driver.push(&pieces[0], now);
    now = now + timeouts::FRAGMENTS;
    assert_eq!(driver.verdict(&pieces[1], now), Verdict::Deliver);
    driver.expire(now + timeouts::FRAGMENTS);
    assert_eq!(driver.state.fragments.len(), 1);
    assert_eq!(driver.verdict(&pieces[2], now), Verdict::Deliver);
    driver.expire(now + timeouts::FRAGMENTS_COMPLETE);
    assert_eq!(
        driver.verdict(&pieces[1], now),
        Verdict::Deliver,
        "a duplicate"
    );
    now = now + timeouts::FRAGMENTS_COMPLETE + Duration::from_nanos(1);
    driver.expire(now);
    assert!(driver.state.fragments.is_empty());
    assert_eq!(driver.verdict(&pieces[1], now), Verdict::Hold, "whose?");
}

#[test]
fn k_18_sixteen_fragments_of_one_packet_wait() {
    for net in Net::BOTH {
        let mut driver = Driver::new(1);
        let pieces = asked(net, 1, 19_900);
        for (at, piece) in pieces.iter().enumerate().skip(1) {
            let expected = if at <= WAITING_MAX {
                Verdict::Hold
            } else {
                Verdict::Drop(DropReason::FragmentQueue)
            };
            assert_eq!(driver.verdict(piece, START), expected);
        }
        driver.push(&pieces[0], START);
        assert_eq!(driver.take().len(), 1 + WAITING_MAX);
    }
}

/// Late fragments of ever new packets: the pod's share, and what the others find then.
#[test]
fn k_18_no_pod_takes_all_the_memory() {
    let mut driver = Driver::new(1);
    let pieces = asked(Net::V4, 0, 1900);
    let from = |ifindex: u32, id: u32| {
        let host = (ifindex - 10) as u8;
        let spec = Spec::udp(Net::V4.pod(host), 5, Net::V4.vip(80), SERVED).payload(&[7; 1900]);
        piece(&spec.punted(ifindex, Hook::FromPod), id, PIECE, 1908)
    };
    for id in 0..HELD_MAX as u32 {
        driver.push(&from(CLIENT, id), START);
    }
    let (held, refused) = (
        driver.counters.held,
        driver.dropped(DropReason::FragmentShare),
    );
    assert_eq!((held, held + refused), (HELD_MAX * 4 / 5 + 1, HELD_MAX));
    for ifindex in [BACKEND_1, BACKEND_2] {
        let before = driver.counters.held;
        for id in 0..8 {
            driver.push(&from(ifindex, id), START);
        }
        assert_eq!(driver.counters.held - before, 8, "room for others");
    }
    // In order needs no memory at all.
    assert_eq!(driver.verdict(&pieces[0], START), Verdict::Deliver);
    driver.expire(START + Duration::from_secs(2));
    assert_eq!(driver.state.fragments.held(), 0);
    assert_eq!(
        driver.verdict(&from(CLIENT, 1), START + Duration::from_secs(2)),
        Verdict::Hold
    );
}

#[test]
fn k_18_the_memory_and_the_table_are_bounded_by_name() {
    // Many pods, so that none meets its share: what the kernel delivers, to as many interfaces.
    let mut driver = Driver::new(1);
    let spec = Spec::udp(Net::V4.pod(4), 5, Net::V4.pod(1), 6).payload(&[7; 1900]);
    let mut overflow = 0;
    for ifindex in 100..100 + HELD_MAX as u32 + 9 {
        let late = piece(&spec.punted(ifindex, Hook::ToPod), 1, PIECE, 1908);
        let verdict = driver.verdict(&late, START);
        overflow += u64::from(verdict == Verdict::Kernel(KernelReason::FragmentOverflow));
    }
    assert_eq!((driver.counters.held, overflow), (HELD_MAX, 9));

    let late = asked(Net::V4, 1, 1900).remove(1);
    assert_eq!(
        driver.verdict(&late, START),
        Verdict::Drop(DropReason::FragmentMemory)
    );

    let mut driver = Driver::new(1);
    for ifindex in 100..100 + PACKETS_MAX as u32 {
        let first = piece(&spec.punted(ifindex, Hook::ToPod), 1, 0, PIECE);
        driver.push(&first, START);
    }
    assert_eq!(driver.state.fragments.len(), PACKETS_MAX as usize);
    let first = asked(Net::V4, 1, 1900).remove(0);
    assert_eq!(
        driver.verdict(&first, START),
        Verdict::Drop(DropReason::FragmentTable)
    );
    assert!(driver.state.flows.is_empty(), "nothing was opened for it");
    let later = START + Duration::from_secs(2);
    driver.expire(later);
    assert_eq!(driver.verdict(&first, later), Verdict::Deliver);
}

/// A reply whose packet finds no place in the table: the one fragment that says whose it is goes nowhere, rather than
/// untranslated (SVC-28). What belongs to nobody is the kernel's as ever.
#[test]
fn k_18_svc_28_a_reply_beyond_the_table_is_not_the_kernels() {
    for net in Net::BOTH {
        let mut driver = Driver::new(1);
        let asked = question(net, 40000, ONE_BACKEND, 10).punted(CLIENT, Hook::FromPod);
        assert_eq!(driver.verdict(&asked, START), Verdict::Deliver);
        let arrived = tuple(&driver.take()[0]);
        let spec = Spec::udp(net.pod(4), 5, net.pod(1), 6).payload(&[7; 1900]);
        for ifindex in 100..100 + PACKETS_MAX as u32 {
            let first = piece(&spec.punted(ifindex, Hook::ToPod), 1, 0, PIECE);
            driver.push(&first, START);
        }
        let first = |tuple| {
            let spec = Spec::of(tuple, 0).payload(&[7; 1900]);
            piece(&spec.punted(BACKEND_1, Hook::FromPod), 1, 0, PIECE)
        };
        let reply = arrived.reversed();
        assert_eq!(
            driver.verdict(&first(reply), START),
            Verdict::Drop(DropReason::FragmentTable)
        );
        let other = Tuple { sport: 9, ..reply };
        assert_eq!(
            driver.verdict(&first(other), START),
            Verdict::Kernel(KernelReason::FragmentOverflow)
        );
    }
}

/// One pod that sends first fragments only.
#[test]
fn k_18_no_pod_takes_the_whole_table() {
    let mut driver = Driver::new(1);
    for id in 0..PACKETS_MAX as u32 {
        driver.push(&asked(Net::V4, id, 1900)[0], START);
    }
    let share = driver.dropped(DropReason::FragmentShare);
    assert_eq!(share, PACKETS_MAX - (PACKETS_MAX * 4).div_ceil(5));
    let other = Spec::udp(Net::V4.pod(2), 5, Net::V4.vip(80), SERVED).payload(&[7; 1900]);
    let first = piece(&other.punted(BACKEND_1, Hook::FromPod), 1, 0, PIECE);
    assert_eq!(driver.verdict(&first, START), Verdict::Deliver);
}

/// RFC 1858: neither a tiny first fragment nor a second one decides anything.
#[test]
fn svc_35_a_tiny_or_second_first_fragment_switches_nothing() {
    for net in Net::BOTH {
        let mut driver = Driver::new(1);
        let pieces = asked(net, 1, 2900);
        let tcp = Spec::tcp(net.pod(1), 40000, net.vip(80), ONE_BACKEND, SYN).payload(&[1; 100]);
        let tiny = piece(&tcp.punted(CLIENT, Hook::FromPod), 1, 0, 16);
        assert_eq!(
            driver.verdict(&tiny, START),
            Verdict::Drop(DropReason::FragmentTiny)
        );
        let rest = piece(&tcp.punted(CLIENT, Hook::FromPod), 1, 16, 120);
        let refused = Verdict::Drop(DropReason::FragmentRefused);
        assert_eq!(driver.verdict(&rest, START), refused);

        driver.push(&pieces[0], START);
        let other = question(net, 40001, SERVED, 2900).punted(CLIENT, Hook::FromPod);
        let second = piece(&other, 1, 0, PIECE);
        let conflict = Verdict::Drop(DropReason::FragmentConflict);
        assert_eq!(driver.verdict(&second, START), conflict);
        driver.push(&pieces[1], START);
        driver.push(&pieces[2], START);
        assert_eq!(tuple(&whole(&driver.take())).sport, 40000);
        assert_eq!(driver.state.flows.len(), 1);
    }
}

/// Linux draws the first identification of each connected socket at random, so that the datagrams of a busy pod's
/// sockets have one in common now and then. Once a datagram is through, the number is free.
#[test]
fn svc_35_an_identification_may_come_again_once_its_datagram_is_through() {
    for net in Net::BOTH {
        let mut driver = Driver::new(1);
        for sport in 40000..40010 {
            let frame = question(net, sport, SERVED, 2900).punted(CLIENT, Hook::FromPod);
            for piece in cut(&frame, 1, PIECE) {
                driver.push(&piece, START);
            }
            let sent = driver.take();
            assert_eq!(sent.len(), 3);
            assert_eq!(tuple(&whole(&sent)).sport, sport);
        }
        assert_eq!(driver.counters.total_dropped(), 0);
        assert_eq!(driver.state.fragments.len(), 1);
    }
}

/// The flow goes while its fragments are on the way: they must not reach what has its place now.
#[test]
fn svc_35_fragments_of_a_removed_flow_are_dropped() {
    let mut driver = Driver::new(1);
    let pieces = asked(Net::V4, 1, 2900);
    driver.push(&pieces[0], START);
    let mut epochs = epochs();
    epochs[BACKEND_1 as usize] += 1;
    let pods = [(CLIENT, Standing::Settled), (BACKEND_1, Standing::Settled)];
    let mut builder = builder(&pods, Algorithm::Maglev);
    builder.set_epochs(epochs);
    driver.tables = builder.build(2).unwrap();
    let unknown = Verdict::Drop(DropReason::UnknownFlow);
    assert_eq!(driver.verdict(&pieces[1], START), unknown);
}

#[test]
fn amb_06_a_spoofed_fragment_is_dropped_and_never_held() {
    for net in Net::BOTH {
        let frame = question(net, 40000, SERVED, 2900).punted(BACKEND_1, Hook::FromPod);
        let mut driver = Driver::new(1);
        for piece in cut(&frame, 1, PIECE) {
            let spoof = Verdict::Drop(DropReason::SrcSpoof);
            assert_eq!(driver.verdict(&piece, START), spoof);
        }
        assert!(driver.state.fragments.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Fragments of several datagrams in any order, some damaged, some twice, some later: no panic, and the
    /// ledger comes out (`Driver::push` checks what is held).
    #[test]
    fn svc_35_fragments_in_any_order_and_condition_are_accounted_for(
        v6: bool,
        sends in prop::collection::vec((0u32..4, any::<prop::sample::Index>(), 0u64..400), 1..60),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let net = if v6 { Net::V6 } else { Net::V4 };
        let mut driver = Driver::new(1);
        let mut now = START;
        let mut received = 0;
        for (nth, (id, at, pause)) in sends.iter().enumerate() {
            let pieces = asked(net, *id, 500 + 1200 * *id as usize);
            let mut frame = pieces[at.index(pieces.len())].clone();
            for (when, place, value) in &damage {
                if when.index(sends.len()) == nth {
                    let place = place.index(frame.len());
                    frame[place] = *value;
                }
            }
            now = now + Duration::from_millis(*pause);
            driver.push(&frame, now);
            received += 1;
        }
        driver.expire(now + Duration::from_secs(5));
        prop_assert_eq!(driver.state.fragments.len(), 0);
        prop_assert_eq!(driver.state.fragments.held(), 0);
        prop_assert_eq!(driver.counters.received(), received + driver.released);
    }

    /// Every truncation of a fragment is a named drop with the bytes untouched (`run` compares).
    #[test]
    fn svc_35_every_truncation_of_a_fragment_is_a_named_drop(v6: bool, at in 0usize..3) {
        let net = if v6 { Net::V6 } else { Net::V4 };
        let (tables, mut state) = (tables(Standing::Settled, Standing::Settled), state(1));
        let frame = &asked(net, 1, 2900)[at];
        for len in 0..frame.len() {
            let verdict = run(&mut frame[..len].to_vec(), START, &tables, &mut state);
            prop_assert!(matches!(verdict, Verdict::Drop(_)), "{}: {:?}", len, verdict);
        }
        prop_assert!(state.fragments.is_empty() && state.flows.is_empty());
    }
}
