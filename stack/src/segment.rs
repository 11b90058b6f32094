//! A received TCP segment, read once.

use std::ops::Range;

use weft_datapath::wire::{ethernet, ipv4, tcp};
use weft_datapath::{Checksum, Packet, Protocol, Tuple, l4_checksum};

use crate::header::{self, Header, PSH, WINDOW};
use crate::reason::DropReason;
use crate::seq::Seq;

/// Largest shift of a window (RFC 7323 section 2.3).
const SHIFT_MAX: u8 = 14;

/// The options of a SYN that the stack goes by.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct SynOptions {
    /// Maximum segment size, if the peer said one other than 0.
    pub(crate) mss: Option<u16>,
    /// Shift of its windows, if it scales them.
    pub(crate) shift: Option<u8>,
    /// Whether it takes selective acknowledgements.
    pub(crate) sack: bool,
}

/// A TCP segment in a frame. Only [`Segment::read`] makes one.
///
/// Invariant, for the frame it was read from: the payload's range lies within, and at least a plain IP
/// and a plain TCP header lie before it behind the Ethernet header.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// As the peer sent it: the source is the peer.
    pub(crate) tuple: Tuple,
    pub(crate) seq: Seq,
    /// What it acknowledges, if it does.
    pub(crate) ack: Option<Seq>,
    flags: u8,
    pub(crate) window: u16,
    pub(crate) payload: Range<usize>,
    options: Range<usize>,
}

impl Segment {
    /// Reads the TCP header of a parsed frame; `verify` its checksums, too.
    pub(crate) fn read(frame: &[u8], packet: &Packet, verify: bool) -> Result<Self, DropReason> {
        let tuple = *packet.tuple();
        if tuple.proto != Protocol::Tcp || !packet.whole() {
            return Err(DropReason::NotTcp);
        }
        let l4 = &frame[packet.l4()..packet.end()];
        if verify {
            let v4 = packet.family() == weft_datapath::Family::V4;
            if v4
                && Checksum::default()
                    .with(&frame[ethernet::LEN..packet.l4()])
                    .finish()
                    != 0
                || l4_checksum(&tuple.src, &tuple.dst, tuple.proto, l4) != 0
            {
                return Err(DropReason::Checksum);
            }
        }
        if tuple.sport == 0 || tuple.dport == 0 || !unicast(&tuple.src) || !unicast(&tuple.dst) {
            return Err(DropReason::Address);
        }
        let flags = l4[tcp::FLAGS];
        let control = flags & (tcp::SYN | tcp::FIN | tcp::RST);
        if control.count_ones() > 1 || control & (tcp::SYN | tcp::RST) == 0 && flags & tcp::ACK == 0
        {
            return Err(DropReason::Flags);
        }
        let header = usize::from(l4[tcp::DATA_OFFSET] >> 4) * 4;
        let word = |at: Range<usize>| {
            let field = &l4[at];
            u32::from_be_bytes([field[0], field[1], field[2], field[3]])
        };
        Ok(Self {
            tuple,
            seq: Seq(word(tcp::SEQUENCE)),
            ack: (flags & tcp::ACK != 0).then(|| Seq(word(tcp::ACKNOWLEDGEMENT))),
            flags,
            window: u16::from_be_bytes([l4[WINDOW.start], l4[WINDOW.start + 1]]),
            payload: packet.l4() + header..packet.end(),
            options: packet.l4() + tcp::LEN..packet.l4() + header,
        })
    }

    pub(crate) fn syn(&self) -> bool {
        self.flags & tcp::SYN != 0
    }

    pub(crate) fn fin(&self) -> bool {
        self.flags & tcp::FIN != 0
    }

    pub(crate) fn rst(&self) -> bool {
        self.flags & tcp::RST != 0
    }

    /// Bytes of data.
    pub(crate) fn data(&self) -> u32 {
        self.payload.len() as u32
    }

    /// What it takes of the sequence space: its data, and one for SYN and FIN each.
    pub(crate) fn len(&self) -> u32 {
        self.data() + u32::from(self.syn()) + u32::from(self.fin())
    }

    /// Cuts what lies at or behind `edge`, the FIN first.
    pub(crate) fn cut(&mut self, edge: Seq) {
        if (self.seq + self.len()).since(edge) <= 0 {
            return;
        }
        self.flags &= !tcp::FIN;
        let room = edge.since(self.seq).max(0) as usize;
        self.payload.end = self.payload.end.min(self.payload.start + room);
    }

    /// The options of a SYN. Unknown and malformed ones count for nothing; what follows one whose length is
    /// impossible cannot be found (RFC 9293 section 3.1: a receiver must be prepared for it).
    pub(crate) fn syn_options(&self, frame: &[u8]) -> SynOptions {
        let mut found = SynOptions::default();
        let mut rest = &frame[self.options.clone()];
        // Bound: every turn takes at least one of at most 40 bytes.
        while let Some((kind, tail)) = rest.split_first() {
            match kind {
                0 => break,
                1 => {
                    rest = tail;
                    continue;
                }
                _ => {}
            }
            let len = tail.first().map_or(0, |len| usize::from(*len));
            if len < 2 || len > rest.len() {
                break;
            }
            match (kind, &rest[2..len]) {
                (2, [high, low]) => {
                    found.mss = Some(u16::from_be_bytes([*high, *low])).filter(|mss| *mss != 0);
                }
                (3, [shift]) => found.shift = Some((*shift).min(SHIFT_MAX)),
                (4, []) => found.sack = true,
                _ => {}
            }
            rest = &rest[len..];
        }
        found
    }

    /// The segment as a socket gets it: a plain header with these fields, written over the one it came with.
    /// The options, the urgent pointer and reserved bits are gone; checksums are not filled in.
    pub(crate) fn plain<'a>(
        &self,
        frame: &'a mut [u8],
        seq: Seq,
        ack: Option<Seq>,
        window: u16,
    ) -> &'a [u8] {
        let start = self.payload.start - header::header_len(&self.tuple, 0);
        let packet = &mut frame[start..self.payload.end];
        let flags = self.flags & (tcp::FIN | tcp::SYN | tcp::RST | PSH);
        let header = Header {
            seq,
            ack,
            flags,
            window,
            options: &[],
        };
        header::write(packet, &self.tuple, &header);
        packet
    }
}

/// Whether an address may be an end of a connection: not unspecified, multicast or broadcast (RFC 9293
/// section 3.9.2.3, RFC 1122 section 3.2.1.3).
pub(crate) fn unicast(address: &weft_datapath::Address) -> bool {
    if address.is_v4() {
        let [first, ..] = address.v4_octets();
        first != 0 && first < 224
    } else {
        address.0 != [0; 16] && address.0[0] != 0xff
    }
}

const _: () = assert!(
    ipv4::LEN + tcp::LEN <= header::HEADER_MAX,
    "room for a plain header"
);
