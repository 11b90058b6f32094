//! How fast one stack sends to another over a link that loses packets, by the virtual clock (T-03).

use std::task::Poll;
use std::time::Duration;

use weft_datapath::Now;
use weft_stack::*;

use crate::support::network::*;
use crate::support::*;

/// Bytes of a transfer.
const BYTES: usize = 8 << 20;
/// The longest time that nothing may arrive at 1 % loss and 1 ms.
const STALL: Duration = Duration::from_millis(300);
/// Nothing takes longer.
const LIMIT: Duration = Duration::from_secs(600);

/// What a transfer came to.
#[derive(Debug)]
struct Found {
    /// Mbit/s.
    goodput: f64,
    /// The longest time between two arrivals.
    stall: Duration,
    /// Packets sent again.
    again: u64,
}

fn transfer(faults: Faults, seed: u64) -> Found {
    let mut hosts = [1, 2].map(|n| Host::new(&config(n), ServiceOptions::default()));
    let mut network = Network::new(faults, seed);
    let begin = Now::from_nanos(1_000_000_000);
    let (mut now, mut last, mut stall) = (begin, begin, Duration::ZERO);
    let data = vec![0x5a; 64 << 10];
    let sender = hosts[0].connect(&Net::both()[0], 40_000, now);
    let mut receiver = None;
    let (mut sent, mut heard, mut buffer) = (0, 0, vec![0; 64 << 10]);
    while heard < BYTES {
        assert!(now.since(begin) < LIMIT, "{:?}", hosts[0].stack.counters());
        while let Some((to, frame)) = network.arrived(now) {
            hosts[to].receive(frame, now);
        }
        if let Some(accepted) = hosts[1].stack.accept() {
            receiver = Some(accepted.stream);
        }
        if connected(&sender) && sent < BYTES {
            sent += write(&sender, &data[..data.len().min(BYTES - sent)]);
        }
        while let Some(receiver) = &receiver
            && let Poll::Ready(Ok(count @ 1..)) = receiver.poll_read(&mut context(), &mut buffer)
        {
            if heard > 0 {
                stall = stall.max(now.since(last));
            }
            (heard, last) = (heard + count, now);
        }
        for (from, host) in hosts.iter_mut().enumerate() {
            host.poll(now);
            for frame in std::mem::take(&mut host.wire.frames) {
                network.send(1 - from, frame, now);
            }
        }
        let due = hosts.iter().filter_map(|host| host.stack.next()).min();
        let next = due.into_iter().chain(network.next()).min();
        now = next.map_or(now, |next| next.max(now)) + Duration::from_micros(1);
    }
    Found {
        goodput: BYTES as f64 * 8.0 / last.since(begin).as_secs_f64() / 1e6,
        stall,
        again: hosts[0].event(Event::Retransmission),
    }
}

/// The means of some seeds, the longest of their stalls.
fn transfers(loss: u64, delay: Duration) -> Found {
    const SEEDS: u64 = 8;
    let faults = Faults {
        loss,
        delay,
        ..Faults::default()
    };
    let all = (0..SEEDS)
        .map(|seed| transfer(faults, seed))
        .collect::<Vec<_>>();
    let found = Found {
        goodput: all.iter().map(|found| found.goodput).sum::<f64>() / SEEDS as f64,
        stall: all
            .iter()
            .map(|found| found.stall)
            .max()
            .unwrap_or_default(),
        again: all.iter().map(|found| found.again).sum(),
    };
    println!("loss {loss} in 1000, {delay:?} each way: {found:?}");
    found
}

#[test]
fn t_03_a_lost_packet_costs_little() {
    let delay = Duration::from_millis(1);
    let perfect = transfers(0, delay);
    // A window of 64 KiB each round trip of 2 ms.
    assert!(perfect.goodput > 200.0 && perfect.again == 0, "{perfect:?}");
    // Linux sends 240 and 48 Mbit/s over such links. Half of that, and no stall beyond two timeouts.
    let few = transfers(1, delay);
    assert!(few.goodput > 120.0 && few.stall < STALL, "{few:?}");
    let many = transfers(10, delay);
    assert!(many.goodput > 30.0 && many.stall < STALL, "{many:?}");
    let far = transfers(10, Duration::from_millis(10));
    assert!(far.goodput > 4.0, "{far:?}");
}
