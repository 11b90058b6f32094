use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;
use std::time::Duration;

use super::*;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Woken {
    fn times(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

const fn at(millis: u64) -> Now {
    Now::from_millis(millis)
}

#[test]
fn an_alarm_wakes_at_its_deadline_and_not_before() {
    let timers = Timers::default();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    let alarm = timers.alarm();
    alarm.set(at(10));
    assert!(alarm.poll_expired(&mut cx).is_pending());
    timers.advance(at(9));
    assert_eq!(woken.times(), 0);
    assert_eq!(timers.next(), Some(at(10)));
    timers.advance(at(10));
    assert_eq!(woken.times(), 1);
    assert!(alarm.poll_expired(&mut cx).is_ready());
    assert_eq!(timers.next(), None);
}

#[test]
fn a_deadline_moves_later_earlier_and_away() {
    let timers = Timers::default();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    let alarm = timers.alarm();
    alarm.set(at(10));
    alarm.set(at(30)); // Later: the queue finds out at 10.
    assert!(alarm.poll_expired(&mut cx).is_pending());
    timers.advance(at(10));
    assert_eq!((woken.times(), timers.next()), (0, Some(at(30))));
    alarm.set(at(20));
    assert_eq!(timers.next(), Some(at(20)));
    timers.advance(at(20));
    assert_eq!(woken.times(), 1);
    alarm.set(at(40));
    alarm.clear();
    assert!(alarm.poll_expired(&mut cx).is_pending());
    timers.advance(at(50));
    assert_eq!((woken.times(), timers.next()), (1, None));
    drop(alarm);
    assert!(timers.0.borrow().alarms.is_empty());
}

#[test]
fn the_queue_never_holds_more_than_there_are_alarms() {
    let timers = Timers::default();
    let alarms: Vec<Alarm> = (0..100).map(|_| timers.alarm()).collect();
    for round in 0..50u64 {
        for (index, alarm) in alarms.iter().enumerate() {
            alarm.set(at(1_000 + (round * 37 + index as u64 * 11) % 900));
        }
    }
    assert_eq!(timers.0.borrow().queue.len(), alarms.len());
    drop(alarms);
    assert!(timers.0.borrow().queue.is_empty());
    assert_eq!(timers.now() + Duration::from_millis(1), at(1));
}
