//! Chunked bodies (RFC 9112 section 7.1).

use http::HeaderName;
use http_body::Frame;

use super::Reject;
use super::field::{is_token, split};
use crate::route::hex;

/// Hexadecimal digits of a size: 60 bits, so that no sum overflows.
const DIGITS: u8 = 15;
/// Bytes of a chunk's extensions. None is in use on the web.
const EXTENSION: u16 = 256;

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    Size {
        digits: u8,
        size: u64,
    },
    Extension {
        length: u16,
        size: u64,
    },
    /// The LF behind a size.
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// A trailer field, or the empty line at the end.
    Trailer {
        line: Vec<u8>,
    },
    Done,
}

/// Follows a chunked body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Chunks {
    state: State,
    trailers: usize,
    trailer_bytes: usize,
    /// Trailer fields so far, a line each.
    section: Vec<u8>,
}

impl Chunks {
    pub(super) fn new() -> Self {
        Self {
            state: State::Size { digits: 0, size: 0 },
            trailers: 0,
            trailer_bytes: 0,
            section: Vec::new(),
        }
    }

    /// The trailer fields, a line each, with names in lower case.
    pub(super) fn take_trailers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.section)
    }

    /// Whether the last byte of the body has been seen.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Checks what comes next, and says how much of it is the body's. What is not framing goes to `put`.
    pub(super) fn advance(
        &mut self,
        bytes: &[u8],
        most_bytes: usize,
        most_fields: usize,
        mut put: impl FnMut(&[u8]),
    ) -> Result<usize, Reject> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            if let State::Data { left } = &mut self.state {
                let taken = (bytes.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                put(&bytes[at..at + taken]);
                at += taken;
                if *left == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            if self.state == State::Done {
                break;
            }
            self.byte(byte, most_bytes, most_fields)?;
            at += 1;
        }
        Ok(at)
    }

    fn byte(&mut self, byte: u8, most_bytes: usize, most_fields: usize) -> Result<(), Reject> {
        match (&mut self.state, byte) {
            (State::Size { digits: 1.., size }, b'\r') => {
                self.state = State::SizeLf { size: *size }
            }
            (State::Size { digits: 1.., size }, b';') => {
                self.state = State::Extension {
                    length: 0,
                    size: *size,
                };
            }
            (State::Size { digits, size }, byte) => {
                let value = hex(byte)
                    .filter(|_| *digits < DIGITS)
                    .ok_or(Reject::ChunkSize)?;
                *size = *size << 4 | u64::from(value);
                *digits += 1;
            }
            (State::Extension { size, .. }, b'\r') => self.state = State::SizeLf { size: *size },
            (State::Extension { length, .. }, byte) => {
                *length += 1;
                if *length > EXTENSION || (byte < b' ' && byte != b'\t') || byte == 0x7f {
                    return Err(Reject::ChunkExtension);
                }
            }
            (State::SizeLf { size: 0 }, b'\n') => self.state = State::Trailer { line: Vec::new() },
            (State::SizeLf { size }, b'\n') => self.state = State::Data { left: *size },
            (State::SizeLf { .. }, _) => return Err(Reject::BareCr),
            (State::DataCr, b'\r') => self.state = State::DataLf,
            (State::DataLf, b'\n') => self.state = State::Size { digits: 0, size: 0 },
            (State::DataCr | State::DataLf, _) => return Err(Reject::ChunkEnd),
            (State::Trailer { line }, b'\n') => {
                if line.pop() != Some(b'\r') {
                    return Err(Reject::BareLf);
                }
                if line.is_empty() {
                    self.state = State::Done;
                    return Ok(());
                }
                let name = trailer(line)?;
                line[..name].make_ascii_lowercase();
                self.section.append(line);
                self.section.extend_from_slice(b"\r\n");
                self.trailers += 1;
                if self.trailers > most_fields {
                    return Err(Reject::HeadLength);
                }
            }
            (State::Trailer { line }, byte) => {
                self.trailer_bytes += 1;
                if self.trailer_bytes > most_bytes {
                    return Err(Reject::HeadLength);
                }
                line.push(byte);
            }
            (State::Data { .. } | State::Done, _) => {} // Never: the caller deals with these.
        }
        Ok(())
    }
}

/// The length of a field's name. Fields that frame or route a message, say how it is to be taken, or who sends it, must come before it
/// (RFC 9110 section 6.5.1).
fn trailer(line: &[u8]) -> Result<usize, Reject> {
    let (name, _) = split(line)?;
    match only_in_head(name) {
        true => Err(Reject::Trailer),
        false => Ok(name.len()),
    }
}

/// Whether a field of this name frames, routes or authorizes, so that it has no place in a trailer section (RFC 9110
/// section 6.5.1).
fn only_in_head(name: &[u8]) -> bool {
    const FORBIDDEN: [&[u8]; 20] = [
        b"authorization",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"expect",
        b"forwarded",
        b"host",
        b"keep-alive",
        b"max-forwards",
        b"proxy-authorization",
        b"proxy-connection",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-forwarded-for",
    ];
    FORBIDDEN
        .iter()
        .any(|other| name.eq_ignore_ascii_case(other))
}

/// A frame of a body that HTTP/2 has framed, its trailer section without the fields that may not be there: a next hop that
/// merges trailers into the head is not to read them.
pub(crate) fn sound_trailers<D>(mut frame: Frame<D>) -> Frame<D> {
    if let Some(trailers) = frame.trailers_mut() {
        let names: Vec<HeaderName> = trailers
            .keys()
            .filter(|name| {
                let name = name.as_str().as_bytes();
                only_in_head(name) || !is_token(name)
            })
            .cloned()
            .collect();
        for name in names {
            trailers.remove(name);
        }
    }
    frame
}
