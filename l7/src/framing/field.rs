//! Field lines (RFC 9112 section 5, RFC 9110 section 5).

use http::HeaderMap;

use super::{HeadLimits, Reject};

/// `tchar` of RFC 9110 section 5.6.2.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let other = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < other.len() {
        table[other[at] as usize] = true;
        at += 1;
    }
    table
};

pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| TOKEN[usize::from(*byte)])
}

/// Checks of a head that HTTP/2 has framed what that of HTTP/1.1 is checked for: that names are tokens (RFC 9110 section 5.1;
/// the parser there takes `"`, too), and how many fields there are, with those that a hop of HTTP/1.1 has besides.
pub(crate) fn check_fields(headers: &HeaderMap, limits: &HeadLimits) -> Result<(), Reject> {
    const BESIDES: usize = 2; // `Host`, and how long the body is.
    if headers.len() + BESIDES > limits.fields {
        return Err(Reject::HeadLength);
    }
    match headers
        .keys()
        .all(|name| is_token(name.as_str().as_bytes()))
    {
        true => Ok(()),
        false => Err(Reject::FieldName),
    }
}

/// Splits a line, without its CR LF, into name and value, and checks both.
pub(super) fn split(line: &[u8]) -> Result<(&[u8], &[u8]), Reject> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Reject::ObsFold);
    }
    check(line)?;
    let colon = memchr::memchr(b':', line).ok_or(Reject::FieldName)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if matches!(name.last(), Some(b' ' | b'\t')) {
        return Err(Reject::SpaceBeforeColon);
    }
    if !is_token(name) {
        return Err(Reject::FieldName);
    }
    Ok((name, trim(value)))
}

/// Whether a line has no byte that a field value cannot have: HTAB, SP, VCHAR and obs-text (RFC 9110 section 5.5).
fn check(line: &[u8]) -> Result<(), Reject> {
    let bad = |byte: &&u8| (**byte < b' ' && **byte != b'\t') || **byte == 0x7f;
    match line.iter().find(bad) {
        None => Ok(()),
        Some(b'\r') => Err(Reject::BareCr),
        Some(_) => Err(Reject::Control),
    }
}

/// Without optional white space around it.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The lines of a head: each ends in CR LF, as whoever collected them has seen to.
pub(super) fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = head;
    std::iter::from_fn(move || {
        let end = memchr::memchr(b'\n', rest)?;
        let line = &rest[..end];
        rest = &rest[end + 1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    })
}

/// Names and values of a head that has passed every check.
pub(crate) fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = lines(head).skip(1);
    lines.map_while(|line| {
        let colon = memchr::memchr(b':', line)?;
        Some((&line[..colon], trim(&line[colon + 1..])))
    })
}

/// Names that `Connection` may have in all: as many as a head has fields. A list that is as long as a head takes longer to go through than
/// all else about a request.
const NAMES: usize = 100;

/// What the fields of a head say of its framing.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Framing {
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) upgrade: bool,
    /// The body is to be asked for.
    pub(super) expects: bool,
    /// How many names `Connection` has.
    names: usize,
}

impl Framing {
    /// Takes a field into account.
    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reject> {
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() || value.contains(&b',') {
                return Err(Reject::ContentLengthRepeated);
            }
            self.length = Some(number(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Reject::TransferEncoding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        } else if name.eq_ignore_ascii_case(b"expect") {
            self.expects = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            self.names += 1 + memchr::memchr_iter(b',', value).count();
            if self.names > NAMES {
                return Err(Reject::HeadLength);
            }
        }
        if self.chunked && self.length.is_some() {
            return Err(Reject::LengthAndEncoding);
        }
        Ok(())
    }
}

/// `1*DIGIT` that fits 63 bits: no sign, no space, no list.
fn number(value: &[u8]) -> Result<u64, Reject> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = str::from_utf8(value).ok().filter(|_| digits);
    let number = text.and_then(|text| text.parse().ok());
    number
        .filter(|number| *number <= i64::MAX as u64)
        .ok_or(Reject::ContentLength)
}
