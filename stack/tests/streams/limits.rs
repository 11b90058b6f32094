//! Every bound, and what happens at it.

use std::time::Duration;

use weft_stack::*;

use crate::support::*;

const STEP: Duration = Duration::from_millis(10);

#[test]
fn a_service_has_its_limit_and_others_go_on() {
    let options = ServiceOptions {
        connections: 3,
        ..small()
    };
    let mut pair = Pair::new(options);
    pair.a.listeners.0 = small();
    let net = Net::both()[0];
    let streams: Vec<_> = (0..3).map(|n| pair.open(&net, 40_000 + n)).collect();
    let fourth = pair.a.connect(&net, 41_000, pair.now);
    pair.exchange();
    assert!(!connected(&fourth));
    assert_eq!(pair.b.drops(DropReason::ServiceConnectionLimit), 1);
    assert_eq!(pair.b.stack.service_connections(SERVICE), 3);
    // The SYN that comes again finds room.
    drop(streams);
    pair.pass(Duration::from_millis(1_500), STEP);
    assert!(connected(&fourth));
}

#[test]
fn a_stack_has_its_limit() {
    let mut config = config(2);
    config.limits.connections = 5;
    let mut pair = Pair::new(small());
    pair.b = Host::new(&config, small());
    let net = Net::both()[1];
    let streams: Vec<_> = (0..5).map(|n| pair.open(&net, 40_000 + n)).collect();
    let sixth = pair.a.connect(&net, 41_000, pair.now);
    pair.exchange();
    assert!(!connected(&sixth));
    assert_eq!(pair.b.drops(DropReason::ConnectionLimit), 1);
    let connect = net.connect(1);
    let refused = pair.b.stack.connect(&connect, &small(), pair.now);
    assert_eq!(
        refused.err(),
        Some(ConnectError::Limit(DropReason::ConnectionLimit))
    );
    assert_eq!(streams.len(), 5);
}

#[test]
fn without_a_socket_data_waits_at_its_sender() {
    let mut config = config(2);
    config.limits.sockets = 2;
    let mut pair = Pair::new(small());
    pair.b = Host::new(&config, small());
    let net = Net::both()[0];
    let streams: Vec<_> = (0..3).map(|n| pair.open(&net, 40_000 + n)).collect();
    for (client, _) in &streams {
        write(client, b"hello");
    }
    pair.exchange();
    assert_eq!(pair.b.stack.holdings().sockets, 2);
    assert_eq!(pair.b.drops(DropReason::SocketLimit), 1);
    let (_, third) = &streams[2];
    assert_eq!(read(third), (vec![], false));
    assert_eq!(write(third, b"me too"), 0, "no socket to write to");
    // The others are done, hibernate, and the third one's data comes again.
    for (_, server) in &streams[..2] {
        assert_eq!(read(server).0, b"hello");
    }
    pair.pass(Duration::from_secs(4), STEP);
    assert_eq!(read(third).0, b"hello");
    assert_eq!(write(third, b"me too"), 6);
    pair.exchange();
    assert_eq!(read(&streams[2].0).0, b"me too");
}

#[test]
fn syns_beyond_the_half_open_limit_get_cookies() {
    let options = ServiceOptions {
        half_open: 4,
        ..small()
    };
    let mut pair = Pair::new(options);
    let net = Net::both()[0];
    let clients: Vec<_> = (0..10)
        .map(|n| pair.a.connect(&net, 40_000 + n, pair.now))
        .collect();
    pair.a.poll(pair.now);
    for frame in std::mem::take(&mut pair.a.wire.frames) {
        pair.b.receive(frame, pair.now).unwrap();
    }
    assert_eq!(pair.b.stack.holdings().half_open, 4);
    assert_eq!(pair.b.event(Event::CookieSent), 6);
    pair.exchange();
    assert!(clients.iter().all(connected));
    assert_eq!(pair.b.event(Event::Accepted), 10);
    assert_eq!(pair.b.event(Event::CookieAccepted), 6);
    assert_eq!(pair.b.stack.holdings().half_open, 0);
}

#[test]
fn time_wait_has_limits() {
    let mut config = config(1);
    config.limits.time_wait = 3;
    let mut pair = Pair::new(small());
    pair.a = Host::new(&config, small());
    for port in 0..5 {
        drop(pair.open(&Net::both()[0], 40_000 + port));
        pair.exchange();
    }
    assert_eq!(pair.a.stack.holdings().time_wait, 3);
    assert_eq!(pair.a.event(Event::TimeWaitEvicted), 2);
    let options = ServiceOptions {
        time_wait: 3,
        ..small()
    };
    pair.a.listeners.0 = options;
    drop(pair.open(&Net::both()[0], 41_000));
    pair.exchange();
    assert_eq!(pair.a.event(Event::TimeWaitSkipped), 1);
    assert_eq!(pair.a.stack.holdings().connections, 0);
}
