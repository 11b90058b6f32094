//! What lies around the workers of a simulation: packets as pods send them, and the map that steers them.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use etherparse::PacketBuilder;
use weft_datapath::{
    Address, Checksum, FlowKey, Hook, Ingress, Packet, Parsed, PinOp, Protocol, Tuple, l4_checksum,
    parse, source_hash,
};

use super::super::testing::Pins;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;

/// Where the IP packet starts in a frame.
pub const L3: usize = 14;

pub fn v4(address: Ipv4Addr) -> Address {
    IpAddr::from(address).into()
}

/// What a packet carries: whose it is, and whether a bit of it will be flipped.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// Which connection's.
    pub connection: u32,
    /// Which of the connection's packets.
    pub number: u8,
    /// Whether the wire flips one of its bits: eight equal bits, so that the flip cannot hide it.
    pub marked: bool,
}

impl Payload {
    const LEN: usize = 6;

    fn bytes(self) -> [u8; Self::LEN] {
        let [a, b, c, d] = self.connection.to_be_bytes();
        [a, b, c, d, self.number, if self.marked { 0xff } else { 0 }]
    }

    /// What a frame carries; `None` for a packet without, such as a reset.
    pub fn read(frame: &[u8], packet: &Packet) -> Option<Self> {
        let bytes = frame[packet.l4()..packet.end()].last_chunk()?;
        let &[a, b, c, d, number, marked]: &[u8; Self::LEN] = bytes;
        let header = if packet.tuple().proto == Protocol::Udp {
            8
        } else {
            20
        };
        (packet.end() - packet.l4() == header + Self::LEN).then_some(Self {
            connection: u32::from_be_bytes([a, b, c, d]),
            number,
            marked: marked.count_ones() > 4,
        })
    }
}

/// A packet as a pod sends it.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The pod's veth.
    pub ifindex: u32,
    pub tuple: Tuple,
    pub flags: u8,
    pub payload: Payload,
}

impl Sent {
    /// The frame as the pod's hook punts it to worker `target`.
    pub fn punted(&self, target: u16) -> Vec<u8> {
        let source = Ingress {
            ifindex: self.ifindex,
            hook: Hook::FromPod,
            target,
        };
        let Tuple {
            src, dst, sport, ..
        } = self.tuple;
        let ip = PacketBuilder::ethernet2(source.encode(), [2, 0, 0, 0, 0, 1]).ipv4(
            src.v4_octets(),
            dst.v4_octets(),
            64,
        );
        let (mut frame, payload) = (Vec::with_capacity(64), self.payload.bytes());
        match self.tuple.proto {
            Protocol::Udp => ip
                .udp(sport, self.tuple.dport)
                .write(&mut frame, &payload)
                .unwrap(),
            Protocol::Tcp => {
                let mut tcp = ip.tcp(sport, self.tuple.dport, 1, 1000);
                if self.flags & SYN != 0 {
                    tcp = tcp.syn();
                }
                if self.flags & FIN != 0 {
                    tcp = tcp.fin();
                }
                if self.flags & ACK != 0 {
                    tcp = tcp.ack(1);
                }
                tcp.write(&mut frame, &payload).unwrap();
            }
        }
        frame
    }
}

/// Points a frame at a worker, as a hook does.
pub fn aim(frame: &mut [u8], ingress: Ingress) {
    frame[6..12].copy_from_slice(&ingress.encode());
}

/// The packet in a frame; `None` for anything without ports.
pub fn packet(frame: &[u8]) -> Option<Packet> {
    match parse(frame) {
        Ok(Parsed::Flow(packet)) => Some(packet),
        _ => None,
    }
}

/// Whether a receiver would take the packet: both of its checksums are right.
pub fn sound(frame: &[u8], packet: &Packet) -> bool {
    let tuple = packet.tuple();
    let l4 = &frame[packet.l4()..packet.end()];
    let (l4, right) = match tuple.proto {
        Protocol::Tcp => (l4, 0),
        Protocol::Udp => (&l4[..usize::from(l4[4]) << 8 | usize::from(l4[5])], 0xffff),
    };
    Checksum::default().with(&frame[L3..packet.l4()]).finish() == 0
        && l4_checksum(&tuple.src, &tuple.dst, tuple.proto, l4) == right
}

/// The kernel's `pins` map: a worker never writes an entry twice, and never removes one that it has not written.
#[derive(Default)]
pub struct Steering {
    /// Owner and cookie.
    pub pins: HashMap<FlowKey, (u16, u64)>,
    pub inserted: u64,
    pub removed: u64,
    /// Entries written over by another worker. When a pod is enrolled while both ends of a flow send, one
    /// packet each way can be on its way to two workers before either has written.
    pub raced: u64,
    /// Removals of what the other worker of a race had written or removed.
    pub lost: u64,
    /// Entries that were written over and are there yet.
    contested: HashSet<FlowKey>,
}

impl Steering {
    /// Does what the workers asked for since the last time.
    pub fn apply(&mut self, asked: &Pins) {
        for op in asked.0.lock().unwrap().drain(..) {
            match op {
                PinOp::Insert {
                    key, owner, cookie, ..
                } => {
                    self.inserted += 1;
                    let Some((before, _)) = self.pins.insert(key, (owner, cookie)) else {
                        continue;
                    };
                    assert_ne!(before, owner, "{key:?} written twice");
                    self.raced += 1;
                    self.contested.insert(key);
                }
                PinOp::Leave { .. } => unreachable!("no hooks"),
                PinOp::Remove { key, cookie } => {
                    self.removed += 1;
                    let entry = self.pins.get(&key).map(|(_, cookie)| *cookie);
                    match cookie {
                        None => assert!(
                            entry.is_some() && !self.contested.contains(&key),
                            "{key:?} can be another's"
                        ),
                        Some(_) if entry != cookie => {
                            self.lost += 1;
                            assert!(self.lost <= self.raced, "{key:?} was nobody's already");
                            continue;
                        }
                        Some(_) => {}
                    }
                    self.pins.remove(&key);
                    self.contested.remove(&key);
                }
            }
        }
    }

    /// The worker that a hook means a packet for: its owner, or a hash of the source.
    pub fn target(&self, key: &FlowKey) -> u16 {
        let FlowKey { tuple, .. } = key;
        match self.pins.get(key) {
            Some((owner, _)) => *owner,
            None => source_hash(&tuple.src, tuple.sport, tuple.proto),
        }
    }
}
