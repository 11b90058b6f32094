//! A bound on how long something may take.

use std::future::{Future, poll_fn};
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Alarm, Timers};

/// A moment by which something has to be over, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Deadline(Option<Alarm>);

impl Deadline {
    /// No bound.
    pub(crate) const fn never() -> Self {
        Self(None)
    }

    /// So long from now; never without a time.
    pub(crate) fn after(timers: &Timers, time: Option<Duration>) -> Self {
        Self(time.map(|time| {
            let alarm = timers.alarm();
            alarm.set(timers.now() + time);
            alarm
        }))
    }

    /// So long from now, in place of what it was before.
    pub(crate) fn restart(&mut self, timers: &Timers, time: Duration) {
        let alarm = self.0.get_or_insert_with(|| timers.alarm());
        alarm.set(timers.now() + time);
    }

    /// Takes the bound away, until the next [`Self::restart`].
    pub(crate) fn clear(&self) {
        if let Some(alarm) = &self.0 {
            alarm.clear();
        }
    }

    pub(crate) fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.0 {
            Some(alarm) => alarm.poll_expired(cx),
            None => Poll::Pending,
        }
    }

    /// What the future comes to, or nothing if it takes too long.
    pub(crate) async fn within<F: Future + Unpin>(&self, mut future: F) -> Option<F::Output> {
        poll_fn(|cx| {
            if let Poll::Ready(output) = std::pin::Pin::new(&mut future).poll(cx) {
                return Poll::Ready(Some(output));
            }
            self.poll_expired(cx).map(|()| None)
        })
        .await
    }
}
