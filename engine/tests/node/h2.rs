//! A client that speaks HTTP/2: its requests at once on one connection, and what came of each.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::rt::{Executor, Read, ReadBufCursor, Write};
use hyper::{Request, Response};
use weft_datapath::Now;
use weft_stack::Stream;

use crate::books::Outcome;
use crate::client::{named, right};
use crate::plan::{Ask, Random, content};
use crate::pods::Pod;
use crate::stream::Attention;
use crate::{PATIENCE, VIP};

type Task = Pin<Box<dyn Future<Output = ()>>>;
type Outcomes = Rc<RefCell<Vec<(Ask, Outcome)>>>;

/// A connection as hyper wants it.
struct Io(Stream);

impl Read for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.0.poll_peek(cx, |bytes| {
            let taken = bytes.len().min(out.remaining());
            out.put_slice(&bytes[..taken]);
            taken
        });
        read.map_ok(drop)
    }
}

impl Write for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_shutdown(cx)
    }
}

/// The tasks of a client.
#[derive(Clone, Default)]
struct Tasks(Rc<RefCell<Vec<Task>>>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        self.0.borrow_mut().push(Box::pin(future));
    }
}

pub struct Client {
    pub attention: Attention,
    pub pod: usize,
    port: u16,
    asks: VecDeque<Ask>,
    tasks: Tasks,
    sender: Rc<RefCell<Option<SendRequest<Full<Bytes>>>>>,
    /// Whether it has begun to connect.
    begun: bool,
    under_way: Rc<Cell<usize>>,
    /// Since when nothing has come of anything.
    since: Now,
    known: usize,
    outcomes: Outcomes,
}

impl Client {
    pub fn new(place: (usize, u16), asks: VecDeque<Ask>, start: Now) -> Self {
        Self {
            attention: Attention::at(start),
            pod: place.0,
            port: place.1,
            asks,
            tasks: Tasks::default(),
            sender: Rc::default(),
            begun: false,
            under_way: Rc::default(),
            since: start,
            known: 0,
            outcomes: Rc::default(),
        }
    }

    pub fn is_done(&self) -> bool {
        self.begun && self.asks.is_empty() && self.tasks.0.borrow().is_empty()
    }

    pub fn outcomes(&self) -> Vec<(Ask, Outcome)> {
        self.outcomes.borrow().clone()
    }

    pub fn step(&mut self, pod: &Pod, now: Now, random: &mut Random) {
        if !self.begun {
            self.begun = true;
            self.since = now;
            self.connect(pod.connect(self.port, VIP, now));
        }
        if random.below(3) > 0
            && let Some(sender) = self.sender.borrow_mut().as_mut()
            && let Some(ask) = self.asks.pop_front()
        {
            let response = sender.send_request(request(&ask));
            let (outcomes, under_way) = (Rc::clone(&self.outcomes), Rc::clone(&self.under_way));
            under_way.set(under_way.get() + 1);
            self.tasks.execute(async move {
                let outcome = judge(&ask, response.await).await;
                outcomes.borrow_mut().push((ask, outcome));
                under_way.set(under_way.get() - 1);
            });
            self.since = now;
        }
        let tasks = self.tasks.0.take();
        for mut task in tasks {
            let polled = task.as_mut().poll(&mut self.attention.context());
            if polled.is_pending() {
                self.tasks.0.borrow_mut().push(task);
            }
        }
        let known = self.outcomes.borrow().len();
        if known > self.known {
            (self.known, self.since) = (known, now);
        }
        if self.asks.is_empty() && self.under_way.get() == 0 && self.sender.take().is_some() {
            self.attention.by(now); // Without a sender, the connection ends in order.
        }
        assert!(
            self.is_done() || now.since(self.since) < PATIENCE,
            "nothing comes of it: {:?} of {} more",
            self.outcomes.borrow(),
            self.under_way.get()
        );
        if !self.asks.is_empty() {
            self.attention
                .by(now + Duration::from_micros(1 + random.below(2_000)));
        }
        if !self.is_done() {
            self.attention.by(self.since + PATIENCE);
        }
    }

    fn connect(&self, stream: Stream) {
        let (tasks, slot) = (self.tasks.clone(), Rc::clone(&self.sender));
        self.tasks.execute(async move {
            let opened = handshake(tasks, Io(stream)).await;
            let (sender, connection) = opened.expect("the node speaks HTTP/2");
            *slot.borrow_mut() = Some(sender);
            let _ = connection.await; // Of requests that it takes along, each says so itself.
        });
    }
}

fn request(ask: &Ask) -> Request<Full<Bytes>> {
    let request = Request::builder()
        .method(ask.method)
        .uri(format!("http://sim/{}", ask.number));
    let body = content(ask.number, ask.sends);
    request.body(Full::new(body.into())).expect("a request")
}

async fn judge(ask: &Ask, response: hyper::Result<Response<Incoming>>) -> Outcome {
    let response = match response {
        Ok(response) => response,
        Err(error) => {
            // The reset has come right behind the head.
            assert!(ask.fault.is_within(), "{error:?} to {ask:?}");
            return Outcome::Cut;
        }
    };
    let (head, body) = response.into_parts();
    let number = head.headers.get("x-number").cloned();
    let body = body.collect().await;
    match (head.status.as_u16(), body) {
        (200, Ok(body)) => {
            assert_eq!(number.expect("a number"), ask.number.to_string());
            right(ask, &body.to_bytes())
        }
        (200, Err(_)) => {
            assert!(ask.fault.is_within(), "cut for no reason: {ask:?}");
            Outcome::Cut
        }
        (status, _) => named(ask, status),
    }
}
