//! Requests that hyper reads and writes: of HTTP/2, or between it and HTTP/1.1, and what of HTTP/1.1 is not relayed.

use std::rc::Rc;

use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;

use super::body::ResponseBody;
use super::connection::Client;
use super::exchange::{Asked, Attempt, Exchange, Failure, is_idempotent};
use super::headers;
use super::service::Service;
use crate::Stream;
use crate::framing::check_fields;
use crate::observe::{Flag, Protocol};
use crate::upstream::{Codec, Lease, Patience, RequestBody};

/// Serves a request: the one with this number on its connection, from 1.
pub(super) async fn exchange<S: Stream>(
    service: Rc<Service<S>>,
    client: Rc<Client>,
    head: u64,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let response = Exchange::new(&service, &client).run(head, request).await;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        client.leg.resume(head);
    }
    response
}

impl<S: Stream> Exchange<'_, S> {
    async fn run(self, head: u64, request: Request<Incoming>) -> Response<ResponseBody> {
        let (mut parts, body) = request.into_parts();
        if let Some(reject) = self.client.leg.refusal(head) {
            return self.refuse_head(reject, parts.version);
        }
        parts.extensions.clear();
        let (exchange, rule, mut asked) = match self.admit(parts) {
            Ok(admitted) => admitted,
            Err(response) => return *response,
        };
        let upgrade = headers::upgrade(&asked.parts.headers);
        asked.upgrade = upgrade.is_some() && exchange.client.leg.holds(head);
        // A body in HTTP/1.1 stands still when its connection does, which is noticed there.
        let patience = (exchange.client.protocol == Protocol::Http2).then(|| {
            let stall = exchange.config.timeouts.stall;
            Patience::new(&exchange.service.shared.timers, stall)
        });
        asked.body = Some(RequestBody::new(body, &exchange.tail.intake, patience));
        if !asked.upgrade {
            exchange.client.leg.resume(head);
        }
        let switches = asked.upgrade;
        let codec = |protocol| match protocol {
            Protocol::Http2 => Codec::Http2,
            _ => Codec::Http1,
        };
        let attempt = async |exchange: &Self, lease, asked: &mut Asked, retried| {
            exchange.attempt(lease, asked, retried).await
        };
        match exchange
            .forward(&rule, asked, upgrade, codec, attempt)
            .await
        {
            Ok((exchange, (response, lease))) => exchange.pass(response, lease, switches),
            Err(response) => response,
        }
    }

    /// Sends the request on a connection and waits for the response's header.
    async fn attempt(
        &self,
        mut lease: Lease,
        asked: &mut Asked,
        retried: bool,
    ) -> Result<(Response<Incoming>, Lease), Attempt> {
        let protocol = match lease.connection().key.codec {
            Codec::Http2 => Protocol::Http2,
            Codec::Relay | Codec::Http1 => Protocol::Http1,
        };
        let body = asked.body.take();
        let body = body.unwrap_or_else(|| RequestBody::empty(&self.tail.intake));
        let empty = http_body::Body::is_end_stream(&body);
        // A connection that was idle may have ended unnoticed; only then is there a reason to try again.
        let again = lease.reused && !retried;
        let spare =
            (again && empty && is_idempotent(&asked.parts.method)).then(|| asked.parts.clone());
        let method = std::mem::take(&mut asked.parts.method);
        let to_head = method == Method::HEAD;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri(&asked.parts.uri, &asked.authority, protocol)
            .ok_or(Attempt::Failed((Flag::ClientProtocol, Some("target"))))?;
        *request.headers_mut() = std::mem::take(&mut asked.parts.headers);
        self.host(request.headers_mut(), &asked.authority, protocol);
        let before = lease.connection().leg.read();
        let Some(answer) = lease.send(request, to_head) else {
            return Err(Attempt::Failed(match is_not_http2(&lease) {
                true => (Flag::UpstreamProtocol, Some("no_http2")),
                false => (Flag::UpstreamClosed, None),
            }));
        };
        match answer.await {
            Ok(response) => Ok((response, lease)),
            // Nothing of it was sent.
            Err((_, Some(message))) if again => {
                let (parts, body) = message.into_parts();
                asked.parts.method = parts.method;
                asked.parts.headers = parts.headers;
                asked.body = Some(body);
                Err(Attempt::Again)
            }
            Err((error, _)) => {
                let leg = &lease.connection().leg;
                if let Some(parts) =
                    spare.filter(|_| leg.read() == before && leg.failed().is_none())
                {
                    asked.parts = parts;
                    return Err(Attempt::Again);
                }
                Err(Attempt::Failed(self.blame(&error, &lease)))
            }
        }
    }

    /// Whose fault it is that there is no response.
    fn blame(&self, error: &hyper::Error, lease: &Lease) -> Failure {
        if self.tail.intake.stalled.get() {
            return (Flag::ClientTimeout, Some("body"));
        }
        if self.tail.intake.failed.get() {
            return match self.client.leg.failed() {
                Some(reject) => (Flag::ClientProtocol, Some(reject.name())),
                None => (Flag::ClientGone, None),
            };
        }
        match lease.connection().leg.failed() {
            Some(reject) => (Flag::UpstreamProtocol, Some(reject.name())),
            None if is_not_http2(lease) => (Flag::UpstreamProtocol, Some("no_http2")),
            None if error.is_parse() => (Flag::UpstreamProtocol, None),
            None => (Flag::UpstreamClosed, None),
        }
    }

    /// Passes on an endpoint's response.
    fn pass(
        mut self,
        response: Response<Incoming>,
        lease: Lease,
        upgrade: bool,
    ) -> Response<ResponseBody> {
        let (mut parts, body) = response.into_parts();
        let switches = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        let protocol = headers::upgrade(&parts.headers);
        if switches && (!upgrade || protocol.is_none()) {
            return self.fail((Flag::UpstreamProtocol, Some("upgrade")));
        }
        if lease.connection().key.codec == Codec::Http2
            && let Err(reject) = check_fields(&parts.headers, &self.config.limits.head)
        {
            return self.fail((Flag::UpstreamProtocol, Some(reject.name())));
        }
        headers::pass_response(parts.status, &mut parts.headers);
        parts.extensions.clear();
        parts.version = Version::HTTP_11;
        self.tail.recorder.note(|record| {
            record.status = parts.status.as_u16();
            record.flag = None;
        });
        if let Some(protocol) = protocol.filter(|_| switches) {
            parts
                .headers
                .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(header::UPGRADE, protocol);
            *self.client.upgrade.borrow_mut() = Some((lease, self.tail.recorder));
            return Response::from_parts(parts, ResponseBody::none());
        }
        self.tail.lease = Some(lease);
        Response::from_parts(parts, ResponseBody::of_endpoint(body, self.tail))
    }
}

/// Whether HTTP/2 was begun with an endpoint that speaks something else: HTTP/1.1, most likely.
fn is_not_http2(lease: &Lease) -> bool {
    let connection = lease.connection();
    connection.key.codec == Codec::Http2 && connection.leg.is_not_http2()
}

/// The target for the next hop: a path, or in HTTP/2 a URL, since that is what becomes `:scheme`, `:authority` and `:path`.
fn uri(uri: &Uri, authority: &str, protocol: Protocol) -> Option<Uri> {
    let mut parts = http::uri::Parts::default();
    let target = uri.path_and_query().cloned();
    parts.path_and_query = Some(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    if protocol == Protocol::Http2 {
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(authority.parse().ok()?);
    }
    Uri::from_parts(parts).ok()
}
