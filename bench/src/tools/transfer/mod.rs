//! Transfers over TCP of which both ends check every byte.
//!
//! A connection begins with an [`Order`], a fixed number of bytes from the client. What follows depends on its kind, and
//! ends, unless it is an abort, with a [`Report`] of the server's. No call waits for longer than a limit, so a
//! connection that hangs becomes an error.

mod client;
mod order;
mod server;
mod stream;

pub use client::{Plan, run};
pub use server::serve;

use super::rr::RoundTrips;
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a server waits for anything.
pub const SERVER_LIMIT: Duration = Duration::from_secs(60);

/// A seed that no run of late has had. Runs use seeds up to their number of connections further.
pub fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| since.as_micros() as u64) << 8
}

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The client sends.
    Upload,
    /// The server sends.
    Download,
    /// Both send at once.
    Both,
    /// One byte there and back, again and again.
    Ping,
    /// Short connections, one after another; server and client take turns in closing first.
    Connections,
    /// The client sends and shuts its half down; only then the server answers with as much.
    HalfClose,
    /// The client resets a connection on which both send.
    Abort,
    /// The server does.
    Aborted,
    /// An upload whose receiver stops reading for a while.
    StallUpload,
    /// A download whose receiver does.
    StallDownload,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 10] = [
        Self::Upload,
        Self::Download,
        Self::Both,
        Self::Ping,
        Self::Connections,
        Self::HalfClose,
        Self::Abort,
        Self::Aborted,
        Self::StallUpload,
        Self::StallDownload,
    ];

    /// Its name on the command line.
    pub fn id(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
            Self::Both => "both",
            Self::Ping => "ping",
            Self::Connections => "connections",
            Self::HalfClose => "half-close",
            Self::Abort => "abort",
            Self::Aborted => "aborted",
            Self::StallUpload => "stall-upload",
            Self::StallDownload => "stall-download",
        }
    }
}

/// What a run came to. Times are in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Transfer {
    /// What it did.
    pub mode: Mode,
    /// Bytes that arrived and were right, of both directions together.
    pub bytes: u64,
    /// From the first SYN to the end of the connection, in seconds: the completion time.
    pub seconds: f64,
    /// `bytes` a second, in Mbit/s.
    pub goodput: f64,
    /// How long the connection took to open.
    pub connect: f64,
    /// The longest time between two arrivals at a receiver.
    pub longest_stall: f64,
    /// The longest time that a sender could not send.
    pub sender_stall: f64,
    /// The time from an abort, or from the last byte before it, until the other end knew of it.
    pub notice: Option<f64>,
    /// Times of pings, or of whole short connections.
    pub round_trips: Option<RoundTrips>,
}

#[cfg(test)]
mod tests;
