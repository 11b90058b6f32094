//! Any address and port, both ways, and what cannot be an end.

use std::time::Duration;

use weft_stack::*;

use crate::support::*;

#[test]
fn t_02_a_stack_accepts_on_any_address_and_opens_from_any() {
    let mut pair = Pair::new(small());
    let (mut streams, net) = (Vec::new(), Net::both());
    for n in 0..50u16 {
        for net in &net {
            let mut connect = net.connect(1 + n * 1000);
            let last = connect.local.0.0.len() - 1;
            connect.local.0.0[last] = n as u8 + 1;
            connect.remote.0.0[last] = 200 - n as u8;
            let stream = pair.a.stack.connect(&connect, &small(), pair.now).unwrap();
            pair.exchange();
            assert!(connected(&stream));
            let accepted = pair.b.stack.accept().unwrap();
            let ends = (accepted.tuple.src, accepted.tuple.dst);
            assert_eq!(ends, (connect.local.0, connect.remote.0));
            streams.push((stream, accepted.stream));
        }
    }
    for (n, (client, server)) in streams.iter().enumerate() {
        write(client, &[n as u8; 10]);
        write(server, &[n as u8 ^ 0xff; 10]);
    }
    pair.exchange();
    for (n, (client, server)) in streams.iter().enumerate() {
        assert_eq!(read(server).0, [n as u8; 10]);
        assert_eq!(read(client).0, [n as u8 ^ 0xff; 10]);
    }
}

#[test]
fn amb_06_another_tag_is_another_connection() {
    let mut pair = Pair::new(small());
    let net = Net::both()[0];
    let (client, server) = pair.open(&net, 40_000);
    write(&client, b"secret");
    pair.a.poll(pair.now);
    let mut frame = pair.a.wire.frames.pop_front().unwrap();
    let Ok(weft_datapath::Parsed::Flow(packet)) = weft_datapath::parse(&frame) else {
        panic!("{frame:x?}");
    };
    let arrival = Arrival {
        route: Route { tag: 8, ..ROUTE },
        verified: false,
    };
    let fate = pair
        .b
        .stack
        .ingest(&mut frame, &packet, arrival, &pair.b.listeners, pair.now);
    assert_eq!(fate, Fate::Answered);
    assert_eq!(pair.b.event(Event::ResetSent), 1);
    assert_eq!(read(&server), (vec![], false));
}

#[test]
fn impossible_ends_are_refused() {
    let pair = Pair::new(small());
    let [v4, v6] = Net::both();
    let mut mixed = v4.connect(1000);
    mixed.remote.0 = v6.server;
    let no_port = v4.connect(0);
    let mut multicast = v4.connect(1000);
    multicast.remote.0 = address("224.0.0.1");
    let mut unspecified = v6.connect(1000);
    unspecified.local.0 = address("::");
    for connect in [mixed, no_port, multicast, unspecified] {
        let refused = pair.a.stack.connect(&connect, &small(), pair.now);
        assert_eq!(
            refused.err(),
            Some(ConnectError::Unaddressable),
            "{connect:?}"
        );
    }
}

#[test]
fn ports_of_a_range_are_found_until_there_is_none() {
    let mut pair = Pair::new(small());
    let connect = Net::both()[0].connect(0);
    let mut streams = Vec::new();
    for _ in 0..10 {
        let stream = pair
            .a
            .stack
            .connect_from(&connect, 50_000..=50_009, &small(), pair.now);
        streams.push(stream.unwrap());
    }
    let none = pair
        .a
        .stack
        .connect_from(&connect, 50_000..=50_009, &small(), pair.now);
    assert_eq!(none.err(), Some(ConnectError::NoPort));
    pair.exchange();
    assert!(streams.iter().all(connected));
    // One in TIME-WAIT is free: numbers go on beyond the old ones.
    drop(streams.pop());
    while let Some(accepted) = pair.b.stack.accept() {
        drop(accepted.stream);
    }
    pair.exchange();
    assert_eq!(pair.a.stack.holdings().time_wait, 1);
    let again = pair
        .a
        .stack
        .connect_from(&connect, 50_000..=50_009, &small(), pair.now);
    assert!(again.is_ok());
}

#[test]
fn abort_all_tells_every_peer() {
    let mut pair = Pair::new(small());
    let mut streams = Vec::new();
    for port in 0..100 {
        streams.push(pair.open(&Net::both()[port % 2], 40_000 + port as u16));
    }
    pair.pass(Duration::from_secs(3), Duration::from_millis(100));
    assert_eq!(pair.b.stack.holdings().sockets, 0, "idle ones, too");
    let (mut start, mut seen, mut found) = (Some(0), 0, Vec::with_capacity(7));
    while let Some(at) = start {
        start = pair.b.stack.slice(at, &mut found);
        seen += found.len();
        let idle = |one: &Described| one.state == "ESTABLISHED" && !one.socket;
        assert!(found.len() <= 7 && found.iter().all(idle), "{found:?}");
    }
    assert_eq!(seen, 100);
    pair.b.wire.room = 7;
    pair.b.stack.abort_all();
    pair.exchange();
    assert_eq!(pair.a.event(Event::ResetByPeer), 100);
    assert_eq!(pair.b.event(Event::Aborted), 100);
    for (client, server) in streams {
        assert_eq!(
            read_error(&client),
            Some(std::io::ErrorKind::ConnectionReset)
        );
        assert_eq!(
            read_error(&server),
            Some(std::io::ErrorKind::ConnectionAborted)
        );
    }
    assert_eq!(pair.b.stack.holdings().connections, 0);
}
