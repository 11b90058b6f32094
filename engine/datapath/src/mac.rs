//! What the source MAC of a punted or injected frame says. The layout is shared with the BPF programs.
//!
//! Punted: `[0x06 from pod | 0x0a to pod | 0x0e uplink, ifindex (24 bit, big endian), target (16 bit, big endian)]`.
//! Injected: `[0x06, egress ifindex (24 bit, big endian), mode, 0]`.

use crate::wire::ethernet;

#[cfg(test)]
mod tests;

/// The first number of a tunnel. Tunnels stand where pods' interfaces do: what comes from a peer or goes there has the
/// peer's number in place of an interface's index.
pub const TUNNELS: u32 = 0xff_0000;

/// The largest interface index that a MAC carries, and that is no tunnel. The kernel counts up from 1, so a node gets
/// there after 16 million interfaces; `Tables` refuse a pod beyond it.
pub const MAX_IFINDEX: u32 = TUNNELS - 1;

/// Bits of an interface's index, or a tunnel's number, in a MAC.
pub const PORT_BITS: u32 = 24;

const FROM_POD: u8 = 0x06;
const TO_POD: u8 = 0x0a;
const UPLINK: u8 = 0x0e;
const INJECTED: u8 = 0x06;

/// The hook at a pod's veth where a frame was seen.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Hook {
    /// What the pod sends (tcx ingress of its veth).
    FromPod = FROM_POD,
    /// What the kernel delivers to the pod (tcx egress of its veth).
    ToPod = TO_POD,
}

/// Where a punted frame came from and which worker it is meant for.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ingress {
    /// The pod's veth, or the tunnel that it came by.
    pub ifindex: u32,
    /// The hook there.
    pub hook: Hook,
    /// The owner of the flow, or a hash where nobody owns it; to be reduced modulo the workers.
    pub target: u16,
}

impl Ingress {
    /// Reads a source MAC; `None` when no program of ours wrote it.
    #[inline]
    pub fn decode(source: &[u8; 6]) -> Option<Self> {
        let &[kind, a, b, c, high, low] = source;
        let hook = match kind {
            FROM_POD => Hook::FromPod,
            TO_POD => Hook::ToPod,
            _ => return None,
        };
        Some(Self {
            ifindex: u32::from_be_bytes([0, a, b, c]),
            hook,
            target: u16::from_be_bytes([high, low]),
        })
    }

    /// The source MAC that says so; the BPF programs write the same.
    pub fn encode(&self) -> [u8; 6] {
        let [_, a, b, c] = self.ifindex.to_be_bytes();
        let [high, low] = self.target.to_be_bytes();
        [self.hook as u8, a, b, c, high, low]
    }
}

/// Where a wrapped frame came from: the hook of an uplink (its tcx ingress).
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Uplink {
    /// The uplink.
    pub ifindex: u32,
    /// The owner of the flow inside, or a hash where nobody owns it; to be reduced modulo the workers.
    pub target: u16,
}

impl Uplink {
    /// Reads a source MAC; `None` where it is another hook's.
    #[inline]
    pub fn decode(source: &[u8; 6]) -> Option<Self> {
        let &[UPLINK, a, b, c, high, low] = source else {
            return None;
        };
        Some(Self {
            ifindex: u32::from_be_bytes([0, a, b, c]),
            target: u16::from_be_bytes([high, low]),
        })
    }

    /// The source MAC that says so; the BPF programs write the same.
    pub fn encode(&self) -> [u8; 6] {
        let [_, a, b, c] = self.ifindex.to_be_bytes();
        let [high, low] = self.target.to_be_bytes();
        [UPLINK, a, b, c, high, low]
    }
}

/// What weft0 does with an injected frame.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Inject {
    /// Into the pod behind the interface.
    Peer = 1,
    /// Into the stack through the interface, as if the pod had just sent it.
    Reingress = 2,
    /// Out of the interface, an uplink, by the kernel's routes and neighbours.
    Neighbour = 4,
}

/// Where an injected frame goes.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Egress {
    /// The pod's veth, the uplink, or, until the packet is wrapped, the tunnel.
    pub ifindex: u32,
    /// The way in.
    pub inject: Inject,
}

impl Egress {
    /// The frame goes into the pod behind `ifindex`.
    pub const fn peer(ifindex: u32) -> Self {
        Self {
            ifindex,
            inject: Inject::Peer,
        }
    }

    /// The frame goes back to the kernel as if the pod behind `ifindex` had just sent it.
    pub const fn reingress(ifindex: u32) -> Self {
        Self {
            ifindex,
            inject: Inject::Reingress,
        }
    }

    /// The frame leaves by the uplink `ifindex`.
    pub const fn neighbour(ifindex: u32) -> Self {
        Self {
            ifindex,
            inject: Inject::Neighbour,
        }
    }

    /// The source MAC that says so.
    pub fn encode(&self) -> [u8; 6] {
        let [_, a, b, c] = self.ifindex.to_be_bytes();
        [INJECTED, a, b, c, self.inject as u8, 0]
    }

    /// Reads the source MAC of an injected frame, as weft0 does.
    pub fn decode(source: &[u8; 6]) -> Option<Self> {
        let &[INJECTED, a, b, c, mode, 0] = source else {
            return None;
        };
        let inject = match mode {
            1 => Inject::Peer,
            2 => Inject::Reingress,
            4 => Inject::Neighbour,
            _ => return None,
        };
        Some(Self {
            ifindex: u32::from_be_bytes([0, a, b, c]),
            inject,
        })
    }

    /// Writes the MACs of `frame`. A re-ingressed frame keeps its destination, because it must look
    /// as if Weft had never touched it; weft0 restores the source.
    ///
    /// `frame` holds at least an Ethernet header, as every frame that an [`Ingress`] was read from.
    #[inline]
    pub(crate) fn write(self, frame: &mut [u8], ports: &Ports) {
        if self.inject != Inject::Reingress {
            frame[ethernet::DST].copy_from_slice(&ports.weft0_mac);
        }
        frame[ethernet::SRC].copy_from_slice(&self.encode());
    }
}

/// What `process` must know of the punt pair.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct Ports {
    /// The MAC of `weft0`, destination of what goes into a pod.
    pub weft0_mac: [u8; 6],
}
