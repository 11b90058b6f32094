//! Cutting an IPv4 packet into fragments (RFC 791 section 3.2): what is too long for a tunnel, and may be.

use crate::checksum::Checksum;
use crate::wire::{be16, ethernet, ipv4};
use crate::{DropReason, FrameBuf};

/// Bytes of the longest frame that is cut: what a worker's frames hold.
const FRAME_MAX: usize = 4096;

/// What is left of a packet whose first fragment is in a frame.
#[derive(Debug)]
pub(crate) struct Rest {
    /// Ethernet and IP header of the fragments, and behind them all that is still to be sent.
    memory: Box<[u8; FRAME_MAX]>,
    len: usize,
    mtu: usize,
}

/// Whether a packet may be cut: IPv4 without options, and its sender does not forbid it.
pub(crate) fn may_cut(frame: &[u8]) -> bool {
    const PLAIN: u8 = 0x40 | (ipv4::LEN / 4) as u8;
    let l3 = &frame[ethernet::LEN.min(frame.len())..];
    let forbidden = |l3: &[u8]| be16(l3, ipv4::FRAGMENT) & ipv4::DONT_FRAGMENT != 0;
    frame.len() <= FRAME_MAX && l3.len() >= ipv4::LEN && l3[0] == PLAIN && !forbidden(l3)
}

impl Rest {
    pub(crate) fn new() -> Self {
        Self {
            memory: Box::new([0; FRAME_MAX]),
            len: 0,
            mtu: 0,
        }
    }

    /// Whether there is nothing more to be sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets what is still to be sent.
    pub(crate) fn forget(&mut self) {
        self.len = 0;
    }

    /// Leaves the first fragment of `mtu` bytes at most in the frame, which [may be cut](may_cut), and keeps the rest.
    pub(crate) fn cut(&mut self, frame: &mut FrameBuf<'_>, mtu: u16) {
        let bytes = frame.bytes();
        self.memory[..bytes.len()].copy_from_slice(bytes);
        (self.len, self.mtu) = (bytes.len(), mtu.into());
        // It fits: it is shorter than what was there.
        let _ = self.next(frame);
    }

    /// Writes the next fragment into `frame`.
    ///
    /// # Errors
    /// [`DropReason::FrameRoom`] where it does not fit; the rest is lost then.
    pub(crate) fn next(&mut self, frame: &mut FrameBuf<'_>) -> Result<(), DropReason> {
        const HEAD: usize = ethernet::LEN + ipv4::LEN;
        let data = self.len - HEAD;
        let room = self.mtu.saturating_sub(ipv4::LEN) & !7; // In units of 8 bytes.
        let (part, last) = if data <= self.mtu.saturating_sub(ipv4::LEN) || room == 0 {
            (data, true)
        } else {
            (room, false)
        };
        let resized = frame.resize(HEAD + part);
        if resized.is_err() {
            self.forget();
            return resized;
        }
        let bytes = frame.bytes_mut();
        bytes.copy_from_slice(&self.memory[..HEAD + part]);
        let header = &mut bytes[ethernet::LEN..HEAD];
        let fragment = be16(header, ipv4::FRAGMENT);
        if !last {
            header[ipv4::FRAGMENT]
                .copy_from_slice(&(fragment | ipv4::MORE_FRAGMENTS).to_be_bytes());
        }
        header[ipv4::TOTAL_LENGTH].copy_from_slice(&((ipv4::LEN + part) as u16).to_be_bytes());
        header[ipv4::CHECKSUM].fill(0);
        let sum = Checksum::default().with(header).finish();
        header[ipv4::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        if last {
            self.forget();
            return Ok(());
        }
        let next = &mut self.memory[ethernet::LEN..HEAD];
        next[ipv4::FRAGMENT].copy_from_slice(&(fragment + (part / 8) as u16).to_be_bytes());
        self.memory.copy_within(HEAD + part..self.len, HEAD);
        self.len -= part;
        Ok(())
    }
}
