//! The Rust side of `bpf/weft.h`: keys and values of the maps, constants, counters.
//!
//! The structs are mirrors; build.rs turns every size and offset that the header asserts into the
//! same assertion here, so a change on one side alone does not compile.
#![allow(dead_code, reason = "some constants are for the programs alone")]

use weft_datapath::{Address, Inject, Protocol};
use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

include!(concat!(env!("OUT_DIR"), "/weft_h.rs"));

/// Programs and engine must find the same ports, and hold datagrams back equally long.
const _: () = {
    use weft_datapath::timeouts;
    use weft_datapath::wire::ipv6;
    assert!(IP6_EXTENSIONS_MAX as usize == ipv6::EXTENSIONS_MAX);
    assert!(IP6_EXTENSION_BYTES_MAX as usize == ipv6::EXTENSION_BYTES_MAX);
    assert!(HELD_MS as u128 == timeouts::LEAVING.as_millis());
    assert!(TUNNELS == weft_datapath::TUNNELS);
};

/// `struct weft_config`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Config {
    pub(crate) abi: u32,
    pub(crate) workers: u32,
    pub(crate) weft0_ifindex: u32,
    pub(crate) lanes: u32,
    pub(crate) heartbeat_limit_ns: u64,
    pub(crate) fast_path: u32,
    pub(crate) instance: u32,
    pub(crate) flow_secret: crate::FlowSecret,
}

/// `struct weft_heartbeat`.
#[derive(Copy, Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Heartbeat {
    pub(crate) last_ns: u64,
    pub(crate) pad: [u64; 7],
}

/// `struct weft_pod`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Pod {
    pub(crate) ip4: [u8; 4],
    pub(crate) ip6: [u8; 16],
    pub(crate) flags: u32,
    pub(crate) punt_interval_ns: u64,
    pub(crate) punt_burst_ns: u64,
    pub(crate) grace_until: u64,
}

/// `struct weft_pod_state`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct PodState {
    pub(crate) tat: u64,
    pub(crate) mac: [u8; 6],
    pub(crate) gateway: [u8; 6],
    pub(crate) pad: [u8; 4],
}

/// `struct weft_endpoint`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Endpoint {
    pub(crate) ifindex: u32,
    pub(crate) flags: u32,
}

/// `struct weft_overlay`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Overlay {
    pub(crate) node4: [u8; 16],
    pub(crate) node6: [u8; 16],
    pub(crate) port: U16,
    pub(crate) encap: u8,
    pub(crate) pad: [u8; 5],
}

/// `struct weft_tunnel`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Tunnel {
    pub(crate) port: u32,
}

/// `struct weft_peer`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Peer {
    pub(crate) local: [u8; 4],
    pub(crate) remote: [u8; 4],
    pub(crate) uplink: u32,
    pub(crate) vni: [u8; 4],
    pub(crate) port: U16,
    pub(crate) mtu: u16,
    pub(crate) encap: u8,
    pub(crate) native: u8,
    pub(crate) pad: [u8; 2],
}

/// `struct weft_range`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Range {
    pub(crate) bits: u32,
    pub(crate) addr: [u8; 16],
}

/// `struct weft_service_key`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ServiceKey {
    pub(crate) vip: [u8; 16],
    pub(crate) port: U16,
    pub(crate) proto: u8,
    pub(crate) pad: u8,
}

/// `struct weft_service`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Service {
    pub(crate) id: u32,
    pub(crate) flags: u32,
    pub(crate) maglev_offset: u32,
    pub(crate) maglev_size: u32,
    pub(crate) backends_offset: u32,
    pub(crate) backends: u32,
}

/// `struct weft_maglev`.
#[derive(Copy, Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Maglev {
    pub(crate) entries: [u16; MAGLEV_PACK as usize],
}

/// `struct weft_backend`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Backend {
    pub(crate) addr: [u8; 16],
    pub(crate) port: U16,
    pub(crate) pad: u16,
    pub(crate) ifindex: u32,
    pub(crate) slot: u32,
    pub(crate) epoch: u32,
    pub(crate) instance: u32,
    pub(crate) reserved: u32,
}

/// `struct weft_flow_key`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct FlowKey {
    pub(crate) src: [u8; 16],
    pub(crate) dst: [u8; 16],
    pub(crate) sport: U16,
    pub(crate) dport: U16,
    pub(crate) ifindex: u32,
    pub(crate) proto: u8,
    pub(crate) pad: [u8; 3],
}

/// `struct weft_flow_value`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct FlowValue {
    pub(crate) rewrite_addr: [u8; 16],
    pub(crate) rewrite_port: U16,
    pub(crate) mode: u8,
    pub(crate) rewrite: u8,
    pub(crate) egress_ifindex: u32,
    pub(crate) owner: u16,
    pub(crate) deadline: u16,
    pub(crate) slot: u32,
    pub(crate) epoch: u32,
    pub(crate) instance: u32,
    pub(crate) cookie: u64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) last_seen: u64,
    pub(crate) tcp_state: u32,
    pub(crate) service: u32,
}

/// `struct weft_flow`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Flow {
    pub(crate) key: FlowKey,
    pub(crate) pad: u32,
    pub(crate) value: FlowValue,
}

/// `struct weft_opening`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Opening {
    pub(crate) key: FlowKey,
    pub(crate) back_key: FlowKey,
    pub(crate) there: FlowValue,
    pub(crate) back: FlowValue,
}

/// `struct weft_flow_set`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct FlowSet {
    pub(crate) lock: u32,
    pub(crate) tags: [u32; FLOW_WAYS as usize],
    pub(crate) deadlines: [u16; FLOW_WAYS as usize],
    pub(crate) pins: u32,
    pub(crate) seen: u64,
}

/// `struct weft_firsts`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Firsts {
    pub(crate) words: [u64; FIRST_WORDS as usize],
}

/// `struct weft_reverse`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Reverse {
    pub(crate) vip: [u8; 16],
    pub(crate) port: U16,
    pub(crate) flags: u16,
}

impl From<&weft_datapath::FlowKey> for FlowKey {
    fn from(key: &weft_datapath::FlowKey) -> Self {
        let tuple = &key.tuple;
        Self {
            src: tuple.src.0,
            dst: tuple.dst.0,
            sport: tuple.sport.into(),
            dport: tuple.dport.into(),
            ifindex: key.ifindex,
            proto: tuple.proto.number(),
            pad: [0; 3],
        }
    }
}

impl FlowKey {
    /// `None` for a protocol that no program of ours writes.
    pub(crate) fn to_datapath(self) -> Option<weft_datapath::FlowKey> {
        let tuple = weft_datapath::Tuple {
            src: Address(self.src),
            dst: Address(self.dst),
            sport: self.sport.get(),
            dport: self.dport.get(),
            proto: Protocol::from_number(self.proto)?,
        };
        Some(weft_datapath::FlowKey {
            tuple,
            ifindex: self.ifindex,
        })
    }
}

impl FlowValue {
    /// An entry that says who owns the flow, and, where its connections end there, how what
    /// answers them is injected and by which device large packets come.
    pub(crate) fn owner(owner: u16, cookie: u64, terminated: Option<(Inject, u32)>) -> Self {
        Self {
            mode: terminated.map_or(MODE_OWNER, |_| MODE_TERMINATED) as u8,
            rewrite: terminated.map_or(0, |(answer, _)| answer as u8),
            egress_ifindex: terminated.map_or(0, |(_, lane)| lane),
            owner,
            cookie,
            ..Self::new_zeroed()
        }
    }
}
