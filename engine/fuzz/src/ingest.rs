//! Any sequence of segments, calls and waits through a TCP stack: what comes out is sound, what is held stays within
//! its bounds, and what is read is what was sent.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use weft_datapath::{Address, Now, Parsed, Protocol, Tuple, l4_checksum, parse};
use weft_stack::*;

/// Steps that one case takes at most.
const STEPS_MAX: usize = 256;
/// Numbers that the peers begin with: the number space ends within a connection.
const PEER_ISN: u32 = 0xffff_ff00;
/// Ports of the peers: few, so that connections meet their predecessors.
const PORTS: u16 = 3;

/// One case in words.
#[derive(Arbitrary, Debug)]
struct Case {
    half_open: u8,
    connections: u8,
    sockets: u8,
    time_wait: u8,
    replies: u8,
    large_buffers: bool,
    keepalive: bool,
    idle: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// A peer sends a segment whose numbers lie near what the two have said.
    Segment {
        port: u8,
        v6: bool,
        flags: u8,
        seq: i16,
        /// Relative to the last number that the stack sent it; absent: without what the flags ask for.
        ack: i16,
        window: u16,
        data: u16,
        options: Vec<u8>,
        /// Checksums are left wrong.
        broken: bool,
    },
    /// The peer acknowledges all it has got, with so much data.
    Answer {
        port: u8,
        v6: bool,
        flags: u8,
        data: u8,
    },
    /// Any bytes that the parser takes for TCP.
    Raw(Vec<u8>),
    Accept,
    Connect {
        port: u8,
        v6: bool,
    },
    Read {
        stream: u8,
        len: u16,
    },
    Write {
        stream: u8,
        len: u16,
    },
    Shutdown(u8),
    Abort(u8),
    Close(u8),
    Splice(u8, u8),
    Wait(u16),
    LongWait(u8),
    /// There are so many frames.
    Poll(u8),
    AbortAll,
}

/// One case.
///
/// # Panics
/// When something that must hold does not.
pub fn run(data: &[u8]) {
    let Ok(case) = Case::arbitrary(&mut Unstructured::new(data)) else {
        return;
    };
    let mut world = World::new(&case);
    for step in case.steps.iter().take(STEPS_MAX) {
        world.step(step);
        world.check();
    }
    world.forget();
}

/// What a peer knows of its connection.
#[derive(Copy, Clone, Default)]
struct Peer {
    /// One after the last number that it sent in order, relative to its first.
    nxt: u32,
    /// One after the last that the stack sent, as on the wire.
    stack_nxt: u32,
}

struct Held {
    stream: Stream,
    /// Bytes read so far.
    read: u32,
    /// Whether the peer's data can be told by its place: not for connections that the stack opened to a peer whose
    /// first number is any.
    known: bool,
}

struct World {
    stack: Stack,
    limits: Limits,
    options: ServiceOptions,
    now: Now,
    peers: [[Peer; PORTS as usize]; 2],
    streams: Vec<Held>,
    frames: Frames,
}

/// Frames that the stack has sent, within their bound.
struct Frames {
    room: usize,
    sent: Vec<(u32, Vec<u8>)>,
}

impl Transmit for Frames {
    fn ready(&mut self) -> bool {
        self.sent.len() < self.room
    }

    fn send(&mut self, packet: Outgoing, write: impl FnOnce(&mut [u8])) {
        assert!(self.sent.len() < self.room, "nothing is sent without room");
        assert!(packet.segment.is_none() && packet.len <= 1500, "{packet:?}");
        let mut bytes = vec![0xee; 14 + packet.len];
        write(&mut bytes[14..]);
        let v4 = bytes[14] >> 4 == 4;
        bytes[12..14].copy_from_slice(if v4 { &[8, 0] } else { &[0x86, 0xdd] });
        self.sent.push((packet.tag, bytes));
    }
}

struct Port80(ServiceOptions);

impl Listeners for Port80 {
    fn lookup(&self, _: Address, port: u16, _: u32) -> Option<(ServiceId, ServiceOptions)> {
        (port == 80).then_some((ServiceId(1), self.0))
    }
}

const ROUTE: Route = Route { tag: 5, mtu: 1500 };

fn ends(v6: bool, port: u8) -> (Address, Address, u16) {
    let port = 1000 + u16::from(port) % PORTS;
    if v6 {
        let address = |last| {
            let mut octets = [0; 16];
            octets[0] = 0xfd;
            octets[15] = last;
            Address(octets)
        };
        (address(1), address(2), port)
    } else {
        (
            Address::from_v4([10, 0, 0, 1]),
            Address::from_v4([10, 96, 0, 2]),
            port,
        )
    }
}

/// The byte at a place of a peer's stream.
fn byte_at(place: u32) -> u8 {
    (place.wrapping_mul(31) ^ place >> 8) as u8
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl World {
    fn new(case: &Case) -> Self {
        let limits = Limits {
            connections: u32::from(case.connections % 8),
            sockets: u32::from(case.sockets % 8),
            half_open: u32::from(case.half_open % 4),
            time_wait: u32::from(case.time_wait % 4),
            replies: 1 + u32::from(case.replies % 8),
            resets: 1_000,
        };
        let size = if case.large_buffers { 70_000 } else { 4 << 10 };
        let options = ServiceOptions {
            receive_buffer: size,
            send_buffer: size,
            half_open: u32::from(case.half_open % 3),
            keepalive: case.keepalive.then_some(Keepalive {
                idle: Duration::from_secs(3),
                interval: Duration::from_secs(1),
                count: 3,
            }),
            idle: case.idle.then_some(Duration::from_secs(20)),
            ..ServiceOptions::default()
        };
        let config = StackConfig {
            secret: [3; 32],
            limits,
            timeouts: Timeouts::default(),
        };
        Self {
            stack: Stack::new(&config),
            limits,
            options,
            now: Now::from_nanos(1_000_000_000),
            peers: [[Peer::default(); PORTS as usize]; 2],
            streams: Vec::new(),
            frames: Frames {
                room: 0,
                sent: Vec::new(),
            },
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Segment {
                port,
                v6,
                flags,
                seq,
                ack,
                window,
                data,
                ref options,
                broken,
            } => {
                let peer = self.peer(v6, port);
                let seq = peer.nxt.wrapping_add(i32::from(seq) as u32);
                let ack = peer.stack_nxt.wrapping_add(i32::from(ack) as u32);
                let header = (flags, seq, ack, window);
                let frame = segment(v6, port, header, options, data % 9_000, broken);
                self.give(frame);
            }
            Step::Answer {
                port,
                v6,
                flags,
                data,
            } => {
                let peer = *self.peer(v6, port);
                let flags = flags & 0x0b | 0x10;
                let header = (flags, peer.nxt, peer.stack_nxt, 500);
                let frame = segment(v6, port, header, &[], data.into(), false);
                let len = u32::from(flags & 1) + u32::from(flags >> 1 & 1) + u32::from(data);
                self.peer(v6, port).nxt = peer.nxt.wrapping_add(len);
                self.give(frame);
            }
            Step::Raw(ref bytes) => self.give(bytes.clone()),
            Step::Accept => {
                if let Some(accepted) = self.stack.accept() {
                    assert_eq!((accepted.service, accepted.route), (ServiceId(1), ROUTE));
                    let known = (1000..1000 + PORTS).contains(&accepted.tuple.sport);
                    self.hold(accepted.stream, known);
                }
            }
            Step::Connect { port, v6 } => {
                let (peer, own, port) = ends(v6, port);
                let connect = Connect {
                    local: (own, 80),
                    remote: (peer, port),
                    route: ROUTE,
                    service: ServiceId(1),
                    payer: ROUTE.tag,
                };
                if let Ok(stream) = self.stack.connect(&connect, &self.options, self.now) {
                    self.hold(stream, false);
                }
            }
            Step::Read { stream, len } => self.read(stream, len.into()),
            Step::Write { stream, len } => {
                if let Some(held) = self.held(stream) {
                    let data = vec![0x77; len.into()];
                    let written = held.stream.poll_write(&mut context(), &data);
                    assert!(!matches!(written, Poll::Ready(Ok(count)) if count > data.len()));
                }
            }
            Step::Shutdown(stream) => {
                if let Some(held) = self.held(stream) {
                    let _ = held.stream.poll_shutdown(&mut context());
                }
            }
            Step::Abort(stream) => {
                if let Some(held) = self.held(stream) {
                    held.stream.abort();
                }
            }
            Step::Close(stream) => {
                if !self.streams.is_empty() {
                    let at = usize::from(stream) % self.streams.len();
                    self.streams.swap_remove(at);
                }
            }
            Step::Splice(a, b) => {
                if self.streams.len() >= 2 {
                    let a = self
                        .streams
                        .swap_remove(usize::from(a) % self.streams.len());
                    let b = self
                        .streams
                        .swap_remove(usize::from(b) % self.streams.len());
                    self.stack.splice(a.stream, b.stream);
                }
            }
            Step::Wait(millis) => self.now = self.now + Duration::from_millis(millis.into()),
            Step::LongWait(secs) => self.now = self.now + Duration::from_secs(secs.into()),
            Step::Poll(room) => self.poll(room.into()),
            Step::AbortAll => self.stack.abort_all(),
        }
    }

    fn peer(&mut self, v6: bool, port: u8) -> &mut Peer {
        &mut self.peers[usize::from(v6)][usize::from(port) % usize::from(PORTS)]
    }

    fn held(&mut self, at: u8) -> Option<&mut Held> {
        let count = self.streams.len().max(1);
        self.streams.get_mut(usize::from(at) % count)
    }

    fn hold(&mut self, stream: Stream, known: bool) {
        self.streams.push(Held {
            stream,
            read: 0,
            known,
        });
    }

    fn give(&mut self, mut frame: Vec<u8>) {
        let Ok(Parsed::Flow(packet)) = parse(&frame) else {
            return;
        };
        let before = self.stack.counters();
        let arrival = Arrival {
            route: ROUTE,
            verified: false,
        };
        let listeners = Port80(self.options);
        let fate = self
            .stack
            .ingest(&mut frame, &packet, arrival, &listeners, self.now);
        let after = self.stack.counters();
        assert_eq!(after.received, before.received + 1);
        let counted = match fate {
            Fate::Delivered => after.delivered - before.delivered,
            Fate::Answered => after.answered - before.answered,
            Fate::Dropped(reason) => after.drops(reason) - before.drops(reason),
        };
        assert_eq!(counted, 1, "{fate:?}");
    }

    fn read(&mut self, stream: u8, len: usize) {
        let Some(held) = self.held(stream) else {
            return;
        };
        let mut buffer = vec![0; len];
        if let Poll::Ready(Ok(count)) = held.stream.poll_read(&mut context(), &mut buffer) {
            for (at, byte) in buffer[..count].iter().enumerate() {
                let place = held.read + at as u32;
                assert!(
                    !held.known || *byte == byte_at(place),
                    "another byte at {place}"
                );
            }
            held.read += count as u32;
        }
    }

    fn poll(&mut self, room: usize) {
        self.frames.room = room;
        self.stack.poll(&mut self.frames, self.now);
        for (tag, frame) in std::mem::take(&mut self.frames.sent) {
            assert_eq!(tag, ROUTE.tag);
            self.sent(&frame);
        }
    }

    /// What the stack sends is a sound packet; its peer learns from it.
    fn sent(&mut self, frame: &[u8]) {
        let Ok(Parsed::Flow(packet)) = parse(frame) else {
            panic!("{frame:x?}");
        };
        let tuple: &Tuple = packet.tuple();
        assert_eq!((packet.end(), tuple.proto), (frame.len(), Protocol::Tcp));
        let l4 = &frame[packet.l4()..];
        assert_eq!(l4_checksum(&tuple.src, &tuple.dst, tuple.proto, l4), 0);
        let word = |at: usize| u32::from_be_bytes(l4[at..at + 4].try_into().unwrap());
        let flags = l4[13];
        assert!(
            flags & 0x07 == 0 || (flags & 0x07).is_power_of_two(),
            "{flags:x}"
        );
        assert!(flags & 0x04 == 0 || l4.len() == 20, "a reset without data");
        let data = l4.len() - usize::from(l4[12] >> 4) * 4;
        if !(1000..1000 + PORTS).contains(&tuple.dport) {
            return; // To somebody whom raw bytes have made up.
        }
        let v6 = !tuple.src.is_v4();
        let peer = self.peer(v6, (tuple.dport - 1000) as u8);
        let len = data as u32 + u32::from(flags & 1) + u32::from(flags >> 1 & 1);
        peer.stack_nxt = word(4).wrapping_add(len);
    }

    fn check(&self) {
        assert!(self.stack.counters().balances());
        let held = self.stack.holdings();
        assert!(
            held.connections <= self.limits.connections as usize,
            "{held:?}"
        );
        assert!(held.sockets <= self.limits.sockets as usize, "{held:?}");
        assert!(held.half_open <= self.limits.half_open as usize, "{held:?}");
        assert!(held.time_wait <= self.limits.time_wait as usize, "{held:?}");
    }

    /// In the end nothing is left of anything.
    fn forget(&mut self) {
        self.streams.clear();
        while let Some(accepted) = self.stack.accept() {
            drop(accepted);
        }
        self.stack.abort_all();
        for _ in 0..300 {
            self.poll(1_000);
            self.now = self.now + Duration::from_secs(1);
            self.check();
        }
        let held = self.stack.holdings();
        let left = (
            held.connections,
            held.sockets,
            held.half_open,
            held.time_wait,
        );
        assert_eq!(left, (0, 0, 0, 0));
        assert_eq!(self.stack.next(), None, "and nothing is waited for");
    }
}

/// A segment of a peer to port 80; numbers relative to the peer's first, data by its place.
fn segment(
    v6: bool,
    port: u8,
    (flags, seq, ack, window): (u8, u32, u32, u16),
    options: &[u8],
    data: u16,
    broken: bool,
) -> Vec<u8> {
    let (src, dst, port) = ends(v6, port);
    let options = &options[..options.len().min(40)];
    let header = 20 + options.len().next_multiple_of(4);
    let mut tcp = vec![0; header + usize::from(data)];
    tcp[..2].copy_from_slice(&port.to_be_bytes());
    tcp[2..4].copy_from_slice(&80u16.to_be_bytes());
    tcp[4..8].copy_from_slice(&PEER_ISN.wrapping_add(seq).to_be_bytes());
    tcp[8..12].copy_from_slice(&ack.to_be_bytes());
    tcp[12] = (header as u8 / 4) << 4;
    tcp[13] = flags;
    tcp[14..16].copy_from_slice(&window.to_be_bytes());
    tcp[20..20 + options.len()].copy_from_slice(options);
    for (at, byte) in tcp[header..].iter_mut().enumerate() {
        *byte = byte_at(seq.wrapping_sub(1).wrapping_add(at as u32));
    }
    let sum = l4_checksum(&src, &dst, Protocol::Tcp, &tcp);
    tcp[16..18].copy_from_slice(&(sum ^ u16::from(broken)).to_be_bytes());
    let mut frame = vec![0; 12];
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((tcp.len() as u16).to_be_bytes());
        frame.extend([6, 64]);
        frame.extend(src.0);
        frame.extend(dst.0);
    } else {
        let mut ip = vec![0x45, 0];
        ip.extend((20 + tcp.len() as u16).to_be_bytes());
        ip.extend([0, 0, 0, 0, 64, 6, 0, 0]);
        ip.extend(src.v4_octets());
        ip.extend(dst.v4_octets());
        let sum = weft_datapath::Checksum::default().with(&ip).finish();
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend([8, 0]);
        frame.extend(ip);
    }
    frame.extend(tcp);
    frame
}
