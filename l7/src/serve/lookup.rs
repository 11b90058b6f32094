//! What routes see of a request, and whether one of HTTP/2 is sound enough to be passed on as one of HTTP/1.1.

use http::header;
use http::request::Parts;

use crate::Reject;
use crate::framing::{HeadLimits, check_fields, check_target};
use crate::route::RequestView;

/// What `Host` or `:authority` says; empty if neither does.
pub(super) fn authority(parts: &Parts) -> String {
    let host = parts
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let named = parts.uri.authority().map(|authority| authority.as_str());
    named.or(host).unwrap_or_default().to_owned()
}

/// What routes see.
pub(super) fn view<'r>(parts: &'r Parts, authority: &'r str) -> RequestView<'r> {
    let path = match parts.uri.path() {
        "*" | "" => "/",
        path => path,
    };
    RequestView {
        authority,
        method: &parts.method,
        path,
        query: parts.uri.query(),
        headers: &parts.headers,
    }
}

/// Checks of a request of HTTP/2 what the framing of HTTP/1.1 is checked for (RFC 9113 section 10.3): that it names one host, one
/// length, and a path that can be compared.
pub(super) fn check_http2(parts: &Parts, limits: &HeadLimits) -> Result<(), Reject> {
    if parts.method == http::Method::CONNECT {
        return Err(Reject::Connect);
    }
    // Neither `:scheme` nor `:path`, which h2 lets pass (RFC 9113 section 8.3.1).
    if parts.uri.path().is_empty() {
        return Err(Reject::Target);
    }
    check_fields(&parts.headers, limits)?;
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    check_target(parts.method.as_str(), target)?;
    let host = parts.headers.get_all(header::HOST).iter();
    let named = parts.uri.authority().map(|authority| authority.as_str());
    crate::framing::check_hosts(named, host.map(header::HeaderValue::as_bytes))?;
    if parts
        .headers
        .get_all(header::CONTENT_LENGTH)
        .iter()
        .nth(1)
        .is_some()
    {
        return Err(Reject::ContentLengthRepeated);
    }
    if parts.headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Reject::TransferEncoding);
    }
    Ok(())
}
