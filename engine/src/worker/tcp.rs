//! TCP termination: the worker's stack, what it is given, what it joins, and how its packets leave.

use std::sync::Arc;

use weft_datapath::wire::ethernet;
use weft_datapath::{
    Address, BURST_MAX, Claim, DropReason, Egress, FlowId, FlowKey, FrameBuf, Hook, Ingress,
    Inject, Now, PIN_OPS_PER_FRAME, PORT_BITS, PacketIo, Parsed, Protocol, Stage, State, TUNNELS,
    Tables, Tuple, Verdict, older, parse, wrap_for_peer,
};
use weft_stack::{
    Accepted, Arrival, Connect, ConnectError, Counters, Holdings, Listeners, Outgoing, Route,
    ServiceId, ServiceOptions, Stack, StackConfig, Stream, Transmit,
};

use super::stats::Totals;
use super::{PinSink, Worker};

/// Bytes of the longest IP packet that a connection sends or asks for, until its path turns out to carry less. What a
/// peer's SYN says bounds it, too, so that a pod with a smaller MTU gets no more than that.
const ROUTE_MTU: u16 = 1_500;
/// Bytes of each of a connection's buffers once it has moved some data. Large enough to be mapped by itself, so that it
/// costs what of it is used.
const BUFFER: usize = 256 << 10;
/// Bytes of those that it begins with: most connections are short, and mapping memory costs more than they do.
const FIRST_BUFFER: usize = 8 << 10;
/// Places of the transmit ring that are left to packets that are passed on: as many as a step can send before its
/// doorbell.
const RESERVE: usize = 4 * BURST_MAX;

/// The TCP stack of a worker, made when it is first needed.
pub(super) struct Tcp {
    config: StackConfig,
    stack: Option<Stack>,
    /// Until when connections may be half open that began under other tables than there are now.
    changing_until: Now,
    /// Connections whose flow could not be made, by reason.
    refused: Box<[u64; DropReason::ALL.len()]>,
}

/// What a worker says of its TCP stack.
#[derive(Clone, Debug)]
pub struct TcpReport {
    /// What it holds.
    pub holdings: Holdings,
    /// What became of segments and connections.
    pub counters: Counters,
    /// Accepted connections that were reset at once, because no flow could be made for them, by reason.
    pub refused: Box<[u64; DropReason::ALL.len()]>,
}

impl Tcp {
    pub(super) fn new(config: StackConfig) -> Self {
        Self {
            config,
            stack: None,
            changing_until: Now::default(),
            refused: Box::new([0; DropReason::ALL.len()]),
        }
    }

    fn stack(&mut self) -> &Stack {
        self.stack.get_or_insert_with(|| Stack::new(&self.config))
    }

    /// Takes a packet that `claim` says is the stack's, and says what became of the frame. `verified`: its checksums
    /// need no look.
    pub(super) fn take(
        &mut self,
        frame: &mut FrameBuf<'_>,
        claim: Claim,
        verified: bool,
        now: Now,
        tables: &Tables,
        state: &mut State,
    ) -> Verdict {
        match claim {
            Claim::TooLong => {
                if let Some(said) = state.too_long.take() {
                    let tag = tag_of(&said.key, said.answer);
                    self.stack()
                        .too_long(&said.key.tuple, tag, said.mtu, said.sequence);
                }
            }
            Claim::PerhapsOlder if !self.knows(frame.bytes()) => {
                return older(frame, now, tables, state);
            }
            Claim::PerhapsOlder | Claim::Stack => {
                let Some((packet, tag)) = segment(frame.bytes()) else {
                    return Verdict::Drop(DropReason::UnknownFlow); // Nothing is claimed that is no TCP.
                };
                let arrival = Arrival {
                    route: route(tag, tables),
                    verified,
                };
                let listening = Listening(tables);
                self.stack()
                    .ingest(frame.bytes_mut(), &packet, arrival, &listening, now);
            }
        }
        Verdict::Terminate(claim)
    }

    /// A packet that belongs to no flow, and that the stack may know all the same: its connection is half open, or in
    /// TIME-WAIT, while the service was served differently before.
    #[cold]
    pub(super) fn take_unknown(
        &mut self,
        frame: &mut FrameBuf<'_>,
        now: Now,
        tables: &Tables,
        state: &mut State,
    ) -> Verdict {
        if self.knows(frame.bytes()) {
            self.take(frame, Claim::Stack, false, now, tables, state)
        } else {
            Verdict::Drop(DropReason::UnknownFlow)
        }
    }

    /// The tables are others: what is half open may be to a service that is served differently by now.
    pub(super) fn tables_changed(&mut self, now: Now) {
        let timeouts = &self.config.timeouts;
        self.changing_until = now + timeouts.syn_ack * (2 << timeouts.syn_ack_repeats);
    }

    /// Whether the frame is the repeated SYN of a connection that is half open here: it stays the stack's then, however its
    /// service is served by now. Two answers with two numbers would leave the client with a connection to nobody (AMB-11).
    pub(super) fn has_begun(&self, frame: &[u8], now: Now) -> bool {
        let Some(stack) = self.stack.as_ref().filter(|_| now < self.changing_until) else {
            return false;
        };
        stack.holdings().half_open > 0
            && segment(frame).is_some_and(|(packet, tag)| {
                packet.flags().opens() && stack.is_half_open(packet.tuple(), tag)
            })
    }

    /// Counts a connection for which no flow or connection could be made.
    pub(super) fn refuse(&mut self, reason: DropReason) {
        self.refused[reason as usize] += 1;
    }

    fn knows(&self, frame: &[u8]) -> bool {
        let Some(stack) = &self.stack else {
            return false;
        };
        segment(frame).is_some_and(|(packet, tag)| stack.knows(packet.tuple(), tag))
    }

    /// Whether there may be connections whose packets come by the bulk lane.
    pub(super) fn uses_bulk(&self) -> bool {
        self.stack.is_some()
    }

    /// When the stack has something to do though no frame comes.
    pub(super) fn next(&self) -> Option<Now> {
        self.stack.as_ref()?.next()
    }

    pub(super) fn report(&self) -> Option<TcpReport> {
        let stack = self.stack.as_ref()?;
        Some(TcpReport {
            holdings: stack.holdings(),
            counters: stack.counters(),
            refused: self.refused.clone(),
        })
    }
}

impl<IO: PacketIo, P: PinSink> Worker<IO, P> {
    /// The stack's turn: joins what has been accepted to connections to backends, sends what there is to send, and
    /// lets the flow table know what is over.
    pub(super) fn serve_tcp(&mut self, now: Now, tables: &Tables) {
        if self.tcp.stack.is_none() {
            return;
        }
        self.sever();
        self.note_finished(now);
        // Bound: as many as handshakes were completed by the frames of this step.
        while let Some(accepted) = self.tcp.stack().accept() {
            if self.state.pin_ops.room() < PIN_OPS_PER_FRAME {
                self.write_pins();
            }
            self.sever();
            let to = &accepted.tuple;
            let service = tables.service(&to.dst, to.dport, Protocol::Tcp);
            match service.map(|service| service.options().stage) {
                Some(Stage::Http(_)) => self.admit(accepted, now, tables),
                _ => self.join(accepted, now, tables),
            }
        }
        self.serve_http(now, tables);
        self.write_pins(); // Before the SYNs that they steer the answers to.
        self.send_tcp(now, tables);
        self.note_finished(now);
    }

    /// Resets every connection, and sends that: what a worker does that ends. False while there is more to send than
    /// the ring takes: to be called again after a flush.
    pub fn close_tcp(&mut self, now: Now) -> bool {
        let Some(stack) = &self.tcp.stack else {
            return true;
        };
        self.http.stop();
        stack.abort_all();
        let tables = Arc::clone(self.tables.load());
        self.send_tcp(now, &tables);
        self.publish();
        self.tcp
            .stack()
            .next()
            .is_none_or(|next| next > now || self.io.room() > RESERVE)
    }

    /// Resets the connections of flows that are no more.
    pub(super) fn sever(&mut self) {
        for severed in self.state.severed.drain(..) {
            let tag = tag_of(&severed.key, severed.answer);
            self.tcp.stack().abort(&severed.key.tuple, tag);
        }
    }

    fn note_finished(&mut self, now: Now) {
        // Bound: each connection ends once.
        while let Some((tuple, tag)) = self.tcp.stack().finished() {
            let key = FlowKey {
                tuple,
                ifindex: egress(tag).ifindex,
            };
            self.state.connection_over(&key, now);
        }
    }

    /// Joins a client's connection to one to a backend. A client for whom there is none is reset.
    fn join(&mut self, accepted: Accepted, now: Now, tables: &Tables) {
        let terminated = self.state.terminate(key_of(&accepted), now, tables);
        let Accepted {
            stream,
            service,
            route,
            ..
        } = accepted;
        match terminated.and_then(|id| self.open(id, service, route.tag, now, tables)) {
            Ok(upstream) => {
                stream.set_segmentation(self.in_bulk(route.tag));
                self.tcp.stack().splice(stream, upstream);
            }
            Err(reason) => {
                self.tcp.refuse(reason);
                stream.abort();
            }
        }
    }

    /// Opens the connection to a backend that a flow is for; without one, the flow is over. `payer`: the tag of the client's
    /// connection.
    pub(super) fn open(
        &mut self,
        id: FlowId,
        service: ServiceId,
        payer: u32,
        now: Now,
        tables: &Tables,
    ) -> Result<Stream, DropReason> {
        let flow = self.state.flows.at(id);
        let options = flow.map(|flow| options(tables, &flow.tuple()));
        let connect = flow.and_then(|flow| {
            let reply = weft_datapath::Direction::Reply;
            let (back, from) = (flow.backend_tuple(), flow.key(reply)?);
            let tag = tag_of(&from, flow.answer(reply)?);
            Some(Connect {
                local: (back.src, back.sport),
                remote: (back.dst, back.dport),
                route: route(tag, tables),
                service,
                payer,
            })
        });
        let in_bulk = connect
            .as_ref()
            .is_some_and(|to| self.in_bulk(to.route.tag));
        let opened = connect
            .zip(options)
            .map(|(connect, options)| self.tcp.stack().connect(&connect, &options, now));
        match opened {
            Some(Ok(upstream)) => {
                upstream.set_segmentation(in_bulk);
                Ok(upstream)
            }
            failed => {
                let reason = match failed {
                    Some(Err(ConnectError::Limit(_))) => DropReason::FlowTableFull,
                    _ => DropReason::TupleClash,
                };
                self.state.not_connected(id, now);
                Err(reason)
            }
        }
    }

    /// Whether large packets of a connection may go by the bulk lane: those to a peer are wrapped one by one.
    pub(super) fn in_bulk(&self, tag: u32) -> bool {
        self.io.has_bulk() && egress(tag).ifindex < TUNNELS
    }

    fn send_tcp(&mut self, now: Now, tables: &Tables) {
        let Self {
            io,
            tcp,
            local,
            state,
            ..
        } = self;
        let Some(stack) = &tcp.stack else { return };
        let mut out = Out {
            io,
            spare: None,
            state,
            tables,
            totals: &mut local.totals,
        };
        stack.poll(&mut out, now);
        if let Some(spare) = out.spare {
            self.io.release(spare);
        }
    }
}

/// The transmit ring as the stack sees it.
struct Out<'w, IO: PacketIo> {
    io: &'w mut IO,
    spare: Option<IO::Frame>,
    state: &'w State,
    tables: &'w Tables,
    totals: &'w mut Totals,
}

impl<IO: PacketIo> Transmit for Out<'_, IO> {
    fn ready(&mut self) -> bool {
        if self.io.room() <= RESERVE {
            return false;
        }
        if self.spare.is_none() {
            self.spare = self.io.allocate();
        }
        self.spare.is_some()
    }

    fn send(&mut self, packet: Outgoing, write: impl FnOnce(&mut [u8])) {
        let (ports, len) = (self.state.ports(), ethernet::LEN + packet.len);
        let fill = |bytes: &mut [u8]| {
            write(&mut bytes[ethernet::LEN..]);
            let ethertype = match bytes[ethernet::LEN] >> 4 {
                4 => ethernet::IPV4,
                _ => ethernet::IPV6,
            };
            bytes[ethernet::TYPE].copy_from_slice(&ethertype.to_be_bytes());
            bytes[ethernet::DST].copy_from_slice(&ports.weft0_mac);
            bytes[ethernet::SRC].copy_from_slice(&egress(packet.tag).encode());
        };
        if let Some(segment) = packet.segment {
            self.totals.originated += u64::from(self.io.send_bulk(len, segment, fill));
            return;
        }
        let Some(mut frame) = self.spare.take() else {
            return; // Never: the stack asks first.
        };
        let (tables, state) = (self.tables, self.state);
        let written = self.io.with_frame(&mut frame, |buf| {
            // A packet of the stack's fits: ROUTE_MTU is less than a frame holds.
            buf.resize(len)?;
            fill(buf.bytes_mut());
            wrap_for_peer(buf, tables, state)
        });
        if written.is_err() {
            self.totals.unrouted += 1; // Lost, as on the way: the connection sends it again.
            self.io.release(frame);
            return;
        }
        match self.io.send(frame) {
            Ok(()) => self.totals.originated += 1,
            Err(frame) => self.io.release(frame), // Never: there was room.
        }
    }
}

/// Who listens: the tables of this step.
struct Listening<'t>(&'t Tables);

impl Listeners for Listening<'_> {
    fn lookup(&self, local: Address, port: u16, _: u32) -> Option<(ServiceId, ServiceOptions)> {
        let service = self.0.service(&local, port, Protocol::Tcp)?;
        let ends_here = service.options().stage.terminates() && service.accepts();
        // The numbers of service ports count up from 0; two that are equal modulo this share limits.
        ends_here.then(|| (ServiceId(service.id() as u16), limits(service)))
    }
}

fn options(tables: &Tables, tuple: &Tuple) -> ServiceOptions {
    let service = tables.service(&tuple.dst, tuple.dport, Protocol::Tcp);
    service.map_or_else(ServiceOptions::default, limits)
}

fn limits(service: &weft_datapath::ServicePort) -> ServiceOptions {
    let flows = service.options().max_flows.unwrap_or(u32::MAX);
    ServiceOptions {
        connections: flows.saturating_mul(2), // One to the client and one to the backend.
        receive_buffer: BUFFER,
        send_buffer: BUFFER,
        first_buffer: FIRST_BUFFER,
        ..ServiceOptions::default()
    }
}

/// The TCP packet in a punted frame, and the tag of where it comes from.
fn segment(frame: &[u8]) -> Option<(weft_datapath::Packet, u32)> {
    let source = frame.get(ethernet::SRC)?.try_into().ok()?;
    let ingress = Ingress::decode(&source)?;
    let Ok(Parsed::Flow(packet)) = parse(frame) else {
        return None;
    };
    let inject = match ingress.hook {
        Hook::FromPod => Inject::Peer,
        Hook::ToPod => Inject::Reingress,
    };
    let back = Egress {
        ifindex: ingress.ifindex,
        inject,
    };
    (packet.tuple().proto == Protocol::Tcp).then(|| (packet, tag(back)))
}

/// The way to the peer of that tag's connection, and what it carries.
fn route(tag: u32, tables: &Tables) -> Route {
    let mtu = tables.mtu(egress(tag).ifindex);
    Route {
        tag,
        mtu: mtu.map_or(ROUTE_MTU, |mtu| mtu.min(ROUTE_MTU)),
    }
}

/// What the stack calls a way back: the interface, and above it how a packet gets there.
fn tag(egress: Egress) -> u32 {
    egress.ifindex | (egress.inject as u32) << PORT_BITS
}

/// The key of what the client of an accepted connection sends.
pub(super) fn key_of(accepted: &Accepted) -> FlowKey {
    FlowKey {
        tuple: accepted.tuple,
        ifindex: egress(accepted.route.tag).ifindex,
    }
}

/// The tag of the connection whose peer's packets have this key, and are answered in this way.
pub(super) fn tag_of(key: &FlowKey, inject: Inject) -> u32 {
    tag(Egress {
        ifindex: key.ifindex,
        inject,
    })
}

fn egress(tag: u32) -> Egress {
    let ifindex = tag & ((1 << PORT_BITS) - 1);
    if tag >> PORT_BITS == Inject::Reingress as u32 {
        Egress::reingress(ifindex)
    } else {
        Egress::peer(ifindex)
    }
}
