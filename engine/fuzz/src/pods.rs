//! Pods around a node in memory, whose TCP is a stack of their own.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use weft_datapath::{Address, Egress, Hook, Inject, Now, Parsed, Protocol, Tuple, parse};
use weft_stack::{
    Arrival, Connect, Keepalive, Listeners, Outgoing, Route, ServiceId, ServiceOptions, Stack,
    StackConfig, Stream, Transmit,
};

use crate::node::ETHERNET;

const ROUTE: Route = Route { tag: 0, mtu: 1500 };
/// The interface of whoever is behind the kernel.
pub const OUTSIDE: u32 = 0;

/// A pod, or what is behind the kernel.
pub struct Pod {
    pub address: Ipv4Addr,
    /// Its veth, or [`OUTSIDE`].
    pub ifindex: u32,
    stack: Stack,
    listens: Listens,
    /// Connections that it has accepted.
    pub accepted: VecDeque<Stream>,
    out: Out,
}

#[derive(Default)]
struct Out(VecDeque<Vec<u8>>);

impl Transmit for Out {
    fn ready(&mut self) -> bool {
        true
    }

    fn send(&mut self, packet: Outgoing, write: impl FnOnce(&mut [u8])) {
        let mut frame = vec![0; ETHERNET + packet.len];
        write(&mut frame[ETHERNET..]);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        self.0.push_back(frame);
    }
}

struct Listens(Option<u16>);

impl Listeners for Listens {
    fn lookup(&self, _: Address, port: u16, _: u32) -> Option<(ServiceId, ServiceOptions)> {
        (self.0 == Some(port)).then(|| (ServiceId(0), options()))
    }
}

/// Keep-alives find out about connections whose reset was lost.
fn options() -> ServiceOptions {
    ServiceOptions {
        keepalive: Some(Keepalive {
            idle: Duration::from_secs(15),
            interval: Duration::from_secs(5),
            count: 4,
        }),
        ..ServiceOptions::default()
    }
}

/// The ends of a TCP packet.
pub fn ends(frame: &[u8]) -> Option<Tuple> {
    match parse(frame) {
        Ok(Parsed::Flow(packet)) if packet.tuple().proto == Protocol::Tcp => Some(*packet.tuple()),
        _ => None,
    }
}

impl Pod {
    /// A pod, which listens at that port if any.
    pub fn new(address: Ipv4Addr, ifindex: u32, listens: Option<u16>) -> Self {
        Self {
            address,
            ifindex,
            stack: Stack::new(&StackConfig {
                secret: address.octets().repeat(8).try_into().expect("32 bytes"),
                limits: Default::default(),
                timeouts: Default::default(),
            }),
            listens: Listens(listens),
            accepted: VecDeque::new(),
            out: Out::default(),
        }
    }

    /// Opens a connection from that port.
    pub fn connect(&self, port: u16, to: (Ipv4Addr, u16), now: Now) -> Stream {
        let connect = Connect {
            local: (v4(self.address), port),
            remote: (v4(to.0), to.1),
            route: ROUTE,
            service: ServiceId(0),
            payer: ROUTE.tag,
        };
        let opened = self.stack.connect(&connect, &options(), now);
        opened.expect("a free port")
    }

    /// A frame of the node's comes.
    pub fn arrive(&mut self, frame: &mut [u8], now: Now) {
        let Ok(Parsed::Flow(packet)) = parse(frame) else {
            return;
        };
        let arrival = Arrival {
            route: ROUTE,
            verified: false,
        };
        self.stack
            .ingest(frame, &packet, arrival, &self.listens, now);
        while let Some(accepted) = self.stack.accept() {
            self.accepted.push_back(accepted.stream);
        }
    }

    /// What it sends by now.
    pub fn poll(&mut self, now: Now) -> VecDeque<Vec<u8>> {
        if self.stack.next().is_some_and(|next| next <= now) {
            self.stack.poll(&mut self.out, now);
        }
        std::mem::take(&mut self.out.0)
    }

    /// When it has something to do though nothing comes.
    pub fn due(&self) -> Option<Now> {
        self.stack.next()
    }
}

/// Where what a pod sends is caught: leaving it, or, of what comes by the kernel, on its way to the pod that it is for.
pub fn caught(pods: &[Pod], from: usize, frame: &[u8]) -> Option<(u32, Hook)> {
    let from = &pods[from];
    if from.ifindex != OUTSIDE {
        return Some((from.ifindex, Hook::FromPod));
    }
    let to = ends(frame)?.dst;
    let pod = pods.iter().find(|pod| v4(pod.address) == to)?;
    Some((pod.ifindex, Hook::ToPod))
}

/// Whom a frame of the node's gets to.
pub fn receiver(pods: &[Pod], frame: &[u8]) -> Option<usize> {
    let egress = Egress::decode(frame[6..12].try_into().ok()?)?;
    match egress.inject {
        Inject::Peer => pods.iter().position(|pod| pod.ifindex == egress.ifindex),
        Inject::Reingress => {
            let to = ends(frame)?.dst;
            let outside = |pod: &Pod| pod.ifindex == OUTSIDE && v4(pod.address) == to;
            pods.iter().position(outside)
        }
        Inject::Neighbour => None,
    }
}

/// The address as the dataplane has it.
pub fn v4(address: Ipv4Addr) -> Address {
    std::net::IpAddr::from(address).into()
}
