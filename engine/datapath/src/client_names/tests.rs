use super::*;

const PEER: u32 = 7;
const OTHER: u32 = 8;
const PLACES: u32 = 1 << PLACE_BITS;

fn at(nanos: u64) -> Now {
    Now::from_nanos(nanos)
}

/// Room for 64 names.
fn names() -> ClientNames {
    ClientNames::for_flows(64 * FLOWS_PER_NAME, 7)
}

#[test]
fn a_name_has_one_number_for_each_peer() {
    let names = names();
    let first = names.note(PEER, b"default/a", at(1)).unwrap();
    assert_eq!(names.note(PEER, b"default/a", at(2)), Some(first));
    let second = names.note(OTHER, b"default/a", at(3)).unwrap();
    assert_ne!(first, second);
    for id in [first, second] {
        assert_eq!(names.name(id).as_deref(), Some("default/a"));
        assert_eq!(NameId::from_number(id.number()), Some(id));
    }
    assert_eq!([0, 1, PLACES - 1].map(NameId::from_number), [None; 3]);
}

#[test]
fn a_number_that_nothing_has_is_no_name() {
    let names = names();
    let known = names.note(PEER, b"a", at(1)).unwrap();
    for number in [known.number() + PLACES, known.number() ^ 1, u32::MAX] {
        assert_eq!(names.name(NameId::from_number(number).unwrap()), None);
    }
}

#[test]
fn the_longest_name_is_an_options() {
    let names = names();
    let longest = [b'a'; CLIENT_NAME_MAX];
    let id = names.note(PEER, &longest, at(1)).unwrap();
    assert_eq!(names.name(id).unwrap().as_bytes(), longest);
    assert_eq!(names.note(PEER, &[b'a'; CLIENT_NAME_MAX + 1], at(1)), None);
}

/// A name that was pushed out is none, never another one.
#[test]
fn names_of_a_peer_push_out_its_own_that_were_not_said_for_longest() {
    let names = names();
    let name = |number: u32| format!("pod-{number}").into_bytes();
    let others: Vec<NameId> = (0..4)
        .map(|number| names.note(OTHER, &name(number), at(0)).unwrap())
        .collect();
    let often = names.note(PEER, b"often", at(1)).unwrap();
    let mut ids = Vec::new();
    for number in 0..10_000 {
        let now = at(2 + u64::from(number));
        ids.push(names.note(PEER, &name(number), now).unwrap());
        assert_eq!(names.note(PEER, b"often", now), Some(often));
    }
    for id in others {
        assert!(names.name(id).is_some(), "another peer's");
    }
    let mut known = 0;
    for (number, id) in (0..).zip(&ids) {
        if let Some(found) = names.name(*id) {
            assert_eq!(found.into_bytes(), name(number));
            known += 1;
        }
    }
    assert_eq!(known, 64 - 4 - 1);
}

/// The count of a place's names begins again, but not with the mark of a free one.
#[test]
fn a_place_that_had_all_numbers_begins_again() {
    let names = ClientNames::for_flows(1, 7);
    assert_eq!(names.sets.len(), 1);
    for entry in names.sets[0].lock().unwrap().iter_mut() {
        entry.generation = GENERATIONS - 1;
    }
    let id = names.note(PEER, b"a", at(1)).unwrap();
    assert_eq!(id.generation(), 1);
    assert_eq!(names.name(id).as_deref(), Some("a"));
}

#[test]
fn there_is_room_for_so_many_and_no_more() {
    let count = |flows| ClientNames::for_flows(flows, 7).sets.len() * WAYS;
    assert_eq!(count(16), WAYS);
    assert_eq!(count(1024), 256);
    assert_eq!(count(1 << 24), CLIENT_NAMES_MAX);
}
