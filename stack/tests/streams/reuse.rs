//! A tuple that comes back: the peer may still be in TIME-WAIT.

use std::time::Duration;

use crate::support::packet::{ACK, FIN, RST, SYN, Tcp};
use crate::support::*;

/// What Linux does with a SYN in TIME-WAIT, without timestamps (tcp_timewait_state_process): it takes one whose number
/// lies beyond the next one expected, and answers any other with an ACK.
fn linux_takes(syn: &Tcp, rcv_nxt: u32) -> bool {
    (syn.seq.wrapping_sub(rcv_nxt) as i32) > 0
}

#[test]
fn rfc_6528_a_reused_tuple_is_taken_by_a_peer_in_time_wait() {
    // Each of these moved so many bytes before it was closed; the port comes back after so long.
    for (bytes, pause) in [(0, 1), (10_000, 5), (1_000_000, 100), (10_000_000, 1_000)] {
        let mut host = Host::new(&config(1), small());
        let net = Net::both()[0];
        let mut now = weft_datapath::Now::from_nanos(7_000_000_000);
        let first = host.connect(&net, 40_000, now);
        host.poll(now);
        let syn = Tcp::read(&host.wire.frames.pop_front().unwrap());
        // What a peer that closed first expects next: all of our bytes and our FIN.
        let rcv_nxt = syn.seq.wrapping_add(1 + bytes + 1);
        // The peer's side of it, in short: it resets what is left here, as if it had been closed in order.
        let answer = Tcp {
            src: syn.dst,
            dst: syn.src,
            flags: SYN | ACK,
            seq: 9_000,
            ack: syn.seq.wrapping_add(1),
            window: 65_535,
            urgent: 0,
            options: vec![],
            data: vec![],
        };
        host.receive(answer.frame(), now).unwrap();
        let fin = Tcp {
            flags: FIN | ACK,
            seq: 9_001,
            ..answer.clone()
        };
        host.receive(fin.frame(), now).unwrap();
        host.poll(now);
        assert_eq!(read(&first), (vec![], true));
        shutdown(&first);
        host.poll(now);
        let last = Tcp {
            flags: ACK,
            seq: 9_002,
            ack: syn.seq.wrapping_add(2),
            ..answer
        };
        host.receive(last.frame(), now).unwrap();
        drop(first);
        assert_eq!(host.stack.holdings().time_wait, 0, "the peer closed first");
        host.wire.frames.clear();
        now = now + Duration::from_millis(pause);
        let _second = host.connect(&net, 40_000, now);
        host.poll(now);
        let again = Tcp::read(&host.wire.frames.pop_front().unwrap());
        assert_eq!(again.flags, SYN);
        assert!(linux_takes(&again, rcv_nxt), "{bytes} bytes, {pause} ms");
    }
}

#[test]
fn a_tuple_in_our_time_wait_is_opened_again_by_its_peer() {
    let mut pair = Pair::new(small());
    let net = Net::both()[0];
    let (client, server) = pair.open(&net, 40_000);
    // The server closes first, so TIME-WAIT is on its side.
    drop(server);
    pair.exchange();
    assert_eq!(read(&client), (vec![], true));
    drop(client);
    pair.exchange();
    assert_eq!(pair.b.stack.holdings().time_wait, 1);
    pair.now = pair.now + Duration::from_millis(2);
    let (client, server) = pair.open(&net, 40_000);
    assert_eq!(pair.b.event(weft_stack::Event::TimeWaitReused), 1);
    write(&client, b"again");
    pair.exchange();
    assert_eq!(read(&server).0, b"again");
}

#[test]
fn a_tuple_in_our_time_wait_is_opened_again_by_us() {
    let mut pair = Pair::new(small());
    let net = Net::both()[0];
    for round in 0..3 {
        let (client, server) = pair.open(&net, 40_000);
        write(&client, b"again");
        pair.exchange();
        assert_eq!(read(&server).0, b"again", "{round}");
        // We close first, so TIME-WAIT is on our side.
        drop(client);
        pair.exchange();
        assert_eq!(read(&server), (vec![], true));
        drop(server);
        pair.exchange();
        assert_eq!(pair.a.stack.holdings().time_wait, 1);
        assert_eq!(pair.a.event(weft_stack::Event::TimeWaitReused), round);
    }
}

#[test]
fn a_peer_in_time_wait_that_does_not_take_the_syn_is_opened_after_its_ack() {
    // Beyond what the clock of our numbers covers, as after a restart: the old ACK is answered with a reset, which ends
    // TIME-WAIT there, and the SYN comes again at once.
    let mut host = Host::new(&config(1), small());
    let now = weft_datapath::Now::from_nanos(7_000_000_000);
    let stream = host.connect(&Net::both()[0], 40_000, now);
    host.poll(now);
    let syn = Tcp::read(&host.wire.frames.pop_front().unwrap());
    let old = Tcp {
        src: syn.dst,
        dst: syn.src,
        flags: ACK,
        seq: 555,
        ack: syn.seq.wrapping_add(500_000),
        window: 65_535,
        urgent: 0,
        options: vec![],
        data: vec![],
    };
    host.receive(old.frame(), now).unwrap();
    host.poll(now);
    let reset = Tcp::read(&host.wire.frames.pop_front().unwrap());
    assert_eq!((reset.flags, reset.seq), (RST, old.ack));
    let again = Tcp::read(&host.wire.frames.pop_front().unwrap());
    assert_eq!((again.flags, again.seq), (SYN, syn.seq));
    assert_eq!(again.options, syn.options);
    // Only once: what answers with the same again gets a reset, and the SYN waits for its timeout.
    host.receive(old.frame(), now).unwrap();
    host.poll(now);
    let reset = Tcp::read(&host.wire.frames.pop_front().unwrap());
    assert_eq!((reset.flags, reset.seq), (RST, old.ack));
    assert!(host.wire.frames.is_empty());
    let later = now + Duration::from_millis(1_010);
    host.poll(later);
    let again = Tcp::read(&host.wire.frames.pop_front().unwrap());
    assert_eq!((again.flags, again.seq), (SYN, syn.seq));
    let answer = Tcp {
        flags: SYN | ACK,
        ack: syn.seq.wrapping_add(1),
        ..old
    };
    host.receive(answer.frame(), later).unwrap();
    assert!(connected(&stream));
}
