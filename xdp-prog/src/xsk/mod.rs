//! One AF_XDP socket behind [`PacketIo`]: copy mode, `need_wakeup`, one frame a packet.

use std::num::NonZeroU16;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use std::{io, thread};

use arrayvec::ArrayVec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_datapath::{BURST_MAX, FrameBuf, FrameLedger, PacketIo};

use crate::bulk::BulkLane;
use crate::edge::rings::Rings;
use crate::edge::sockopt;

pub use crate::edge::rings::XskFrame;

/// Bytes of a frame, the kernel's headroom of 256 included. A page: AF_XDP takes no larger chunk,
/// and native XDP on a veth no larger packet.
pub(crate) const CHUNK: u32 = 4096;

/// A queue whose socket was just closed stays busy until the kernel has let go of the old one.
const BUSY_LIMIT: Duration = Duration::from_secs(3);
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Descriptors that [`XskIo::wait`] watches besides the socket.
const WAKERS_MAX: usize = 7;

/// Why a socket could not be opened or asked.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    /// A value that no socket can be made with.
    #[error("AF_XDP: {value} is not a possible value for {what}")]
    Config {
        /// The setting.
        what: String,
        /// Its value.
        value: u32,
    },
    /// No interface of that name.
    #[error("AF_XDP: no interface `{0}` in this network namespace")]
    Interface(String),
    /// The packet memory.
    #[error("AF_XDP: cannot register memory for {frames} frames (see `ulimit -l`, `free -m`)")]
    Memory {
        /// Frames asked for.
        frames: u32,
        /// What xsk-rs says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The bind. `EBUSY`: another process has a socket on this queue.
    #[error("AF_XDP: cannot bind to queue {queue} of {interface} (is another process using it?)")]
    Bind {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// What xsk-rs says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A socket option.
    #[error("AF_XDP: {what}")]
    Socket {
        /// The question.
        what: &'static str,
        /// The answer.
        source: io::Error,
    },
}

/// Sizes of a socket.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct XskConfig {
    /// Frames of 4 KiB each. 8192 are 32 MiB; above 64 MiB opening takes noticeably long.
    pub frames: u32,
    /// Descriptors of each of the four rings: a power of two. Half the frames or fewer, so that
    /// some are left for sending.
    pub ring: u32,
}

impl Default for XskConfig {
    fn default() -> Self {
        Self {
            frames: 8192,
            ring: 2048,
        }
    }
}

/// Whether the driver fills our memory itself.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum XskMode {
    /// The kernel copies.
    Copy,
    /// The device writes into the socket's memory.
    ZeroCopy,
}

impl XskMode {
    /// Its name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::ZeroCopy => "zero-copy",
        }
    }
}

/// `XDP_STATISTICS` of a socket.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct XdpStatistics {
    /// Dropped: larger than a frame, or no memory.
    pub rx_dropped: u64,
    /// Descriptors of the fill ring that the kernel refused.
    pub rx_invalid_descs: u64,
    /// Descriptors of the transmit ring that the kernel refused.
    pub tx_invalid_descs: u64,
    /// Dropped: the receive ring was full.
    pub rx_ring_full: u64,
    /// Dropped: the fill ring was empty.
    pub rx_fill_ring_empty_descs: u64,
    /// Times that the kernel found nothing to send.
    pub tx_ring_empty_descs: u64,
}

/// Descriptors waiting in each ring.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct RingOccupancy {
    /// Descriptors that each ring holds.
    pub size: u32,
    /// Received, not taken.
    pub rx: u32,
    /// For the kernel to receive into.
    pub fill: u32,
    /// Queued, not sent.
    pub tx: u32,
    /// Sent, not reaped.
    pub completion: u32,
}

/// What ended [`XskIo::wait`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Frames may be waiting.
    pub socket: bool,
    /// One of the other descriptors is readable.
    pub waker: bool,
}

/// One AF_XDP socket on one queue of an interface of the calling thread's network namespace.
///
/// The socket takes no packets before it stands in the `xsks` map
/// ([`Steering::register_socket`](crate::Steering::register_socket)). Dropping it frees the queue;
/// the kernel takes it out of the map.
pub struct XskIo {
    rings: Rings,
    bulk: Option<BulkLane>,
    /// The bulk lane may hold a packet: to ask costs a system call, so a wait that has just looked answers.
    bulk_ready: bool,
    /// Somebody takes packets from it: before, what comes there is no reason to wake.
    bulk_used: bool,
    /// Frames queued since the last doorbell, which a packet by the bulk lane would overtake.
    unrung: bool,
}

impl XskIo {
    /// Opens a socket on `queue` of `interface`. Waits, with a bound, for a queue that was freed a
    /// moment ago.
    pub fn open(interface: &str, queue: u32, config: XskConfig) -> Result<Self, XskError> {
        let deadline = Instant::now() + BUSY_LIMIT;
        let again = || {
            thread::sleep(BUSY_PAUSE);
            Instant::now() < deadline
        };
        let rings = Rings::open(interface, queue, config.frames, config.ring, again)?;
        // The kernel sends 32 frames a doorbell unless told otherwise: half a burst.
        if let Err(error) = sockopt::set_max_tx_budget(rings.fd(), config.ring) {
            tracing::debug!(interface, queue, %error, "transmit budget stays at the kernel's default");
        }
        Ok(Self {
            rings,
            bulk: None,
            bulk_ready: false,
            bulk_used: false,
            unrung: false,
        })
    }

    /// Takes large packets by this lane, too.
    #[must_use]
    pub fn with_bulk(mut self, lane: Option<BulkLane>) -> Self {
        self.bulk = lane;
        self
    }

    /// The socket, to stand in the `xsks` map or to be polled.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.rings.fd()
    }

    /// Sleeps until frames have come, one of `wakers` (at most 7) is readable, or `timeout` is over.
    /// Rings the doorbell of what was queued, too: `poll` itself sends. A signal ends the wait
    /// early.
    pub fn wait(&mut self, timeout: Duration, wakers: &[BorrowedFd<'_>]) -> io::Result<Ready> {
        if wakers.len() > WAKERS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.rings.reap();
        self.rings.refill();
        self.unrung = false;
        let mut fds: ArrayVec<PollFd<'_>, { WAKERS_MAX + 2 }> = ArrayVec::new();
        fds.push(PollFd::from_borrowed_fd(self.rings.fd(), PollFlags::IN));
        if let Some(lane) = self.bulk.as_ref().filter(|_| self.bulk_used) {
            fds.push(PollFd::from_borrowed_fd(lane.fd(), PollFlags::IN));
        }
        let own = fds.len();
        for waker in wakers {
            fds.push(PollFd::from_borrowed_fd(*waker, PollFlags::IN));
        }
        let timeout = Timespec::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        self.bulk_ready = own > 1 && ready(&fds[1]);
        Ok(Ready {
            socket: fds[..own].iter().any(ready),
            waker: fds[own..].iter().any(ready),
        })
    }

    /// A second hold on the socket, for a thread that only asks about it.
    pub fn probe(&self) -> io::Result<SocketProbe> {
        Ok(SocketProbe {
            fd: self.fd().try_clone_to_owned()?,
        })
    }

    /// How full the rings are.
    pub fn occupancy(&mut self) -> RingOccupancy {
        self.rings.occupancy()
    }

    /// Counts every frame anew and compares: false means that the ledger lies. Walks over all
    /// frames, so it is for tests and audits.
    pub fn audit(&self) -> bool {
        self.rings.audit()
    }

    /// Descriptors that contradict the ledger, and frames too short to be sent. Zero, or there is
    /// a bug.
    pub fn strays(&self) -> u64 {
        self.rings.strays()
    }
}

/// Asks the kernel about a socket that another thread works with. The queue stays busy until this
/// is dropped, too.
#[derive(Debug)]
pub struct SocketProbe {
    fd: OwnedFd,
}

impl SocketProbe {
    /// What the kernel counted for this socket.
    pub fn statistics(&self) -> Result<XdpStatistics, XskError> {
        let statistics =
            rustix::net::sockopt::xdp_statistics(&self.fd).map_err(|error| XskError::Socket {
                what: "XDP_STATISTICS",
                source: error.into(),
            })?;
        Ok(XdpStatistics {
            rx_dropped: statistics.rx_dropped,
            rx_invalid_descs: statistics.rx_invalid_descs,
            tx_invalid_descs: statistics.tx_invalid_descs,
            rx_ring_full: statistics.rx_ring_full.unwrap_or_default(),
            rx_fill_ring_empty_descs: statistics.rx_fill_ring_empty_descs.unwrap_or_default(),
            tx_ring_empty_descs: statistics.tx_ring_empty_descs.unwrap_or_default(),
        })
    }

    /// The mode really in use, asked of the kernel.
    pub fn mode(&self) -> Result<XskMode, XskError> {
        let options =
            rustix::net::sockopt::xdp_options(&self.fd).map_err(|error| XskError::Socket {
                what: "XDP_OPTIONS",
                source: error.into(),
            })?;
        let zero_copy = rustix::net::xdp::XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY;
        Ok(if options.contains(zero_copy) {
            XskMode::ZeroCopy
        } else {
            XskMode::Copy
        })
    }
}

impl PacketIo for XskIo {
    type Frame = XskFrame;

    #[inline]
    fn receive(&mut self, burst: &mut ArrayVec<XskFrame, BURST_MAX>) {
        let room = burst.remaining_capacity();
        self.rings.receive(room, |frame| burst.push(frame));
    }

    #[inline]
    fn with_frame<R>(&mut self, frame: &mut XskFrame, f: impl FnOnce(&mut FrameBuf<'_>) -> R) -> R {
        self.rings.with_frame(frame, f)
    }

    #[inline]
    fn room(&self) -> usize {
        self.rings.room()
    }

    #[inline]
    fn send(&mut self, frame: XskFrame) -> Result<(), XskFrame> {
        self.unrung = true;
        self.rings.send(frame)
    }

    fn has_bulk(&self) -> bool {
        self.bulk.is_some()
    }

    fn receive_bulk<R>(&mut self, take: impl FnOnce(&mut [u8], bool) -> R) -> Option<R> {
        self.bulk_used = true;
        if !self.bulk_ready {
            return None;
        }
        let received = self.bulk.as_mut().and_then(BulkLane::receive);
        self.bulk_ready = received.is_some();
        received.map(|(frame, verified)| take(frame, verified))
    }

    fn send_bulk(
        &mut self,
        len: usize,
        segment: NonZeroU16,
        write: impl FnOnce(&mut [u8]),
    ) -> bool {
        if self.unrung {
            let _ = self.rings.kick(); // What was sent before comes before.
            self.unrung = false;
        }
        self.bulk
            .as_mut()
            .is_some_and(|lane| lane.send(len, segment, write))
    }

    #[inline]
    fn release(&mut self, frame: XskFrame) {
        self.rings.release(frame);
    }

    #[inline]
    fn allocate(&mut self) -> Option<XskFrame> {
        self.rings.allocate()
    }

    fn flush(&mut self) {
        // A doorbell fails only when the interface has gone or is down, which control sees: nothing
        // is lost that the ledger would not show, and the next flush tries again.
        let _ = self.rings.kick();
        (self.unrung, self.bulk_ready) = (false, true);
        self.rings.reap();
        self.rings.refill();
    }

    fn frames(&self) -> FrameLedger {
        self.rings.ledger()
    }
}
