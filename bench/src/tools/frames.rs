//! Prebuilt UDP frames that differ in their ports only.

use anyhow::{Context, Result};
use std::net::Ipv4Addr;

/// Bytes of a frame, without the checksum that the wire would add.
pub const FRAME: usize = 64;
/// Where the parts of the frame stand.
mod at {
    use std::ops::Range;

    pub const TO_MAC: Range<usize> = 0..6;
    pub const FROM_MAC: Range<usize> = 6..12;
    pub const ETHER_TYPE: Range<usize> = 12..14;
    pub const IP: Range<usize> = 14..34;
    pub const IP_CHECKSUM: Range<usize> = 24..26;
    pub const FROM_PORT: Range<usize> = 34..36;
    pub const TO_PORT: Range<usize> = 36..38;
    pub const UDP_LENGTH: Range<usize> = 38..40;
    pub const UDP_CHECKSUM: Range<usize> = 40..42;
}
/// UDP header and payload.
const UDP_LENGTH: u16 = (FRAME - at::IP.end) as u16;

/// A frame without ports, and the sum of everything else under its UDP checksum.
#[derive(Debug, Clone)]
pub struct Template {
    frame: [u8; FRAME],
    sum: u32,
}

impl Template {
    /// A 64-byte IPv4 UDP frame.
    pub fn new(from_mac: [u8; 6], to_mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr) -> Self {
        let mut frame = [0; FRAME];
        frame[at::TO_MAC].copy_from_slice(&to_mac);
        frame[at::FROM_MAC].copy_from_slice(&from_mac);
        frame[at::ETHER_TYPE].copy_from_slice(&[0x08, 0x00]);
        let [length_high, length_low] = (at::IP.len() as u16 + UDP_LENGTH).to_be_bytes();
        // Version 4, no options, do not fragment, 64 hops, UDP.
        let start = [
            0x45,
            0,
            length_high,
            length_low,
            0,
            0,
            0x40,
            0,
            64,
            17,
            0,
            0,
        ];
        let addresses = [from.octets(), to.octets()].concat();
        frame[at::IP].copy_from_slice(&[&start[..], &addresses].concat());
        let checksum = finish(sum(&frame[at::IP]));
        frame[at::IP_CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        frame[at::UDP_LENGTH].copy_from_slice(&UDP_LENGTH.to_be_bytes());
        // The pseudo header's (RFC 768), and the length once more where it stands; the rest is zero.
        let sum = sum(&addresses) + 17 + u32::from(UDP_LENGTH) * 2;
        Self { frame, sum }
    }

    /// Writes the frame with these ports.
    pub fn write(&self, into: &mut [u8; FRAME], from_port: u16, to_port: u16) {
        *into = self.frame;
        into[at::FROM_PORT].copy_from_slice(&from_port.to_be_bytes());
        into[at::TO_PORT].copy_from_slice(&to_port.to_be_bytes());
        let checksum = match finish(self.sum + u32::from(from_port) + u32::from(to_port)) {
            // Zero would say that there is none.
            0 => 0xffff,
            checksum => checksum,
        };
        into[at::UDP_CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The sum of the 16-bit words of an even number of bytes, at most a packet's.
fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum()
}

/// The Internet checksum of a sum (RFC 1071).
fn finish(mut sum: u32) -> u16 {
    // Two carries at most come of a 32-bit sum.
    for _ in 0..2 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The link address of the gateway on `interface`, out of /proc/net/arp.
pub fn gateway(table: &str, interface: &str) -> Result<[u8; 6]> {
    table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.last() == Some(&interface))
        .and_then(|words| mac(words.get(3)?))
        .with_context(|| format!("no neighbour on {interface}"))
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut words = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(words.next()?, 16).ok()?;
    }
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_has_checksums_that_verify() {
        let template = Template::new(
            [2; 6],
            [4; 6],
            Ipv4Addr::new(10, 244, 1, 1),
            Ipv4Addr::new(10, 96, 0, 10),
        );
        let mut frame = [0; FRAME];
        for from_port in 0..=u16::MAX {
            template.write(&mut frame, from_port, 5003);
            assert_eq!(finish(sum(&frame[at::IP])), 0);
            assert_ne!(frame[at::UDP_CHECKSUM], [0, 0]);
            let pseudo = sum(&frame[26..34]) + 17 + u32::from(UDP_LENGTH);
            assert_eq!(finish(pseudo + sum(&frame[at::IP.end..])), 0);
        }
        assert_eq!(frame[at::FROM_PORT], [0xff, 0xff]);
        assert_eq!(frame[at::TO_PORT], 5003_u16.to_be_bytes());
    }

    #[test]
    fn the_gateway_is_the_neighbour_on_the_interface() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     169.254.1.1      0x1         0x6         02:00:00:00:ee:01     *        eth0\n";
        assert_eq!(gateway(table, "eth0").unwrap(), [2, 0, 0, 0, 0xee, 1]);
        assert!(gateway(table, "eth1").is_err());
    }
}
