//! A node: its worker, its tables, and what is known of its frames from outside.

use std::net::Ipv4Addr;
use std::sync::Arc;

use weft_datapath::{
    Algorithm, Backend, BackendPath, BackendState, Encapsulation, Now, OverlaySpec, PacketIo,
    PeerSpec, Pod, PodState, Prefix, Protocol, ServiceOptions, ServicePortSpec, SlotRef, Stage,
    TUNNELS, Tables, TablesBuilder, UpstreamSource,
};

use super::super::super::super::testing::{Bench, bench_for};
use super::super::super::super::{Snapshot, Totals};
use super::super::super::wire::{Steering, v4};
use super::super::world::TARGET;

pub const NODES: usize = 3;
pub const UPLINK: u32 = 7;
pub const MTU: u16 = 1450;
/// Veths, the same on every node. The last one is of the pod that moves.
pub const CLIENT: u32 = 11;
pub const SERVER: u32 = 12;
pub const MOVER: u32 = 13;
pub const MOVERS: Ipv4Addr = Ipv4Addr::new(10, 244, 9, 1);
/// The slot of the pod that moves.
pub const SLOT: u32 = 5;

pub const L4: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 1), 80);
pub const STAGE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 80), 80);
/// As [`STAGE`], its backends seeing the node.
pub const FROM_NODE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 81), 80);

pub fn underlay(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 7, 1 + node as u8)
}

pub fn address(node: usize, ifindex: u32) -> Ipv4Addr {
    match ifindex {
        MOVER => MOVERS,
        ifindex => Ipv4Addr::new(10, 244, 1 + node as u8, ifindex as u8),
    }
}

pub fn tunnel(node: usize) -> u32 {
    TUNNELS + 1 + node as u32
}

/// Where the moving pod is, as a node has been told, and how often it has moved.
#[derive(Copy, Clone, Debug)]
pub struct Told {
    pub home: usize,
    pub epoch: u32,
}

pub fn tables(node: usize, told: Told, grace_until: Now, generation: u64) -> Tables {
    let mut builder = TablesBuilder::new();
    let moves = SlotRef {
        slot: SLOT,
        epoch: told.epoch,
    };
    let mut pods = vec![(CLIENT, SlotRef::FIXED), (SERVER, SlotRef::FIXED)];
    if told.home == node {
        pods.push((MOVER, moves));
    }
    for (ifindex, slot) in pods {
        builder.add_pod(Pod {
            ifindex,
            name: format!("pods/{node}-{ifindex}").into(),
            addresses: [v4(address(node, ifindex))].into_iter().collect(),
            slot,
            state: PodState::Enrolled { grace_until },
            mtu: 1500,
        });
    }
    let mut epochs = vec![1; 16];
    epochs[SLOT as usize] = told.epoch;
    builder.set_epochs(epochs);
    let peer = |peer: usize| {
        let range = Ipv4Addr::new(10, 244, 1 + peer as u8, 0);
        let mut ranges = vec![(Prefix::new(v4(range), 24), SlotRef::FIXED)];
        if told.home == peer {
            ranges.push((Prefix::new(v4(MOVERS), 24), moves));
        }
        PeerSpec {
            port: tunnel(peer),
            remote: v4(underlay(peer)),
            local: v4(underlay(node)),
            uplink: UPLINK,
            mtu: MTU,
            native: false,
            ranges,
        }
    };
    builder.set_overlay(OverlaySpec {
        vni: 7,
        encapsulation: Encapsulation::Geneve,
        port: Encapsulation::Geneve.port(),
        checksum: node == 2, // Who sends decides.
        peers: (0..NODES)
            .filter(|other| *other != node)
            .map(peer)
            .collect(),
    });
    for port in (0..NODES).map(tunnel).chain([CLIENT, SERVER, MOVER]) {
        builder.set_node_address(port, v4(underlay(node)));
    }
    let backend = |of: usize| Backend {
        address: v4(address(of, SERVER)),
        port: TARGET,
        path: BackendPath::Pod {
            ifindex: if of == node { SERVER } else { tunnel(of) },
        },
        slot: SlotRef::FIXED,
        member: SlotRef::FIXED,
        state: BackendState::Ready,
        weight: 1,
        name: None,
    };
    for (id, (vip, stage, proto)) in [
        (L4, Stage::L4, Protocol::Tcp),
        (L4, Stage::L4, Protocol::Udp),
        (STAGE, Stage::Tcp(UpstreamSource::Client), Protocol::Tcp),
        (FROM_NODE, Stage::Tcp(UpstreamSource::Node), Protocol::Tcp),
    ]
    .into_iter()
    .enumerate()
    {
        builder.add_service_port(ServicePortSpec {
            id: id as u32,
            address: v4(vip.0),
            port: vip.1,
            proto,
            algorithm: Algorithm::RoundRobin,
            backends: (0..NODES).map(backend).collect(),
            options: ServiceOptions {
                stage,
                ..ServiceOptions::default()
            },
        });
    }
    builder.build(generation).unwrap()
}

/// A worker with its hooks, and what is known of its frames from outside.
pub struct Node {
    pub bench: Bench,
    pub steering: Steering,
    pub told: Told,
    pub generation: u64,
    /// Frames that it was given, and that it has sent.
    pub pushed: u64,
    pub sent: u64,
}

impl Node {
    pub fn new(at: usize, told: Told, grace_until: Now) -> Self {
        let mut node = Self {
            bench: bench_for(1, 2048, 1024, 4096),
            steering: Steering::default(),
            told,
            generation: 1,
            pushed: 0,
            sent: 0,
        };
        node.publish(at, grace_until);
        node
    }

    pub fn publish(&mut self, at: usize, grace_until: Now) {
        self.generation += 1;
        let next = tables(at, self.told, grace_until, self.generation);
        self.bench.tables.store(Arc::new(next));
    }

    pub fn push(&mut self, frame: &[u8]) {
        self.pushed += 1;
        let io = self.bench.workers[0].io_mut();
        assert!(io.push(frame), "{:?}", io.frames());
    }

    pub fn seen(&self) -> Snapshot {
        self.bench.workers[0].shared().read()
    }

    /// U-08: what was given and taken outside is what has been counted inside.
    pub fn books(&mut self) -> Totals {
        let seen = self.seen();
        let frames = self.bench.workers[0].io_mut().frames();
        assert!(frames.balances() && frames.app == 0, "{frames:?}");
        assert_eq!(seen.totals.unaccounted(), 0, "{seen:?}");
        let waiting = frames.rx as u64;
        assert_eq!(seen.totals.received + waiting, self.pushed, "{seen:?}");
        assert_eq!(seen.totals.transmitted(), self.sent, "{seen:?}");
        seen.totals
    }
}
