//! Answers of the node's own.

use http::header::{self, HeaderValue};
use http::{Response, StatusCode, Version};

use super::body::{ResponseBody, Tail};
use crate::Reject;
use crate::observe::Flag;
use crate::route::Redirect;

/// A failure, with its reason as text for people.
pub(super) fn failure(
    flag: Flag,
    detail: Option<&'static str>,
    tail: Tail,
) -> Response<ResponseBody> {
    let reason = match detail {
        Some("no_http2") => {
            "upstream_protocol: the request came by HTTP/2, and the endpoint does not speak it without TLS (h2c)"
        }
        _ => flag.name(),
    };
    plain(flag.status(), reason, tail)
}

/// A request that is refused for its form. Nothing behind it can be trusted, so the connection ends.
pub(super) fn refusal(reject: Reject, version: Version, tail: Tail) -> Response<ResponseBody> {
    let mut response = plain(reject.status(), reject.name(), tail);
    if version != Version::HTTP_2 {
        close(&mut response);
    }
    response
}

/// A redirect, for a request to `authority` that came to `port`.
pub(super) fn redirect(
    redirect: &Redirect,
    authority: &str,
    port: u16,
    path_and_query: &str,
    tail: Tail,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::text("", tail));
    match redirect.location(authority, port, path_and_query) {
        Some(location) => {
            *response.status_mut() = redirect.status;
            response.headers_mut().insert(header::LOCATION, location);
        }
        None => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}

/// Says that the connection ends with this response.
pub(super) fn close(response: &mut Response<ResponseBody>) {
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
}

fn plain(status: StatusCode, reason: &'static str, mut tail: Tail) -> Response<ResponseBody> {
    if tail.grpc {
        return grpc(status, reason, tail);
    }
    tail.recorder.note(|record| record.status = status.as_u16());
    let text = format!("{status}: {reason}\n");
    let mut response = Response::new(ResponseBody::text(text, tail));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, text);
    response
}

/// The same to a client that speaks gRPC: a response of trailers only, by gRPC's own mapping of statuses.
fn grpc(status: StatusCode, reason: &'static str, mut tail: Tail) -> Response<ResponseBody> {
    let code = match status.as_u16() {
        400 | 408 | 414 | 431 => "13",
        404 => "12",
        502..=504 => "14",
        _ => "2",
    };
    tail.recorder.note(|record| record.status = 200);
    let mut response = Response::new(ResponseBody::text("", tail));
    let headers = response.headers_mut();
    let grpc = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, grpc);
    headers.insert("grpc-status", HeaderValue::from_static(code));
    headers.insert("grpc-message", HeaderValue::from_static(reason));
    response
}
