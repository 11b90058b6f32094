//! Tasks in groups, one group a service: a fair and bounded share of each turn, and a panic that stays in its group.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use slab::Slab;

type Boxed = Pin<Box<dyn Future<Output = ()>>>;

/// A group of tasks.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct GroupId(pub(crate) u32);

/// What is to be polled. Wakers must be `Send`, hence the lock; nobody else ever holds it here.
#[derive(Debug, Default)]
struct Ready {
    /// Groups that have woken tasks, each once.
    groups: VecDeque<usize>,
    queues: Vec<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    tasks: VecDeque<Woken>,
    /// Whether the group is among [`Ready::groups`], or has its turn.
    listed: bool,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
struct Woken {
    task: usize,
    /// Tells a task from an earlier one in its place.
    serial: u64,
}

struct Handle {
    ready: Arc<Mutex<Ready>>,
    group: usize,
    woken: Woken,
    queued: AtomicBool,
}

fn lock(ready: &Mutex<Ready>) -> MutexGuard<'_, Ready> {
    // Nothing that can panic runs under the lock.
    ready.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wake for Handle {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut ready = lock(&self.ready);
        let ready = &mut *ready;
        if let Some(queue) = ready.queues.get_mut(self.group) {
            queue.tasks.push_back(self.woken);
            if !queue.listed {
                queue.listed = true;
                ready.groups.push_back(self.group);
            }
        }
    }
}

struct Task {
    /// Out while it is being polled.
    future: Option<Boxed>,
    handle: Arc<Handle>,
    waker: Waker,
}

#[derive(Default)]
struct Tasks {
    groups: Vec<Slab<Task>>,
    serial: u64,
}

/// What a call of [`Executor::run`] came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ran {
    /// Tasks that were polled.
    pub(crate) polls: usize,
    /// Whether some are left that want to be.
    pub(crate) more: bool,
    /// Groups in which a task has panicked: all tasks of theirs are gone.
    pub(crate) panicked: Vec<GroupId>,
}

/// The tasks of a stage. Clones are of the same.
#[derive(Clone, Default)]
pub(crate) struct Executor {
    ready: Arc<Mutex<Ready>>,
    tasks: Rc<RefCell<Tasks>>,
}

impl Executor {
    /// Adds a task, to be polled in the next turn or in the rest of this one.
    pub(crate) fn spawn(&self, group: GroupId, future: impl Future<Output = ()> + 'static) {
        let index = group.0 as usize;
        let handle = {
            let mut tasks = self.tasks.borrow_mut();
            if index >= tasks.groups.len() {
                tasks.groups.resize_with(index + 1, Slab::new);
                let mut ready = lock(&self.ready);
                ready.queues.resize_with(index + 1, Queue::default);
            }
            tasks.serial += 1;
            let serial = tasks.serial;
            let Some(group) = tasks.groups.get_mut(index) else {
                return; // Never: it has been made.
            };
            let place = group.vacant_entry();
            let handle = Arc::new(Handle {
                ready: Arc::clone(&self.ready),
                group: index,
                woken: Woken {
                    task: place.key(),
                    serial,
                },
                queued: AtomicBool::new(false),
            });
            place.insert(Task {
                future: Some(Box::pin(future)),
                waker: Waker::from(Arc::clone(&handle)),
                handle: Arc::clone(&handle),
            });
            handle
        };
        handle.wake();
    }

    /// Polls woken tasks: of one group after another at most `share` at a time, and `most` in all.
    pub(crate) fn run(&self, most: usize, share: usize) -> Ran {
        let mut ran = Ran::default();
        while ran.polls < most {
            let Some(group) = lock(&self.ready).groups.pop_front() else {
                return ran;
            };
            for _ in 0..share.min(most - ran.polls) {
                let Some(woken) = lock(&self.ready).queues[group].tasks.pop_front() else {
                    break;
                };
                ran.polls += 1;
                if self.poll(group, woken).is_err() {
                    self.clear(GroupId(group as u32));
                    ran.panicked.push(GroupId(group as u32));
                }
            }
            let mut ready = lock(&self.ready);
            let queue = &mut ready.queues[group];
            queue.listed = !queue.tasks.is_empty();
            if queue.listed {
                ready.groups.push_back(group);
            }
        }
        ran.more = !lock(&self.ready).groups.is_empty();
        ran
    }

    /// Wakes every task.
    pub(crate) fn wake_all(&self) {
        let tasks = self.tasks.borrow();
        for (_, task) in tasks.groups.iter().flatten() {
            task.handle.wake_by_ref();
        }
    }

    /// Whether a task wants to be polled.
    pub(crate) fn is_woken(&self) -> bool {
        !lock(&self.ready).groups.is_empty()
    }

    /// Polls one task; an error is its panic.
    fn poll(&self, group: usize, woken: Woken) -> Result<(), ()> {
        let (mut future, waker) = {
            let mut tasks = self.tasks.borrow_mut();
            let found = tasks.groups[group].get_mut(woken.task);
            let Some(task) = found.filter(|task| task.handle.woken == woken) else {
                return Ok(());
            };
            task.handle.queued.store(false, Ordering::Relaxed);
            let Some(future) = task.future.take() else {
                return Ok(());
            };
            (future, task.waker.clone())
        };
        let mut cx = Context::from_waker(&waker);
        // What a panic leaves half done is the group's own, all of which goes.
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx)));
        if let Ok(Poll::Pending) = polled {
            let mut tasks = self.tasks.borrow_mut();
            let found = tasks.groups[group].get_mut(woken.task);
            if let Some(task) = found.filter(|task| task.handle.woken == woken) {
                task.future = Some(future);
                return Ok(());
            }
        } else {
            let removed = self.remove(group, woken);
            drop(removed);
        }
        // Its drop may spawn and wake, so nothing is borrowed.
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(future)));
        polled.and(dropped).map_err(drop)
    }

    fn remove(&self, group: usize, woken: Woken) -> Option<Task> {
        let mut tasks = self.tasks.borrow_mut();
        let group = tasks.groups.get_mut(group)?;
        let is_it = group
            .get(woken.task)
            .is_some_and(|task| task.handle.woken == woken);
        is_it.then(|| group.remove(woken.task))
    }

    /// Drops all tasks of a group, those too that their drops spawn.
    pub(crate) fn clear(&self, group: GroupId) {
        let index = group.0 as usize;
        // Bound: a task that spawns another while it is dropped does so once; a hundred generations are a mistake.
        for _ in 0..100 {
            let taken = {
                let mut tasks = self.tasks.borrow_mut();
                tasks.groups.get_mut(index).map(std::mem::take)
            };
            let Some(taken) = taken.filter(|taken| !taken.is_empty()) else {
                break;
            };
            for (_, task) in taken {
                // A second panic, in a drop, is part of the first.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
            }
        }
        if let Some(queue) = lock(&self.ready).queues.get_mut(index) {
            queue.tasks.clear();
        }
    }

    /// Tasks of a group that are not over.
    pub(crate) fn tasks(&self, group: GroupId) -> usize {
        let tasks = self.tasks.borrow();
        tasks.groups.get(group.0 as usize).map_or(0, Slab::len)
    }
}

#[cfg(test)]
mod tests;
