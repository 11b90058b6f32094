//! Two stacks, or a stack and a script, on a wire in memory under a virtual clock.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use weft_datapath::{Address, Now, Parsed, parse};
use weft_stack::*;

pub mod network;
pub mod packet;
pub mod raw;

pub const SERVICE: ServiceId = ServiceId(3);
pub const ROUTE: Route = Route { tag: 7, mtu: 1500 };
/// Room in front of a packet, as in a frame of a worker.
pub const ETHERNET: usize = 14;

pub fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

/// Ends of a connection in one of the two families.
#[derive(Copy, Clone, Debug)]
pub struct Net {
    pub client: Address,
    pub server: Address,
}

impl Net {
    pub fn both() -> [Self; 2] {
        let net = |client, server| Self {
            client: address(client),
            server: address(server),
        };
        [
            net("10.1.0.5", "10.96.0.10"),
            net("fd00:1::5", "fd00:96::10"),
        ]
    }

    pub fn connect(&self, port: u16) -> Connect {
        Connect {
            local: (self.client, port),
            remote: (self.server, 80),
            route: ROUTE,
            service: SERVICE,
            payer: ROUTE.tag,
        }
    }
}

/// Everybody listens on port 80, on any address.
pub struct Port80(pub ServiceOptions);

impl Listeners for Port80 {
    fn lookup(&self, _: Address, port: u16, _: u32) -> Option<(ServiceId, ServiceOptions)> {
        (port == 80).then_some((SERVICE, self.0))
    }
}

/// Frames on their way out, as many as there is room for.
pub struct Wire {
    pub frames: VecDeque<Vec<u8>>,
    pub room: usize,
    pub packets: Vec<Outgoing>,
}

impl Transmit for Wire {
    fn ready(&mut self) -> bool {
        self.frames.len() < self.room
    }

    fn send(&mut self, packet: Outgoing, write: impl FnOnce(&mut [u8])) {
        assert!(
            self.frames.len() < self.room,
            "nothing is sent without room"
        );
        let mut frame = vec![0xa5; ETHERNET + packet.len];
        let v4 = {
            write(&mut frame[ETHERNET..]);
            frame[ETHERNET] >> 4 == 4
        };
        frame[12..14].copy_from_slice(if v4 { &[0x08, 0x00] } else { &[0x86, 0xdd] });
        self.frames.push_back(frame);
        self.packets.push(packet);
    }
}

/// One node: a stack and what it has sent.
pub struct Host {
    pub stack: Stack,
    pub wire: Wire,
    pub listeners: Port80,
}

pub fn config(seed: u8) -> StackConfig {
    StackConfig {
        secret: [seed; 32],
        limits: Limits::default(),
        timeouts: Timeouts::default(),
    }
}

pub fn small() -> ServiceOptions {
    ServiceOptions {
        receive_buffer: 16 << 10,
        send_buffer: 16 << 10,
        ..ServiceOptions::default()
    }
}

impl Host {
    pub fn new(config: &StackConfig, options: ServiceOptions) -> Self {
        Self {
            stack: Stack::new(config),
            wire: Wire {
                frames: VecDeque::new(),
                room: usize::MAX,
                packets: Vec::new(),
            },
            listeners: Port80(options),
        }
    }

    /// Takes a frame; `None` for one that no engine would give to a stack.
    pub fn receive(&mut self, mut frame: Vec<u8>, now: Now) -> Option<Fate> {
        let Ok(Parsed::Flow(packet)) = parse(&frame) else {
            return None;
        };
        let arrival = Arrival {
            route: ROUTE,
            verified: false,
        };
        let fate = self
            .stack
            .ingest(&mut frame, &packet, arrival, &self.listeners, now);
        assert!(self.stack.counters().balances());
        Some(fate)
    }

    pub fn poll(&mut self, now: Now) {
        self.stack.poll(&mut self.wire, now);
    }

    pub fn connect(&self, net: &Net, port: u16, now: Now) -> Stream {
        self.stack
            .connect(&net.connect(port), &self.listeners.0, now)
            .unwrap()
    }

    pub fn event(&self, event: Event) -> u64 {
        self.stack.counters().events(event)
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.stack.counters().drops(reason)
    }
}

/// Two hosts and a clock.
pub struct Pair {
    pub a: Host,
    pub b: Host,
    pub now: Now,
}

impl Pair {
    pub fn new(options: ServiceOptions) -> Self {
        Self {
            a: Host::new(&config(1), options),
            b: Host::new(&config(2), options),
            now: Now::from_nanos(1_000_000_000),
        }
    }

    /// Frames go to and fro until there are none.
    pub fn exchange(&mut self) {
        for _ in 0..10_000 {
            self.a.poll(self.now);
            self.b.poll(self.now);
            if self.a.wire.frames.is_empty() && self.b.wire.frames.is_empty() {
                return;
            }
            for frame in std::mem::take(&mut self.a.wire.frames) {
                self.b.receive(frame, self.now).unwrap();
            }
            for frame in std::mem::take(&mut self.b.wire.frames) {
                self.a.receive(frame, self.now).unwrap();
            }
        }
        panic!("frames without end");
    }

    /// Time passes, in steps no longer than `step`.
    pub fn pass(&mut self, duration: Duration, step: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now = (self.now + step).min(end);
            self.exchange();
        }
    }

    /// A connection from `a` to `b`: both ends.
    pub fn open(&mut self, net: &Net, port: u16) -> (Stream, Stream) {
        let client = self.a.connect(net, port, self.now);
        self.exchange();
        assert!(connected(&client), "{:?}", self.a.stack.counters());
        let server = self.b.stack.accept().expect("accepted").stream;
        (client, server)
    }
}

/// Counts how often it is woken.
#[derive(Default)]
pub struct Woken(AtomicU64);

impl Woken {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

pub fn connected(stream: &Stream) -> bool {
    matches!(stream.poll_connected(&mut context()), Poll::Ready(Ok(())))
}

/// All that can be written now.
pub fn write(stream: &Stream, mut data: &[u8]) -> usize {
    let mut written = 0;
    while !data.is_empty() {
        match stream.poll_write(&mut context(), data) {
            Poll::Ready(Ok(count)) => {
                written += count;
                data = &data[count..];
            }
            Poll::Ready(Err(error)) => panic!("{error}"),
            Poll::Pending => break,
        }
    }
    written
}

/// What can be read now, and whether that was the end.
pub fn read(stream: &Stream) -> (Vec<u8>, bool) {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.poll_read(&mut context(), &mut buffer) {
            Poll::Ready(Ok(0)) => return (all, true),
            Poll::Ready(Ok(count)) => all.extend_from_slice(&buffer[..count]),
            Poll::Ready(Err(error)) => panic!("{error} after {} bytes", all.len()),
            Poll::Pending => return (all, false),
        }
    }
}

/// The error that reading meets.
pub fn read_error(stream: &Stream) -> Option<std::io::ErrorKind> {
    match stream.poll_read(&mut context(), &mut [0; 16]) {
        Poll::Ready(Err(error)) => Some(error.kind()),
        _ => None,
    }
}

pub fn shutdown(stream: &Stream) {
    assert!(matches!(
        stream.poll_shutdown(&mut context()),
        Poll::Ready(Ok(()))
    ));
}

/// Bytes that differ from their neighbours.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}
