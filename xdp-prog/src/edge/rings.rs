//! The rings and the memory of one AF_XDP socket.
//!
//! xsk-rs leaves two promises to its caller: a frame is in one ring or in one pair of hands at a
//! time, and a descriptor belongs to the memory it is used with. Both are kept here by a place for
//! every frame: a frame moves only from the place where it is, and a descriptor that the kernel
//! returns is checked against that before anybody touches its bytes.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, SocketConfig, UmemConfig};
use xsk_rs::socket::SocketCreateError;
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

use weft_datapath::{BURST_MAX, FrameBuf, FrameLedger};

use crate::xsk::{CHUNK, RingOccupancy, XskError};

/// An Ethernet header: less than that the kernel takes for an invalid descriptor, and never
/// completes.
const FRAME_MIN: usize = 14;

/// Where a frame is.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Place {
    /// In the free list.
    Free,
    /// The kernel's to receive into, or received and not taken yet.
    Fill,
    /// In the caller's hands.
    App,
    /// The kernel's to send, or sent and not reaped yet.
    Tx,
}

/// One frame in the caller's hands. Give it back by `send` or `release`; a dropped one is lost to
/// the pool (but not to the ledger, which goes on counting it as the caller's).
#[derive(Debug)]
#[must_use = "a frame that is neither sent nor released is lost to the pool"]
pub struct XskFrame {
    desc: FrameDesc,
    index: u32,
    socket: u64,
}

/// The rings, the memory behind them, and where every frame is.
pub(crate) struct Rings {
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    umem: Umem,
    /// Tells this socket's frames from another's.
    id: u64,
    /// Every frame's own descriptor, as made with the memory.
    home: Box<[FrameDesc]>,
    place: Box<[Place]>,
    free: Vec<u32>,
    /// Frames by [`Place`].
    counts: [usize; 4],
    ring: usize,
    fill_target: usize,
    scratch: [FrameDesc; BURST_MAX],
    /// Received frames that waited in the ring when it was last looked at.
    rx_seen: usize,
    /// Descriptors of the kernel that contradict the ledger. Always zero, or the kernel is at fault.
    strays: u64,
}

impl Rings {
    /// Makes the memory and binds a socket to `queue` of `interface`. `again` says whether to try
    /// once more when the queue is still busy.
    pub(crate) fn open(
        interface: &str,
        queue: u32,
        frames: u32,
        ring: u32,
        mut again: impl FnMut() -> bool,
    ) -> Result<Self, XskError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);

        let invalid = |what: &str, value: u32| XskError::Config {
            what: what.to_owned(),
            value,
        };
        let size = || {
            ring.try_into()
                .map_err(|_| invalid("ring (a power of two)", ring))
        };
        let umem_config = UmemConfig::builder()
            .frame_size(CHUNK.try_into().map_err(|_| invalid("chunk", CHUNK))?)
            .fill_queue_size(size()?)
            .comp_queue_size(size()?)
            .build()
            .map_err(|_| invalid("chunk", CHUNK))?;
        let socket_config = SocketConfig::builder()
            .rx_queue_size(size()?)
            .tx_queue_size(size()?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let count = frames.try_into().map_err(|_| invalid("frames", frames))?;
        let (umem, home) =
            Umem::new(umem_config, count, false).map_err(|error| XskError::Memory {
                frames,
                source: Box::new(error),
            })?;
        let name: Interface = interface
            .parse()
            .map_err(|_| XskError::Interface(interface.to_owned()))?;
        let (tx, rx, rings) = loop {
            // Why: xsk-rs asks that a queue bound twice from one memory loads no program.
            // SAFETY: this memory is new and bound once; the flag is set besides.
            match unsafe { Socket::new(socket_config, &umem, &name, queue) } {
                Ok(socket) => break socket,
                Err(error) if busy(&error) && again() => {}
                Err(error) => {
                    return Err(XskError::Bind {
                        interface: interface.to_owned(),
                        queue,
                        source: Box::new(error),
                    });
                }
            }
        };
        // libxdp opens it without, and a child would keep the queue bound.
        // SAFETY: the socket is open, and outlives this borrow of its number.
        let fd = unsafe { BorrowedFd::borrow_raw(rx.fd().as_raw_fd()) };
        if let Err(error) = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC) {
            tracing::debug!(%error, "a child may inherit the socket");
        }
        let (fill, completion) = rings.ok_or_else(|| XskError::Interface(interface.to_owned()))?;
        let total = home.len();
        let mut rings = Self {
            tx,
            rx,
            fill,
            completion,
            umem,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            scratch: [FrameDesc::default(); BURST_MAX],
            place: vec![Place::Free; total].into(),
            // The last one first, so that frames are used from the memory's start.
            free: (0..frames).rev().collect(),
            counts: [total, 0, 0, 0],
            home: home.into(),
            ring: ring as usize,
            fill_target: (ring as usize).min(total / 2),
            rx_seen: 0,
            strays: 0,
        };
        rings.refill();
        Ok(rings)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // Why: xsk-rs gives out a number.
        // SAFETY: the socket lives as long as its queues, which `self` holds.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }

    /// Takes at most `room` received frames, at most one burst.
    pub(crate) fn receive(&mut self, room: usize, mut take: impl FnMut(XskFrame)) {
        let room = room.min(self.scratch.len());
        // SAFETY: every descriptor comes from the kernel, so from this socket's memory; each is
        // checked below before its bytes are touched.
        let received = unsafe { self.rx.consume(&mut self.scratch[..room]) };
        for at in 0..received {
            let desc = self.scratch[at];
            match self.locate(&desc) {
                Some(index) if self.place[index as usize] == Place::Fill => {
                    self.set_place(index, Place::App);
                    take(XskFrame {
                        desc,
                        index,
                        socket: self.id,
                    });
                }
                _ => self.strays += 1,
            }
        }
        // A full burst means that more may wait; asking costs a cache miss, so only then.
        self.rx_seen = if received == room {
            self.rx.nb_avail(self.ring as u32) as usize
        } else {
            0
        };
    }

    /// Works on a frame's bytes, and keeps the length that `f` leaves.
    pub(crate) fn with_frame<R>(
        &mut self,
        frame: &mut XskFrame,
        f: impl FnOnce(&mut FrameBuf<'_>) -> R,
    ) -> R {
        self.assert_ours(frame);
        let length = frame.desc.lengths().data();
        // SAFETY: the descriptor is of this memory and inside one frame (checked when it was taken),
        // and the frame is in the caller's hands: in no ring, and reachable only through this
        // handle, which is borrowed exclusively.
        let mut data = unsafe { self.umem.data_mut(&mut frame.desc) };
        let capacity = data.cursor().buf_len();
        data.cursor().set_pos(capacity);
        let mut buffer = FrameBuf::new(data.contents_mut(), length);
        let result = f(&mut buffer);
        let length = buffer.len();
        data.cursor().set_pos(length);
        result
    }

    /// Queues a frame, or gives it back when the ring is full. The doorbell is [`Self::kick`].
    pub(crate) fn send(&mut self, mut frame: XskFrame) -> Result<(), XskFrame> {
        self.assert_ours(&frame);
        if frame.desc.lengths().data() < FRAME_MIN {
            self.strays += 1;
            self.release(frame);
            return Ok(());
        }
        frame.desc.set_options(0);
        // SAFETY: the frame is of this memory and in the caller's hands, which give it up here: it
        // comes back only through the completion ring.
        if unsafe { self.tx.produce_one(&frame.desc) } == 0 {
            return Err(frame);
        }
        self.set_place(frame.index, Place::Tx);
        Ok(())
    }

    /// Places of the transmit ring that are surely free: those of frames that are sent and not reaped count as taken.
    pub(crate) fn room(&self) -> usize {
        self.ring.saturating_sub(self.counts[Place::Tx as usize])
    }

    pub(crate) fn release(&mut self, frame: XskFrame) {
        self.assert_ours(&frame);
        self.free_frame(frame.index);
    }

    pub(crate) fn allocate(&mut self) -> Option<XskFrame> {
        let index = self.free.pop()?;
        self.set_place(index, Place::App);
        Some(XskFrame {
            desc: self.home[index as usize],
            index,
            socket: self.id,
        })
    }

    /// Takes back what has been sent. Bounded: no more than was in flight when it began.
    pub(crate) fn reap(&mut self) {
        let mut in_flight = self.counts[Place::Tx as usize];
        while in_flight > 0 {
            let room = in_flight.min(self.scratch.len());
            // SAFETY: every descriptor comes from the kernel; each is checked below.
            let sent = unsafe { self.completion.consume(&mut self.scratch[..room]) };
            for at in 0..sent {
                let desc = self.scratch[at];
                match self.locate(&desc) {
                    Some(index) if self.place[index as usize] == Place::Tx => {
                        self.free_frame(index);
                    }
                    _ => self.strays += 1,
                }
            }
            if sent < room {
                return;
            }
            in_flight -= sent;
        }
    }

    /// Gives the kernel frames to receive into, up to the target. Bounded by the target.
    pub(crate) fn refill(&mut self) {
        loop {
            let missing = self
                .fill_target
                .saturating_sub(self.counts[Place::Fill as usize]);
            let want = missing.min(self.free.len()).min(self.scratch.len());
            let want = want.min(self.fill.nb_free(want as u32) as usize);
            if want == 0 {
                return;
            }
            let first = self.free.len() - want;
            for (slot, index) in self.scratch.iter_mut().zip(&self.free[first..]) {
                *slot = self.home[*index as usize];
            }
            // SAFETY: these frames are of this memory and free, so in no ring and in no hands; they
            // leave the free list below, and come back only through the receive ring.
            if unsafe { self.fill.produce(&self.scratch[..want]) } != want {
                return; // Not reached: room was there a moment ago, and only we fill it.
            }
            for _ in 0..want {
                let Some(index) = self.free.pop() else { return };
                self.set_place(index, Place::Fill);
            }
        }
    }

    /// One doorbell, if the kernel has frames to send that it does not know of.
    pub(crate) fn kick(&mut self) -> std::io::Result<()> {
        if self.counts[Place::Tx as usize] > 0
            && self.tx.needs_wakeup()
            && (self.tx.nb_free_exact() as usize) < self.ring
        {
            self.tx.wakeup()?;
        }
        Ok(())
    }

    pub(crate) fn ledger(&self) -> FrameLedger {
        let [free, fill, app, tx] = self.counts;
        let rx = self.rx_seen.min(fill);
        FrameLedger {
            total: self.home.len(),
            free,
            fill: fill - rx,
            rx,
            app,
            tx,
        }
    }

    /// The ledger once more, counted frame by frame, and the free list against it. For tests and
    /// audits: it walks over all frames.
    pub(crate) fn audit(&self) -> bool {
        let count = |place| self.place.iter().filter(|&&there| there == place).count();
        let counts = [Place::Free, Place::Fill, Place::App, Place::Tx].map(count);
        counts == self.counts && counts[0] == self.free.len() && self.strays == 0
    }

    pub(crate) fn strays(&self) -> u64 {
        self.strays
    }

    pub(crate) fn occupancy(&mut self) -> RingOccupancy {
        let ring = self.ring as u32;
        RingOccupancy {
            size: ring,
            rx: self.rx.nb_avail_exact(),
            fill: ring - self.fill.nb_free_exact().min(ring),
            tx: ring - self.tx.nb_free_exact().min(ring),
            completion: self.completion.nb_avail_exact(),
        }
    }

    /// The frame that a descriptor lies in, if it lies in one.
    fn locate(&self, desc: &FrameDesc) -> Option<u32> {
        let chunk = CHUNK as usize;
        let index = desc.addr() / chunk;
        let fits = desc.addr() % chunk + desc.lengths().data() <= chunk;
        (index < self.home.len() && fits).then_some(index as u32)
    }

    fn set_place(&mut self, index: u32, place: Place) {
        let slot = &mut self.place[index as usize];
        self.counts[*slot as usize] -= 1;
        self.counts[place as usize] += 1;
        *slot = place;
    }

    fn free_frame(&mut self, index: u32) {
        self.set_place(index, Place::Free);
        self.free.push(index); // Never allocates: the list was made with room for every frame.
    }

    /// A frame of another socket would point outside this memory.
    fn assert_ours(&self, frame: &XskFrame) {
        assert!(
            frame.socket == self.id,
            "a frame was given to a socket that it is not from"
        );
    }
}

/// A queue stays bound for a moment after its socket was closed.
fn busy(error: &SocketCreateError) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .is_some_and(|source| source.raw_os_error() == Some(libc::EBUSY))
}
