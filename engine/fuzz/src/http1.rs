//! Bytes of HTTP/1.1 through the framing of one direction, cut anyhow: see `weft_l7::fuzzing::framing` for what must hold.

use weft_l7::fuzzing::{Side, framing};

/// One case: the first byte says which direction, the second how the rest is cut.
///
/// # Panics
/// When something that must hold does not.
pub fn run(data: &[u8]) {
    let [kind, cuts, rest @ ..] = data else {
        return;
    };
    let side = match kind % 4 {
        0 => Side::Requests { resumes: false },
        1 => Side::Requests { resumes: true },
        2 => Side::Responses { to_head: false },
        _ => Side::Responses { to_head: true },
    };
    framing(side, u64::from(*cuts), rest);
}
