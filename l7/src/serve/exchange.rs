//! One request, from its header to its response.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, Version};

use super::body::{ResponseBody, Tail};
use super::connection::Client;
use super::lookup::{authority, check_http2, view};
use super::service::Service;
use super::{answer, headers};
use crate::config::{ConnectRequest, ServiceConfig, Source};
use crate::observe::{Flag, Protocol, Recorder, Sink, cut, first_line, propagate};
use crate::route::{Action, BackendId, CompiledRule, Pick};
use crate::run::Deadline;
use crate::upstream::{
    AcquireError, Backend, BackendProtocol, Codec, Endpoint, Key, Lease, RequestBody, acquire,
};
use crate::{Reject, Stream};

/// Bytes of a path and of an authority that are logged.
const LOGGED_PATH: usize = 1_024;
const LOGGED_AUTHORITY: usize = 256;

/// Why a request is not answered by an endpoint.
pub(super) type Failure = (Flag, Option<&'static str>);

/// A request that is under way.
pub(super) struct Exchange<'x, S> {
    pub(super) service: &'x Rc<Service<S>>,
    pub(super) client: &'x Rc<Client>,
    pub(super) config: Arc<ServiceConfig>,
    pub(super) tail: Tail,
}

/// What an endpoint is asked, and what is needed to ask again.
pub(super) struct Asked {
    pub(super) parts: Parts,
    pub(super) body: Option<RequestBody>,
    pub(super) upgrade: bool,
    pub(super) authority: String,
}

impl<'x, S: Stream> Exchange<'x, S> {
    pub(super) fn new(service: &'x Rc<Service<S>>, client: &'x Rc<Client>) -> Self {
        let record = client.record(service.id, service.now());
        let sink: Rc<dyn Sink> = Rc::clone(service) as Rc<dyn Sink>;
        // Whatever happens before there is a response happens because the client is gone.
        let mut recorder = Recorder::new(sink, record);
        recorder.flag(Some(Flag::ClientGone));
        Self {
            service,
            client,
            config: service.config(),
            tail: Tail {
                recorder,
                grpc: false,
                intake: Rc::default(),
                lease: None,
                deadline: Deadline::never(),
                underway: client.begin(),
            },
        }
    }

    /// Says which rule serves a request, or what is answered without asking an endpoint.
    pub(super) fn admit(
        mut self,
        parts: Parts,
    ) -> Result<(Self, Arc<CompiledRule>, Asked), Box<Response<ResponseBody>>> {
        let authority = authority(&parts);
        let kind = parts.headers.get(header::CONTENT_TYPE);
        self.tail.grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        self.tail.recorder.note(|record| {
            record.method = Some(parts.method.clone());
            record.authority = cut(&authority, LOGGED_AUTHORITY);
            let target = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
            record.path = cut(target, LOGGED_PATH);
        });
        if parts.version == Version::HTTP_2
            && let Err(reject) = check_http2(&parts, &self.config.limits.head)
        {
            return Err(Box::new(self.refuse(reject, parts.version)));
        }
        let Some(rule) = self
            .config
            .routes
            .route(&view(&parts, &authority))
            .map(Arc::clone)
        else {
            return Err(Box::new(self.fail((Flag::NoRoute, None))));
        };
        self.tail.recorder.note(|record| {
            record.rule = Some((Arc::clone(&rule.route), rule.index));
        });
        if let Action::Redirect(redirect) = &rule.action {
            let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
            self.tail.recorder.note(|record| {
                record.flag = None;
                record.status = redirect.status.as_u16();
            });
            let port = self.client.meta.vip.port();
            let response = answer::redirect(redirect, &authority, port, target, self.tail);
            return Err(Box::new(response));
        }
        let timers = &self.service.shared.timers;
        self.tail.deadline = Deadline::after(timers, rule.timeouts.request);
        let asked = Asked {
            upgrade: false,
            body: None,
            parts,
            authority,
        };
        Ok((self, rule, asked))
    }

    /// Asks an endpoint by `attempt`, over a connection of the codec for the backend's protocol. An answer, or what is answered in
    /// its place.
    pub(super) async fn forward<T>(
        mut self,
        rule: &CompiledRule,
        mut asked: Asked,
        upgrade: Option<HeaderValue>,
        codec: impl Fn(Protocol) -> Codec,
        mut attempt: impl AsyncFnMut(&Self, Lease, &mut Asked, bool) -> Result<T, Attempt>,
    ) -> Result<(Self, T), Response<ResponseBody>> {
        let Pick::Backend(id) = rule.pick(self.service.shared.random()) else {
            return Err(self.fail((Flag::InvalidBackend, None)));
        };
        self.tail.recorder.note(|record| record.backend = Some(id));
        let Some(backend) = self.service.backend(id) else {
            return Err(self.fail((Flag::InvalidBackend, None)));
        };
        let protocol = match backend.config().protocol {
            BackendProtocol::AsClient => self.client.protocol,
            BackendProtocol::Http1 => Protocol::Http1,
            BackendProtocol::H2c => Protocol::Http2,
        };
        let codec = codec(protocol);
        self.prepare(rule, &mut asked, upgrade);
        // The deadline is lent out while the rest of the exchange is at work.
        let deadline = std::mem::replace(&mut self.tail.deadline, Deadline::never());
        let answered = {
            let asking = pin!(self.ask(rule, id, &backend, codec, &mut asked, &mut attempt));
            deadline.within(asking).await
        };
        self.tail.deadline = deadline;
        match answered {
            Some(Ok(answer)) => Ok((self, answer)),
            Some(Err(failure)) => Err(self.fail(failure)),
            None => Err(self.fail((Flag::RequestTimeout, None))),
        }
    }

    /// Makes the request's header that of the next hop.
    fn prepare(&mut self, rule: &CompiledRule, asked: &mut Asked, upgrade: Option<HeaderValue>) {
        let fields = &mut asked.parts.headers;
        headers::remove_hop_by_hop(fields);
        headers::join_cookies(fields);
        // The body is sent at once, so that the node has said "continue" when the endpoint gets to see it.
        let expects = fields.get(header::EXPECT).map(HeaderValue::as_bytes);
        if expects.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue")) {
            fields.remove(header::EXPECT);
        }
        if self.config.source == Source::Node {
            headers::forwarded(fields, &self.client.meta, &asked.authority);
        }
        let random = || self.service.shared.random();
        let trace = propagate(fields, self.config.create_trace, random);
        self.tail.recorder.note(|record| record.trace = trace);
        rule.request_headers.apply(fields);
        if let Some(protocol) = upgrade.filter(|_| asked.upgrade) {
            fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            fields.insert(header::UPGRADE, protocol);
        }
    }

    /// Asks an endpoint, and once more if it turns out that the connection to it had ended before.
    async fn ask<T>(
        &mut self,
        rule: &CompiledRule,
        id: BackendId,
        backend: &Rc<Backend>,
        codec: Codec,
        asked: &mut Asked,
        attempt: &mut impl AsyncFnMut(&Self, Lease, &mut Asked, bool) -> Result<T, Attempt>,
    ) -> Result<T, Failure> {
        let shared = &self.service.shared;
        // Bound: two tries, and a turn more for each endpoint that goes meanwhile.
        loop {
            let retried = self.tail.recorder.retries() > 0;
            let hash = self.client.meta.hash;
            let chosen = backend.choose(hash, || shared.random());
            let endpoint = chosen.ok_or((Flag::NoEndpoint, None))?;
            let begun = shared.timers.now();
            self.tail
                .recorder
                .note(|record| record.endpoint = Some(endpoint.address));
            let Some(lease) = self.lease(id, backend, &endpoint, codec).await? else {
                continue;
            };
            let ready = shared.timers.now();
            self.tail
                .recorder
                .note(|record| record.queued = Some(ready - begun));
            let tried = {
                let patience = backend.config().response_timeout;
                let attempt = pin!(attempt(self, lease, asked, retried));
                self.in_time(rule, patience, attempt).await
            };
            let after = shared.timers.now() - ready;
            match tried.unwrap_or(Err(Attempt::Failed((Flag::BackendTimeout, None)))) {
                Ok(answer) => {
                    self.tail
                        .recorder
                        .note(|record| record.backend_first_byte = Some(after));
                    return Ok(answer);
                }
                Err(Attempt::Failed(failure)) => return Err(failure),
                Err(Attempt::Again) => self.tail.recorder.note(|record| record.retries += 1),
            }
        }
    }

    /// What a try comes to, if it does within the rule's time; where it has none at all, unless nothing moves for so long.
    async fn in_time<F: Future + Unpin>(
        &self,
        rule: &CompiledRule,
        patience: Duration,
        mut attempt: F,
    ) -> Option<F::Output> {
        let time = rule.timeouts.backend_request;
        if time.is_none() && rule.timeouts.request.is_some() {
            return Some(attempt.await);
        }
        let received = &self.tail.intake.received;
        let mut limit = self.client.spare.take();
        // Bound: each turn takes the time, and there are more only while the client sends.
        let tried = loop {
            let before = received.get();
            limit.restart(&self.service.shared.timers, time.unwrap_or(patience));
            let tried = limit.within(&mut attempt).await;
            if tried.is_some() || time.is_some() || received.get() == before {
                break tried;
            }
        };
        limit.clear();
        self.client.spare.set(limit);
        tried
    }

    /// A connection to an endpoint. Nothing if that has gone while this waited for one.
    async fn lease(
        &self,
        id: BackendId,
        backend: &Rc<Backend>,
        endpoint: &Rc<Endpoint>,
        codec: Codec,
    ) -> Result<Option<Lease>, Failure> {
        let config = backend.config();
        let source = match endpoint.sees_client() {
            true => Source::Client,
            false => self.config.source,
        };
        let own = source == Source::Client;
        if own {
            self.client.owns.set(true);
        }
        let key = Key {
            client: own.then_some(self.client.meta.client),
            codec,
        };
        let request = ConnectRequest {
            service: self.service.id,
            backend: id,
            endpoint: endpoint.address,
            client: self.client.meta,
            source,
        };
        // Bound: each turn takes away a connection that ended, or said something, while it rested.
        loop {
            let acquired = acquire(self.service, &config, endpoint, &request, key).await;
            if let Err(AcquireError::Gone) = acquired {
                return Ok(None);
            }
            let lease = acquired.map_err(|error| (error.flag(), error.detail()))?;
            if codec != Codec::Relay || !lease.reused || lease.is_quiet::<S>() {
                return Ok(Some(lease));
            }
        }
    }

    /// `Host` for HTTP/1.1; `:authority` says it in HTTP/2.
    pub(super) fn host(&self, headers: &mut HeaderMap, authority: &str, protocol: Protocol) {
        if protocol == Protocol::Http2 {
            headers.remove(header::HOST);
            return;
        }
        let vip = || self.client.meta.vip.to_string();
        let host = match authority {
            "" => HeaderValue::try_from(vip()),
            some => HeaderValue::try_from(some),
        };
        if let Ok(host) = host {
            headers.insert(header::HOST, host);
        }
    }

    pub(super) fn fail(mut self, (flag, detail): Failure) -> Response<ResponseBody> {
        self.tail.recorder.note(|record| {
            record.flag = Some(flag);
            record.detail = detail;
        });
        if let Some(reject) = self.client.leg.failed() {
            return self.refuse(reject, Version::HTTP_11);
        }
        answer::failure(flag, detail, self.tail)
    }

    /// As [`Self::refuse`], a request that something stands in for.
    pub(super) fn refuse_head(
        mut self,
        reject: Reject,
        version: Version,
    ) -> Response<ResponseBody> {
        let line = self.client.leg.refused_line();
        self.tail.recorder.note(|record| {
            (record.method, record.path) = first_line(&line, LOGGED_PATH);
            record.at = self.client.leg.refused_since().unwrap_or(record.at);
        });
        self.refuse(reject, version)
    }

    pub(super) fn refuse(mut self, reject: Reject, version: Version) -> Response<ResponseBody> {
        self.service.reject(reject);
        self.tail.recorder.note(|record| {
            record.flag = Some(match reject {
                Reject::HeadTimeout => Flag::ClientTimeout,
                _ => Flag::ClientProtocol,
            });
            record.detail = Some(reject.name());
        });
        answer::refusal(reject, version, self.tail)
    }
}

/// What came of a try, if no response.
pub(super) enum Attempt {
    Again,
    Failed(Failure),
}

/// RFC 9110 section 9.2.2.
pub(super) fn is_idempotent(method: &Method) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
        Method::PUT,
        Method::DELETE,
    ]
    .contains(method)
}
