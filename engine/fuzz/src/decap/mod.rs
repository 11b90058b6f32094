//! Any sequence of wrapped packets, right and wrong, and of local pods' packets through `process`: what peers send gets to
//! whom it may, and what goes to them is wrapped as their documents say.

mod case;
mod judge;
mod node;

use arbitrary::{Arbitrary, Unstructured};
use weft_datapath::*;

use crate::frames::Shown;
use crate::outer::Joint;
use crate::support::*;
use case::Case;

/// Steps that one case takes at most: enough to fill the small table.
const STEPS_MAX: usize = 96;
const FRAME_ROOM: usize = 6144;
const UPLINK: u32 = 7;
/// Veths of the pods here, whose addresses end with 7 and 8.
const VETHS: [u32; 2] = [11, 12];
const HOSTS: [u8; 2] = [7, 8];
/// The other nodes, 2 and 3.
const PEERS: usize = 2;
/// The slot of the range that moves from one peer to the other.
const MOVES: u32 = 9;

/// One case.
///
/// # Panics
/// When something that must hold does not.
pub fn run(data: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let Shown(case) = &Shown(case);
    let mut node = Node::new(case);
    for step in case.steps.iter().take(STEPS_MAX) {
        node.step(step);
    }
}

/// Who sends.
#[derive(Copy, Clone, Debug)]
enum Sender {
    /// That pod of this node.
    Pod(usize),
    Peer(usize),
}

/// Whose an address is.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Home {
    /// The pod behind that veth.
    Here(u32),
    /// One of the pods of that peer.
    Peer(usize),
}

/// A packet that got somewhere, and what its answer must become.
#[derive(Clone)]
struct Passed {
    /// As its receiver has it.
    frame: Vec<u8>,
    receiver: Home,
    /// Where the answer goes to, and its ends there; while nothing else has happened.
    expected: Option<(Home, Tuple)>,
}

struct Node {
    joint: Joint,
    workers: u16,
    moved: bool,
    enrolled: [bool; VETHS.len()],
    linked: [bool; PEERS],
    epochs: Vec<u32>,
    tables: Tables,
    state: State,
    counters: Counters,
    frames: u64,
    now: Now,
    last: Option<Passed>,
}

/// The address of a host of that node: from 128 on, in the half that may move.
fn host(net: Net, node: u8, host: u8) -> Address {
    match net {
        Net::V4 => v4(10, 244, node, host),
        Net::V6 => {
            let half = u16::from(host & 0x80) << 8;
            let (node, host) = (node.into(), host.into());
            std::net::Ipv6Addr::new(0xfd00, 0x244, node, half, 0, 0, 0, host).into()
        }
    }
}

/// The name of a pod of this node.
fn pod_name(nth: usize) -> String {
    format!("pods/{nth}")
}

/// A node's own address.
fn underlay(net: Net, node: u8) -> Address {
    match net {
        Net::V4 => v4(192, 168, 7, node),
        Net::V6 => std::net::Ipv6Addr::new(0xfd07, 7, 0, 0, 0, 0, 0, node.into()).into(),
    }
}

fn peer_address(net: Net, peer: usize) -> Address {
    underlay(net, 2 + peer as u8)
}

fn tunnel(peer: usize) -> u32 {
    TUNNELS + 2 + peer as u32
}

fn uplink(target: u16) -> [u8; 6] {
    let ifindex = UPLINK;
    Uplink { ifindex, target }.encode()
}
