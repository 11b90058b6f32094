//! Packets by the byte: what tests send through raw sockets, and how they read what comes out.

mod build;
mod view;

pub use build::{Ip, Tcp, echo, error, ethernet, fragments, tcp, udp};
pub use view::{Fragment, L4, Seen, Sum, see};

/// IP protocol numbers.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// GRE.
    pub const GRE: u8 = 47;
    /// IPsec ESP.
    pub const ESP: u8 = 50;
    /// ICMP for IPv6.
    pub const ICMP6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// TCP control bits (RFC 9293, 3.1).
pub mod flag {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Synchronize.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// Acknowledge.
    pub const ACK: u8 = 16;
    /// Urgent.
    pub const URG: u8 = 32;
}

/// The Internet checksum (RFC 1071) of `parts` put together, each of even length but the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u64 = parts.iter().flat_map(|part| part.chunks(2)).map(word).sum();
    // Four folds are enough for 64 bits.
    for _ in 0..4 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests;
