//! Any bytes through the HTTP stage, from a client or from an endpoint: see `weft_l7::fuzzing` for what must hold.

/// One case: the first byte says whether a client sends the rest, in HTTP/1.1 or HTTP/2, or an endpoint.
///
/// # Panics
/// When something that must hold does not.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 3 {
        0 => weft_l7::fuzzing::requests(rest),
        1 => weft_l7::fuzzing::responses(rest),
        _ => weft_l7::fuzzing::http2(rest),
    }
}
