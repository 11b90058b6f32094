//! TCP packets, written and read by a library that is not the stack's.

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
use weft_datapath::Address;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const URG: u8 = 32;

/// A TCP packet in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    pub src: (Address, u16),
    pub dst: (Address, u16),
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub urgent: u16,
    /// As in the header, padding included.
    pub options: Vec<u8>,
    pub data: Vec<u8>,
}

impl Tcp {
    /// An Ethernet frame of it, with right checksums.
    pub fn frame(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let (src, dst) = (self.src.0, self.dst.0);
        let ip = if src.is_v4() {
            ethernet.ipv4(src.v4_octets(), dst.v4_octets(), 64)
        } else {
            ethernet.ipv6(src.0, dst.0, 64)
        };
        let mut tcp = ip
            .tcp(self.src.1, self.dst.1, self.seq, self.window)
            .options_raw(&self.options)
            .unwrap();
        let has = |flag| self.flags & flag != 0;
        if has(ACK) {
            tcp = tcp.ack(self.ack);
        }
        if has(URG) {
            tcp = tcp.urg(self.urgent);
        }
        for (flag, set) in [(FIN, 0), (SYN, 1), (RST, 2), (PSH, 3)] {
            if has(flag) {
                tcp = match set {
                    0 => tcp.fin(),
                    1 => tcp.syn(),
                    2 => tcp.rst(),
                    _ => tcp.psh(),
                };
            }
        }
        let mut frame = Vec::new();
        tcp.write(&mut frame, &self.data).unwrap();
        frame
    }

    /// Reads a frame and verifies its checksums.
    pub fn read(frame: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let TransportSlice::Tcp(tcp) = packet.transport.unwrap() else {
            panic!("not TCP: {frame:x?}");
        };
        let header = tcp.to_header();
        let (src, dst, sum) = match packet.net.unwrap() {
            NetSlice::Ipv4(ip) => {
                let ip_header = ip.header().to_header();
                assert_eq!(ip_header.header_checksum, ip_header.calc_header_checksum());
                assert_eq!(usize::from(ip_header.total_len) + 14, frame.len());
                let sum = header
                    .calc_checksum_ipv4(&ip_header, tcp.payload())
                    .unwrap();
                let octets = (ip_header.source, ip_header.destination);
                (Address::from_v4(octets.0), Address::from_v4(octets.1), sum)
            }
            NetSlice::Ipv6(ip) => {
                let ip_header = ip.header().to_header();
                let sum = header
                    .calc_checksum_ipv6(&ip_header, tcp.payload())
                    .unwrap();
                (
                    Address(ip_header.source),
                    Address(ip_header.destination),
                    sum,
                )
            }
            NetSlice::Arp(_) => panic!("ARP"),
        };
        assert_eq!(header.checksum, sum, "checksum of {header:?}");
        let flags = [
            (header.fin, FIN),
            (header.syn, SYN),
            (header.rst, RST),
            (header.psh, PSH),
            (header.ack, ACK),
            (header.urg, URG),
        ];
        Self {
            src: (src, header.source_port),
            dst: (dst, header.destination_port),
            flags: flags
                .iter()
                .filter(|(set, _)| *set)
                .map(|(_, flag)| flag)
                .sum(),
            seq: header.sequence_number,
            ack: header.acknowledgment_number,
            window: header.window_size,
            urgent: header.urgent_pointer,
            options: header.options.as_slice().to_vec(),
            data: tcp.payload().to_vec(),
        }
    }

    /// The options in the words of a script; numbers of SACK blocks relative to `base`.
    pub fn options_in_words(&self, base: u32) -> Vec<String> {
        let options = etherparse::TcpOptions::try_from_slice(&self.options).unwrap();
        let word = |option| match option {
            TcpOptionElement::MaximumSegmentSize(size) => format!("mss {size}"),
            TcpOptionElement::WindowScale(shift) => format!("wscale {shift}"),
            TcpOptionElement::SelectiveAcknowledgementPermitted => "sackOK".into(),
            TcpOptionElement::SelectiveAcknowledgement(first, rest) => {
                let blocks = std::iter::once(first).chain(rest.into_iter().flatten());
                let block = |(left, right): (u32, u32)| {
                    format!("{}:{}", left.wrapping_sub(base), right.wrapping_sub(base))
                };
                format!("sack {}", blocks.map(block).collect::<Vec<_>>().join(" "))
            }
            TcpOptionElement::Timestamp(..) => "timestamp".into(),
            TcpOptionElement::Noop => String::new(),
        };
        let words = options.elements_iter().map(|option| word(option.unwrap()));
        words.filter(|word| !word.is_empty()).collect()
    }

    pub fn flags_in_words(&self) -> String {
        let mut words: String = [(SYN, 'S'), (FIN, 'F'), (RST, 'R'), (PSH, 'P'), (URG, 'U')]
            .iter()
            .filter(|(flag, _)| self.flags & flag != 0)
            .map(|(_, letter)| *letter)
            .collect();
        if self.flags & ACK != 0 {
            words.push('.');
        }
        if words.is_empty() {
            words.push('-');
        }
        words
    }
}
