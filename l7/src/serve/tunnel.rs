//! Connections that are not HTTP, or no longer: bytes both ways.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::connection::Client;
use super::service::Service;
use crate::Stream;
use crate::config::{ConnectRequest, ServiceConfig};
use crate::leg::Leg;
use crate::observe::Flag;

/// Bytes of each direction that have been read and not yet written.
const BUFFER: usize = 16 << 10;

/// One direction.
#[derive(Default)]
struct Lane {
    buffer: Vec<u8>,
    written: usize,
    read_end: bool,
    ended: bool,
    bytes: u64,
}

impl Lane {
    fn poll<S: Stream>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Leg<S>,
        to: &mut Leg<S>,
    ) -> Poll<io::Result<()>> {
        // Bound: a buffer's worth a turn, as long as both ends are ready; a turn takes from the one what the other has room for.
        loop {
            while self.written < self.buffer.len() {
                let piece = [IoSlice::new(&self.buffer[self.written..])];
                let written = ready!(to.poll_write_raw(cx, &piece))?;
                self.written += written;
                self.bytes += written as u64;
            }
            self.buffer.clear();
            self.written = 0;
            if self.read_end {
                if !self.ended {
                    ready!(to.poll_end(cx))?;
                    self.ended = true;
                }
                return Poll::Ready(Ok(()));
            }
            let buffer = &mut self.buffer;
            let read = ready!(from.poll_raw(cx, |bytes| {
                let taken = bytes.len().min(BUFFER);
                buffer.extend_from_slice(&bytes[..taken]);
                taken
            }))?;
            self.read_end = read == 0;
        }
    }
}

/// Joins two legs until both halves have ended; an error of one resets the other. Says how many bytes went up and down.
pub(super) async fn tunnel<S: Stream>(mut client: Leg<S>, mut upstream: Leg<S>) -> (u64, u64) {
    let (mut up, mut down) = (Lane::default(), Lane::default());
    let done = poll_fn(|cx| {
        let up = up.poll(cx, &mut client, &mut upstream)?;
        let down = down.poll(cx, &mut upstream, &mut client)?;
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(Ok::<(), io::Error>(()));
        }
        Poll::Pending
    })
    .await;
    if done.is_ok() {
        client.state().end_in_order();
        upstream.state().end_in_order();
    }
    (up.bytes, down.bytes)
}

/// A connection that is no HTTP: bytes to and from an endpoint of the service's backend for such.
pub(super) async fn tcp<S: Stream>(
    service: &Rc<Service<S>>,
    config: &ServiceConfig,
    leg: Leg<S>,
    client: &Rc<Client>,
) {
    let Some((id, backend)) = config.tcp.and_then(|id| Some((id, service.backend(id)?))) else {
        return;
    };
    let shared = &service.shared;
    let chosen = backend.choose(client.meta.hash, || shared.random());
    let Some(endpoint) = chosen else {
        return service.count(Flag::NoEndpoint);
    };
    let Some(_underway) = endpoint.begin() else {
        return service.count(Flag::Overflow);
    };
    let request = ConnectRequest {
        service: service.id,
        backend: id,
        endpoint: endpoint.address,
        client: client.meta,
        source: config.source,
    };
    // The first byte may be the endpoint's: a tunnel waits for the connection by itself, and ends with it.
    match shared.connect(&request) {
        Ok(stream) => {
            let upstream = Leg::new(stream, Vec::new(), None, &shared.timers);
            service.metrics.borrow_mut().tunnels += 1;
            tunnel(leg, upstream).await;
        }
        Err(_) => service.count(Flag::ConnectFailed),
    }
}
