//! Heads of requests and responses.

use super::field::{Framing, is_token, lines, split};
use super::target::{Target, is_authority, same, target};
use super::{Body, HeadLimits, Reject};

/// What the rest of a connection needs to know of a request.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub(super) body: Body,
    /// The connection may become another protocol's, so nothing may be read behind the head before that is decided.
    pub(super) upgrade: bool,
    /// It is of HTTP/1.1, and asks for nothing but its answer.
    pub(super) plain: bool,
}

/// What the rest of a connection needs to know of a response.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: Body,
}

/// Checks a whole head, its last empty line included.
pub(super) fn request(head: &[u8], limits: &HeadLimits) -> Result<Request, Reject> {
    let mut lines = lines(head);
    let start = lines.next().ok_or(Reject::StartLine)?;
    let mut parts = start.split(|byte| *byte == b' ');
    let (Some(method), Some(uri), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Reject::StartLine);
    };
    if !is_token(method) || uri.is_empty() {
        return Err(Reject::StartLine);
    }
    if uri.len() > limits.target {
        return Err(Reject::TargetLength);
    }
    let old = version_1_0(version)?;
    if method == b"CONNECT" {
        return Err(Reject::Connect);
    }
    let form = target(method, uri)?;
    let mut framing = Framing::default();
    let mut host = None;
    let mut fields = 0;
    for line in lines.take_while(|line| !line.is_empty()) {
        fields += 1;
        if fields > limits.fields {
            return Err(Reject::HeadLength);
        }
        let (name, value) = split(line)?;
        framing.field(name, value)?;
        if name.eq_ignore_ascii_case(b"host") {
            if host.replace(value).is_some() {
                return Err(Reject::HostRepeated);
            }
            if !is_authority(value) {
                return Err(Reject::HostInvalid);
            }
        }
    }
    match (host, form) {
        (None, _) if !old => return Err(Reject::HostMissing),
        (Some(host), Target::Absolute(authority)) if !same(host, authority) => {
            return Err(Reject::HostMismatch);
        }
        _ => {}
    }
    if old && framing.chunked {
        return Err(Reject::EncodingForbidden);
    }
    let body = match framing {
        Framing { chunked: true, .. } => Body::Chunked,
        Framing {
            length: Some(0) | None,
            ..
        } => Body::None,
        Framing {
            length: Some(length),
            ..
        } => Body::Length(length),
    };
    let upgrade = framing.upgrade && body == Body::None && !old;
    let plain = !old && !framing.upgrade && !framing.expects;
    Ok(Request {
        body,
        upgrade,
        plain,
    })
}

/// Checks a whole head; `to_head`: it answers a `HEAD`.
pub(super) fn response(
    head: &[u8],
    to_head: bool,
    limits: &HeadLimits,
) -> Result<Response, Reject> {
    let mut lines = lines(head);
    let start = lines.next().ok_or(Reject::StartLine)?;
    let (version, rest) = start.split_at_checked(8).ok_or(Reject::StartLine)?;
    let old = version_1_0(version)?;
    let [
        b' ',
        a @ b'1'..=b'9',
        b @ b'0'..=b'9',
        c @ b'0'..=b'9',
        reason @ ..,
    ] = rest
    else {
        return Err(Reject::StartLine);
    };
    let visible = |byte: &u8| *byte >= b' ' && *byte != 0x7f || *byte == b'\t';
    if !matches!(reason.first(), None | Some(b' ')) || !reason.iter().all(visible) {
        return Err(Reject::StartLine);
    }
    let digit = |byte: &u8| u16::from(byte - b'0');
    let status = digit(a) * 100 + digit(b) * 10 + digit(c);
    let mut framing = Framing::default();
    let mut fields = 0;
    for line in lines.take_while(|line| !line.is_empty()) {
        fields += 1;
        if fields > limits.fields {
            return Err(Reject::HeadLength);
        }
        let (name, value) = split(line)?;
        framing.field(name, value)?;
    }
    // RFC 9112 section 6.1.
    if framing.chunked && (old || status < 200 || status == 204) {
        return Err(Reject::EncodingForbidden);
    }
    let body = match (to_head, status) {
        (true, _) | (_, 100..=199 | 204 | 304) => Body::None,
        _ => match framing {
            Framing { chunked: true, .. } => Body::Chunked,
            Framing {
                length: Some(0), ..
            } => Body::None,
            Framing {
                length: Some(length),
                ..
            } => Body::Length(length),
            Framing { length: None, .. } => Body::UntilEnd,
        },
    };
    Ok(Response { status, body })
}

fn version_1_0(version: &[u8]) -> Result<bool, Reject> {
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Reject::Version)
        }
        _ => Err(Reject::StartLine),
    }
}
