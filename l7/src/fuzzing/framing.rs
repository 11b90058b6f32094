//! Framing by itself: however bytes are cut, the verdict is the same, and what is passed on is what came.

use crate::framing::{Guard, Progress};
use crate::{HeadLimits, Reject};

/// The framing of one direction by itself, for bytes that come in whole, one by one, and cut as `cuts` says: the verdict is the
/// same, and what is passed on is what came.
///
/// # Panics
///
/// If it is not.
pub fn framing(side: Side, cuts: u64, input: &[u8]) {
    let whole = guarded(side, input, |_| usize::MAX);
    let single = guarded(side, input, |_| 1);
    let mut state = cuts;
    let some = guarded(side, input, |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        1 + (state >> 33) as usize % 40
    });
    for cut in [&whole, &some] {
        assert_eq!(cut.end, single.end, "by its cuts");
        assert_eq!(cut.heads, single.heads, "by its cuts");
        assert!(single.passed.starts_with(&cut.passed), "by its cuts");
        if !matches!(single.end, End::Refused(_)) {
            assert_eq!(cut.passed.len(), single.passed.len(), "by its cuts");
        }
        assert_passed(side, &cut.passed, input);
    }
}

/// What follows a [`framing`].
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Side {
    /// What a client sends. `resumes`: whether those who ask for an upgrade are declined.
    Requests {
        /// Whether HTTP goes on behind a request that asks for an upgrade.
        resumes: bool,
    },
    /// What a backend sends to requests by this method.
    Responses {
        /// Whether that is `HEAD`.
        to_head: bool,
    },
}

/// How a direction ends.
#[derive(PartialEq, Eq, Debug)]
enum End {
    Refused(Reject),
    /// At the end of the bytes: between two messages, in a head, or in a body.
    Between,
    Head,
    Body,
    /// Behind a request or response after which the connection may be another protocol's.
    Held,
}

struct Guarded {
    passed: Vec<u8>,
    heads: u64,
    end: End,
}

/// Sends bytes through a guard, each piece as long as `cut` says, given where it begins.
fn guarded(side: Side, input: &[u8], mut cut: impl FnMut(usize) -> usize) -> Guarded {
    let mut guard = match side {
        Side::Requests { .. } => Guard::requests(HeadLimits::default()),
        Side::Responses { .. } => Guard::responses(HeadLimits::default()),
    };
    let (mut passed, mut at) = (Vec::new(), 0);
    let mut end = None;
    while at < input.len() && end.is_none() {
        let piece = &input[at..input.len().min(at.saturating_add(cut(at)))];
        let mut rest = piece;
        while !rest.is_empty() && end.is_none() {
            if let Side::Responses { to_head } = side
                && guard.is_answered(false)
            {
                guard.await_response(to_head);
            }
            if guard.holds() && side == (Side::Requests { resumes: true }) {
                guard.resume();
            }
            if !guard.reads() {
                end = Some(End::Held);
                break;
            }
            let taken = match guard.advance(rest, usize::MAX) {
                Progress::Kept(taken) => taken,
                Progress::Passed(taken) => {
                    passed.extend_from_slice(&rest[..taken]);
                    taken
                }
                Progress::Head(taken) => {
                    passed.extend_from_slice(guard.ready());
                    guard.pass(guard.ready().len());
                    taken
                }
                Progress::Failed(reject) => {
                    end = Some(End::Refused(reject));
                    break;
                }
            };
            assert!(taken > 0, "no progress at {at} of {input:?}");
            rest = &rest[taken..];
        }
        at += piece.len();
    }
    let end = end.unwrap_or_else(|| match () {
        () if guard.holds() => End::Held,
        () if guard.is_in_head() => End::Head,
        () if guard.is_in_body() => End::Body,
        () => End::Between,
    });
    Guarded {
        passed,
        heads: guard.heads(),
        end,
    }
}

/// What was passed on is what came, but for an empty line before a request.
fn assert_passed(side: Side, passed: &[u8], input: &[u8]) {
    let mut rest = input;
    for (at, byte) in passed.iter().enumerate() {
        if rest.first() != Some(byte) && matches!(side, Side::Requests { .. }) {
            rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
        }
        match rest.split_first() {
            Some((came, more)) if came == byte => rest = more,
            _ => panic!("byte {at} passed on is not what came: {passed:?} of {input:?}"),
        }
    }
}
