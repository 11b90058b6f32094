//! Header fields between the two legs.

use std::net::IpAddr;

use http::header::{self, Entry, HeaderMap};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::config::ConnectionMeta;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The protocol that a request or response of HTTP/1.1 wants to go over to. Not `h2c`: what is inside would get past the
/// routes.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut connection = tokens(headers, &header::CONNECTION);
    if !connection.any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return None;
    }
    let mut values = headers.get_all(header::UPGRADE).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    let text = value.to_str().ok()?.trim();
    let plain =
        !text.is_empty() && !text.contains(',') && !text.to_ascii_lowercase().starts_with("h2");
    plain.then(|| value.clone())
}

/// Whether a message is the last one of its connection.
pub(super) fn closes(headers: &HeaderMap) -> bool {
    let mut connection = tokens(headers, &header::CONNECTION);
    connection.any(|token| token.eq_ignore_ascii_case("close"))
}

/// Takes away what is for one hop only: fields that `Connection` names, and those that are known to be (RFC 9110 section 7.6.1). `TE:
/// trailers` stays, because trailers are passed on. Framing is the next hop's own.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let trailers = tokens(headers, &header::TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    // Whom a message is for, and how long it is, cannot be for one hop; to name them is to attack the next one.
    let kept = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::AUTHORIZATION,
        header::COOKIE,
    ];
    let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
        .filter_map(|token| token.parse().ok())
        .filter(|name| !kept.contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Makes an endpoint's header that of the response to the client.
pub(super) fn pass_response(status: StatusCode, headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    // It has no body, and may not say that it does (RFC 9110 section 8.6): a client could wait for it.
    if status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
}

fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(name).iter();
    let texts = lines.filter_map(|line| line.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim)
}

/// Says to an endpoint that sees the node who the client is (RFC 7239, and what was there before it). What the client says
/// of itself stays in front.
pub(super) fn forwarded(headers: &mut HeaderMap, meta: &ConnectionMeta, authority: &str) {
    let ip = meta.client.ip().to_canonical();
    append(headers, X_FORWARDED_FOR, &ip.to_string());
    let node = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("\"[{ip}]\""),
    };
    // An authority has no quotes or backslashes: it was checked.
    let element = match authority {
        "" => format!("for={node};proto=http"),
        host => format!("for={node};host=\"{host}\";proto=http"),
    };
    append(headers, header::FORWARDED, &element);
}

/// Adds an element to a list, as one field line.
fn append(headers: &mut HeaderMap, name: HeaderName, element: &str) {
    let lines: Vec<&[u8]> = headers
        .get_all(&name)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let mut list = lines.join(&b", "[..]);
    if !list.is_empty() {
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&list) {
        headers.insert(name, value);
    }
}

/// One field line for what HTTP/2 may have split (RFC 9113 section 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    if let Entry::Occupied(cookies) = headers.entry(header::COOKIE)
        && cookies.iter().nth(1).is_some()
    {
        let lines: Vec<&[u8]> = cookies.iter().map(HeaderValue::as_bytes).collect();
        let joined = HeaderValue::from_bytes(&lines.join(&b"; "[..]));
        if let Ok(joined) = joined {
            headers.insert(header::COOKIE, joined);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn what_is_for_one_hop_goes() {
        let mut headers = map(&[
            ("connection", "close, X-Mine, host"),
            ("connection", "content-length"),
            ("x-mine", "1"),
            ("x-other", "1"),
            ("host", "a"),
            ("content-length", "0"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, Trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-connection", "x"),
        ]);
        remove_hop_by_hop(&mut headers);
        let left = [
            ("x-other", "1"),
            ("host", "a"),
            ("content-length", "0"),
            ("te", "trailers"),
        ];
        assert_eq!(headers, map(&left));
    }

    #[test]
    fn h2c_is_no_upgrade() {
        let wants = |protocol| {
            upgrade(&map(&[
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", protocol),
            ]))
        };
        assert_eq!(wants("websocket").unwrap(), "websocket");
        for protocol in ["h2c", "H2C", "h2", "", "websocket, h2c"] {
            assert_eq!(wants(protocol), None, "{protocol}");
        }
        assert_eq!(upgrade(&map(&[("upgrade", "websocket")])), None);
    }

    #[test]
    fn the_client_is_named_behind_those_it_names() {
        let meta = |client: &str| ConnectionMeta {
            client: client.parse().unwrap(),
            vip: "10.0.0.1:80".parse().unwrap(),
            hash: 0,
        };
        let mut headers = map(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
        ]);
        forwarded(&mut headers, &meta("10.1.0.7:999"), "a:80");
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 10.1.0.7");
        assert_eq!(
            headers["forwarded"],
            "for=10.1.0.7;host=\"a:80\";proto=http"
        );
        let mut headers = map(&[]);
        forwarded(&mut headers, &meta("[fd00::7]:999"), "");
        assert_eq!(headers["forwarded"], "for=\"[fd00::7]\";proto=http");
    }
}
