//! Which protocol a connection speaks, by its first bytes (ENV-02).

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use crate::observe::Protocol;
use crate::run::Timers;
use crate::{Now, Stream};

/// RFC 9113 section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a first line by which it is told what it is, unless its target says so before.
const LINE: usize = 256;

/// The protocol, once it can be told; at most [`LINE`] bytes are needed, and mostly no more than those of the preface.
pub(super) fn protocol(bytes: &[u8]) -> Option<Protocol> {
    let start = &bytes[..bytes.len().min(PREFACE.len())];
    if PREFACE.starts_with(start) {
        return (start.len() == PREFACE.len()).then_some(Protocol::Http2);
    }
    // An empty line before a request is borne (RFC 9112 section 2.2).
    let line = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    if line.is_empty() || line == b"\r" {
        return None;
    }
    let method = line
        .iter()
        .position(|byte| !byte.is_ascii_uppercase() && !b"-_".contains(byte));
    let Some(end) = method else {
        return (bytes.len() >= PREFACE.len()).then_some(Protocol::Tcp);
    };
    if end == 0 || line[end] != b' ' {
        return Some(Protocol::Tcp);
    }
    // Protocols of text begin with a word in capitals, too: `HELO a`, `USER a`. A path or a URL is what only HTTP has behind it; and
    // these may be long.
    let target = &line[end + 1..];
    if target.starts_with(b"/") || is_url(target) {
        return Some(Protocol::Http1);
    }
    match memchr::memchr(b'\n', target) {
        Some(end) if has_version(&target[..end]) => Some(Protocol::Http1),
        Some(_) => Some(Protocol::Tcp),
        None => (bytes.len() >= LINE).then_some(Protocol::Tcp),
    }
}

/// Whether it begins with a scheme and `://`.
fn is_url(target: &[u8]) -> bool {
    let in_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let end = target.iter().position(|byte| !in_scheme(byte));
    let scheme = end.map_or(target, |end| &target[..end]);
    let letter = scheme.first().is_some_and(u8::is_ascii_alphabetic);
    letter && target[scheme.len()..].starts_with(b"://")
}

/// Whether a line ends with the version of a request, as none else does (RFC 9112 section 3).
fn has_version(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let minor = line.last().is_some_and(u8::is_ascii_digit);
    minor && line[..line.len() - 1].ends_with(b" HTTP/1.")
}

/// What a connection began with.
#[derive(Debug, Default)]
pub(super) struct Start {
    /// What it speaks; nothing that can be told, if it ended or the time was over before.
    pub(super) protocol: Option<Protocol>,
    /// What was read of it, at most [`LINE`] bytes.
    pub(super) bytes: Vec<u8>,
    /// When the first of them came.
    pub(super) since: Option<Now>,
}

/// Reads until the protocol is known: waits `first` for the first byte, and `rest` for those behind it.
pub(super) async fn detect<S: Stream>(
    stream: &mut S,
    timers: &Timers,
    first: Duration,
    rest: Duration,
) -> io::Result<Start> {
    let alarm = timers.alarm();
    alarm.set(timers.now() + first);
    let mut start = Start::default();
    let ended = poll_fn(|cx| {
        // Bound: each turn takes a byte at least, of a line.
        loop {
            start.protocol = protocol(&start.bytes);
            if start.protocol.is_some() {
                return Poll::Ready(Ok(()));
            }
            // No more than needed: what is read here is copied once more.
            let enough = match start.bytes.len() {
                few if few < PREFACE.len() => PREFACE.len(),
                _ => LINE,
            };
            let room = enough.saturating_sub(start.bytes.len());
            let bytes = &mut start.bytes;
            let peeked = stream.poll_peek(cx, |seen| {
                let taken = seen.len().min(room);
                bytes.extend_from_slice(&seen[..taken]);
                taken
            });
            match peeked {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) if start.since.is_none() => {
                    start.since = Some(timers.now());
                    alarm.set(timers.now() + rest);
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return alarm.poll_expired(cx).map(Ok),
            }
        }
    });
    ended.await?;
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ENV-02.
    #[test]
    fn env_02_protocols_are_told_by_their_first_bytes() {
        for (bytes, told) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Protocol::Http1)),
            (b"POST http://a/ HTTP/1.1", Some(Protocol::Http1)),
            (b"\r\nGET /", Some(Protocol::Http1)),
            (b"GET hTTps://a", Some(Protocol::Http1)),
            (b"M-SEARCH * HTTP/1.1\r\n", Some(Protocol::Http1)),
            (b"M-SEARCH * HTTP/1.1", None),
            (b"CONNECT a:443 HTTP/1.1\r\nHost", Some(Protocol::Http1)),
            (b"CONNECT [::1]:443 HTTP/1.0\n", Some(Protocol::Http1)),
            (b"GET a HTTP/1.1\r\n", Some(Protocol::Http1)),
            (
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0",
                Some(Protocol::Http2),
            ),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r", Some(Protocol::Tcp)),
            (b"PRI", None),
            (b"GET", None),
            (b"GET ", None),
            (b"", None),
            (b"\r\n", None),
            (b"\x16\x03\x01\x02\x00", Some(Protocol::Tcp)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Protocol::Tcp)),
            (b"EHLO\r\n", Some(Protocol::Tcp)),
            (b"HELO foo\r\n", Some(Protocol::Tcp)),
            (b"USER x\n", Some(Protocol::Tcp)),
            (b"USER HTTP/1.1\r\n", Some(Protocol::Tcp)),
            (b"USER x HTTP/1.\r\n", Some(Protocol::Tcp)),
            (b"USER x", None),
            (b"USER ", None),
            (b"GET 1://a\r\n", Some(Protocol::Tcp)),
            (b"CONNECT {\"verbose\":false}\r\n", Some(Protocol::Tcp)),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", Some(Protocol::Tcp)),
            (b"get / HTTP/1.1", Some(Protocol::Tcp)),
        ] {
            assert_eq!(
                protocol(bytes),
                told,
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
        let long = [b"USER ".as_slice(), &[b'x'; LINE]].concat();
        assert_eq!(protocol(&long[..LINE - 1]), None);
        assert_eq!(protocol(&long[..LINE]), Some(Protocol::Tcp));
    }
}
