//! What client and server tell each other besides the bytes of a transfer.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::time::Duration;

/// The first bytes of an order and of a report.
const MAGIC: u32 = 0x7766_7401;
/// Bytes of an order and of a report.
const LENGTH: usize = 40;

/// What the server shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Receive, then report.
    Receive,
    /// Send, then report.
    Send,
    /// Both at once, then report.
    Both,
    /// Send back what comes.
    Echo,
    /// Answer once, with a few bytes; close at once, or after the client when `pause` is not zero.
    Once,
    /// Receive to the end, then send as much, then report.
    Answer,
    /// Send and receive until the client resets.
    BeReset,
    /// Send and receive; reset the connection in the middle.
    Reset,
    /// Report what became of an earlier connection of this seed to be reset.
    Fate,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Receive,
        Self::Send,
        Self::Both,
        Self::Echo,
        Self::Once,
        Self::Answer,
        Self::BeReset,
        Self::Reset,
        Self::Fate,
    ];
}

/// The first thing on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub kind: Kind,
    /// Of the client's stream; the server's is that of the next seed.
    pub seed: u64,
    /// Bytes of each direction that carries any.
    pub bytes: u64,
    /// How long the server's receiver stops in the middle.
    pub pause: Duration,
}

impl Order {
    /// Writes it in one piece.
    pub fn send(&self, to: &mut impl Write) -> Result<()> {
        let kind = Kind::ALL.iter().position(|kind| *kind == self.kind);
        let fields = [
            kind.unwrap_or_default() as u64,
            self.seed,
            self.bytes,
            micros(self.pause),
        ];
        to.write_all(&pack(fields))
    }

    /// Reads one; `None` when the connection ends before its first byte.
    pub fn receive(from: &mut impl Read) -> Result<Option<Self>> {
        let Some([kind, seed, bytes, pause]) = unpack(from)? else {
            return Ok(None);
        };
        let kind = usize::try_from(kind)
            .ok()
            .and_then(|kind| Kind::ALL.get(kind));
        Ok(Some(Self {
            kind: *kind.ok_or_else(|| Error::new(ErrorKind::InvalidData, "no such order"))?,
            seed,
            bytes,
            pause: Duration::from_micros(pause),
        }))
    }
}

/// What the server saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Bytes that came and were right.
    pub bytes: u64,
    /// Longest time between two arrivals.
    pub longest_stall: Duration,
    /// Longest time in which nothing could be sent.
    pub sender_stall: Duration,
    /// For [`Kind::Fate`]: how long ago the connection was reset, `None` when it ended otherwise.
    pub reset: Option<Duration>,
}

impl Report {
    /// Writes it in one piece.
    pub fn send(&self, to: &mut impl Write) -> Result<()> {
        let fields = [
            self.bytes,
            micros(self.longest_stall),
            micros(self.sender_stall),
            self.reset.map_or(u64::MAX, micros),
        ];
        to.write_all(&pack(fields))
    }

    /// Reads one.
    pub fn receive(from: &mut impl Read) -> Result<Self> {
        let fields = unpack(from)?;
        let [bytes, stall, sender, reset] =
            fields.ok_or_else(|| Error::new(ErrorKind::UnexpectedEof, "no report"))?;
        Ok(Self {
            bytes,
            longest_stall: Duration::from_micros(stall),
            sender_stall: Duration::from_micros(sender),
            reset: (reset != u64::MAX).then(|| Duration::from_micros(reset)),
        })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX - 1)
}

fn pack(fields: [u64; 4]) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
    for (place, field) in bytes[8..].chunks_exact_mut(8).zip(fields) {
        place.copy_from_slice(&field.to_be_bytes());
    }
    bytes
}

fn unpack(from: &mut impl Read) -> Result<Option<[u64; 4]>> {
    let mut bytes = [0; LENGTH];
    if from.read(&mut bytes[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut bytes[1..])?;
    if bytes[..4] != MAGIC.to_be_bytes() {
        return Err(Error::new(ErrorKind::InvalidData, "not this protocol"));
    }
    let (words, _) = bytes[8..].as_chunks::<8>();
    let mut fields = [0; 4];
    for (field, word) in fields.iter_mut().zip(words) {
        *field = u64::from_be_bytes(*word);
    }
    Ok(Some(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_reports_are_read_as_they_are_written() {
        for kind in Kind::ALL {
            let order = Order {
                kind,
                seed: 7,
                bytes: 1 << 40,
                pause: Duration::from_millis(3),
            };
            let mut wire = Vec::new();
            order.send(&mut wire).unwrap();
            assert_eq!(Order::receive(&mut &wire[..]).unwrap(), Some(order));
            assert!(Order::receive(&mut &wire[..20]).is_err());
        }
        let report = Report {
            bytes: 1,
            reset: Some(Duration::ZERO),
            ..Report::default()
        };
        for report in [Report::default(), report] {
            let mut wire = Vec::new();
            report.send(&mut wire).unwrap();
            assert_eq!(Report::receive(&mut &wire[..]).unwrap(), report);
        }
        assert_eq!(Order::receive(&mut &[][..]).unwrap(), None);
        assert!(Order::receive(&mut &[b'x'; LENGTH][..]).is_err());
    }
}
