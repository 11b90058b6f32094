//! A client in a few numbers: it says what a test needs of it and keeps nothing else, so that a hundred thousand of
//! them cost a stack's test nothing.

use weft_datapath::{Address, Checksum, Now, Parsed, Protocol, l4_checksum, parse};
use weft_stack::*;

use super::{Port80, ROUTE};

/// The last packet sent, in memory that is used again.
pub struct Sink {
    pub len: usize,
    pub count: u64,
    pub bytes: Vec<u8>,
}

impl Sink {
    pub fn new() -> Self {
        Self {
            len: 0,
            count: 0,
            bytes: vec![0; 70_000],
        }
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    /// Sequence number of the last packet, which is IPv4.
    pub fn seq(&self) -> u32 {
        self.word(24)
    }
}

impl Transmit for Sink {
    fn ready(&mut self) -> bool {
        true
    }

    fn send(&mut self, packet: Outgoing, write: impl FnOnce(&mut [u8])) {
        write(&mut self.bytes[..packet.len]);
        self.len = packet.len;
        self.count += 1;
    }
}

/// One connection of one client in IPv4.
#[derive(Clone, Debug)]
pub struct Raw {
    pub client: (Address, u16),
    pub server: (Address, u16),
    pub seq: u32,
    pub ack: u32,
}

impl Raw {
    pub fn new(n: u32) -> Self {
        let [_, a, b, c] = (n / 40_000).to_be_bytes();
        Self {
            client: (
                Address::from_v4([10, a, b, c + 1]),
                1_024 + (n % 40_000) as u16,
            ),
            server: (Address::from_v4([10, 96, 0, 1]), 80),
            seq: n.wrapping_mul(0x9e37_79b9),
            ack: 0,
        }
    }

    /// Writes a frame into `frame`, and counts it as sent.
    pub fn frame(&mut self, frame: &mut Vec<u8>, flags: u8, data: &[u8]) {
        frame.clear();
        frame.resize(14 + 40 + data.len(), 0);
        frame[12] = 8;
        let ip = &mut frame[14..];
        let total = (ip.len() as u16).to_be_bytes();
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&total);
        ip[8..10].copy_from_slice(&[64, 6]);
        ip[12..16].copy_from_slice(&self.client.0.v4_octets());
        ip[16..20].copy_from_slice(&self.server.0.v4_octets());
        let sum = Checksum::default().with(&ip[..20]).finish();
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let tcp = &mut ip[20..];
        tcp[..2].copy_from_slice(&self.client.1.to_be_bytes());
        tcp[2..4].copy_from_slice(&self.server.1.to_be_bytes());
        tcp[4..8].copy_from_slice(&self.seq.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.ack.to_be_bytes());
        tcp[12..16].copy_from_slice(&[5 << 4, flags, 0xff, 0xff]);
        tcp[20..].copy_from_slice(data);
        let sum = l4_checksum(&self.client.0, &self.server.0, Protocol::Tcp, tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        self.seq = self
            .seq
            .wrapping_add(data.len() as u32 + u32::from(flags & 3 != 0));
    }

    /// Sends a segment to the stack.
    pub fn send(
        &mut self,
        stack: &Stack,
        listeners: &Port80,
        frame: &mut Vec<u8>,
        (flags, data): (u8, &[u8]),
        now: Now,
    ) {
        self.frame(frame, flags, data);
        let fate = give(stack, listeners, frame, now);
        assert!(matches!(fate, Fate::Delivered | Fate::Answered), "{fate:?}");
    }
}

/// Gives a frame to a stack.
pub fn give(stack: &Stack, listeners: &Port80, frame: &mut [u8], now: Now) -> Fate {
    let Ok(Parsed::Flow(packet)) = parse(frame) else {
        panic!("no TCP");
    };
    let arrival = Arrival {
        route: ROUTE,
        verified: false,
    };
    stack.ingest(frame, &packet, arrival, listeners, now)
}
