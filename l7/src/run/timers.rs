//! Deadlines of tasks, driven by the time they are told.
//!
//! A connection has one alarm and moves it several times a request, nearly always to a later time than the one that is
//! queued already. So moving it later only notes the new time; the queue learns of it when the old one comes. That
//! makes an ordered set, with no bound on how far ahead a deadline may lie, cheaper here than a wheel.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use crate::Now;

#[derive(Debug, Default)]
struct Entry {
    deadline: Option<Now>,
    /// Where the queue has it: never later than the deadline.
    queued: Option<Now>,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Inner {
    now: Now,
    /// At most one place for each alarm.
    queue: BTreeSet<(Now, usize)>,
    alarms: Slab<Entry>,
}

/// The alarms of a stage, and its clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers(Rc<RefCell<Inner>>);

impl Timers {
    /// The time of this turn.
    pub(crate) fn now(&self) -> Now {
        self.0.borrow().now
    }

    /// A new alarm, not set.
    pub(crate) fn alarm(&self) -> Alarm {
        let id = self.0.borrow_mut().alarms.insert(Entry::default());
        Alarm {
            timers: self.clone(),
            id,
        }
    }

    /// Advances the clock and wakes the tasks whose deadline has come. A time before the last one counts as that.
    pub(crate) fn advance(&self, now: Now) {
        self.0.borrow_mut().now = self.now().max(now);
        // Bound: each alarm once, since it is queued again for after `now` only.
        while let Some(waker) = self.next_due() {
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Takes the first alarm whose place in the queue has come, and whom to wake if its deadline has, too.
    fn next_due(&self) -> Option<Option<Waker>> {
        let mut inner = self.0.borrow_mut();
        let now = inner.now;
        let (at, id) = *inner.queue.first().filter(|(at, _)| *at <= now)?;
        inner.queue.remove(&(at, id));
        let entry = inner.alarms.get_mut(id)?;
        entry.queued = entry.deadline.filter(|deadline| *deadline > now);
        if let Some(later) = entry.queued {
            inner.queue.insert((later, id));
            return Some(None);
        }
        let due = entry.deadline.is_some();
        Some(entry.waker.take().filter(|_| due))
    }

    /// When to advance at the latest: not after the first deadline, perhaps before it.
    pub(crate) fn next(&self) -> Option<Now> {
        self.0.borrow().queue.first().map(|(at, _)| *at)
    }
}

/// One deadline of a task.
#[derive(Debug)]
pub(crate) struct Alarm {
    timers: Timers,
    id: usize,
}

impl Alarm {
    /// Sets the deadline, in place of any before.
    pub(crate) fn set(&self, at: Now) {
        let mut inner = self.timers.0.borrow_mut();
        let inner = &mut *inner;
        let Some(entry) = inner.alarms.get_mut(self.id) else {
            return;
        };
        entry.deadline = Some(at);
        if entry.queued.is_some_and(|queued| queued <= at) {
            return;
        }
        if let Some(queued) = entry.queued.replace(at) {
            inner.queue.remove(&(queued, self.id));
        }
        inner.queue.insert((at, self.id));
    }

    /// Takes the deadline away.
    pub(crate) fn clear(&self) {
        if let Some(entry) = self.timers.0.borrow_mut().alarms.get_mut(self.id) {
            entry.deadline = None;
        }
    }

    /// Ready once the deadline has come; for ever pending without one.
    pub(crate) fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.timers.0.borrow_mut();
        let now = inner.now;
        let Some(entry) = inner.alarms.get_mut(self.id) else {
            return Poll::Pending;
        };
        if entry.deadline.is_some_and(|deadline| deadline <= now) {
            return Poll::Ready(());
        }
        match &mut entry.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut inner = self.timers.0.borrow_mut();
        let entry = inner.alarms.try_remove(self.id);
        if let Some(queued) = entry.and_then(|entry| entry.queued) {
            inner.queue.remove(&(queued, self.id));
        }
    }
}

#[cfg(test)]
mod tests;
