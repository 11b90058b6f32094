//! Tasks are woken when there is something to do, and not before.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::support::*;

#[test]
fn readers_and_writers_are_woken_once_for_each_wait() {
    let mut pair = Pair::new(small());
    let (client, server) = pair.open(&Net::both()[0], 40_000);
    let (reader, writer) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    let (read_waker, write_waker) = (Waker::from(reader.clone()), Waker::from(writer.clone()));
    let (mut read_cx, mut write_cx) = (
        Context::from_waker(&read_waker),
        Context::from_waker(&write_waker),
    );
    let mut buffer = [0; 100];
    assert!(server.poll_read(&mut read_cx, &mut buffer).is_pending());
    pair.pass(Duration::from_millis(100), Duration::from_millis(1));
    assert_eq!(reader.count(), 0);
    write(&client, &[7; 50]);
    pair.exchange();
    assert_eq!(reader.count(), 1);
    assert!(matches!(
        server.poll_read(&mut read_cx, &mut buffer),
        Poll::Ready(Ok(50))
    ));
    // Until the buffers of both ends are full.
    let mut written = 0;
    while let Poll::Ready(Ok(count)) = client.poll_write(&mut write_cx, &[1; 4096]) {
        written += count;
        pair.exchange();
    }
    assert!(written >= 32 << 10, "{written}");
    assert_eq!(writer.count(), 0);
    assert!(!read(&server).0.is_empty());
    pair.pass(Duration::from_millis(20), Duration::from_millis(1));
    assert_eq!(writer.count(), 1);
    // The end of a stream wakes as well.
    read(&server);
    assert!(server.poll_read(&mut read_cx, &mut buffer).is_pending());
    client.abort();
    pair.exchange();
    assert_eq!(reader.count(), 2);
    assert_eq!(
        read_error(&server),
        Some(std::io::ErrorKind::ConnectionReset)
    );
}

#[test]
fn a_connect_wakes_its_writer() {
    let mut pair = Pair::new(small());
    let client = pair.a.connect(&Net::both()[0], 40_000, pair.now);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(client.poll_write(&mut cx, b"early").is_pending());
    pair.exchange();
    assert_eq!(woken.count(), 1);
    assert!(matches!(
        client.poll_write(&mut cx, b"now"),
        Poll::Ready(Ok(3))
    ));
}

#[test]
fn pieces_and_places() {
    let mut pair = Pair::new(small());
    let (client, server) = pair.open(&Net::both()[0], 40_000);
    let pieces = [
        IoSlice::new(b"one "),
        IoSlice::new(b""),
        IoSlice::new(b"two"),
    ];
    let written = client.poll_write_vectored(&mut context(), &pieces);
    assert!(matches!(written, Poll::Ready(Ok(7))));
    let filled = client.poll_fill(&mut context(), |room| {
        room[..6].copy_from_slice(b" three");
        6
    });
    assert!(matches!(filled, Poll::Ready(Ok(6))));
    pair.exchange();
    let peeked = server.poll_peek(&mut context(), |data| {
        assert_eq!(data, b"one two three");
        4
    });
    assert!(matches!(peeked, Poll::Ready(Ok(4))));
    assert!(
        server.poll_peek(&mut context(), |_| 0).is_pending(),
        "left for later"
    );
    let (mut first, mut second) = ([0; 4], [0; 16]);
    let mut buffers = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
    let got = server.poll_read_vectored(&mut context(), &mut buffers);
    assert!(matches!(got, Poll::Ready(Ok(9))));
    assert_eq!((&first, &second[..5]), (b"two ", &b"three"[..]));
    assert!(
        client.is_flushed() || {
            pair.pass(Duration::from_millis(20), Duration::from_millis(1));
            client.is_flushed()
        }
    );
    assert!(client.round_trip().is_some());
}
