//! How long a flow without packets is kept. Constants in one place.

use std::time::Duration;

/// TCP, until the handshake is over: a SYN and its retransmissions.
pub const TCP_OPENING: Duration = Duration::from_secs(60);
/// TCP, after the handshake.
pub const TCP_ESTABLISHED: Duration = Duration::from_secs(24 * 3600);
/// TCP, one side has sent its FIN: the other may still send for long, but a lost peer must not hold
/// the flow for a day.
pub const TCP_HALF_CLOSED: Duration = Duration::from_secs(3600);
/// TCP, reset or closed by both sides: time for the last retransmissions.
pub const TCP_CLOSING: Duration = Duration::from_secs(30);
/// UDP, nothing has come back yet.
pub const UDP_ONE_WAY: Duration = Duration::from_secs(30);
/// UDP, packets in both directions.
pub const UDP_TWO_WAY: Duration = Duration::from_secs(180);
/// A packet in fragments: how long fragments wait for the first one, and how long the others may then
/// take, each after the one before.
pub const FRAGMENTS: Duration = Duration::from_secs(1);
/// A packet whose fragments have all been seen: time for duplicates.
pub const FRAGMENTS_COMPLETE: Duration = Duration::from_millis(100);
