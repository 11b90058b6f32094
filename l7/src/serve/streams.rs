//! The streams of a client's connection of HTTP/2: hyper's tasks, each given up when its client takes nothing for too long.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::connection::Client;
use super::service::{Exec, Service};
use crate::run::{Deadline, Timers};

/// What a response's body has last done, as its stream is to know: of the one that is being polled or dropped.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(super) enum Passing {
    /// Nothing since the stream was polled before.
    #[default]
    Unasked,
    /// It was asked for more: the client has taken what there was.
    Asked,
    /// It gave a piece, for which hyper awaits a window.
    Given,
    /// The piece has waited for too long.
    Stalled,
}

/// Starts the streams' tasks.
#[derive(Clone)]
pub(super) struct Streams {
    exec: Exec,
    client: Rc<Client>,
    timers: Timers,
    stall: Duration,
}

impl Streams {
    pub(super) fn new<S>(service: &Service<S>, client: &Rc<Client>, stall: Duration) -> Self {
        Self {
            exec: Exec::of(service),
            client: Rc::clone(client),
            timers: service.shared.timers.clone(),
            stall,
        }
    }

    /// Runs a stream until it is over. While a piece of a response awaits a window, hyper does not ask its body again, so nothing
    /// within it could tell the time; dropping it resets the stream.
    fn watch(self, stream: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> {
        let mut stream = Some(Box::pin(stream));
        let mut limit = Deadline::never();
        poll_fn(move |cx| {
            let Some(running) = &mut stream else {
                return Poll::Ready(());
            };
            let polled = running.as_mut().poll(cx);
            match self.client.passing.take() {
                Passing::Given => limit.restart(&self.timers, self.stall),
                Passing::Asked => limit.clear(),
                Passing::Unasked | Passing::Stalled => {}
            }
            if polled.is_pending() && limit.poll_expired(cx).is_ready() {
                self.client.passing.set(Passing::Stalled);
                stream = None;
                self.client.passing.take();
                return Poll::Ready(());
            }
            polled
        })
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.exec.execute(self.clone().watch(stream));
    }
}
