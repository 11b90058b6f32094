use std::cell::Cell;
use std::future::{pending, poll_fn};

use super::*;

const A: GroupId = GroupId(0);
const B: GroupId = GroupId(3);

/// Never ends, and always wants to be polled again.
fn greedy(polls: &Rc<Cell<usize>>) -> impl Future<Output = ()> + use<> {
    let polls = Rc::clone(polls);
    poll_fn(move |cx| {
        polls.set(polls.get() + 1);
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

#[test]
fn groups_get_even_shares_of_a_bounded_turn() {
    let executor = Executor::default();
    let (a, b) = (Rc::default(), Rc::default());
    for _ in 0..100 {
        executor.spawn(A, greedy(&a));
    }
    executor.spawn(B, greedy(&b));
    let ran = executor.run(64, 8);
    assert_eq!((ran.polls, ran.more), (64, true));
    assert_eq!(a.get() + b.get(), 64);
    assert!(b.get() >= 24, "one task of B got {} polls", b.get());
}

#[test]
fn a_task_that_waits_is_not_polled() {
    let executor = Executor::default();
    executor.spawn(A, pending());
    assert_eq!(executor.run(10, 10).polls, 1);
    assert_eq!(executor.run(10, 10), Ran::default());
    assert_eq!(executor.tasks(A), 1);
}

#[test]
fn a_wake_of_a_task_that_is_over_polls_no_other() {
    let executor = Executor::default();
    let kept = Rc::new(RefCell::new(None));
    let keep = Rc::clone(&kept);
    executor.spawn(
        A,
        poll_fn(move |cx| {
            *keep.borrow_mut() = Some(cx.waker().clone());
            Poll::Ready(())
        }),
    );
    executor.run(10, 10);
    let polls = Rc::new(Cell::new(0));
    let count = Rc::clone(&polls);
    executor.spawn(
        A,
        poll_fn(move |_| {
            count.set(count.get() + 1);
            Poll::Pending
        }),
    );
    executor.run(10, 10);
    let kept = kept.borrow_mut().take().unwrap();
    kept.wake();
    executor.run(10, 10);
    assert_eq!(polls.get(), 1);
}

/// AMB-12, U-07.
#[test]
fn a_panic_takes_its_group_and_no_other() {
    struct Bell(Rc<Cell<usize>>);
    impl Drop for Bell {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let executor = Executor::default();
    let dropped = Rc::new(Cell::new(0));
    let b = Rc::default();
    executor.spawn(B, greedy(&b));
    for _ in 0..3 {
        let bell = Bell(Rc::clone(&dropped));
        executor.spawn(A, async move {
            let _bell = bell;
            pending().await
        });
    }
    let inner = executor.clone();
    executor.spawn(A, async move {
        inner.spawn(A, pending());
        panic!("on purpose");
    });
    let ran = executor.run(100, 10);
    assert_eq!(ran.panicked, [A]);
    assert_eq!((executor.tasks(A), dropped.get()), (0, 3));
    assert_eq!(executor.tasks(B), 1);
    // The group can be used again.
    let ended = Rc::new(Cell::new(false));
    let end = Rc::clone(&ended);
    executor.spawn(A, async move { end.set(true) });
    executor.run(100, 10);
    assert!(ended.get());
}

#[test]
fn a_task_may_drop_its_own_group() {
    let executor = Executor::default();
    let inner = executor.clone();
    executor.spawn(A, async move {
        inner.clear(A);
        pending().await
    });
    assert!(executor.run(10, 10).panicked.is_empty());
    assert_eq!(executor.tasks(A), 0);
}
