//! The sequence-offset layer: what a connection's numbers are on the wire, apart from those of its socket.
//!
//! Outgoing sequence numbers get a constant added, incoming acknowledgements get it subtracted. The peer's
//! numbers are the same on both sides, so SACK blocks of ours pass as they are; the peer's are not shown to the socket,
//! which makes nothing of them.

use weft_datapath::wire::tcp;
use weft_datapath::{Now, Tuple};

use crate::header::{self, HEADER_MAX, Header, WINDOW, ip_len};
use crate::live::{Peer, socket_shift};
use crate::segment::{Segment, SynOptions};
use crate::seq::Seq;

/// How far our windows are shifted where the peer takes that. The same for every connection, so that a cookie need not
/// say it; fine enough for buffers of 4 KiB, and enough for those of 4 MiB.
pub(crate) const SHIFT: u8 = 7;
/// The segment size of a peer that says none (RFC 9293 section 3.7.1): IPv4, IPv6.
const DEFAULT_MSS: [u16; 2] = [536, 1220];
/// A smaller segment size than that of any real path is taken for this one, as Linux does.
const LEAST_MSS: u16 = 48;

/// The state of both directions, in numbers as on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    /// On the wire minus in the socket.
    offset: u32,
    /// Whether `offset` is that of the socket there is.
    aligned: bool,
    /// First number not acknowledged.
    pub(crate) una: Seq,
    /// First number never sent.
    pub(crate) nxt: Seq,
    /// The peer's window as in its header, and the segment it is from (SND.WL1, SND.WL2).
    window: u16,
    window_seq: Seq,
    window_ack: Seq,
    /// Largest window the peer ever had, in bytes.
    window_most: u32,
    /// The number of our FIN, while the socket does not know of it: see [`Wire::end_at`].
    end: Option<Seq>,
    /// Number of the next byte that the reader gets.
    pub(crate) base: Seq,
    /// Right edge of the window that the peer knows of.
    pub(crate) edge: Seq,
    /// What was last acknowledged to the peer.
    pub(crate) acked: Seq,
    /// Bytes of the receive buffer.
    pub(crate) capacity: u32,
    /// Most data in a segment to the peer.
    pub(crate) mss: u16,
    /// Segment size that the peer is told.
    own_mss: u16,
    /// Shift of the peer's windows; `None` where none are scaled, ours neither.
    shift: Option<u8>,
    sack: bool,
    /// Right edge of the window that the socket believes to have offered.
    socket_edge: Seq,
    /// Smoothed and least round trip, in nanoseconds; 0 is unknown.
    round_trip: u64,
    least_round_trip: u64,
    /// The segment that is being timed: what acknowledges it, and when it went out (Karn's algorithm, RFC 6298 section 3).
    timed: Option<(Seq, Now)>,
}

/// What one of our packets was.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// Something new, or no more than an acknowledgement.
    Once,
    /// Numbers that had been sent before.
    Again,
}

impl Wire {
    /// Before any packet: our first number will be `iss`.
    pub(crate) fn new(tuple: &Tuple, iss: Seq, mtu: u16, capacity: usize) -> Self {
        let own_mss = own_mss(tuple, mtu);
        Self {
            offset: 0,
            aligned: false,
            una: iss,
            nxt: iss,
            window: 0,
            window_seq: Seq(0),
            window_ack: iss,
            window_most: 0,
            end: None,
            base: Seq(0),
            edge: Seq(0),
            acked: Seq(0),
            capacity: capacity as u32,
            mss: own_mss.min(DEFAULT_MSS[usize::from(!tuple.src.is_v4())]),
            own_mss,
            shift: None,
            sack: false,
            socket_edge: Seq(0),
            round_trip: 0,
            least_round_trip: 0,
            timed: None,
        }
    }

    /// Takes over what the peer's SYN said.
    pub(crate) fn synchronise(&mut self, tuple: &Tuple, peer: Seq, options: &SynOptions) {
        self.base = peer + 1;
        self.acked = peer + 1;
        // What our SYN said, whose window is not shifted.
        self.edge = self.base + self.capacity.min(u16::MAX.into());
        self.window_seq = peer;
        let said = options
            .mss
            .unwrap_or(DEFAULT_MSS[usize::from(!tuple.src.is_v4())]);
        self.mss = said.clamp(LEAST_MSS, self.own_mss.max(LEAST_MSS));
        self.shift = options.shift;
        self.sack = options.sack;
        let window = self.capacity.min(u16::MAX.into());
        self.socket_edge = peer + (window << self.socket_shift());
    }

    /// The SYN was sent and acknowledged elsewhere: by a half-open connection or a cookie.
    pub(crate) fn opened(&mut self, segment: &Segment) {
        self.una = self.una + 1;
        self.nxt = self.una;
        self.window_ack = self.una;
        self.window = segment.window;
        self.note_window();
    }

    /// What a socket for this peer has to know.
    pub(crate) fn peer(&self) -> Peer {
        Peer {
            mss: self.mss,
            shift: self.shift,
            sack: self.sack,
            window: self.window,
        }
    }

    /// A new socket starts with `first` where the wire goes on with `nxt`, and has offered a first window in its
    /// SYN-ACK, which it takes for a shifted one.
    pub(crate) fn align(&mut self, first: Seq) {
        self.offset = self.nxt.0.wrapping_sub(first.0);
        self.aligned = true;
        let window = self.capacity.min(u16::MAX.into());
        self.socket_edge = self.base + (window << self.socket_shift());
    }

    fn socket_shift(&self) -> u32 {
        self.shift
            .map_or(0, |_| socket_shift(self.capacity as usize))
    }

    /// What our first number is in the socket, for a connection that is opening: `nxt` is then as in the wire.
    fn align_syn(&mut self, in_socket: Seq) {
        if !self.aligned {
            self.offset = self.una.0.wrapping_sub(in_socket.0);
            self.aligned = true;
        }
    }

    /// The number that the socket knows an acknowledgement by.
    pub(crate) fn to_socket(&self, ack: Seq) -> Seq {
        let ack = match self.end {
            Some(end) if ack.after(end) => end,
            _ => ack,
        };
        Seq(ack.0.wrapping_sub(self.offset))
    }

    /// Our data ends after `queued` bytes more than are acknowledged: the last segment of it is to bear a FIN.
    ///
    /// A socket in LAST-ACK no longer takes a new window, so it gets to close only when all data is acknowledged.
    pub(crate) fn end_at(&mut self, queued: u32) {
        self.end = Some(self.una + queued);
    }

    /// Whether the peer has acknowledged all of our data (`Some(false)`), the FIN included (`Some(true)`), that the socket
    /// does not know of. `None` otherwise.
    pub(crate) fn ended(&self) -> Option<bool> {
        let end = self.end?;
        (!end.after(self.una)).then(|| self.una.after(end))
    }

    /// Whether our FIN is yet to be told to the socket.
    pub(crate) fn ending(&self) -> bool {
        self.end.is_some()
    }

    /// The FIN, where all data was sent before the end was known: from then on it counts as sent.
    pub(crate) fn bare_fin(&mut self, next: Seq, queued: u32) -> Option<Header<'static>> {
        let end = self.end.filter(|end| *end == self.nxt)?;
        let ack = self.bare_ack(next, queued, false);
        self.nxt = end + 1;
        Some(Header {
            seq: end,
            flags: tcp::FIN,
            ..ack
        })
    }

    /// The FIN again: all that is in flight.
    pub(crate) fn fin_again(&mut self, next: Seq, queued: u32) -> Header<'static> {
        let ack = self.bare_ack(next, queued, false);
        Header {
            seq: self.una,
            flags: tcp::FIN,
            ..ack
        }
    }

    /// What the socket was last shown: its first number that is not acknowledged, and the window.
    pub(crate) fn as_seen(&self) -> (Seq, u16) {
        (self.to_socket(self.una), self.shown())
    }

    /// The socket closes by itself from now on.
    pub(crate) fn end_by_socket(&mut self) {
        self.end = None;
    }

    /// Smoothed round trip, if it is known.
    pub(crate) fn round_trip(&self) -> Option<std::time::Duration> {
        (self.round_trip != 0).then(|| std::time::Duration::from_nanos(self.round_trip))
    }

    /// The shortest round trip so far, if one was measured: that of the path, without what queues and losses add.
    pub(crate) fn least_round_trip(&self) -> Option<std::time::Duration> {
        let least = self.least_round_trip;
        (least != 0).then(|| std::time::Duration::from_nanos(least))
    }

    /// A measured round trip (RFC 6298 section 2.3, alpha 1/8).
    pub(crate) fn sample(&mut self, nanos: u64) {
        let nanos = nanos.max(1);
        self.round_trip = match self.round_trip {
            0 => nanos,
            smoothed => (smoothed * 7 + nanos) / 8,
        };
        self.least_round_trip = match self.least_round_trip {
            0 => nanos,
            least => least.min(nanos),
        };
    }

    /// Takes what a segment acknowledges; whether that was new. It must not lie ahead of what was sent.
    pub(crate) fn acknowledge(&mut self, ack: Seq, now: Now) -> bool {
        if !ack.after(self.una) {
            return false;
        }
        self.una = ack;
        if let Some((end, sent)) = self.timed
            && !end.after(ack)
        {
            self.timed = None;
            self.sample(now.since(sent).as_nanos() as u64);
        }
        true
    }

    /// Takes the segment's window if it is newer than the last (RFC 9293 section 3.10.7.4), and says which window
    /// is to be shown to the socket: never less than what is in flight, because a socket whose window is shut probes it
    /// and forgets to repeat what was lost.
    pub(crate) fn update_window(&mut self, segment: &Segment) -> u16 {
        let ack = segment.ack.unwrap_or_default();
        let newer = segment.seq.after(self.window_seq)
            || segment.seq == self.window_seq && !self.window_ack.after(ack);
        if newer {
            self.window_seq = segment.seq;
            self.window_ack = ack;
            self.window = segment.window;
            self.note_window();
        }
        self.shown()
    }

    fn shown(&self) -> u16 {
        let flight = self.nxt.0.wrapping_sub(self.una.0);
        let least = flight.div_ceil(1 << self.shift.unwrap_or(0));
        self.window.max(least.min(u16::MAX.into()) as u16)
    }

    fn note_window(&mut self) {
        self.window_most = self.window_most.max(self.window_bytes());
    }

    /// The peer's window in bytes.
    pub(crate) fn window_bytes(&self) -> u32 {
        u32::from(self.window) << self.shift.unwrap_or(0)
    }

    /// The number of a segment without data: the next one, or the end of the peer's window if that lies before, so
    /// that the peer takes it whatever has been lost. By less than a unit of its window it may have shrunk for being
    /// rounded, and not at all.
    fn idle_seq(&self) -> Seq {
        let flight = self.nxt.0.wrapping_sub(self.una.0);
        let window = self.window_bytes();
        if flight < window + (1 << self.shift.unwrap_or(0)) {
            self.nxt
        } else {
            self.una + window
        }
    }

    /// Whether an acknowledgement can be true: not of what was never sent, and not older than any segment that could
    /// still be under way (RFC 5961 section 5.2).
    pub(crate) fn plausible(&self, ack: Seq) -> bool {
        !ack.after(self.nxt) && !self.una.minus(self.window_most).after(ack)
    }

    /// A packet with this sequence number was too long for its path, which carries `mtu` bytes; whether that can be true
    /// (RFC 5927 section 4.1), and is news.
    pub(crate) fn shorten(&mut self, tuple: &Tuple, mtu: u16, sequence: Seq) -> bool {
        let in_flight = !self.una.after(sequence) && self.nxt.after(sequence);
        let mss = own_mss(tuple, mtu);
        if !in_flight || mss >= self.mss {
            return false;
        }
        self.mss = mss;
        true
    }

    /// Whether a segment says nothing but what the last one said, while something is in flight (RFC 5681 section 2).
    pub(crate) fn repeats(&self, segment: &Segment) -> bool {
        segment.len() == 0
            && segment.ack == Some(self.una)
            && segment.window == self.window
            && self.outstanding()
    }

    /// Segments in flight, counted in full ones.
    pub(crate) fn flight(&self) -> u32 {
        self.in_flight().div_ceil(u32::from(self.mss).max(1))
    }

    /// Numbers in flight.
    pub(crate) fn in_flight(&self) -> u32 {
        self.nxt.0.wrapping_sub(self.una.0)
    }

    /// Whether the peer owes an acknowledgement.
    pub(crate) fn outstanding(&self) -> bool {
        self.una != self.nxt
    }

    /// The right edge of what the socket would take and can: behind its own edge it cuts off data, but no FIN, and
    /// its own edge may lie behind the end of its buffer.
    pub(crate) fn limit(&self) -> Seq {
        let end = self.base + self.capacity;
        if end.after(self.socket_edge) {
            self.socket_edge
        } else {
            end
        }
    }

    /// The window field for so many free bytes.
    fn window_field(&self, bytes: u32) -> u16 {
        let shift = self.shift.map_or(0, |_| SHIFT);
        (bytes >> shift).min(u16::MAX.into()) as u16
    }

    /// An acknowledgement without data, as a connection without a socket sends it; `probe` is a keep-alive, one number
    /// back.
    pub(crate) fn bare_ack(&mut self, next: Seq, queued: u32, probe: bool) -> Header<'static> {
        let window = self.window_field(self.capacity.saturating_sub(queued));
        self.note_ack(next, window);
        Header {
            seq: self.idle_seq().minus(u32::from(probe)),
            ack: Some(next),
            flags: 0,
            window,
            options: &[],
        }
    }

    /// The reset of this connection.
    pub(crate) fn reset(&self, next: Seq) -> Header<'static> {
        Header {
            seq: self.nxt,
            ack: Some(next),
            flags: tcp::RST,
            window: 0,
            options: &[],
        }
    }

    fn note_ack(&mut self, ack: Seq, window: u16) {
        let bytes = u32::from(window) << self.shift.map_or(0, |_| SHIFT);
        self.acked = ack;
        self.edge = self.edge.max(ack + bytes);
    }

    /// Turns a packet of the socket into one for the wire: numbers, window, options of a SYN, checksums. `tuple` is
    /// as we send it.
    pub(crate) fn stamp(
        &mut self,
        packet: &mut [u8],
        tuple: &Tuple,
        segmentation: bool,
        now: Now,
    ) -> Sent {
        let header = &mut packet[ip_len(tuple)..];
        let total = header.len() as u32;
        let word = |field: &[u8]| Seq(u32::from_be_bytes([field[0], field[1], field[2], field[3]]));
        let flags = header[tcp::FLAGS];
        let data_offset = usize::from(header[tcp::DATA_OFFSET] >> 4) * 4;
        let (syn, mut fin) = (flags & tcp::SYN != 0, flags & tcp::FIN != 0);
        let in_socket = word(&header[tcp::SEQUENCE]);
        if syn {
            self.align_syn(in_socket);
            rewrite_syn(&mut header[tcp::LEN..data_offset], self.own_mss);
        }
        let data = total - data_offset as u32;
        let mut seq = Seq(in_socket.0.wrapping_add(self.offset));
        let probe = data == 1 && self.window == 0 && seq == self.nxt && !syn && !fin;
        if data > 0 && !probe && self.end == Some(seq + data) {
            header[tcp::FLAGS] |= tcp::FIN;
            fin = true;
        }
        let len = data + u32::from(syn) + u32::from(fin);
        if len == 0 && flags & tcp::RST == 0 {
            // After a timeout, the socket's next number is one that the peer may have long had.
            seq = self.idle_seq();
        } else if probe {
            // A probe of the window. The socket sends the next byte, and forgets it; were it taken, our numbers would be
            // those of the past. A byte from before the window gets the same answer, and never is.
            seq = self.una.minus(1);
        }
        header[tcp::SEQUENCE].copy_from_slice(&seq.0.to_be_bytes());
        if flags & tcp::ACK != 0 && flags & tcp::RST == 0 {
            let shown = u16::from_be_bytes([header[WINDOW.start], header[WINDOW.start + 1]]);
            let ack = word(&header[tcp::ACKNOWLEDGEMENT]);
            let bytes = u32::from(shown) << self.socket_shift();
            if !probe {
                self.socket_edge = ack + bytes;
            }
            if syn {
                self.acked = ack;
                self.edge = self.edge.max(ack + u32::from(shown));
            } else {
                let window = self.window_field(bytes);
                header[WINDOW].copy_from_slice(&window.to_be_bytes());
                self.note_ack(ack, window);
            }
        }
        let end = seq + len;
        let mut sent = Sent::Once;
        if end.after(self.nxt) {
            self.nxt = end;
            self.timed = self.timed.or(Some((end, now)));
        } else if len > 0 && end.after(self.una) {
            self.timed = None;
            sent = Sent::Again;
        }
        header::seal(packet, tuple, segmentation);
        sent
    }
}

/// The segment size that a peer is told for packets of at most `mtu` bytes (RFC 9293 section 3.7.1).
pub(crate) fn own_mss(tuple: &Tuple, mtu: u16) -> u16 {
    mtu.saturating_sub((ip_len(tuple) + tcp::LEN) as u16)
        .max(LEAST_MSS)
}

/// Puts our segment size and shift into the options of a SYN that a socket wrote.
fn rewrite_syn(mut options: &mut [u8], mss: u16) {
    // Bound: every turn takes at least one of at most 40 bytes.
    while let Some((&mut kind, tail)) = options.split_first_mut() {
        if kind == 0 {
            break;
        }
        if kind == 1 {
            options = tail;
            continue;
        }
        let len = tail.first().map_or(0, |len| usize::from(*len));
        if len < 2 || len > tail.len() + 1 {
            break;
        }
        match (kind, &mut tail[1..len - 1]) {
            (2, value @ [_, _]) => value.copy_from_slice(&mss.to_be_bytes()),
            (3, [shift]) => *shift = SHIFT,
            _ => {}
        }
        options = &mut tail[len - 1..];
    }
}

const _: () = assert!(HEADER_MAX >= 40 + 20 + 12);
