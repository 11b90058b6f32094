//! The ends of connections: what clients send, and servers send back.

use std::net::Ipv4Addr;
use std::task::Poll;

use weft_datapath::Now;
use weft_stack::Stream;

use super::super::world::context;

/// What a client asks of whom.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// That pod itself.
    Pod(usize),
    Mover,
    Service((Ipv4Addr, u16)),
}

/// A client's end of a connection: it sends bytes of its own, and gets them back.
pub struct Connection {
    pub number: u32,
    pub client: usize,
    pub asked: Asked,
    pub stream: Option<Stream>,
    pub length: usize,
    pub written: usize,
    pub read: usize,
    pub opened: Now,
    pub done: bool,
}

/// The byte of a connection at that place: no two connections look alike for long.
pub fn byte(connection: u32, at: usize) -> u8 {
    let word = (u64::from(connection) << 32 | (at / 8) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word >> (8 * (at % 8))) as u8
}

/// A server's end: what came and has not been sent back yet.
pub struct Echo {
    pub stream: Stream,
    pub held: Vec<u8>,
    pub ended: bool,
}

impl Connection {
    pub fn turn(&mut self, buffer: &mut [u8]) {
        let Some(stream) = self.stream.take() else {
            return;
        };
        while self.written < self.length {
            let end = self.length.min(self.written + 1000);
            let bytes: Vec<u8> = (self.written..end)
                .map(|at| byte(self.number, at))
                .collect();
            match stream.poll_write(&mut context(), &bytes) {
                Poll::Ready(Ok(written)) => self.written += written,
                Poll::Ready(Err(_)) => return, // Refused or reset, which is an end, too.
                Poll::Pending => break,
            }
        }
        if self.written == self.length {
            let _ = stream.poll_shutdown(&mut context());
        }
        while let Poll::Ready(read) = stream.poll_read(&mut context(), buffer) {
            let Ok(read) = read else {
                return;
            };
            for byte_read in &buffer[..read] {
                assert_eq!(*byte_read, byte(self.number, self.read), "another's bytes");
                self.read += 1;
            }
            if read == 0 {
                assert_eq!(self.read, self.length, "an end before the last byte");
                self.done = true;
                return;
            }
        }
        self.stream = Some(stream);
    }
}

impl Echo {
    /// False once it is over.
    pub fn turn(&mut self, buffer: &mut [u8]) -> bool {
        while !self.ended
            && self.held.len() < 1 << 16
            && let Poll::Ready(read) = self.stream.poll_read(&mut context(), buffer)
        {
            match read {
                Ok(0) => self.ended = true,
                Ok(read) => self.held.extend_from_slice(&buffer[..read]),
                Err(_) => return false,
            }
        }
        while !self.held.is_empty()
            && let Poll::Ready(written) = self.stream.poll_write(&mut context(), &self.held)
        {
            match written {
                Ok(written) => drop(self.held.drain(..written)),
                Err(_) => return false,
            }
        }
        if !self.ended || !self.held.is_empty() {
            return true;
        }
        self.stream.poll_shutdown(&mut context()).is_pending()
    }
}
