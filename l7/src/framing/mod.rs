//! Strict framing of HTTP/1.1 in front of the parser (RFC 9112), for both legs.
//!
//! What two parsers could read differently is never passed on: a request is answered with 400 and counted by name, a
//! response with 502. A head reaches the parser only as a whole and after every check; a body, as far as it is sound.

mod chunk;
mod field;
mod guard;
mod head;
mod reject;
mod target;

pub(crate) use chunk::sound_trailers;
pub(crate) use field::{check_fields, fields};
pub(crate) use guard::{Guard, Progress};
pub use reject::Reject;
pub(crate) use target::{check_hosts, check_target};

/// Whether a request with this head, from its first line to the empty one, would get as far as the routes.
///
/// # Errors
/// Why it would be refused.
pub fn check_request(head: &[u8], limits: HeadLimits) -> Result<(), Reject> {
    match Guard::requests(limits).advance(head, head.len()) {
        Progress::Failed(reject) => Err(reject),
        Progress::Kept(_) | Progress::Passed(_) | Progress::Head(_) => Ok(()),
    }
}

/// How long heads may be.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct HeadLimits {
    /// Bytes of a request target; beyond it the answer is 414.
    pub target: usize,
    /// Bytes of a head, first line included, and of a trailer section; beyond it the answer is 431.
    pub bytes: usize,
    /// Field lines; beyond it the answer is 431. At most 100, which is what the parser behind takes.
    pub fields: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            target: 8 << 10,
            bytes: 32 << 10,
            fields: 100,
        }
    }
}

/// How the end of a message's body is found (RFC 9112 section 6.3).
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Body {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// All up to the end of the connection.
    UntilEnd,
}
