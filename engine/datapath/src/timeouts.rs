//! How long a flow without packets is kept. Constants in one place.
//!
//! In brackets what netfilter's connection tracking does by default (nf_conntrack-sysctl.rst of Linux).
//! RFC 5382 section 5 asks 2 h 4 min of an established connection and 4 min of one that opens or closes.

use std::time::Duration;

/// TCP, until the handshake is over (120 s, then 60 s). Linux repeats a SYN after 1, 2, 4, 8, 16 and 32 s:
/// every gap is shorter.
pub const TCP_OPENING: Duration = Duration::from_secs(60);
/// TCP, after the handshake (5 days). What kube-proxy sets: it can be told no more by an end that is gone.
pub const TCP_ESTABLISHED: Duration = Duration::from_secs(24 * 3600);
/// TCP, a FIN that nobody has acknowledged (120 s): twice the longest gap between retransmissions
/// (RFC 6298 section 2.5 allows a limit of 60 s or more; Linux has 120 s).
pub const TCP_FIN_WAIT_1: Duration = Duration::from_secs(240);
/// TCP, one side has sent its FIN and the other may go on (60 s, and famously too short): what
/// kube-proxy sets, since a lost peer must not hold the flow for a day.
pub const TCP_HALF_CLOSED: Duration = Duration::from_secs(3600);
/// TCP, closed by both sides (30 s, then 120 s): time for the last retransmissions. The ends keep
/// TIME-WAIT by themselves, and a SYN need not wait for the end of it here.
pub const TCP_TIME_WAIT: Duration = Duration::from_secs(30);
/// TCP, reset (10 s): what was in flight, and proof that an end did not believe it.
pub const TCP_CLOSED: Duration = Duration::from_secs(10);
/// UDP, nothing has come back yet (30 s). Counted from the first packet, not the last: a sender that
/// nobody answers is looked up again this often, so it follows the tables however long it goes on.
pub const UDP_ONE_WAY: Duration = Duration::from_secs(30);
/// UDP, packets in both directions (120 s; RFC 4787 section 4.3 asks at least that).
pub const UDP_TWO_WAY: Duration = Duration::from_secs(180);
/// UDP, left to the hooks: the pause that they wait for (`HELD_MS` of `bpf/weft.h`).
pub const LEAVING: Duration = Duration::from_millis(14);
/// A packet in fragments: how long fragments wait for the first one, and how long the others may then
/// take, each after the one before.
pub const FRAGMENTS: Duration = Duration::from_secs(1);
/// A packet whose fragments have all been seen: time for duplicates.
pub const FRAGMENTS_COMPLETE: Duration = Duration::from_millis(100);
