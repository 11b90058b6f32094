//! A hop from frame to TCP to HTTP and back: any segments and any bytes of clients and of backends through a worker with a service
//! at layer 7. Nothing panics, every frame has its fate after every step, only what is sound reaches a backend, and nothing is left.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::LazyLock;
use std::time::Duration;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};
use weft::control::Compiled;
use weft_datapath::{Hook, Now};
use weft_l7::fuzzing::Reader;

use crate::node::{ETHERNET, Node, Room, compile};

const VIP: End = (Ipv4Addr::new(10, 96, 0, 80), 80);
const CLIENT: (Ipv4Addr, u32) = (Ipv4Addr::new(10, 244, 1, 1), 1);
const BACKEND: (Ipv4Addr, u32) = (Ipv4Addr::new(10, 244, 1, 2), 2);
const TARGET: u16 = 8080;
/// With a timeout, for requests whose client is gone unnoticed and whose backend says nothing.
const CONFIG: &str = r#"
[node]
name = "a"
access_log = "stdout"
[[pod]]
name = "client"
ip = "10.244.1.1"
interface = "veth1"
[[pod]]
name = "backend"
ip = "10.244.1.2"
interface = "veth2"
[[service]]
name = "s"
cluster_ip = "10.96.0.80"
algorithm = "round_robin"
endpoints = [{ address = "10.244.1.2" }]
ports = [{ port = 80, target_port = 8080, stage = "http", source = "node" }]
http = { idle_timeout = "20s", stall_timeout = "20s", connections = 8 }
backend = { protocol = "http1", connections = 4 }
[[service.routes]]
name = "r"
[[service.routes.rules]]
backends = [{ service = "s" }]
timeouts = { request = "30s" }
"#;
static COMPILED: LazyLock<Compiled> = LazyLock::new(|| compile(CONFIG));
/// The stack leaves a reserve of places to other packets.
const ROOM: Room = Room {
    frames: 640,
    ring: 512,
    flows: 256,
};

/// Connections of clients at a time, and how far apart they begin their numbers: the number space ends within some.
const CLIENTS: usize = 3;
const ISN: u32 = 0xffff_fe00;
/// Steps of a case, and rounds until all that can happen at a time has happened.
const STEPS_MAX: usize = 300;
const ROUNDS_MAX: usize = 2_000;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// An address and a port.
type End = (Ipv4Addr, u16);

/// One case: steps of a byte that says which, a byte that says on which connection and with what, and for some a length and bytes.
///
/// # Panics
/// When something that must hold does not.
pub fn run(data: &[u8]) {
    requests(data);
}

/// As [`run`]; says how many requests the node has logged.
pub fn requests(data: &[u8]) -> u64 {
    let mut world = World::new();
    let mut rest = data;
    for _ in 0..STEPS_MAX {
        let [step, with, more @ ..] = rest else {
            break;
        };
        rest = more;
        let mut bytes = || {
            let Some((length, more)) = rest.split_first() else {
                return &[][..];
            };
            let (bytes, more) = more.split_at(usize::from(*length).min(more.len()));
            rest = more;
            bytes
        };
        let client = usize::from(with % 4).min(CLIENTS - 1);
        match step % 12 {
            0 | 1 => world.client_says(client, bytes()),
            2 => world.backend_says(*with, bytes()),
            3 => world.backends_answer(),
            4 => world.odd(Whose::Client(client), *with, bytes()),
            5 => world.odd(Whose::Backend(*with), *with, bytes()),
            6 => world.closes(Whose::Client(client), *with),
            7 => world.closes(Whose::Backend(*with), *with),
            8 => world.any(*with, bytes()),
            9 => world.again(*with),
            10 => world.holds = with % 2 == 0,
            _ => {
                const WAITS: [u64; 8] = [1, 10, 50, 250, 1_000, 3_000, 11_000, 70_000];
                world.now = world.now + Duration::from_millis(WAITS[usize::from(with % 8)]);
            }
        }
        world.settle();
    }
    world.finish()
}

/// Which connection.
#[derive(Copy, Clone)]
enum Whose {
    Client(usize),
    Backend(u8),
}

/// One end of a connection, as a plain TCP without timers: the way to the node loses nothing unless a case says so.
struct Tcp {
    local: End,
    remote: End,
    ifindex: u32,
    /// What is sent and expected next.
    next: u32,
    wants: u32,
    state: State,
    window: u16,
    /// Bytes that have come.
    got: Vec<u8>,
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum State {
    Opening,
    Open,
    Over,
}

impl Tcp {
    fn new(local: End, remote: End, ifindex: u32) -> Self {
        Self {
            local,
            remote,
            ifindex,
            next: ISN.wrapping_add(local.1.into()),
            wants: 0,
            state: State::Opening,
            window: u16::MAX,
            got: Vec::new(),
        }
    }

    fn segment(&self, offset: i8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = TcpHeader::new(
            self.local.1,
            self.remote.1,
            self.next.wrapping_add_signed(offset.into()),
            self.window,
        );
        header.fin = flags & FIN != 0;
        header.syn = flags & SYN != 0;
        header.rst = flags & RST != 0;
        header.psh = flags & PSH != 0;
        header.ack = flags & ACK != 0;
        header.acknowledgment_number = self.wants;
        let packet = PacketBuilder::ethernet2([0; 6], [0; 6])
            .ipv4(self.local.0.octets(), self.remote.0.octets(), 64)
            .tcp_header(header);
        let mut frame = Vec::with_capacity(packet.size(payload.len()));
        packet.write(&mut frame, payload).expect("memory");
        frame
    }

    /// Takes a segment, and says how it is answered.
    fn take(&mut self, header: &TcpHeader, payload: &[u8]) -> Option<Vec<u8>> {
        if header.rst {
            self.state = State::Over;
            return None;
        }
        match self.state {
            State::Over => {
                self.next = header.acknowledgment_number;
                Some(self.segment(0, RST, &[]))
            }
            State::Opening if header.syn && header.ack => {
                self.state = State::Open;
                self.wants = header.sequence_number.wrapping_add(1);
                self.next = header.acknowledgment_number;
                Some(self.segment(0, ACK, &[]))
            }
            State::Opening => None,
            State::Open => {
                let whole = header.sequence_number == self.wants && !header.syn;
                if whole {
                    self.got.extend_from_slice(payload);
                    let length = payload.len() as u32 + u32::from(header.fin);
                    self.wants = self.wants.wrapping_add(length);
                }
                let answered = !payload.is_empty() || header.fin || header.syn;
                answered.then(|| self.segment(0, ACK, &[]))
            }
        }
    }
}

struct Backend {
    tcp: Tcp,
    reader: Reader,
    answered: u64,
    /// It has switched protocols, perhaps: what follows need not be HTTP.
    lenient: bool,
}

struct World {
    node: Node,
    now: Now,
    clients: Vec<Tcp>,
    /// The next client's port.
    port: u16,
    backends: Vec<Backend>,
    /// Frames on their way to the node, and whether they wait for more: then the last comes first.
    way: VecDeque<(u32, Vec<u8>)>,
    holds: bool,
    /// A frame that was sent, to be sent again.
    sent: Option<(u32, Vec<u8>)>,
}

impl World {
    fn new() -> Self {
        Self {
            node: Node::new(&COMPILED, 1, ROOM),
            now: Now::from_nanos(1_000_000_000),
            clients: Vec::new(),
            port: 40_000,
            backends: Vec::new(),
            way: VecDeque::new(),
            holds: false,
            sent: None,
        }
    }

    /// The client's connection of that number, opened if it is not there.
    fn client(&mut self, at: usize) -> usize {
        while self.clients.len() <= at {
            let tcp = self.dial();
            self.clients.push(tcp);
        }
        if self.clients[at].state == State::Over {
            self.clients[at] = self.dial();
        }
        self.settle();
        at
    }

    fn dial(&mut self) -> Tcp {
        let mut tcp = Tcp::new((CLIENT.0, self.port), VIP, CLIENT.1);
        self.port += 1;
        self.way.push_back((CLIENT.1, tcp.segment(0, SYN, &[])));
        tcp.next = tcp.next.wrapping_add(1);
        tcp
    }

    fn tcp(&mut self, whose: Whose) -> Option<&mut Tcp> {
        match whose {
            Whose::Client(at) => {
                let at = self.client(at);
                self.clients.get_mut(at)
            }
            Whose::Backend(at) => {
                let count = self.backends.len();
                let at = usize::from(at).checked_rem(count)?;
                Some(&mut self.backends[at].tcp)
            }
        }
    }

    /// Sends bytes as they should be sent.
    fn says(&mut self, whose: Whose, bytes: &[u8]) {
        let Some(tcp) = self.tcp(whose) else {
            return;
        };
        if tcp.state != State::Open || bytes.is_empty() {
            return;
        }
        let frame = (tcp.ifindex, tcp.segment(0, ACK | PSH, bytes));
        tcp.next = tcp.next.wrapping_add(bytes.len() as u32);
        self.sent = Some(frame.clone());
        self.way.push_back(frame);
    }

    fn client_says(&mut self, at: usize, bytes: &[u8]) {
        self.says(Whose::Client(at), bytes);
    }

    fn backend_says(&mut self, at: u8, bytes: &[u8]) {
        if let Some(at) = usize::from(at).checked_rem(self.backends.len()) {
            self.backends[at].lenient = true;
        }
        self.says(Whose::Backend(at), bytes);
    }

    /// Every whole request that a backend has is answered.
    fn backends_answer(&mut self) {
        for at in 0..self.backends.len() {
            let one = &mut self.backends[at];
            if !one.lenient && one.reader.whole() > one.answered {
                one.answered += 1;
                self.says(Whose::Backend(at as u8), ANSWER);
            }
        }
    }

    /// A segment that is not the next one, or has other flags, or another window.
    fn odd(&mut self, whose: Whose, with: u8, bytes: &[u8]) {
        let Some(tcp) = self.tcp(whose) else {
            return;
        };
        let [offset, flags, window, payload @ ..] = bytes else {
            return;
        };
        if with & 0x80 != 0 {
            tcp.window = u16::from(*window) << 4;
        }
        let frame = tcp.segment(*offset as i8, *flags, payload);
        if flags & RST != 0 && *offset == 0 {
            tcp.state = State::Over;
        }
        let frame = (tcp.ifindex, frame);
        if let Whose::Backend(at) = whose
            && let Some(at) = usize::from(at).checked_rem(self.backends.len())
        {
            self.backends[at].lenient = true;
        }
        self.way.push_back(frame);
    }

    /// An end in order, or a reset.
    fn closes(&mut self, whose: Whose, with: u8) {
        let Some(tcp) = self.tcp(whose) else {
            return;
        };
        if tcp.state != State::Open {
            return;
        }
        let reset = with & 0x40 != 0;
        let frame = tcp.segment(0, if reset { RST } else { FIN | ACK }, &[]);
        match reset {
            true => tcp.state = State::Over,
            false => tcp.next = tcp.next.wrapping_add(1),
        }
        let frame = (tcp.ifindex, frame);
        self.way.push_back(frame);
    }

    /// Any packet from a pod, or anything at all that a hook would punt.
    fn any(&mut self, with: u8, bytes: &[u8]) {
        let mut frame = vec![0; ETHERNET];
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame.extend(bytes);
        self.way.push_back((1 + u32::from(with % 3), frame));
    }

    /// The last frame that carried data, once more.
    fn again(&mut self, with: u8) {
        let Some((ifindex, mut frame)) = self.sent.clone() else {
            return;
        };
        if with & 0x80 != 0 {
            // Damaged on its way: its checksum says so.
            let at = frame.len() - 1;
            frame[at] ^= 0x55;
        }
        self.way.push_back((ifindex, frame));
    }

    /// Lets everything happen that can happen now.
    fn settle(&mut self) {
        if self.holds {
            return;
        }
        let rests = (0..ROUNDS_MAX).any(|_| !self.round());
        assert!(
            rests,
            "it does not come to rest: {}",
            self.node.describe(self.now)
        );
    }

    fn round(&mut self) -> bool {
        let mut moved = false;
        while let Some((ifindex, mut frame)) = self.way.pop_front() {
            moved = true;
            self.node.push(&mut frame, ifindex, Hook::FromPod);
        }
        self.now = self.now + Duration::from_micros(5);
        let mut out = Vec::new();
        moved |= self.node.step(self.now, |frame| out.push(frame.to_vec()));
        for frame in out {
            self.arrive(&frame);
        }
        moved || self.node.due(self.now) <= self.now
    }

    /// A frame of the node's gets to a pod.
    fn arrive(&mut self, frame: &[u8]) {
        let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
            return;
        };
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
            (&packet.net, &packet.transport)
        else {
            return;
        };
        let (header, payload) = (tcp.to_header(), tcp.payload());
        let to = (ip.header().destination_addr(), header.destination_port);
        let from = (ip.header().source_addr(), header.source_port);
        if let Some(client) = self.clients.iter_mut().find(|one| one.local == to) {
            if from == VIP
                && let Some(answer) = client.take(&header, payload)
            {
                self.way.push_back((CLIENT.1, answer));
            }
            return;
        }
        if to != (BACKEND.0, TARGET) {
            return; // What a case has made up.
        }
        let known = self.backends.iter_mut().find(|one| one.tcp.remote == from);
        if header.syn
            && !header.ack
            && known
                .as_ref()
                .is_none_or(|one| one.tcp.state == State::Over)
        {
            let mut tcp = Tcp::new(to, from, BACKEND.1);
            tcp.wants = header.sequence_number.wrapping_add(1);
            self.way
                .push_back((BACKEND.1, tcp.segment(0, SYN | ACK, &[])));
            tcp.next = tcp.next.wrapping_add(1);
            tcp.state = State::Open;
            self.backends.retain(|one| one.tcp.remote != from);
            self.backends.push(Backend {
                tcp,
                reader: Reader::default(),
                answered: 0,
                lenient: false,
            });
            return;
        }
        let Some(known) = known else {
            return;
        };
        let answer = known.tcp.take(&header, payload);
        let got = std::mem::take(&mut known.tcp.got);
        if !known.lenient {
            known.reader.take(&got);
        }
        self.way.extend(answer.map(|frame| (BACKEND.1, frame)));
    }

    /// Everybody goes: nothing may be left, and the books are in order.
    fn finish(mut self) -> u64 {
        self.holds = false;
        self.settle();
        let clients = self.clients.iter_mut();
        for tcp in clients.chain(self.backends.iter_mut().map(|one| &mut one.tcp)) {
            if tcp.state != State::Over {
                self.way.push_back((tcp.ifindex, tcp.segment(0, RST, &[])));
                tcp.state = State::Over;
            }
        }
        // Whatever has not ended by that is waited for: timeouts, TIME-WAIT, flows.
        for _ in 0..60 {
            self.settle();
            self.now = self.now + Duration::from_secs(10);
        }
        self.settle();
        let empty = self.node.is_empty(self.now);
        assert!(empty, "something is left: {}", self.node.describe(self.now));
        let report = self.node.http(self.now, |_| {});
        let metrics = &report.services[0].metrics;
        assert_eq!((metrics.panics, metrics.connections_lost), (0, 0));
        let logged = self.node.records.try_iter().count() as u64;
        assert_eq!(metrics.total(), logged, "records");
        self.node.close_books(self.now);
        logged
    }
}
