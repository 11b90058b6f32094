//! Back-pressure: where there is no frame, the stack waits, and drops nothing.

use std::time::Duration;

use weft_stack::*;

use crate::support::*;

#[test]
fn x_12_no_frame_no_loss() {
    for room in [1, 2, 7] {
        let mut pair = Pair::new(ServiceOptions {
            receive_buffer: 64 << 10,
            send_buffer: 64 << 10,
            ..small()
        });
        let (client, server) = pair.open(&Net::both()[0], 40_000);
        pair.a.wire.room = room;
        pair.b.wire.room = room;
        let data = pattern(300_000);
        let (mut sent, mut got) = (0, Vec::new());
        for _ in 0..100_000 {
            sent += write(&client, &data[sent..]);
            pair.exchange();
            got.extend(read(&server).0);
            pair.now = pair.now + Duration::from_micros(100);
            if got.len() == data.len() {
                break;
            }
        }
        assert!(got == data, "{} of {}", got.len(), data.len());
        for host in [&pair.a, &pair.b] {
            let counters = host.stack.counters();
            assert_eq!(counters.dropped.iter().sum::<u64>(), 0);
            assert_eq!(counters.events(Event::Retransmission), 0);
        }
    }
}

#[test]
fn with_no_frame_at_all_nothing_moves_and_nothing_is_lost() {
    let mut pair = Pair::new(small());
    let (client, server) = pair.open(&Net::both()[0], 40_000);
    pair.a.wire.room = 0;
    write(&client, b"waiting");
    pair.pass(Duration::from_millis(30), Duration::from_millis(1));
    assert_eq!(pair.a.stack.next(), Some(pair.now), "it asks to be polled");
    pair.a.wire.room = 1;
    pair.exchange();
    assert_eq!(read(&server).0, b"waiting");
}

#[test]
fn answers_have_a_bound_and_what_needs_one_is_not_taken() {
    let mut config = config(2);
    config.limits.replies = 4;
    let mut pair = Pair::new(small());
    pair.b = Host::new(&config, small());
    pair.b.wire.room = 0;
    for port in 0..6 {
        let _stream =
            std::mem::ManuallyDrop::new(pair.a.connect(&Net::both()[0], 40_000 + port, pair.now));
    }
    pair.a.poll(pair.now);
    for frame in std::mem::take(&mut pair.a.wire.frames) {
        pair.b.receive(frame, pair.now).unwrap();
    }
    assert_eq!(pair.b.drops(DropReason::ReplyRoom), 2);
    pair.b.wire.room = usize::MAX;
    pair.exchange();
    pair.pass(Duration::from_millis(1_200), Duration::from_millis(10));
    assert_eq!(pair.a.event(Event::Connected), 6, "their SYNs came again");
}

#[test]
fn large_packets_for_a_device_that_segments() {
    for net in Net::both() {
        let mut pair = Pair::new(ServiceOptions {
            receive_buffer: 256 << 10,
            send_buffer: 256 << 10,
            ..small()
        });
        let (client, server) = pair.open(&net, 40_000);
        client.set_segmentation(true);
        let data = pattern(1_000_000);
        let (mut sent, mut got) = (0, Vec::new());
        for _ in 0..10_000 {
            sent += write(&client, &data[sent..]);
            // The lane checks no sums, and hands packets on as they are.
            pair.a.poll(pair.now);
            for mut frame in std::mem::take(&mut pair.a.wire.frames) {
                let Ok(weft_datapath::Parsed::Flow(packet)) = weft_datapath::parse(&frame) else {
                    panic!("no TCP");
                };
                let arrival = Arrival {
                    route: ROUTE,
                    verified: true,
                };
                pair.b
                    .stack
                    .ingest(&mut frame, &packet, arrival, &pair.b.listeners, pair.now);
            }
            got.extend(read(&server).0);
            pair.b.poll(pair.now);
            for frame in std::mem::take(&mut pair.b.wire.frames) {
                pair.a.receive(frame, pair.now).unwrap();
            }
            pair.now = pair.now + Duration::from_micros(100);
            if got.len() == data.len() {
                break;
            }
        }
        assert!(got == data, "{} of {}", got.len(), data.len());
        let mss = if net.client.is_v4() { 1460 } else { 1440 };
        let large: Vec<_> = pair
            .a
            .wire
            .packets
            .iter()
            .filter(|p| p.len > 1500)
            .collect();
        assert!(
            large
                .iter()
                .all(|p| p.segment.is_some_and(|size| size.get() == mss))
        );
        assert!(
            large.iter().any(|p| p.len > 40_000),
            "{:?}",
            large.iter().map(|p| p.len).max()
        );
        assert!(
            pair.a
                .wire
                .packets
                .iter()
                .all(|p| p.len > 1500 || p.segment.is_none())
        );
    }
}
