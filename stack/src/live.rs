//! A connection's socket, while it has one.
//!
//! A socket is made in the middle of a connection by a handshake that never leaves the stack: it listens, is given a
//! SYN whose number is the one before the next expected, and an ACK of its own SYN-ACK. From then on the
//! difference between its numbers and the wire's is a constant.

use smoltcp::iface::{
    Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet,
};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpEndpoint};
use weft_datapath::wire::{ipv4, tcp};
use weft_datapath::{Address, Tuple};

use crate::device::{Drain, Exchange, MTU, Scratch, Transmit, capabilities};
use crate::header::{self, Header, ip_len};
use crate::seq::Seq;

/// Buffers of a socket, in bytes.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Buffers {
    pub(crate) receive: usize,
    pub(crate) send: usize,
}

/// What the peer of a new socket is like.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Peer {
    /// Most data in a segment to it.
    pub(crate) mss: u16,
    /// Shift of its windows, if they are scaled.
    pub(crate) shift: Option<u8>,
    pub(crate) sack: bool,
    /// Its last window, as in the header.
    pub(crate) window: u16,
}

/// What sockets need of the world: one interface for all of them, and one for those whose device segments.
pub(crate) struct Interfaces {
    plain: Interface,
    segmented: Interface,
    /// For sockets whose path turned out to carry less than their peer takes, by what it carries. A socket knows its
    /// peer's segment size from the start on, and bounds it by its interface's.
    shorter: Vec<(u16, Interface)>,
    seed: u64,
}

/// Interfaces are kept for path MTUs that are multiples of this, so there are at most 116 of them below 1,500 bytes.
const PATH_STEP: u16 = 8;

impl Interfaces {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            plain: interface(seed, Capabilities(false, MTU)),
            segmented: interface(seed, Capabilities(true, MTU)),
            shorter: Vec::new(),
            seed,
        }
    }

    /// The interface for a path that carries packets of so many bytes.
    fn shorter(&mut self, mtu: u16) -> &mut Interface {
        let mtu = mtu / PATH_STEP * PATH_STEP;
        let at = match self.shorter.binary_search_by_key(&mtu, |(mtu, _)| *mtu) {
            Ok(at) => at,
            Err(at) => {
                let made = interface(self.seed, Capabilities(false, mtu.into()));
                self.shorter.insert(at, (mtu, made));
                at
            }
        };
        &mut self.shorter[at].1
    }
}

fn interface(seed: u64, mut device: Capabilities) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut interface = Interface::new(config, &mut device, Instant::ZERO);
    // No address of its own, so any is: who is served was decided before.
    interface.set_any_ip(true);
    interface
}

/// A device that only says what it can: whether it segments, and the longest packet.
struct Capabilities(bool, usize);

impl smoltcp::phy::Device for Capabilities {
    type RxToken<'a> = crate::device::Packet<'a>;
    type TxToken<'a> = crate::device::Reply<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        None
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        None
    }

    fn capabilities(&self) -> smoltcp::phy::DeviceCapabilities {
        capabilities(self.0, self.1)
    }
}

/// A socket in a set of its own, so that nothing ever walks over others' sockets.
pub(crate) struct Live {
    set: SocketSet<'static>,
    handle: SocketHandle,
}

impl Live {
    fn new(buffers: Buffers) -> Self {
        let buffer = |size: usize| SocketBuffer::new(vec![0; size]);
        let mut socket = Socket::new(buffer(buffers.receive), buffer(buffers.send));
        socket.set_congestion_control(CongestionControl::Reno);
        // Whoever writes to a stream has something to say: a proxy must not hold it back.
        socket.set_nagle_enabled(false);
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(socket);
        Self { set, handle }
    }

    /// A socket in the middle of the connection of `tuple` (the peer is the source), which expects `next` from the
    /// peer; and the first number it will send.
    pub(crate) fn established(
        interfaces: &mut Interfaces,
        tuple: &Tuple,
        next: Seq,
        peer: Peer,
        buffers: Buffers,
        now: Instant,
    ) -> (Self, Seq) {
        let mut live = Self::new(buffers);
        let listening = live
            .socket_mut()
            .listen((ip_address(&tuple.dst), tuple.dport));
        debug_assert_eq!(listening, Ok(()), "a fresh socket, and no port is 0");
        let options = SynOptionBytes::of(&peer);
        let syn = Header {
            seq: next.minus(1),
            ack: None,
            flags: tcp::SYN,
            window: peer.window,
            options: options.bytes(),
        };
        live.give(interfaces, tuple, &syn, now);
        let mut answer = Scratch::EMPTY;
        let mut device = Exchange {
            packet: None,
            reply: &mut answer,
        };
        interfaces
            .plain
            .poll_egress(now, &mut device, &mut live.set);
        let sent = answer.bytes().get(ip_len(tuple)..).unwrap_or_default();
        let number = sent.get(tcp::SEQUENCE).map_or([0; 4], |field| {
            field.try_into().expect("a range of four bytes")
        });
        let first = Seq(u32::from_be_bytes(number)) + 1;
        let ack = Header {
            seq: next,
            ack: Some(first),
            flags: 0,
            window: peer.window,
            options: &[],
        };
        live.give(interfaces, tuple, &ack, now);
        debug_assert_eq!(live.state(), State::Established);
        (live, first)
    }

    /// A socket that opens the connection of `tuple` (the peer is the source).
    pub(crate) fn opening(interfaces: &mut Interfaces, tuple: &Tuple, buffers: Buffers) -> Self {
        let mut live = Self::new(buffers);
        let remote = IpEndpoint::new(ip_address(&tuple.src), tuple.sport);
        let local = IpEndpoint::new(ip_address(&tuple.dst), tuple.dport);
        let connecting = live
            .socket_mut()
            .connect(interfaces.plain.context(), remote, local);
        debug_assert_eq!(connecting, Ok(()), "a fresh socket and checked ends");
        live
    }

    fn give(
        &mut self,
        interfaces: &mut Interfaces,
        tuple: &Tuple,
        header: &Header<'_>,
        now: Instant,
    ) {
        let packet = Scratch::of(tuple, header);
        let mut reply = Scratch::EMPTY;
        self.process(interfaces, packet.bytes(), &mut reply, now);
    }

    /// Gives a packet to the socket, and takes its immediate answer, if there is one.
    pub(crate) fn process(
        &mut self,
        interfaces: &mut Interfaces,
        packet: &[u8],
        reply: &mut Scratch,
        now: Instant,
    ) {
        let mut device = Exchange {
            packet: Some(packet),
            reply,
        };
        let result = interfaces
            .plain
            .poll_ingress_single(now, &mut device, &mut self.set);
        debug_assert_ne!(result, PollIngressSingleResult::None);
    }

    /// Sends at most one packet; whether it did.
    pub(crate) fn send<T: Transmit, P: FnMut(&mut [u8], bool)>(
        &mut self,
        interfaces: &mut Interfaces,
        device: &mut Drain<'_, T, P>,
        now: Instant,
    ) -> bool {
        let interface = match (device.segment, device.path) {
            (Some(_), _) => &mut interfaces.segmented,
            (None, Some(mtu)) => interfaces.shorter(mtu),
            (None, None) => &mut interfaces.plain,
        };
        interface.poll_egress(now, device, &mut self.set) == PollResult::SocketStateChanged
    }

    /// When the socket's own timers want it to be looked at.
    pub(crate) fn due(&self, interfaces: &mut Interfaces, now: Instant) -> Option<Instant> {
        interfaces.plain.poll_at(now, &self.set)
    }

    pub(crate) fn socket(&self) -> &Socket<'static> {
        self.set.get(self.handle)
    }

    pub(crate) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(self.handle)
    }

    pub(crate) fn state(&self) -> State {
        self.socket().state()
    }
}

/// The options of a SYN, padded.
#[derive(Default)]
pub(crate) struct SynOptionBytes {
    bytes: [u8; 12],
    len: usize,
}

impl SynOptionBytes {
    pub(crate) fn new(mss: u16, shift: Option<u8>, sack: bool) -> Self {
        let mut options = Self::default();
        options.push(&[2, 4]);
        options.push(&mss.to_be_bytes());
        if let Some(shift) = shift {
            options.push(&[1, 3, 3, shift]);
        }
        if sack {
            options.push(&[1, 1, 4, 2]);
        }
        options
    }

    /// What a peer is like, as its SYN would say it.
    pub(crate) fn of(peer: &Peer) -> Self {
        Self::new(peer.mss, peer.shift, peer.sack)
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// How far a socket shifts its windows whose buffer is that large.
pub(crate) fn socket_shift(receive: usize) -> u32 {
    (usize::BITS - receive.leading_zeros()).saturating_sub(16)
}

fn ip_address(address: &Address) -> IpAddress {
    if address.is_v4() {
        IpAddress::Ipv4(address.v4_octets().into())
    } else {
        IpAddress::Ipv6(address.0.into())
    }
}

const _: () = assert!(ipv4::LEN + tcp::LEN + 12 <= header::HEADER_MAX);
