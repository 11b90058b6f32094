//! A generator of small UDP packets.
//!
//! Each system call hands the kernel one large buffer that it cuts into packets (UDP_SEGMENT). With
//! `tx-udp-segmentation` off on the pod's interface the cutting happens before the veth, so single
//! packets leave the pod, at a rate that one system call a packet would not reach.

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Segments a buffer is cut into; the kernel's limit was 64 for long.
const SEGMENTS: usize = 64;
/// Bytes of a frame, without the checksum that the wire would add.
const FRAME: usize = 64;
/// Those that are not the UDP payload, by family.
const OVERHEAD: [usize; 2] = [14 + 20 + 8, 14 + 40 + 8];

/// The unspecified address of the family of `to`.
pub(super) fn any(to: SocketAddr) -> IpAddr {
    match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Bytes of UDP payload in a 64-byte frame to `to`.
pub(super) fn payload(to: SocketAddr) -> usize {
    FRAME - OVERHEAD[usize::from(to.is_ipv6())]
}

/// What a generator sent.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sent {
    /// Packets that the kernel took.
    pub packets: u64,
    /// Calls that failed, of [`SEGMENTS`] packets each.
    pub errors: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Between a flow's first packet and all others: flows are to be established, whoever has to see how they begin.
const OPENING: Duration = Duration::from_millis(50);

/// Sends 64-byte frames to `to` for `duration`, from `sockets` sockets in turn (flows), each opened by a packet before.
pub fn flood(to: SocketAddr, duration: Duration, sockets: usize) -> Result<Sent> {
    let payload = payload(to);
    let sockets = (0..sockets.max(1))
        .map(|_| socket(to, payload))
        .collect::<Result<Vec<_>>>()?;
    let buffer = vec![0; payload * SEGMENTS];
    for socket in &sockets {
        socket.send(&buffer[..payload])?;
    }
    std::thread::sleep(OPENING);
    let mut sent = Sent {
        packets: 0,
        errors: 0,
        seconds: 0.0,
    };
    let start = Instant::now();
    for socket in sockets.iter().cycle() {
        match socket.send(&buffer) {
            Ok(_) => sent.packets += SEGMENTS as u64,
            Err(_) => sent.errors += 1,
        }
        if start.elapsed() >= duration {
            break;
        }
    }
    sent.seconds = start.elapsed().as_secs_f64();
    Ok(sent)
}

fn socket(to: SocketAddr, payload: usize) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((any(to), 0))?;
    socket
        .connect(to)
        .with_context(|| format!("no route to {to}"))?;
    setsockopt(&socket, sockopt::UdpGsoSegment, &i32::try_from(payload)?)
        .context("UDP_SEGMENT is refused")?;
    // As root the limit of net.core.wmem_max does not bind.
    let _ = setsockopt(&socket, sockopt::SndBufForce, &(8 << 20));
    socket.set_nonblocking(true)?;
    Ok(socket)
}
