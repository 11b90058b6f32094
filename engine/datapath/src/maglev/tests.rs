use super::*;

fn backends(count: usize) -> Vec<(Address, u16)> {
    (0..count)
        .map(|i| {
            (
                Address::from_v4([10, 244, (i / 250) as u8, (i % 250) as u8 + 1]),
                1,
            )
        })
        .collect()
}

fn shares(table: &MaglevTable, count: usize) -> Vec<usize> {
    let mut shares = vec![0; count];
    for index in table.entries() {
        shares[usize::from(index)] += 1;
    }
    shares
}

#[test]
fn sizes_are_primes() {
    for size in MAGLEV_SIZES {
        assert!(
            (2..).take_while(|d| d * d <= size).all(|d| size % d != 0),
            "{size}"
        );
    }
    assert!(MAGLEV_SIZES.is_sorted());
}

#[test]
fn the_default_size_has_400_entries_for_each() {
    for (count, size) in [
        (0, 1021),
        (2, 1021),
        (3, 4093),
        (10, 4093),
        (11, 16_381),
        (40, 16_381),
        (163, 65_521),
    ] {
        assert_eq!(MaglevTable::default_size(count), size, "{count}");
    }
    assert_eq!(MaglevTable::default_size(usize::MAX), 8_388_593);
}

/// SVC-43: at most 2 % imbalance with M >= 100 N.
#[test]
fn svc_43_shares_differ_by_at_most_2_percent() {
    for count in [1, 2, 3, 7, 10, 40, 163, 655] {
        let table = MaglevTable::build(&backends(count), MaglevTable::default_size(count));
        let fair = table.size() as f64 / count as f64;
        for share in shares(&table, count) {
            assert!(
                (share as f64 / fair - 1.0).abs() <= 0.02,
                "{count} backends: {share} against {fair}"
            );
        }
    }
}

/// SVC-43: the removal of 1 of N moves at most 1/N + 2 % of the hash space.
#[test]
fn svc_43_a_removal_moves_little_more_than_its_share() {
    for count in [2, 3, 4, 5, 6, 8, 10, 20, 40, 163] {
        let all = backends(count);
        let size = MaglevTable::default_size(count);
        let before = MaglevTable::build(&all, size);
        for removed in (0..count).step_by(count.div_ceil(10)) {
            let mut rest = all.clone();
            rest.remove(removed);
            let after = MaglevTable::build(&rest, size);
            let moved = before
                .entries()
                .into_iter()
                .zip(after.entries())
                .filter(|(a, b)| all[usize::from(*a)].0 != rest[usize::from(*b)].0)
                .count();
            let moved = moved as f64 / size as f64;
            assert!(
                moved <= 1.0 / count as f64 + 0.02,
                "{removed} of {count}: {moved}"
            );
        }
    }
}

/// SVC-42: shares follow the weights, and weight 0 gets nothing.
#[test]
fn svc_42_shares_follow_the_weights() {
    let mut weighted = backends(4);
    for (backend, weight) in weighted.iter_mut().zip([1, 2, 0, 5]) {
        backend.1 = weight;
    }
    let table = MaglevTable::build(&weighted, 1021);
    for (share, weight) in shares(&table, 4).into_iter().zip([1.0, 2.0, 0.0, 5.0]) {
        let fair = 1021.0 * weight / 8.0;
        assert!(
            (share as f64 - fair).abs() <= fair * 0.02 + 1.0,
            "{share} against {fair}"
        );
    }
}

#[test]
fn the_order_of_the_list_does_not_matter() {
    let forward = backends(17);
    let backward: Vec<_> = forward.iter().rev().copied().collect();
    let (a, b) = (
        MaglevTable::build(&forward, 4093),
        MaglevTable::build(&backward, 4093),
    );
    for (x, y) in a.entries().iter().zip(&b.entries()) {
        assert_eq!(forward[usize::from(*x)], backward[usize::from(*y)]);
    }
}

#[test]
fn one_address_with_two_ports_is_two_backends() {
    let address = Address::from_v4([10, 0, 0, 1]);
    let table = MaglevTable::build(&[(address, 1), (address, 1)], 1021);
    assert!(shares(&table, 2).into_iter().all(|share| share >= 500));
}

#[test]
fn without_backends_there_is_no_answer() {
    assert_eq!(MaglevTable::build(&[], 1021).lookup(7), None);
    assert_eq!(
        MaglevTable::build(&[(Address::from_v4([1, 2, 3, 4]), 0)], 1021).lookup(7),
        None
    );
}

#[test]
fn lookup_reaches_both_ends() {
    let table = MaglevTable::build(&backends(3), 1021);
    assert_eq!(table.lookup(0), Some(usize::from(table.entries()[0])));
    assert_eq!(
        table.lookup(u64::MAX),
        Some(usize::from(table.entries()[1020]))
    );
}

/// 256 backends are the last that a byte names.
#[test]
fn svc_43_wide_and_narrow_tables_reach_every_backend() {
    for count in [256, 257, 300] {
        let table = MaglevTable::build(&backends(count), 131_071);
        let fair = 131_071 / count;
        assert!(
            shares(&table, count)
                .iter()
                .all(|share| share.abs_diff(fair) <= 1)
        );
        let narrow = matches!(table.entries, Entries::Narrow(_));
        assert_eq!(narrow, count <= 256);
        assert_eq!(
            table.lookup(u64::MAX),
            table.entries().last().map(|i| usize::from(*i))
        );
    }
}

/// Every node builds the same table, today and after an update: these entries are committed.
#[test]
fn the_committed_table() {
    let table = MaglevTable::build(&backends(3), 1021);
    let head: Vec<u16> = table.entries()[..16].to_vec();
    assert_eq!(head, COMMITTED);
}

const COMMITTED: [u16; 16] = [1, 2, 2, 1, 1, 2, 2, 1, 2, 1, 2, 1, 2, 0, 2, 0];
