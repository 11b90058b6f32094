//! Heads of HTTP/1.1, read and written.

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, request, response,
};

use crate::framing::fields;

/// A request's head that has passed every check. Nothing if the target is one that cannot be passed on, all the same.
pub(super) fn request(head: Vec<u8>) -> Option<request::Parts> {
    let head = Bytes::from(head);
    let end = memchr::memchr(b'\r', &head)?;
    let mut words = head[..end].split(|byte| *byte == b' ');
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::from_bytes(words.next()?).ok()?;
    parts.uri = Uri::from_maybe_shared(head.slice_ref(words.next()?)).ok()?;
    read_fields(&head, &mut parts.headers)?;
    Some(parts)
}

/// A response's head that has passed every check.
pub(super) fn response(head: Vec<u8>) -> Option<response::Parts> {
    let head = Bytes::from(head);
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = StatusCode::from_bytes(head.get(9..12)?).ok()?;
    if head.starts_with(b"HTTP/1.0") {
        parts.version = http::Version::HTTP_10;
    }
    read_fields(&head, &mut parts.headers)?;
    Some(parts)
}

fn read_fields(head: &Bytes, headers: &mut HeaderMap) -> Option<()> {
    for (name, value) in fields(head) {
        let name = HeaderName::from_bytes(name).ok()?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(value)).ok()?;
        headers.try_append(name, value).ok()?;
    }
    Some(())
}

/// Writes a request's head; `chunked`: its body comes in chunks.
pub(super) fn write_request(out: &mut Vec<u8>, parts: &request::Parts, chunked: bool) {
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    for piece in [parts.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(piece.as_bytes());
    }
    write_fields(out, &parts.headers, chunked, false);
}

/// Writes a response's head; `chunked`: its body comes in chunks; `close`: the last one of its connection.
pub(super) fn write_response(
    out: &mut Vec<u8>,
    status: StatusCode,
    headers: &HeaderMap,
    chunked: bool,
    close: bool,
) {
    for piece in [
        "HTTP/1.1 ",
        status.as_str(),
        " ",
        status.canonical_reason().unwrap_or_default(),
        "\r\n",
    ] {
        out.extend_from_slice(piece.as_bytes());
    }
    write_fields(out, headers, chunked, close);
}

fn write_fields(out: &mut Vec<u8>, headers: &HeaderMap, chunked: bool, close: bool) {
    for (name, value) in headers {
        write_field(out, name.as_str(), value.as_bytes());
    }
    if chunked {
        write_field(out, header::TRANSFER_ENCODING.as_str(), b"chunked");
    }
    if close && !headers.contains_key(header::CONNECTION) {
        write_field(out, header::CONNECTION.as_str(), b"close");
    }
    out.extend_from_slice(b"\r\n");
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for piece in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_written_as_they_were_read_but_for_the_names_case() {
        let head = b"POST /a?b HTTP/1.1\r\nHost: x\r\nX-Y:  1 \r\nx-y: 2\r\nEmpty:\r\n\r\n";
        let parts = request(head.to_vec()).unwrap();
        let mut out = Vec::new();
        write_request(&mut out, &parts, true);
        let written = "POST /a?b HTTP/1.1\r\nhost: x\r\nx-y: 1\r\nx-y: 2\r\nempty: \r\n\
                       transfer-encoding: chunked\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), written);
        let parts = response(b"HTTP/1.1 404 Nowhere\r\nA: b\r\n\r\n".to_vec()).unwrap();
        let mut out = Vec::new();
        write_response(&mut out, parts.status, &parts.headers, false, true);
        assert_eq!(
            out,
            b"HTTP/1.1 404 Not Found\r\na: b\r\nconnection: close\r\n\r\n"
        );
    }

    #[test]
    fn a_target_that_is_no_uri_is_refused() {
        assert!(request(b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()).is_none());
    }
}
