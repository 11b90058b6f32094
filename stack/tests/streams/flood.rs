//! A flood of SYNs leaves those who are there unharmed, and lets in those who are real.

use std::time::Duration;

use weft_stack::*;

use crate::support::network::Random;
use crate::support::packet::{ACK, SYN, Tcp};
use crate::support::*;

/// SYNs of the flood.
const FLOOD: u32 = 1_000_000;

#[test]
fn h_a_million_syns_harm_nobody() {
    let options = ServiceOptions {
        half_open: 512,
        ..small()
    };
    let mut pair = Pair::new(options);
    let net = Net::both()[0];
    let (client, server) = pair.open(&net, 40_000);
    let syn = Tcp {
        src: (address("10.66.0.1"), 1024),
        dst: (net.server, 80),
        flags: SYN,
        seq: 1,
        ack: 0,
        window: 1024,
        urgent: 0,
        options: vec![2, 4, 5, 0xb4],
        data: vec![],
    };
    let template = syn.frame();
    let mut random = Random(1);
    let (mut opened, mut frame) = (0, Vec::new());
    for n in 0..FLOOD {
        frame.clone_from(&template);
        // Another source each, without the cost of another checksum.
        let (source, seq) = (random.next() as u32 | 1, random.next() as u32);
        frame[26..30].copy_from_slice(&(source & 0x00ff_ffff | 0x0b00_0000).to_be_bytes());
        frame[38..42].copy_from_slice(&seq.to_be_bytes());
        let Ok(weft_datapath::Parsed::Flow(packet)) = weft_datapath::parse(&frame) else {
            panic!("a SYN");
        };
        let arrival = Arrival {
            route: ROUTE,
            verified: true,
        };
        let fate = pair
            .b
            .stack
            .ingest(&mut frame, &packet, arrival, &pair.b.listeners, pair.now);
        assert_eq!(fate, Fate::Answered);
        if n % 64 == 63 {
            pair.b.poll(pair.now);
            // The flood's answers go nowhere.
            pair.b.wire.frames.clear();
            pair.b.wire.packets.clear();
            pair.now = pair.now + Duration::from_micros(64);
        }
        if n % 100_000 == 99_999 {
            write(&client, b"still there?");
            pair.exchange();
            assert_eq!(read(&server).0, b"still there?");
            drop(pair.open(&net, 41_000 + opened));
            opened += 1;
        }
    }
    let held = pair.b.stack.holdings();
    assert!(held.half_open <= 512, "{held:?}");
    assert!(held.connections <= 11, "{held:?}");
    assert!(pair.b.event(Event::CookieSent) > u64::from(FLOOD) * 9 / 10);
    assert_eq!(pair.b.event(Event::CookieAccepted), u64::from(opened));
    pair.pass(Duration::from_secs(70), Duration::from_millis(500));
    assert_eq!(pair.b.stack.holdings().half_open, 0, "they are forgotten");
}

#[test]
fn acks_of_a_flood_open_nothing() {
    let options = ServiceOptions {
        half_open: 0,
        ..small()
    };
    let mut pair = Pair::new(options);
    drop(pair.open(&Net::both()[0], 40_000)); // Cookies are out.
    let mut random = Random(2);
    for _ in 0..20_000 {
        let ack = Tcp {
            src: (address("10.66.0.1"), 1024 + random.below(60_000) as u16),
            dst: (Net::both()[0].server, 80),
            flags: ACK,
            seq: random.next() as u32,
            ack: random.next() as u32,
            window: 1024,
            urgent: 0,
            options: vec![],
            data: vec![],
        };
        pair.b.receive(ack.frame(), pair.now).unwrap();
    }
    // One in 2^23 guesses is right.
    assert!(pair.b.event(Event::CookieAccepted) <= 2);
    assert!(pair.b.drops(DropReason::CookieOrder) >= 19_990);
}
