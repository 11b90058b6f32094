//! The tasks that drive connections to endpoints.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use hyper::client::conn::{http1, http2};

use super::RequestBody;
use super::connection::{Connection, Sender};
use crate::Stream;
use crate::leg::Leg;
use crate::run::Alarm;
use crate::serve::{Exec, Service};

/// Looks after a connection while it rests: closes it when it has for long enough, when the endpoint does, and when nobody wants it any
/// more.
pub(super) fn watch<S: Stream>(
    service: Rc<Service<S>>,
    connection: Rc<Connection>,
    idle: Duration,
) -> impl Future<Output = ()> {
    let gone = Gone(Rc::clone(&connection));
    look_after(service, connection, idle, gone)
}

async fn look_after<S: Stream>(
    service: Rc<Service<S>>,
    connection: Rc<Connection>,
    idle: Duration,
    gone: Gone,
) {
    let timers = &service.shared.timers;
    let alarm = timers.alarm();
    poll_fn(|cx| {
        connection.register(cx.waker());
        // Bound: an alarm that has come is set to a later time, or ends this.
        loop {
            if connection.is_closed() {
                return Poll::Ready(());
            }
            let mut since = timers.now();
            if let Some(mut leg) = connection.resting::<S>() {
                since = connection.rested();
                let quiet = leg.is_quiet(cx);
                connection.put_back(leg);
                if !quiet || since + idle <= timers.now() {
                    return Poll::Ready(());
                }
            }
            alarm.set(since + idle);
            std::task::ready!(alarm.poll_expired(cx));
        }
    })
    .await;
    drop(gone);
    if let Some(reject) = connection.leg.failed() {
        service.metrics.borrow_mut().upstream_rejected[reject as usize] += 1;
    } else if connection.leg.is_answered() {
        connection.leg.end_in_order();
    }
    drop(connection.resting::<S>());
}

/// Drives a connection of HTTP/1.1, puts it back into its pool after each request, and closes it when it has been idle.
pub(super) fn run_http1<S: Stream>(
    service: Rc<Service<S>>,
    task: http1::Connection<Leg<S>, RequestBody>,
    connection: Rc<Connection>,
    idle: Duration,
) -> impl Future<Output = ()> {
    // Before the first poll, which may never come.
    let gone = Gone(Rc::clone(&connection));
    drive_http1(service, task, connection, idle, gone)
}

async fn drive_http1<S: Stream>(
    service: Rc<Service<S>>,
    mut task: http1::Connection<Leg<S>, RequestBody>,
    connection: Rc<Connection>,
    idle: Duration,
    gone: Gone,
) {
    let timers = &service.shared.timers;
    let alarm = timers.alarm();
    let mut returned: Option<Sender> = None;
    let ended = poll_fn(|cx| {
        connection.register(cx.waker());
        // Bound: each turn takes the sender away or waits.
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut task).poll(cx) {
                return Poll::Ready(ended);
            }
            returned = connection.returned().or(returned.take());
            match returned.as_mut().map(|sender| sender.poll_ready(cx)) {
                Some(Poll::Ready(Ok(()))) => {
                    connection.settle();
                    alarm.set(timers.now() + idle);
                    let sender = returned.take();
                    let kept = sender.is_some_and(|sender| {
                        connection.endpoint.put(connection.key, &connection, sender)
                    });
                    if kept && !expired(&alarm, &connection, cx) {
                        return Poll::Pending;
                    }
                }
                Some(Poll::Ready(Err(_))) => {
                    connection.settle();
                    returned = None;
                }
                Some(Poll::Pending) => return Poll::Pending,
                None if expired(&alarm, &connection, cx) => {}
                None => return Poll::Pending,
            }
        }
    })
    .await;
    drop(gone);
    let leg = task.into_parts().io;
    let state = Rc::clone(leg.state());
    if let Some(reject) = state.failed() {
        service.metrics.borrow_mut().upstream_rejected[reject as usize] += 1;
    }
    let sound = ended.is_ok() && state.failed().is_none();
    if sound && state.status() == 101 {
        connection.detach(Some(Box::new(leg)));
        return;
    }
    if sound && state.is_answered() {
        state.end_in_order();
    }
    connection.detach(None);
}

/// Drives a connection of HTTP/2, and closes it when it has been idle.
pub(super) fn run_http2<S: Stream>(
    service: Rc<Service<S>>,
    task: http2::Connection<Leg<S>, RequestBody, Exec>,
    connection: Rc<Connection>,
    idle: Duration,
) -> impl Future<Output = ()> {
    let gone = Gone(Rc::clone(&connection));
    drive_http2(service, task, connection, idle, gone)
}

async fn drive_http2<S: Stream>(
    service: Rc<Service<S>>,
    mut task: http2::Connection<Leg<S>, RequestBody, Exec>,
    connection: Rc<Connection>,
    idle: Duration,
    gone: Gone,
) {
    let timers = &service.shared.timers;
    let alarm = timers.alarm();
    let mut busy = true;
    let ended = poll_fn(|cx| {
        connection.register(cx.waker());
        let was_busy = std::mem::replace(&mut busy, connection.streams() > 0);
        if was_busy && !busy {
            alarm.set(timers.now() + idle);
        }
        let _ = expired(&alarm, &connection, cx);
        Pin::new(&mut task).poll(cx)
    })
    .await;
    if ended.is_ok() {
        connection.leg.end_in_order();
    }
    drop(gone);
}

/// Takes the connection out of its pool if it has been idle for long enough; then it ends by itself.
fn expired(alarm: &Alarm, connection: &Rc<Connection>, cx: &mut std::task::Context<'_>) -> bool {
    if alarm.poll_expired(cx).is_pending() {
        return false;
    }
    alarm.clear();
    let idle = connection.streams() == 0;
    if idle {
        connection.endpoint.evict(&connection.key, connection);
    }
    idle
}

/// Says that the connection is no more, however its task ends.
struct Gone(Rc<Connection>);

impl Drop for Gone {
    fn drop(&mut self) {
        let connection = &self.0;
        connection.close();
        connection.settle();
        connection.endpoint.evict(&connection.key, connection);
        connection.endpoint.closed(&connection.key);
    }
}
