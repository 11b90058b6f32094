//! What clients and servers say: messages of a fixed length, over TCP as over UDP.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Bytes of a question and of an answer.
pub(super) const LENGTH: usize = 48;

/// A service and a port of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The service's number in the [history](super::History).
    pub service: usize,
    /// Where clients reach it.
    pub at: SocketAddr,
}

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    /// The flow's number, of which there is one.
    pub flow: u64,
    /// Counts the flow's questions.
    pub turn: u64,
    /// The last configuration that was in force when it was sent.
    pub since: usize,
    pub service: usize,
}

/// What a server says to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub flow: u64,
    pub turn: u64,
    /// The server's number.
    pub server: u32,
    /// Whom it saw.
    pub client: SocketAddr,
}

type Bytes = [u8; LENGTH];

fn words(words: [u64; 6]) -> Bytes {
    let mut bytes = [0; LENGTH];
    for (at, word) in words.into_iter().enumerate() {
        bytes[at * 8..][..8].copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

fn word(bytes: &Bytes, at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at * 8..][..8]);
    u64::from_be_bytes(word)
}

impl Question {
    pub fn bytes(&self) -> Bytes {
        let (since, service) = (self.since as u64, self.service as u64);
        words([self.flow, self.turn, since, service, 0, 0])
    }

    pub fn read(bytes: &Bytes) -> Self {
        Self {
            flow: word(bytes, 0),
            turn: word(bytes, 1),
            since: word(bytes, 2) as usize,
            service: word(bytes, 3) as usize,
        }
    }
}

impl Answer {
    pub fn bytes(&self) -> Bytes {
        let ip = match self.client.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let (high, low) = ((ip.to_bits() >> 64) as u64, ip.to_bits() as u64);
        let port = u64::from(self.client.port());
        words([self.flow, self.turn, self.server.into(), port, high, low])
    }

    pub fn read(bytes: &Bytes) -> Self {
        let bits = u128::from(word(bytes, 4)) << 64 | u128::from(word(bytes, 5));
        let ip = IpAddr::V6(Ipv6Addr::from_bits(bits)).to_canonical();
        Self {
            flow: word(bytes, 0),
            turn: word(bytes, 1),
            server: word(bytes, 2) as u32,
            client: SocketAddr::new(ip, word(bytes, 3) as u16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let question = Question {
            flow: 1 << 40,
            turn: 7,
            since: 3,
            service: 2,
        };
        assert_eq!(Question::read(&question.bytes()), question);
        for client in ["10.244.1.1:40000", "[fd00:244:1::1]:1"] {
            let answer = Answer {
                flow: 5,
                turn: 6,
                server: 99,
                client: client.parse().unwrap(),
            };
            assert_eq!(Answer::read(&answer.bytes()), answer);
        }
    }
}
