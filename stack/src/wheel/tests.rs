use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Now {
    Now::from_nanos(ms * MS)
}

#[test]
fn deadlines_fire_in_time_and_once() {
    let mut wheel = Wheel::new(4);
    wheel.set(0, at(10));
    wheel.set(1, at(5));
    wheel.set(2, at(3_600_000));
    assert_eq!(wheel.expire(at(4)), None);
    assert_eq!(wheel.expire(at(7)), Some(1));
    assert_eq!(wheel.expire(at(7)), None);
    wheel.set(0, at(20));
    assert_eq!(wheel.expire(at(12)), None, "moved");
    wheel.clear(0);
    assert_eq!(wheel.expire(at(3_599_999)), None, "cleared");
    assert_eq!(wheel.expire(at(3_600_002)), Some(2));
    assert_eq!(wheel.next(), None);
}

#[test]
fn a_deadline_beyond_the_horizon_fires_at_the_horizon() {
    let mut wheel = Wheel::new(1);
    let day = 24 * 3_600 * 1_000;
    wheel.set(0, at(100 * day));
    assert_eq!(wheel.expire(at(12 * day)), None);
    assert_eq!(wheel.expire(at(14 * day)), Some(0));
}

proptest! {
    /// Against a sorted map: nothing early, nothing later than a tick, nothing lost or doubled.
    #[test]
    fn as_a_sorted_map(steps in prop::collection::vec((0u32..20, 0u64..200_000, 0u64..5_000, any::<bool>()), 1..200)) {
        let mut wheel = Wheel::new(0);
        let mut model: BTreeMap<u32, Now> = BTreeMap::new();
        let mut now = at(1);
        for (id, ahead, pass, clear) in steps {
            if clear {
                wheel.clear(id);
                model.remove(&id);
            } else {
                let due = now + Duration::from_millis(ahead * ahead % 1_000_003);
                wheel.set(id, due);
                model.insert(id, due);
            }
            now = now + Duration::from_millis(pass);
            if let Some(next) = wheel.next() {
                let first = *model.values().min().unwrap();
                prop_assert!(next <= first + Duration::from_millis(3));
            }
            while let Some(id) = wheel.expire(now) {
                let due = model.remove(&id);
                prop_assert!(due.is_some_and(|due| due <= now), "{id} at {now:?}, due {due:?}");
            }
            let late = model.iter().find(|(_, due)| **due + Duration::from_millis(3) < now);
            prop_assert!(late.is_none(), "{late:?} at {now:?}");
        }
    }
}
