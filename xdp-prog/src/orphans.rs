//! Connections that ended in a process that is dead: each of their peers is told, also one that only waits.
//!
//! The hooks answer whatever a peer sends with a reset (`bpf/reset.h`). One that sends nothing is asked: it
//! gets an ACK that cannot be true, answers with what it has (RFC 9293, 3.10.7.4), and that meets the
//! hook, which so learns the number that makes a reset count. The next question shows that all is over: a
//! peer without the connection answers with a reset, and the hook forgets it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{io, thread};

use weft_datapath::wire::{ethernet, ipv4, ipv6, tcp};
use weft_datapath::{Checksum, Egress, Inject, Protocol, Tuple, l4_checksum};

use crate::abi;
use crate::edge::memory::MappedArray;
use crate::edge::packet::frame_socket;
use crate::maps::{MapError, TypedMap};
use crate::netlink::{self, Interface, WEFT0, WEFT1, XdpMode};
use crate::owned::{OwnedError, blocking, is_foreign};

/// How long after a question the next one follows, as long as something is left. The second finds what the first has
/// ended; the fourth what Linux did not answer at first, because it had just told somebody (`tcp_invalid_ratelimit`,
/// 500 ms).
const ROUNDS: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(50),
    Duration::from_millis(450),
    Duration::from_millis(550),
    Duration::from_millis(550),
];
/// How long somebody who takes over may have to wait at most.
const SLICE: Duration = Duration::from_millis(20);
/// Between the sequence numbers of two rounds: with a fifth of all between them, and windows of a quarter at most, no two
/// in a row are within one.
const STRIDE: u32 = u32::MAX / 5;
/// Sent with no window and nothing in it.
const ACK: u8 = 0x10;
const HOPS: u8 = 64;

/// What became of connections.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Ends of connections that there were; most connections have two.
    pub found: usize,
    /// Of those, ends whose peers gave no answer, so that it is not known whether they know.
    pub silent: usize,
}

/// Why connections could not be reset.
#[derive(Debug, thiserror::Error)]
pub enum OrphanError {
    /// A map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The heartbeats could not be mapped.
    #[error("cannot map the heartbeats")]
    Heartbeat(#[source] io::Error),
    /// The punt pair.
    #[error(transparent)]
    Owned(#[from] OwnedError),
    /// No packet socket.
    #[error("cannot send through {WEFT1}")]
    Socket(#[source] io::Error),
}

/// Gives the packets of a dead process to the kernel and resets the connections that ended in it, both by what is
/// pinned under `pin_dir`. Nothing there is nothing to do. Takes 100 ms with connections, and 1.7 s at most.
///
/// Only for a process that is known to be dead. `ours` says whether that still is our business, and is asked before
/// every step: a new process does the same before it begins.
pub fn reset_orphans(pin_dir: &Path, ours: impl Fn() -> bool) -> Result<Orphans, OrphanError> {
    if !pin_dir.join("pins").exists() || !ours() {
        return Ok(Orphans::default());
    }
    let pins = match TypedMap::open(&pin_dir.join("pins")) {
        Err(MapError::Layout { .. }) => return Ok(Orphans::default()), // Another version's, and its business.
        pins => pins?,
    };
    stop_heartbeats(&pin_dir.join("heartbeat"))?;
    let found = terminated(&pins)?;
    let mut left = found.clone();
    if left.is_empty() {
        return Ok(Orphans::default());
    }
    let injection = Injection::open(pin_dir)?;
    for (round, wait) in (0..).zip(ROUNDS) {
        if let Some(injection) = &injection {
            for (key, value) in &left {
                injection.ask(key, value, STRIDE.wrapping_mul(round));
            }
        }
        if !wait_for(wait, &ours) {
            return Ok(Orphans::default());
        }
        left = terminated(&pins)?;
        if left.is_empty() {
            break;
        }
    }
    for (key, _) in &left {
        pins.remove(key)?;
    }
    Ok(Orphans {
        found: found.len(),
        silent: left.len(),
    })
}

type Pins = TypedMap<abi::FlowKey, abi::FlowValue>;

/// Every worker's word says that it has stopped.
fn stop_heartbeats(path: &Path) -> Result<(), OrphanError> {
    let map = TypedMap::<u32, abi::Heartbeat>::open(path)?;
    let (stride, count) = (size_of::<abi::Heartbeat>(), abi::MAX_WORKERS as usize);
    let words = MappedArray::new(map.handle().as_fd(), stride, count);
    let words = words.map_err(OrphanError::Heartbeat)?;
    for word in (0..count).filter_map(|worker| words.word(worker, 0)) {
        word.store(0, Ordering::Relaxed);
    }
    Ok(())
}

/// The ends of connections that ended in user space.
fn terminated(pins: &Pins) -> Result<Vec<(abi::FlowKey, abi::FlowValue)>, MapError> {
    let mut found = Vec::new();
    pins.for_each(|key, value| {
        if u32::from(value.mode) == abi::MODE_TERMINATED {
            found.push((key, value));
        }
    })?;
    Ok(found)
}

/// Sleeps; false as soon as it is somebody else's business.
fn wait_for(time: Duration, ours: &impl Fn() -> bool) -> bool {
    let end = Instant::now() + time;
    loop {
        if !ours() {
            return false;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        thread::sleep(left.min(SLICE));
    }
}

/// The way of injected frames, as a worker's socket has it.
struct Injection {
    socket: OwnedFd,
    weft0_mac: [u8; 6],
}

impl Injection {
    /// `None` where the pair is gone or another's: then only those peers learn of it that send something.
    fn open(pin_dir: &Path) -> Result<Option<Self>, OrphanError> {
        let interfaces = blocking(netlink::interfaces()).map_err(OwnedError::from)?;
        let named = |name: &str| {
            interfaces
                .iter()
                .find(|there: &&Interface| there.name == name)
        };
        let (Some(weft0), Some(weft1)) = (named(WEFT0), named(WEFT1)) else {
            return Ok(None);
        };
        // Nobody's programs, or somebody else's.
        if weft1.xdp == XdpMode::None || is_foreign(pin_dir, &interfaces)? {
            return Ok(None);
        }
        let Some(weft0_mac) = weft0.mac else {
            return Ok(None);
        };
        let socket = frame_socket(weft1.index).map_err(OrphanError::Socket)?;
        Ok(Some(Self { socket, weft0_mac }))
    }

    /// What cannot be sent is asked again in the next round.
    fn ask(&self, key: &abi::FlowKey, value: &abi::FlowValue, sequence: u32) {
        let egress = match u32::from(value.rewrite) {
            mode if mode == Inject::Peer as u32 => Egress::peer(key.ifindex),
            mode if mode == Inject::Reingress as u32 => Egress::reingress(key.ifindex),
            _ => return,
        };
        let Some(from_peer) = key.to_datapath().map(|key| key.tuple) else {
            return;
        };
        let (mut frame, length) = question(&from_peer, sequence);
        frame[ethernet::DST].copy_from_slice(&self.weft0_mac);
        frame[ethernet::SRC].copy_from_slice(&egress.encode());
        let flags = rustix::net::SendFlags::empty();
        let _ = rustix::net::send(&self.socket, &frame[..length], flags);
    }
}

const LONGEST: usize = ethernet::LEN + ipv6::LEN + tcp::LEN;

/// An ACK of our end to the peer whose packets have that tuple, but for its MACs, and its length.
fn question(from_peer: &Tuple, sequence: u32) -> ([u8; LONGEST], usize) {
    let (ours, theirs) = (from_peer.dst, from_peer.src);
    let mut frame = [0; LONGEST];
    let (header, l3) = frame.split_at_mut(ethernet::LEN);
    let l4_at = if ours.is_v4() {
        header[ethernet::TYPE].copy_from_slice(&ethernet::IPV4.to_be_bytes());
        let total = (ipv4::LEN + tcp::LEN) as u16;
        l3[ipv4::VERSION_IHL] = 0x45;
        l3[ipv4::TOTAL_LENGTH].copy_from_slice(&total.to_be_bytes());
        l3[ipv4::FRAGMENT].copy_from_slice(&ipv4::DONT_FRAGMENT.to_be_bytes());
        l3[ipv4::TTL] = HOPS;
        l3[ipv4::PROTOCOL] = Protocol::Tcp.number();
        l3[ipv4::SRC].copy_from_slice(&ours.v4_octets());
        l3[ipv4::DST].copy_from_slice(&theirs.v4_octets());
        let sum = Checksum::default().with(&l3[..ipv4::LEN]).finish();
        l3[ipv4::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        ipv4::LEN
    } else {
        header[ethernet::TYPE].copy_from_slice(&ethernet::IPV6.to_be_bytes());
        l3[ipv6::VERSION_CLASS_FLOW].copy_from_slice(&[0x60, 0, 0, 0]);
        l3[ipv6::PAYLOAD_LENGTH].copy_from_slice(&(tcp::LEN as u16).to_be_bytes());
        l3[ipv6::NEXT_HEADER] = Protocol::Tcp.number();
        l3[ipv6::HOP_LIMIT] = HOPS;
        l3[ipv6::SRC].copy_from_slice(&ours.0);
        l3[ipv6::DST].copy_from_slice(&theirs.0);
        ipv6::LEN
    };
    let l4 = &mut l3[l4_at..l4_at + tcp::LEN];
    l4[tcp::SPORT].copy_from_slice(&from_peer.dport.to_be_bytes());
    l4[tcp::DPORT].copy_from_slice(&from_peer.sport.to_be_bytes());
    l4[tcp::SEQUENCE].copy_from_slice(&sequence.to_be_bytes());
    l4[tcp::DATA_OFFSET] = (tcp::LEN as u8 / 4) << 4;
    l4[tcp::FLAGS] = ACK;
    let sum = l4_checksum(&ours, &theirs, Protocol::Tcp, l4);
    l4[tcp::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    (frame, ethernet::LEN + l4_at + tcp::LEN)
}
