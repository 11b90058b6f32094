//! What connections cost: memory of idle ones, time of active ones among them, and no allocation per packet.
//!
//! One test, because it measures its process. A7 of the list of features has the bounds.

mod support;

use std::time::{Duration, Instant};

use support::packet::{ACK, PSH, SYN};
use support::raw::{Raw, Sink};
use support::*;
use weft_datapath::Now;
use weft_stack::*;

/// Connections of the large stack.
const MANY: u32 = 100_000;
/// Connections that are active at once.
const FEW: u32 = 32;
const QUESTION: [u8; 64] = [7; 64];

/// A stack that answers every question in full, and the clients of its connections.
struct Server {
    stack: Stack,
    listeners: Port80,
    out: Sink,
    now: Now,
    frame: Vec<u8>,
    clients: Vec<Raw>,
    streams: Vec<Stream>,
}

impl Server {
    fn new(connections: u32) -> Self {
        let mut config = config(9);
        config.limits.connections = connections;
        let mut server = Self {
            stack: Stack::new(&config),
            listeners: Port80(ServiceOptions::default()),
            out: Sink::new(),
            now: Now::from_nanos(1_000_000_000),
            frame: Vec::with_capacity(2_048),
            clients: Vec::new(),
            streams: Vec::new(),
        };
        for n in 0..connections {
            server.open(n);
            // All have carried data; then they fall silent.
            server.ask(n as usize);
            if n % 1_000 == 999 {
                server.pass(Duration::from_millis(1_100));
            }
        }
        server.pass(Duration::from_secs(2));
        server
    }

    fn send(&mut self, at: usize, flags: u8, data: &[u8]) {
        let Self {
            stack,
            listeners,
            frame,
            now,
            ..
        } = self;
        self.clients[at].send(stack, listeners, frame, (flags, data), *now);
    }

    fn poll(&mut self) {
        self.stack.poll(&mut self.out, self.now);
    }

    fn open(&mut self, n: u32) {
        self.clients.push(Raw::new(n));
        let at = n as usize;
        self.send(at, SYN, &[]);
        self.poll();
        self.clients[at].ack = self.out.seq().wrapping_add(1);
        self.send(at, ACK, &[]);
        self.streams
            .push(self.stack.accept().expect("accepted").stream);
    }

    /// A question, its answer, and the client's ACK: three packets.
    fn ask(&mut self, at: usize) {
        self.send(at, ACK | PSH, &QUESTION);
        let mut buffer = [0; 128];
        let read = self.streams[at].poll_read(&mut context(), &mut buffer);
        assert!(matches!(read, std::task::Poll::Ready(Ok(64))), "{read:?}");
        let written = self.streams[at].poll_write(&mut context(), &buffer[..64]);
        assert!(matches!(written, std::task::Poll::Ready(Ok(64))));
        self.poll();
        assert_eq!(self.out.len, 40 + 64);
        self.clients[at].ack = self.clients[at].ack.wrapping_add(64);
        self.send(at, ACK, &[]);
        self.poll();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(10);
            self.poll();
        }
    }

    /// Nanoseconds of a packet when `active` connections talk in turn, the best of some rounds.
    #[expect(clippy::disallowed_methods, reason = "it is time that is measured")]
    fn round(&mut self, active: usize, asks: usize) -> f64 {
        let start = Instant::now();
        for n in 0..asks {
            self.ask(n % active);
            self.now = self.now + Duration::from_micros(1);
        }
        start.elapsed().as_nanos() as f64 / (asks * 3) as f64
    }
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn best(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[0]
}

#[test]
fn a7_idle_connections_cost_little_and_slow_nobody_down() {
    let mut alone = Server::new(FEW);
    let before = resident();
    let mut among = Server::new(MANY);
    let held = among.stack.holdings();
    assert_eq!((held.connections, held.sockets), (MANY as usize, 0));
    // The streams and clients of this test are among the bytes.
    let each = (resident() - before) / MANY as usize;
    println!("idle: {each} bytes each");
    assert!(each <= 4_096, "{each} bytes");

    let (mut few, mut many) = (Vec::new(), Vec::new());
    for _ in 0..15 {
        few.push(alone.round(FEW as usize, 4_000));
        many.push(among.round(FEW as usize, 4_000));
    }
    let (few, many) = (best(few), best(many));
    println!(
        "a packet: {few:.0} ns alone, {many:.0} ns among {MANY}: x {:.2}",
        many / few
    );
    assert!(many <= 1.5 * few, "{many} against {few} ns");

    // The same with all of them active: each needs a socket, and misses every cache.
    let all = among.round(6_000, 6_000);
    let warm = best((0..5).map(|_| among.round(6_000, 6_000)).collect());
    println!("a packet: {all:.0} ns when 6,000 wake, {warm:.0} ns when they are awake");

    let count = allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1)))).count_total;
    assert_eq!(count, 1, "the counter counts");
    let count = allocation_counter::measure(|| {
        alone.round(FEW as usize, 4_000);
    });
    assert_eq!(
        count.count_total, 0,
        "no packet of a warm connection allocates"
    );
}
