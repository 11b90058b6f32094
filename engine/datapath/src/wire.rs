//! Field offsets of the headers that Weft reads and writes: named ranges, one place per header.
//!
//! Ranges are relative to the start of their header.

/// Ethernet II.
pub mod ethernet {
    use std::ops::Range;

    /// Destination MAC.
    pub const DST: Range<usize> = 0..6;
    /// Source MAC.
    pub const SRC: Range<usize> = 6..12;
    /// EtherType.
    pub const TYPE: Range<usize> = 12..14;
    /// Length of the header.
    pub const LEN: usize = 14;
    /// EtherType of IPv4.
    pub const IPV4: u16 = 0x0800;
    /// EtherType of IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// IPv4 (RFC 791).
pub mod ipv4 {
    use std::ops::Range;

    /// Version and header length in 32-bit words.
    pub const VERSION_IHL: usize = 0;
    /// Length of header and payload.
    pub const TOTAL_LENGTH: Range<usize> = 2..4;
    /// What the fragments of one packet have in common.
    pub const ID: Range<usize> = 4..6;
    /// Flags and fragment offset.
    pub const FRAGMENT: Range<usize> = 6..8;
    /// In [`FRAGMENT`]: more fragments, or an offset.
    pub const FRAGMENT_MASK: u16 = MORE_FRAGMENTS | OFFSET_MASK;
    /// In [`FRAGMENT`]: not the last one.
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    /// In [`FRAGMENT`]: the offset, in units of 8 bytes.
    pub const OFFSET_MASK: u16 = 0x1fff;
    /// In [`FRAGMENT`]: do not fragment.
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// Differentiated services, and congestion in the lower two bits (RFC 3168).
    pub const TOS: usize = 1;
    /// Time to live.
    pub const TTL: usize = 8;
    /// Protocol of the payload.
    pub const PROTOCOL: usize = 9;
    /// Checksum of the header.
    pub const CHECKSUM: Range<usize> = 10..12;
    /// Source address.
    pub const SRC: Range<usize> = 12..16;
    /// Destination address.
    pub const DST: Range<usize> = 16..20;
    /// Length without options.
    pub const LEN: usize = 20;
    /// Bytes of a packet that every host takes in one piece (RFC 791 section 3.2).
    pub const MTU_LEAST: u16 = 576;
}

/// IPv6 (RFC 8200).
pub mod ipv6 {
    use std::ops::Range;

    /// Version, traffic class and flow label.
    pub const VERSION_CLASS_FLOW: Range<usize> = 0..4;
    /// Length of what follows the header.
    pub const PAYLOAD_LENGTH: Range<usize> = 4..6;
    /// Protocol of the payload, or an extension header.
    pub const NEXT_HEADER: usize = 6;
    /// Hop limit.
    pub const HOP_LIMIT: usize = 7;
    /// Source address.
    pub const SRC: Range<usize> = 8..24;
    /// Destination address.
    pub const DST: Range<usize> = 24..40;
    /// Length of the header.
    pub const LEN: usize = 40;
    /// Next header: fragment.
    pub const FRAGMENT: u8 = 44;
    /// Next header: hop-by-hop options, which only follow the IPv6 header itself.
    pub const HOP_BY_HOP: u8 = 0;
    /// Next header: routing.
    pub const ROUTING: u8 = 43;
    /// Next header: nothing follows.
    pub const NONE: u8 = 59;
    /// Next header: destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// Extension headers that are skipped to find the payload. Authentication, ESP, mobility, HIP and shim6
    /// count as protocols: nothing behind them could be translated.
    pub const FOLLOWED: [u8; 3] = [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS];
    /// In an extension header: the next one, or the payload's protocol.
    pub const EXTENSION_NEXT: usize = 0;
    /// In an extension header: its length in [`EXTENSION_UNIT`], the first one not counted.
    pub const EXTENSION_LENGTH: usize = 1;
    /// In a routing header: nodes still to be visited.
    pub const SEGMENTS_LEFT: usize = 3;
    /// Bytes of the unit of extension headers, and so of the shortest one.
    pub const EXTENSION_UNIT: usize = 8;
    /// Extension headers that are followed at most, as in the BPF programs.
    pub const EXTENSIONS_MAX: usize = 8;
    /// Bytes of extension headers that are followed at most, as in the BPF programs.
    pub const EXTENSION_BYTES_MAX: usize = 256;
    /// Bytes of a packet that every link carries (RFC 8200 section 5).
    pub const MTU_LEAST: u16 = 1280;
}

/// The fragment header of IPv6 (RFC 8200 section 4.5).
pub mod ipv6_fragment {
    use std::ops::Range;

    /// Protocol of the payload, or an extension header.
    pub const NEXT_HEADER: usize = 0;
    /// Offset and flags.
    pub const OFFSET: Range<usize> = 2..4;
    /// In [`OFFSET`]: the offset, in bytes, a multiple of 8.
    pub const OFFSET_MASK: u16 = 0xfff8;
    /// In [`OFFSET`]: not the last one.
    pub const MORE_FRAGMENTS: u16 = 1;
    /// What the fragments of one packet have in common.
    pub const ID: Range<usize> = 4..8;
    /// Length of the header.
    pub const LEN: usize = 8;
}

/// TCP (RFC 9293).
pub mod tcp {
    use std::ops::Range;

    /// Source port.
    pub const SPORT: Range<usize> = 0..2;
    /// Destination port.
    pub const DPORT: Range<usize> = 2..4;
    /// Sequence number.
    pub const SEQUENCE: Range<usize> = 4..8;
    /// Acknowledgement number.
    pub const ACKNOWLEDGEMENT: Range<usize> = 8..12;
    /// Header length in 32-bit words, in the upper four bits.
    pub const DATA_OFFSET: usize = 12;
    /// Control bits.
    pub const FLAGS: usize = 13;
    /// Checksum with the pseudo-header.
    pub const CHECKSUM: Range<usize> = 16..18;
    /// Length without options.
    pub const LEN: usize = 20;

    /// Option: there are no more.
    pub const OPTION_END: u8 = 0;
    /// Option: nothing, one byte.
    pub const OPTION_NOP: u8 = 1;
    /// Option: the largest segment that the sender takes, four bytes in all.
    pub const OPTION_MSS: u8 = 2;

    /// Control bit: no more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Control bit: synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Control bit: reset the connection.
    pub const RST: u8 = 0x04;
    /// Control bit: the acknowledgement number counts.
    pub const ACK: u8 = 0x10;
}

/// UDP (RFC 768).
pub mod udp {
    use std::ops::Range;

    /// Source port.
    pub const SPORT: Range<usize> = 0..2;
    /// Destination port.
    pub const DPORT: Range<usize> = 2..4;
    /// Length of header and payload.
    pub const LENGTH: Range<usize> = 4..6;
    /// Checksum with the pseudo-header; zero is "none" in IPv4.
    pub const CHECKSUM: Range<usize> = 6..8;
    /// Length of the header.
    pub const LEN: usize = 8;
}

/// The fixed part of the header of GENEVE (RFC 8926 section 3.4).
pub mod geneve {
    use std::ops::Range;

    /// Version, in the upper two bits, and the length of the options in 32-bit words.
    pub const VERSION_LENGTH: usize = 0;
    /// In [`VERSION_LENGTH`]: the version, which is 0.
    pub const VERSION_MASK: u8 = 0xc0;
    /// Flags.
    pub const FLAGS: usize = 1;
    /// In [`FLAGS`]: a control packet.
    pub const OAM: u8 = 0x80;
    /// In [`FLAGS`]: an option is critical.
    pub const CRITICAL: u8 = 0x40;
    /// EtherType of what is wrapped.
    pub const PROTOCOL: Range<usize> = 2..4;
    /// In [`PROTOCOL`]: an Ethernet frame (Trans Ether Bridging).
    pub const ETHERNET: u16 = 0x6558;
    /// Virtual network identifier.
    pub const VNI: Range<usize> = 4..7;
    /// Length without options.
    pub const LEN: usize = 8;
    /// Bytes of the unit of options, and of an option's header.
    pub const OPTION_UNIT: usize = 4;
    /// In an option: its class.
    pub const OPTION_CLASS: Range<usize> = 0..2;
    /// In an option: its type, whose upper bit says that it is critical.
    pub const OPTION_TYPE: usize = 2;
    /// In [`OPTION_TYPE`]: whoever does not know it drops the packet.
    pub const OPTION_CRITICAL: u8 = 0x80;
    /// In an option: bytes of its data in [`OPTION_UNIT`], in the lower five bits.
    pub const OPTION_LENGTH: usize = 3;
}

/// VXLAN (RFC 7348 section 5).
pub mod vxlan {
    use std::ops::Range;

    /// Flags.
    pub const FLAGS: usize = 0;
    /// In [`FLAGS`]: the identifier counts. All others are to be ignored.
    pub const HAS_VNI: u8 = 0x08;
    /// Virtual network identifier.
    pub const VNI: Range<usize> = 4..7;
    /// Length of the header.
    pub const LEN: usize = 8;
}

/// ICMP (RFC 792) and ICMPv6 (RFC 4443).
pub mod icmp {
    use std::ops::Range;

    /// Protocol number of ICMP.
    pub const V4: u8 = 1;
    /// Next-header number of ICMPv6.
    pub const V6: u8 = 58;
    /// Type.
    pub const TYPE: usize = 0;
    /// Code.
    pub const CODE: usize = 1;
    /// Checksum; in ICMPv6 with the pseudo-header.
    pub const CHECKSUM: Range<usize> = 2..4;
    /// Whatever the type says: a pointer, an MTU, an identifier.
    pub const REST: Range<usize> = 4..8;
    /// Length before the packet in error.
    pub const LEN: usize = 8;
    /// Type of destination unreachable, and its code for a packet that is too long and is not fragmented.
    pub const V4_FRAGMENTATION_NEEDED: (u8, u8) = (3, 4);
    /// The MTU of the next hop there (RFC 1191 section 4).
    pub const V4_MTU: Range<usize> = 6..8;
    /// ICMPv6's type and code for that.
    pub const V6_TOO_BIG: (u8, u8) = (2, 0);
    /// Upper half of its MTU.
    pub const V6_MTU_HIGH: Range<usize> = 4..6;
    /// Lower half of its MTU.
    pub const V6_MTU_LOW: Range<usize> = 6..8;
    /// Bytes of the quoted packet's transport header that an error has at least (RFC 792).
    pub const QUOTED_MIN: usize = 8;
    /// Length of the quotation in 32-bit words, 0 where nothing follows it (RFC 4884 section 4).
    pub const V4_QUOTED_LENGTH: usize = 5;
    /// The same in ICMPv6, in 64-bit words.
    pub const V6_QUOTED_LENGTH: usize = 4;
    /// ICMPv6 types that have [`V6_QUOTED_LENGTH`]: destination unreachable and time exceeded.
    pub const V6_EXTENSIBLE: [u8; 2] = [1, 3];
    /// Types that are errors about a packet and still in use: destination unreachable, time exceeded, parameter
    /// problem. Not source quench (RFC 6633), and not redirect, which is advice about a link.
    pub const V4_ERRORS: [u8; 3] = [3, 11, 12];
    /// The same in ICMPv6: destination unreachable, packet too big, time exceeded, parameter problem.
    pub const V6_ERRORS: [u8; 4] = [1, 2, 3, 4];
    /// Type of an echo request.
    pub const V4_ECHO_REQUEST: u8 = 8;
    /// Type of an echo reply.
    pub const V4_ECHO_REPLY: u8 = 0;
    /// Type of an echo request in ICMPv6.
    pub const V6_ECHO_REQUEST: u8 = 128;
    /// Type of an echo reply in ICMPv6.
    pub const V6_ECHO_REPLY: u8 = 129;
    /// Type and code of protocol unreachable.
    pub const V4_PROTOCOL_UNREACHABLE: (u8, u8) = (3, 2);
    /// Type and code of ICMPv6's answer to a protocol: unrecognised next header.
    pub const V6_NEXT_HEADER: (u8, u8) = (4, 1);
    /// Type and code of a hop count used up on the way.
    pub const V4_TIME_EXCEEDED: (u8, u8) = (11, 0);
    /// The same in ICMPv6.
    pub const V6_TIME_EXCEEDED: (u8, u8) = (3, 0);
    /// Type and code of port unreachable.
    pub const V4_PORT_UNREACHABLE: (u8, u8) = (3, 3);
    /// Type and code of port unreachable in ICMPv6.
    pub const V6_PORT_UNREACHABLE: (u8, u8) = (1, 4);
}

/// The big-endian number in a two-byte field.
///
/// `at` must lie within `bytes`: callers pass headers whose length they have checked.
#[inline]
pub(crate) fn be16(bytes: &[u8], at: std::ops::Range<usize>) -> u16 {
    let field = &bytes[at];
    u16::from_be_bytes([field[0], field[1]])
}

/// The big-endian number in a four-byte field; see [`be16`].
#[inline]
pub(crate) fn be32(bytes: &[u8], at: std::ops::Range<usize>) -> u32 {
    let field = &bytes[at];
    u32::from_be_bytes([field[0], field[1], field[2], field[3]])
}
