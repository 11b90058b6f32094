//! Request targets (RFC 9112 section 3.2).

use super::Reject;
use crate::route::hex;

/// The form of a target, as far as it matters.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Target<'t> {
    /// A path, and perhaps a query.
    Origin,
    /// A URL: its host and port.
    Absolute(&'t [u8]),
    /// `*`.
    Asterisk,
}

pub(super) fn target<'t>(method: &[u8], target: &'t [u8]) -> Result<Target<'t>, Reject> {
    // A fragment is not sent (RFC 9112 section 3.2.1), everything else is ASCII, and of what has to be encoded (RFC 3986
    // section 2) the parser behind bears some.
    let clean = |byte: &u8| byte.is_ascii_graphic() && !b"#\"<>`".contains(byte);
    if !target.iter().all(clean) {
        return Err(Reject::Target);
    }
    match target {
        b"*" if method == b"OPTIONS" => Ok(Target::Asterisk),
        [b'/', ..] => {
            path(target)?;
            Ok(Target::Origin)
        }
        _ => {
            let scheme = target.get(..7).ok_or(Reject::Target)?;
            if !scheme.eq_ignore_ascii_case(b"http://") {
                return Err(Reject::Target);
            }
            let rest = &target[7..];
            let end = rest
                .iter()
                .position(|byte| matches!(byte, b'/' | b'?'))
                .unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(end);
            if authority.is_empty() || !is_authority(authority) {
                return Err(Reject::Target);
            }
            path(rest)?;
            Ok(Target::Absolute(authority))
        }
    }
}

/// Whether a target is sound, of whichever protocol.
pub(crate) fn check_target(method: &str, text: &str) -> Result<(), Reject> {
    target(method.as_bytes(), text.as_bytes()).map(drop)
}

/// Whether all that says whom a request is for says the same, and says it soundly.
pub(crate) fn check_hosts<'h>(
    authority: Option<&str>,
    hosts: impl Iterator<Item = &'h [u8]>,
) -> Result<(), Reject> {
    let mut first = authority.map(str::as_bytes);
    if first.is_some_and(|authority| !is_authority(authority)) {
        return Err(Reject::HostInvalid);
    }
    for (count, host) in hosts.enumerate() {
        if count > 0 {
            return Err(Reject::HostRepeated);
        }
        if !is_authority(host) {
            return Err(Reject::HostInvalid);
        }
        if !same(host, first.get_or_insert(host)) {
            return Err(Reject::HostMismatch);
        }
    }
    first.map(drop).ok_or(Reject::HostMissing)
}

/// Refuses dot segments, encoded ones too, and whatever a backend could take for one: routes compare paths as they are
/// sent, so a path that another reads differently would get past them.
fn path(target: &[u8]) -> Result<(), Reject> {
    let mut rest = target;
    // What the segment is so far: nothing, one dot, two, or something else.
    let mut dots = Some(0);
    loop {
        let (byte, after) = match rest {
            [] | [b'?', ..] => break,
            [b'%', high, low, after @ ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => return Err(Reject::Target),
            },
            [b'%', ..] => return Err(Reject::Target),
            [byte, after @ ..] => (*byte, after),
        };
        rest = after;
        dots = match byte {
            0 => return Err(Reject::DotSegment),
            b'/' | b'\\' if matches!(dots, Some(1 | 2)) => return Err(Reject::DotSegment),
            b'/' | b'\\' => Some(0),
            b'.' => dots.map(|dots| dots + 1).filter(|dots| *dots <= 2),
            _ => None,
        };
    }
    match dots {
        Some(1 | 2) => Err(Reject::DotSegment),
        _ => Ok(()),
    }
}

/// Whether this can be `uri-host [ ":" port ]`, without a user (RFC 9110 section 4.2.4), and with a host (section 4.2.1). A `Host` without
/// one may be refused or taken for a default (RFC 9112 section 3.3); another reader could have another default.
pub(super) fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match memchr::memrchr(b':', text) {
        Some(colon) if !text[colon..].contains(&b']') => (&text[..colon], &text[colon + 1..]),
        _ => (text, &b""[..]),
    };
    let literal = host
        .strip_prefix(b"[")
        .and_then(|rest| rest.strip_suffix(b"]"));
    let sound = match literal {
        Some(address) => address
            .iter()
            .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')),
        None => host
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(byte)),
    };
    let named = !literal.unwrap_or(host).is_empty();
    named && sound && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// Whether two authorities are the same for `http`.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    let plain = |text: &[u8]| {
        text.strip_suffix(b":80")
            .or(text.strip_suffix(b":"))
            .unwrap_or(text)
            .to_ascii_lowercase()
    };
    plain(a) == plain(b)
}
