use std::collections::VecDeque;
use std::io::ErrorKind;
use std::task::Poll;
use std::time::Duration;

use weft_datapath::Now;
use weft_stack::*;

use crate::support::network::*;
use crate::support::*;

/// One end of one connection and what it is going to do.
struct End {
    stream: Option<Stream>,
    /// What it says, and what the other says.
    says: Vec<u8>,
    hears: Vec<u8>,
    said: usize,
    heard: usize,
    closed: bool,
    ended: bool,
    /// It aborts after having said so much.
    aborts_at: Option<usize>,
    failed: Option<ErrorKind>,
    quiet_until: Now,
}

impl End {
    fn new(
        stream: Option<Stream>,
        says: Vec<u8>,
        hears: Vec<u8>,
        aborts_at: Option<usize>,
    ) -> Self {
        Self {
            stream,
            says,
            hears,
            said: 0,
            heard: 0,
            closed: false,
            ended: false,
            aborts_at,
            failed: None,
            quiet_until: Now::default(),
        }
    }

    fn done(&self) -> bool {
        self.failed.is_some() || self.closed && self.ended
    }

    /// Reads and writes a little.
    fn act(&mut self, random: &mut Random, now: Now) {
        if self.done() || now < self.quiet_until {
            return;
        }
        let Some(stream) = &self.stream else {
            return;
        };
        if random.per_mille(20) {
            // Long enough to hibernate, now and then.
            self.quiet_until = now + Duration::from_millis(random.below(3_000));
            return;
        }
        if self.aborts_at.is_some_and(|at| self.said >= at) {
            stream.abort();
            self.failed = Some(ErrorKind::ConnectionAborted);
            return;
        }
        let mut buffer = vec![0; 1 + random.below(9_000) as usize];
        match stream.poll_read(&mut context(), &mut buffer) {
            Poll::Ready(Ok(0)) => {
                assert_eq!(
                    self.heard,
                    self.hears.len(),
                    "an end before the end: {stream:#?}"
                );
                self.ended = true;
            }
            Poll::Ready(Ok(count)) => {
                let expected = &self.hears[self.heard..self.heard + count];
                assert!(
                    buffer[..count] == *expected,
                    "other bytes at {}",
                    self.heard
                );
                self.heard += count;
            }
            Poll::Ready(Err(error)) => self.failed = Some(error.kind()),
            Poll::Pending => {}
        }
        if self.failed.is_some() || self.closed {
            return;
        }
        let upto = (self.said + random.below(9_000) as usize).min(self.says.len());
        match stream.poll_write(&mut context(), &self.says[self.said..upto]) {
            Poll::Ready(Ok(count)) => self.said += count,
            Poll::Ready(Err(error)) => self.failed = Some(error.kind()),
            Poll::Pending => {}
        }
        if self.said == self.says.len() && self.failed.is_none() {
            match stream.poll_shutdown(&mut context()) {
                Poll::Ready(Ok(())) => self.closed = true,
                Poll::Ready(Err(error)) => self.failed = Some(error.kind()),
                Poll::Pending => {}
            }
        }
    }
}

struct World {
    hosts: [Host; 2],
    network: Network,
    random: Random,
    now: Now,
    ends: Vec<[End; 2]>,
    seed: u64,
}

fn says(random: &mut Random, which: u64) -> Vec<u8> {
    let len = match random.below(4) {
        0 => 0,
        1 => random.below(100),
        _ => random.below(60_000),
    };
    (0..len).map(|i| (i * 31 + i / 251 + which) as u8).collect()
}

impl World {
    fn new(seed: u64, faults: Faults, aborts: bool) -> Self {
        let mut random = Random(seed);
        let buffer = [4 << 10, 16 << 10, 100_000][random.below(3) as usize];
        let options = ServiceOptions {
            receive_buffer: buffer,
            send_buffer: buffer,
            // A reset that is lost leaves the other end waiting, unless it asks.
            keepalive: aborts.then_some(Keepalive {
                idle: Duration::from_secs(5),
                interval: Duration::from_secs(1),
                count: 8,
            }),
            half_open: [0, 2, 100][random.below(3) as usize],
            ..ServiceOptions::default()
        };
        let mut hosts = [1, 2].map(|n| {
            let mut config = config(n + 2 * (seed % 100) as u8);
            config.timeouts.connect = Duration::from_secs(60);
            config.timeouts.time_wait = Duration::from_secs(5);
            Host::new(&config, options)
        });
        let now = Now::from_nanos(1_000_000_000);
        let nets = Net::both();
        let ends = (0..5).map(|n| {
            let net = &nets[n as usize % 2];
            let stream = hosts[0].connect(net, 40_000 + n, now);
            let texts = [says(&mut random, 1), says(&mut random, 2)];
            let abort = |random: &mut Random| {
                (aborts && random.below(5) == 0).then(|| random.below(40_000) as usize)
            };
            let [a, b] = &texts;
            let first = End::new(Some(stream), a.clone(), b.clone(), abort(&mut random));
            let second = End::new(None, b.clone(), a.clone(), abort(&mut random));
            [first, second]
        });
        let ends = ends.collect();
        if random.below(2) == 0 {
            for host in &mut hosts {
                host.wire.room = 1 + random.below(20) as usize;
            }
        }
        Self {
            hosts,
            network: Network::new(faults, seed ^ 0xabcd),
            random,
            now,
            ends,
            seed,
        }
    }

    fn step(&mut self) {
        while let Some((to, frame)) = self.network.arrived(self.now) {
            let fate = self.hosts[to].receive(frame, self.now);
            assert_ne!(fate, Some(Fate::Dropped(DropReason::NotTcp)));
        }
        while let Some(accepted) = self.hosts[1].stack.accept() {
            let n = usize::from(accepted.tuple.sport - 40_000);
            assert!(self.ends[n][1].stream.is_none(), "accepted once");
            self.ends[n][1].stream = Some(accepted.stream);
        }
        for pair in &mut self.ends {
            for end in pair {
                end.act(&mut self.random, self.now);
                if end.done() && self.random.below(3) == 0 {
                    end.stream = None;
                }
            }
        }
        for [first, second] in &mut self.ends {
            // Who has not been reached will not be.
            if second.stream.is_none() && second.failed.is_none() && !second.done() {
                second.failed = first.failed;
            }
        }
        for (from, host) in self.hosts.iter_mut().enumerate() {
            host.poll(self.now);
            let all: VecDeque<Vec<u8>> = std::mem::take(&mut host.wire.frames);
            for frame in all {
                self.network.send(1 - from, frame, self.now);
            }
        }
        // At most some milliseconds, since the ends act by themselves; and never backwards.
        let quiet = if self.network.next().is_none() { 20 } else { 1 };
        let next = self.now + quiet * Duration::from_micros(100 + self.random.below(900));
        self.now = self
            .network
            .next()
            .map_or(next, |at| at.clamp(self.now, next));
        self.now = self.now + Duration::from_micros(1);
    }

    fn run(mut self, aborts: bool) -> [Counters; 2] {
        println!("seed {}", self.seed); // Shown when the test fails.
        for _ in 0..3_000_000 {
            self.step();
            if self.ends.iter().flatten().all(End::done) {
                break;
            }
        }
        for (n, pair) in self.ends.iter().enumerate() {
            for end in pair {
                assert!(
                    end.done(),
                    "connection {n}: said {} of {}, heard {} of {}, at {:?}\n{:#?}\n{:?}",
                    end.said,
                    end.says.len(),
                    end.heard,
                    end.hears.len(),
                    self.now,
                    [&pair[0].stream, &pair[1].stream],
                    self.hosts.each_ref().map(|host| host.stack.counters())
                );
                let counters = self.hosts.each_ref().map(|host| host.stack.counters());
                let failed = end.failed;
                assert!(
                    aborts || failed.is_none(),
                    "connection {n}: {failed:?}\n{counters:?}"
                );
            }
        }
        // In the end nothing is left of anything.
        self.ends.clear();
        let end = self.now + Duration::from_secs(400);
        while self.now < end {
            self.step();
            let quiet = self.hosts.iter().filter_map(|host| host.stack.next()).min();
            let next = quiet.into_iter().chain(self.network.next()).min();
            self.now = next.map_or(end, |next| next.max(self.now));
        }
        for host in &self.hosts {
            let left = host.stack.holdings();
            assert_eq!(
                (
                    left.connections,
                    left.sockets,
                    left.half_open,
                    left.time_wait
                ),
                (0, 0, 0, 0),
                "{:?}",
                host.stack.counters()
            );
        }
        self.hosts.map(|host| host.stack.counters())
    }
}

fn faults(loss: u64, duplication: u64, corruption: u64, reordering: u64) -> Faults {
    Faults {
        loss,
        duplication,
        corruption,
        reordering,
        delay: Duration::from_micros(200),
    }
}

/// Seeds of each test: enough to meet every kind of fault in every state, in a few seconds.
const SEEDS: std::ops::Range<u64> = 0..40;

#[test]
fn t_05_every_byte_arrives_on_a_good_network() {
    for seed in SEEDS {
        let [a, b] = World::new(seed, faults(0, 0, 0, 0), false).run(false);
        for counters in [a, b] {
            let lost = [
                DropReason::Checksum,
                DropReason::ReplyRoom,
                DropReason::SocketLimit,
            ];
            let lost = lost.map(|reason| counters.drops(reason));
            assert_eq!(lost, [0; 3], "{counters:?}");
        }
    }
}

#[test]
fn u_05_every_byte_arrives_on_a_bad_network() {
    for seed in SEEDS {
        World::new(seed, faults(30, 30, 0, 100), false).run(false);
    }
}

#[test]
fn u_05_every_byte_arrives_on_a_terrible_network() {
    for seed in SEEDS {
        World::new(seed, faults(150, 100, 50, 300), true).run(true);
    }
}

#[test]
fn corruption_is_found() {
    let mut found = 0;
    for seed in SEEDS {
        let [a, b] = World::new(seed, faults(0, 0, 50, 0), false).run(false);
        found += a.drops(DropReason::Checksum) + b.drops(DropReason::Checksum);
    }
    assert!(found > 100, "{found}");
}

#[test]
fn a_far_network_takes_longer() {
    for seed in SEEDS {
        let mut slow = faults(10, 10, 0, 50);
        slow.delay = Duration::from_millis(60);
        World::new(seed, slow, false).run(false);
    }
}

#[test]
fn streams_are_reset_as_well() {
    for seed in SEEDS {
        World::new(seed, faults(30, 30, 10, 100), true).run(true);
    }
}
