//! Connections that are not HTTP, or no longer: bytes both ways.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::connection::Client;
use super::exchange::Failure;
use super::service::Service;
use crate::Stream;
use crate::config::{ConnectRequest, ServiceConfig, Source};
use crate::leg::Leg;
use crate::observe::{Flag, Recorder, Sink};
use crate::upstream::{Underway, connect};

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

/// Joins two legs until both halves have ended; an error of one resets the other. Notes how many bytes went up and down.
pub(super) async fn tunnel<S: Stream>(
    mut client: Leg<S>,
    mut upstream: Leg<S>,
    recorder: &mut Recorder,
) {
    let (mut up, mut down) = (Lane::default(), Lane::default());
    let done = poll_fn(|cx| {
        let went_up = up.poll(cx, &mut client, &mut upstream);
        let went_down = down.poll(cx, &mut upstream, &mut client);
        recorder.note(|record| (record.received, record.sent) = (up.bytes, down.bytes));
        let (went_up, went_down) = (went_up?, went_down?);
        if went_up.is_ready() && went_down.is_ready() {
            return Poll::Ready(Ok::<(), io::Error>(()));
        }
        Poll::Pending
    })
    .await;
    if done.is_ok() {
        client.state().end_in_order();
        upstream.state().end_in_order();
        return;
    }
    recorder.flag(Some(match client.state().lost() {
        Some(_) => Flag::ClientGone,
        None => Flag::UpstreamCut,
    }));
}

/// A connection that is no HTTP: bytes to and from an endpoint of the service's backend for such.
pub(super) async fn tcp<S: Stream>(
    service: &Rc<Service<S>>,
    config: &ServiceConfig,
    leg: Leg<S>,
    client: &Rc<Client>,
) {
    let sink: Rc<dyn Sink> = Rc::clone(service) as Rc<dyn Sink>;
    let mut recorder = Recorder::new(sink, client.record(service.id, service.now()));
    match open(service, config, client, &mut recorder).await {
        Ok((upstream, _underway)) => {
            let upstream = Leg::new(upstream, Vec::new(), None, &service.shared.timers);
            service.metrics.borrow_mut().tunnels += 1;
            tunnel(leg, upstream, &mut recorder).await;
        }
        Err((flag, detail)) => recorder.note(|record| {
            record.flag = Some(flag);
            record.detail = detail;
        }),
    }
}

/// Opens a connection to an endpoint for a tunnel.
async fn open<S: Stream>(
    service: &Rc<Service<S>>,
    config: &ServiceConfig,
    client: &Client,
    recorder: &mut Recorder,
) -> Result<(S, Underway), Failure> {
    let shared = &service.shared;
    let id = config.tcp.ok_or((Flag::InvalidBackend, None))?;
    recorder.note(|record| record.backend = Some(id));
    let backend = service.backend(id).ok_or((Flag::InvalidBackend, None))?;
    let chosen = backend.choose(client.meta.hash, || shared.random());
    let endpoint = chosen.ok_or((Flag::NoEndpoint, None))?;
    recorder.note(|record| record.endpoint = Some(endpoint.address));
    let underway = endpoint.begin().ok_or((Flag::Overflow, None))?;
    let request = ConnectRequest {
        service: service.id,
        backend: id,
        endpoint: endpoint.address,
        client: client.meta,
        source: match endpoint.sees_client() {
            true => Source::Client,
            false => config.source,
        },
    };
    let begun = service.now();
    let opened = connect(service, &backend.config(), &request).await;
    let upstream = opened.map_err(|error| (error.flag(), error.detail()))?;
    recorder.note(|record| record.queued = Some(service.now() - begun));
    service.metrics.borrow_mut().upstream_connections += 1;
    Ok((upstream, underway))
}
