//! Clients and endpoints that speak HTTP/2, driven by hand.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::rt::{Executor, Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use weft_l7::Stream;
use weft_l7::memory::MemoryStream;

use crate::support::{Peer, World};

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A stream as hyper wants it.
pub struct Io(pub MemoryStream);

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
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
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Tasks that are polled again and again, whether they were woken or not.
#[derive(Clone, Default)]
pub struct Driver(Rc<RefCell<Vec<Task>>>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Driver {
    fn execute(&self, future: F) {
        self.0.borrow_mut().push(Box::pin(future));
    }
}

impl Driver {
    /// A round of everything.
    #[track_caller]
    pub fn round(&self, world: &mut World) {
        world.run();
        let tasks = self.0.take();
        for mut task in tasks {
            if task
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
            {
                self.0.borrow_mut().push(task);
            }
        }
    }

    /// The next connection that an endpoint was sent.
    #[track_caller]
    pub fn opened(&self, world: &mut World) -> Peer {
        for _ in 0..20 {
            self.round(world);
        }
        world.opened()
    }

    /// Goes on until the future is ready; nothing after some time that is long enough for all that works.
    #[track_caller]
    pub fn wait<F: Future>(&self, world: &mut World, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        for _ in 0..2_000 {
            let polled = future
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(output) = polled {
                return Some(output);
            }
            self.round(world);
        }
        None
    }

    /// A client's connection.
    #[track_caller]
    pub fn client(&self, world: &mut World) -> hyper::client::conn::http2::SendRequest<Body> {
        let Peer(stream) = world.client();
        let handshake = hyper::client::conn::http2::handshake(self.clone(), Io(stream));
        let (sender, connection) = self.wait(world, handshake).unwrap().unwrap();
        self.execute(async move {
            let _ = connection.await;
        });
        sender
    }

    /// Serves a connection as an endpoint does.
    pub fn endpoint<F>(&self, peer: Peer, answer: impl Fn(Request<Incoming>) -> F + 'static)
    where
        F: Future<Output = Response<Body>> + 'static,
    {
        let service = service_fn(move |request| {
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let builder = hyper::server::conn::http2::Builder::new(self.clone());
        let connection = builder.serve_connection(Io(peer.0), service);
        self.execute(async move {
            let _ = connection.await;
        });
    }
}

/// A body of these pieces, and then these trailers.
pub fn body(pieces: &[&'static str], trailers: Option<(&'static str, &'static str)>) -> Body {
    let data = pieces
        .iter()
        .map(|piece| Frame::data(Bytes::from_static(piece.as_bytes())));
    let trailers = trailers.map(|(name, value)| {
        let mut map = HeaderMap::new();
        map.insert(name, value.parse().unwrap());
        Frame::trailers(map)
    });
    let frames: Vec<_> = data.chain(trailers).map(Ok::<_, Infallible>).collect();
    let mut frames = frames.into_iter();
    let stream = Frames(Box::new(move || frames.next()));
    StreamBody::new(stream).boxed_unsync()
}

/// Frames one after another.
struct Frames(Box<dyn FnMut() -> Option<Result<Frame<Bytes>, Infallible>> + Send>);

impl futures_util::Stream for Frames {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready((self.0)())
    }
}

/// A `GET` of this URL.
pub fn get(url: &str) -> Request<Body> {
    Request::get(url).body(body(&[], None)).unwrap()
}

/// The whole of a response's body, and its trailers.
pub async fn read(response: Response<Incoming>) -> (String, Option<HeaderMap>) {
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    (
        String::from_utf8_lossy(&collected.to_bytes()).into_owned(),
        trailers,
    )
}
