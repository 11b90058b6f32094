//! What clients saw, what was logged, and what was counted: all three agree.

use std::collections::BTreeMap;

use weft_l7::observe::{AccessRecord, Flag, ServiceMetrics};

use crate::plan::Ask;

/// What came of a request.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// The right answer, to its last byte.
    Whole,
    /// An answer of the node's, which names its reason.
    Named(u16),
    /// The stream, of HTTP/2, was reset before the answer was whole.
    Cut,
    /// The connection, of that number, was reset before the answer had come whole.
    Broken(u16),
    /// The connection was over before its turn.
    Unsent,
}

/// The counters are what the records say.
pub fn totals(metrics: &ServiceMetrics, records: &[AccessRecord]) {
    let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
    for record in records {
        *statuses.entry(record.status).or_default() += 1;
    }
    for (status, count) in &statuses {
        assert_eq!(metrics.with_status(*status), *count, "status {status}");
    }
    assert_eq!(metrics.total(), records.len() as u64);
    for flag in Flag::ALL {
        let logged = records.iter().filter(|record| record.flag == Some(flag));
        assert_eq!(
            metrics.flags[flag as usize],
            logged.count() as u64,
            "{flag}"
        );
    }
}

/// A request, what its client saw, and what was logged.
pub type Seen<'s> = (&'s Ask, Outcome, Option<&'s AccessRecord>);

/// What a client saw is what was logged.
pub fn agree(seen: &Seen<'_>) {
    let (ask, outcome, record) = seen;
    let agrees = match (outcome, record) {
        (Outcome::Whole, Some(record)) => record.status == 200 && record.flag.is_none(),
        (Outcome::Named(status), Some(record)) => {
            let unlucky = !ask.is_idempotent() || record.retries == 1;
            record.status == *status
                && record.flag.is_some()
                && (!ask.fault.is_harmless() || unlucky)
        }
        (Outcome::Cut, Some(record)) => is_cut(record),
        (Outcome::Broken(_), _) => true, // See `cut`.
        (Outcome::Unsent, None) => true,
        _ => false,
    };
    assert!(agrees, "{seen:?}");
}

/// An answer of which the head was passed on, and not all of the rest.
fn is_cut(record: &AccessRecord) -> bool {
    record.status == 200 && record.flag.is_some()
}

/// A connection is reset for one request, whose answer could not be finished. Those before were answered, though the reset may
/// have overtaken that; those behind were not looked at.
pub fn cut(connection: &[Seen<'_>]) {
    let mut seen = connection.iter();
    let cause = seen.position(|(_, _, record)| record.is_some_and(is_cut));
    let cause = cause.unwrap_or_else(|| panic!("reset for no reason: {connection:?}"));
    assert!(connection[cause].0.fault.is_within(), "{connection:?}");
    for (at, (.., record)) in connection.iter().enumerate() {
        assert_eq!(record.is_some(), at <= cause, "{connection:?}");
    }
}
