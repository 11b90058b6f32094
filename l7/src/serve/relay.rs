//! Requests of HTTP/1.1 to endpoints that speak it, too: heads are read and written anew, bodies pass with their framing renewed, and
//! what is in front of both legs sees to it that they are sound.
//!
//! What takes more than that is hyper's: HTTP/1.0, upgrades, `Expect`, and endpoints that speak HTTP/2.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use http_body::Body as _;

use super::body::ResponseBody;
use super::connection::Client;
use super::exchange::{Asked, Attempt, Exchange, Failure, is_idempotent};
use super::pump::{Failed, Pump};
use super::service::Service;
use super::{headers, message};
use crate::framing::Body;
use crate::leg::Leg;
use crate::observe::{Flag, Protocol};
use crate::upstream::{Codec, Lease};
use crate::{Reject, Stream};

/// Bytes of bodies that are thrown away at once.
const BODY: usize = 16 << 10;

/// Requests of a client, and interim responses to one, after which others have their turn: many may have come at once.
const SHARE: u32 = 16;

/// An endpoint has ended the connection, or lost it.
const CLOSED: Failure = (Flag::UpstreamClosed, None);

/// How serving a client's connection came to an end.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Served {
    /// A head is there that is for hyper.
    Other,
    /// With the last response, or without a request.
    Ended,
    /// In the middle of something: the client is not to take it for whole.
    Broken,
}

/// Serves requests until the connection ends, or one comes that is not to be relayed.
pub(super) async fn requests<S: Stream>(
    service: &Rc<Service<S>>,
    client: &Rc<Client>,
    leg: &mut Leg<S>,
) -> Served {
    // Bound: the client's requests, one after another, of which `SHARE` at a time.
    let mut served_now = 0;
    loop {
        let head = poll_fn(|cx| {
            let head = leg.poll_head(cx);
            if head.is_pending() && client.ending.get() && client.leg.is_between() {
                return Poll::Ready(Ok(false));
            }
            head
        });
        match head.await {
            Ok(true) => {}
            Ok(false) => return Served::Ended,
            Err(_) => return Served::Broken,
        }
        let refused = client.leg.refused();
        if refused.is_none() && !(service.relays() && client.leg.is_plain()) {
            return Served::Other;
        }
        let head = client.leg.take_head();
        client.next_head();
        let exchange = Exchange::new(service, client);
        let served = match refused {
            Some(reject) => {
                let response = exchange.refuse_head(reject, Version::HTTP_11);
                Box::pin(answer(leg, response, false, false)).await
            }
            // In memory of its own, so that a connection without a request has none of it.
            None => Box::pin(relay(exchange, head, leg)).await,
        };
        if let Some(served) = served {
            return served;
        }
        served_now += 1;
        if served_now == SHARE {
            served_now = 0;
            step_back().await;
        }
    }
}

/// Lets others have their turn.
async fn step_back() {
    let mut stepped = false;
    poll_fn(|cx| match std::mem::replace(&mut stepped, true) {
        true => Poll::Ready(()),
        false => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// A response's head, and what it takes to pass on the rest.
struct Answered<S: Stream> {
    head: Vec<u8>,
    leg: Box<Leg<S>>,
    lease: Lease,
    /// The rest of the request.
    up: Pump,
}

/// Serves one request; nothing if another one may follow.
async fn relay<S: Stream>(
    exchange: Exchange<'_, S>,
    head: Vec<u8>,
    leg: &mut Leg<S>,
) -> Option<Served> {
    let Some(parts) = message::request(head) else {
        let response = exchange.refuse(Reject::Parser, Version::HTTP_11);
        return Box::pin(answer(leg, response, false, false)).await;
    };
    let to_head = parts.method == Method::HEAD;
    let closes = headers::closes(&parts.headers);
    let (exchange, rule, asked) = match exchange.admit(parts) {
        Ok(admitted) => admitted,
        Err(response) => return Box::pin(own(leg, *response, closes, to_head)).await,
    };
    let codec = |protocol| match protocol {
        Protocol::Http2 => Codec::Http2, // Never: `relays` says so.
        _ => Codec::Relay,
    };
    let forwarded = {
        let leg = RefCell::new(&mut *leg);
        let unsent = Cell::new(None);
        let attempt = async |exchange: &Exchange<'_, S>, lease, asked: &mut Asked, retried| {
            attempt(exchange, &leg, &unsent, lease, asked, retried).await
        };
        let mut forward = pin!(exchange.forward(&rule, asked, None, codec, attempt));
        poll_fn(|cx| match forward.as_mut().poll(cx) {
            Poll::Ready(forwarded) => Poll::Ready(Some(forwarded)),
            // One who ends its half while it is owed an answer is gone.
            Poll::Pending if leg.borrow_mut().is_over(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    };
    match forwarded {
        Some(Ok((exchange, answered))) => pass(exchange, leg, answered, closes, to_head).await,
        Some(Err(response)) => Box::pin(own(leg, response, closes, to_head)).await,
        None => Some(Served::Broken),
    }
}

/// Sends the request over a connection, and waits for the response's head. `unsent` keeps what has been read of it, if it is to be
/// sent once more and nothing of it was.
async fn attempt<S: Stream>(
    exchange: &Exchange<'_, S>,
    client: &RefCell<&mut Leg<S>>,
    unsent: &Cell<Option<Pump>>,
    lease: Lease,
    asked: &mut Asked,
    retried: bool,
) -> Result<Answered<S>, Attempt> {
    let mut leg = lease.leg::<S>().ok_or(Attempt::Failed(CLOSED))?;
    // What is said on a new connection before anything was asked is no answer.
    if !lease.reused && !poll_fn(|cx| Poll::Ready(leg.is_quiet(cx))).await {
        return Err(Attempt::Failed(blame(&leg)));
    }
    let again = lease.reused && !retried;
    let body = client.borrow().state().body();
    let to_head = asked.parts.method == Method::HEAD;
    let mut up = unsent.take().unwrap_or_else(|| {
        exchange.host(&mut asked.parts.headers, &asked.authority, Protocol::Http1);
        let mut up = Pump::new(body == Body::Chunked);
        message::write_request(&mut up.buffer, &asked.parts, up.chunked);
        up
    });
    leg.state().await_response(to_head);
    let before = leg.state().read();
    let head = poll_fn(|cx| {
        let client = &mut **client.borrow_mut();
        // Bound: interim responses, each of which has come as a whole.
        for _ in 0..SHARE {
            let uploaded = upload(cx, &mut up, client, &mut leg);
            note_upload(exchange, client, &up);
            uploaded?;
            match ready!(leg.poll_head(cx)) {
                Ok(true) => {}
                Ok(false) | Err(_) => return Poll::Ready(Err(CLOSED)),
            }
            let head = leg.state().take_head();
            let status = leg.state().status();
            if status >= 200 || status == 101 {
                return Poll::Ready(Ok(head));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    match head {
        Ok(head) => Ok(Answered {
            head,
            leg,
            lease,
            up,
        }),
        Err(failure) => {
            let state = leg.state();
            let silent = state.read() == before && state.failed().is_none();
            let bare = is_idempotent(&asked.parts.method) && body == Body::None;
            if failure == CLOSED && again && (!up.began || (silent && bare)) {
                // What has been read of a body is not there to be read again.
                unsent.set((!up.began).then_some(up));
                return Err(Attempt::Again);
            }
            Err(Attempt::Failed(match failure == CLOSED {
                true => blame(&leg),
                false => failure,
            }))
        }
    }
}

/// Why an endpoint has not answered.
fn blame<S: Stream>(leg: &Leg<S>) -> Failure {
    let refused = leg.state().failed();
    refused.map_or(CLOSED, |reject| {
        (Flag::UpstreamProtocol, Some(reject.name()))
    })
}

/// Passes on what there is of a request.
fn upload<S: Stream>(
    cx: &mut Context<'_>,
    up: &mut Pump,
    client: &mut Leg<S>,
    leg: &mut Leg<S>,
) -> Result<(), Failure> {
    match up.poll(cx, client, leg) {
        Poll::Ready(Err(Failed::Reading)) => Err(match client.state().failed() {
            Some(reject) => (Flag::ClientProtocol, Some(reject.name())),
            None => (Flag::ClientGone, None),
        }),
        // An endpoint that takes no more may have answered all the same.
        Poll::Ready(Ok(()) | Err(Failed::Writing)) | Poll::Pending => Ok(()),
    }
}

/// Notes how much of the request has been passed on.
fn note_upload<S: Stream>(exchange: &Exchange<'_, S>, client: &Leg<S>, up: &Pump) {
    let intake = &exchange.tail.intake;
    intake.received.set(client.state().body_bytes());
    intake.ended.set(up.done);
}

/// Passes on an endpoint's response; nothing if another request may follow.
async fn pass<S: Stream>(
    mut exchange: Exchange<'_, S>,
    client: &mut Leg<S>,
    answered: Answered<S>,
    closes: bool,
    to_head: bool,
) -> Option<Served> {
    let Answered {
        head,
        mut leg,
        lease,
        mut up,
    } = answered;
    let parts = match message::response(head) {
        Some(parts) if parts.status != StatusCode::SWITCHING_PROTOCOLS => Ok(parts),
        Some(_) => Err("upgrade"),
        None => Err(Reject::Parser.name()),
    };
    let mut parts = match parts {
        Ok(parts) => parts,
        Err(detail) => {
            let response = exchange.fail((Flag::UpstreamProtocol, Some(detail)));
            return Box::pin(own(client, response, closes, to_head)).await;
        }
    };
    let body = leg.state().body();
    let last = headers::closes(&parts.headers)
        || parts.version == Version::HTTP_10
        || body == Body::UntilEnd;
    let chunked = matches!(body, Body::Chunked | Body::UntilEnd);
    headers::pass_response(parts.status, &mut parts.headers);
    // Whatever keeps the rest from its client is the client's doing, until it turns out otherwise.
    exchange.tail.recorder.note(|record| {
        record.status = parts.status.as_u16();
    });
    let ends = closes || exchange.client.ending.get();
    let mut down = Pump::new(chunked);
    message::write_response(
        &mut down.buffer,
        parts.status,
        &parts.headers,
        chunked,
        ends,
    );
    let failed = poll_fn(|cx| {
        if exchange.tail.deadline.poll_expired(cx).is_ready() {
            return Poll::Ready(Err(Flag::RequestTimeout));
        }
        upload(cx, &mut up, client, &mut leg).map_err(|(flag, _)| flag)?;
        let passed = down.poll(cx, &mut leg, client);
        exchange.tail.recorder.note(|record| {
            record.received = client.state().body_bytes();
            record.sent = leg.state().body_bytes();
        });
        if passed.is_pending() && up.done && client.is_over(cx) {
            return Poll::Ready(Err(Flag::ClientGone));
        }
        passed.map_err(|failed| match failed {
            Failed::Reading => Flag::UpstreamCut,
            Failed::Writing => Flag::ClientGone,
        })
    })
    .await
    .err();
    exchange.tail.recorder.flag(failed);
    // A response before the end of its request leaves connections that are of no more use.
    let whole = failed.is_none() && up.done;
    if whole && !last && leg.state().is_answered() {
        lease.rest(leg);
    } else if whole {
        leg.state().end_in_order();
    }
    match failed {
        Some(_) => Some(Served::Broken),
        None if ends || !up.done => Some(Served::Ended),
        None => None,
    }
}

/// Answers in an endpoint's place; what has come of the request's body is thrown away.
async fn own<S: Stream>(
    leg: &mut Leg<S>,
    response: Response<ResponseBody>,
    closes: bool,
    to_head: bool,
) -> Option<Served> {
    let mut rest = Vec::new();
    let read_all = poll_fn(|cx| {
        // Bound: what the client's window has let in.
        loop {
            rest.clear();
            match leg.poll_body(cx, &mut rest, BODY) {
                Poll::Ready(Ok(true)) => {}
                end => return Poll::Ready(matches!(end, Poll::Ready(Ok(false)))),
            }
        }
    });
    let keep = read_all.await && !closes;
    answer(leg, response, keep, to_head).await
}

/// Writes a response of the node's own; nothing if another request may follow, because it may be kept and nothing says otherwise.
async fn answer<S: Stream>(
    leg: &mut Leg<S>,
    response: Response<ResponseBody>,
    keep: bool,
    to_head: bool,
) -> Option<Served> {
    let (mut parts, mut body) = response.into_parts();
    let length = HeaderValue::from(body.size_hint().exact().unwrap_or(0));
    parts.headers.insert(header::CONTENT_LENGTH, length);
    let close = !keep || headers::closes(&parts.headers);
    let mut out = Vec::new();
    message::write_response(&mut out, parts.status, &parts.headers, false, close);
    // Bound: a text, in one piece.
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let text = frame.data_ref().filter(|_| !to_head);
        out.extend_from_slice(text.map_or(&[], |text| text));
    }
    let mut written = 0;
    let sent = poll_fn(|cx| {
        while written < out.len() {
            written += ready!(leg.poll_write_raw(cx, &[IoSlice::new(&out[written..])]))?;
        }
        Poll::Ready(Ok::<(), std::io::Error>(()))
    });
    match sent.await {
        Err(_) => Some(Served::Broken),
        Ok(()) => close.then_some(Served::Ended),
    }
}
