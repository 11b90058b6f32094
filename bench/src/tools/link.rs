//! A bad link between two interfaces of its namespace: a user-space netem.
//!
//! One thread moves frames from each interface to the other through an impairment a direction. Nothing else may use
//! the interfaces, and those at their other ends must hand over whole frames: segmentation and checksum offload off.
//! It says `ready`; each line on standard input, `up|down|both <impairment>` or `counters`, is answered by the counters as
//! JSON; it goes away with its standard input.

use crate::impairment::{Counters, Frame, Impairment, Lane, ROOM};
use crate::raw::packet_socket;
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, MsgFlags, MultiHeaders, SockFlag, recvmmsg, sendmmsg};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use std::io::{IoSlice, IoSliceMut, Write};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

/// Frames a system call takes.
const BATCH: usize = 64;
/// Room for what arrives while this thread does not run: 20,000 full frames.
const BUFFER: usize = 48 << 20;
/// Longest line of standard input.
const LINE: usize = 4096;

/// What became of the frames of both directions.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct LinkCounters {
    /// From the pod to the node.
    pub up: Counters,
    /// From the node to the pod.
    pub down: Counters,
}

/// Joins interface `pod` with interface `router`; `up` is the way from the former to the latter.
pub fn run(pod: &str, router: &str, up: Impairment, down: Impairment, seed: u64) -> Result<()> {
    // Sleeps end when they should, not up to 50 us later.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let mut link = Link {
        ports: [Port::open(pod)?, Port::open(router)?],
        lanes: [Lane::new(up, seed), Lane::new(down, !seed)],
        batch: Vec::with_capacity(BATCH),
        input: Vec::new(),
        clock: Instant::now(),
    };
    println!("ready");
    while link.step()? {}
    Ok(())
}

struct Link {
    ports: [Port; 2],
    /// Lane *n* begins at port *n*.
    lanes: [Lane; 2],
    batch: Vec<Frame>,
    input: Vec<u8>,
    clock: Instant,
}

impl Link {
    /// Moves at most a batch in each direction, or sleeps until there is something to do; false at the end.
    fn step(&mut self) -> Result<bool> {
        let mut moved = 0;
        for (from, to) in [(0, 1), (1, 0)] {
            moved += self.take(from)?;
            moved += self.pass(from, to)?;
        }
        if moved > 0 {
            return Ok(true);
        }
        self.wait()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn take(&mut self, from: usize) -> Result<usize> {
        let lane = &mut self.lanes[from];
        while self.batch.len() < BATCH {
            self.batch.push(lane.buffer());
        }
        let count = self.ports[from].receive(&mut self.batch)?;
        let now = self.now();
        let lane = &mut self.lanes[from];
        for frame in self.batch.drain(..count) {
            lane.offer(frame, now);
        }
        for frame in self.batch.drain(..) {
            lane.release(frame);
        }
        Ok(count)
    }

    fn pass(&mut self, from: usize, to: usize) -> Result<usize> {
        let now = self.now();
        let lane = &mut self.lanes[from];
        while self.batch.len() < BATCH {
            let Some(frame) = lane.due(now) else { break };
            self.batch.push(frame);
        }
        let count = self.batch.len();
        lane.counters.rejected += self.ports[to].send(&self.batch)?;
        for frame in self.batch.drain(..) {
            lane.release(frame);
        }
        Ok(count)
    }

    /// Sleeps until a frame comes or is due, or a line comes.
    fn wait(&mut self) -> Result<bool> {
        let next = self.lanes.iter().filter_map(Lane::next).min();
        let timeout = next.map(|next| {
            let wait = next.saturating_sub(self.now());
            Timespec {
                tv_sec: (wait / 1_000_000_000).cast_signed(),
                tv_nsec: (wait % 1_000_000_000).cast_signed(),
            }
        });
        let stdin = std::io::stdin();
        let [pod, router] = &self.ports;
        let mut fds = [pod.socket.as_fd(), router.socket.as_fd(), stdin.as_fd()]
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("the link cannot wait"),
        }
        if fds[2].revents().is_empty() {
            return Ok(true);
        }
        self.listen()
    }

    /// Reads what is on standard input, and does what whole lines of it say; false at its end.
    fn listen(&mut self) -> Result<bool> {
        let mut bytes = [0; 512];
        let length = rustix::io::read(std::io::stdin(), &mut bytes)?;
        if length == 0 {
            return Ok(false);
        }
        self.input.extend_from_slice(&bytes[..length]);
        ensure!(self.input.len() <= LINE, "a line is too long");
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            self.obey(std::str::from_utf8(&line)?.trim())?;
        }
        Ok(true)
    }

    fn obey(&mut self, line: &str) -> Result<()> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let lanes = match word {
            "up" => 0..1,
            "down" => 1..2,
            "both" => 0..2,
            "counters" => 0..0,
            _ => anyhow::bail!("{line:?} is no order"),
        };
        let impairment = rest.parse().with_context(|| line.to_owned())?;
        for lane in &mut self.lanes[lanes] {
            lane.impair(impairment);
        }
        let [up, down] = [0, 1].map(|lane: usize| self.lanes[lane].counters);
        let mut stdout = std::io::stdout().lock();
        serde_json::to_writer(&mut stdout, &LinkCounters { up, down })?;
        writeln!(stdout)?;
        Ok(stdout.flush()?)
    }
}

/// One end: a packet socket on an interface. It never sees what it has sent itself.
struct Port {
    socket: OwnedFd,
    incoming: MultiHeaders<LinkAddr>,
    outgoing: MultiHeaders<LinkAddr>,
}

impl Port {
    fn open(interface: &str) -> Result<Self> {
        let (socket, _) = packet_socket(interface, SockFlag::empty(), BUFFER)?;
        Ok(Self {
            socket,
            incoming: MultiHeaders::preallocate(BATCH, None),
            outgoing: MultiHeaders::preallocate(BATCH, None),
        })
    }

    /// Receives into the first frames of `into`; how many. A frame that does not fit keeps its length.
    fn receive(&mut self, into: &mut [Frame]) -> Result<usize> {
        let lengths: Vec<usize> = {
            let mut slices: Vec<_> = into
                .iter_mut()
                .map(|frame| [IoSliceMut::new(&mut frame.room[..])])
                .collect();
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
            let fd = self.socket.as_raw_fd();
            match recvmmsg(fd, &mut self.incoming, slices.iter_mut(), flags, None) {
                Ok(messages) => messages.map(|message| message.bytes).collect(),
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return Ok(0),
                Err(error) => return Err(error).context("the link cannot receive"),
            }
        };
        for (frame, length) in into.iter_mut().zip(&lengths) {
            frame.length = *length;
        }
        Ok(lengths.len())
    }

    /// Sends all of them; how many the interface did not take.
    fn send(&mut self, mut frames: &[Frame]) -> Result<u64> {
        let mut rejected = 0;
        // Ends: each turn takes at least one frame.
        while !frames.is_empty() {
            let slices: Vec<_> = frames
                .iter()
                .map(|frame| [IoSlice::new(&frame.room[..frame.length.min(ROOM)])])
                .collect();
            let nowhere = [None; BATCH];
            let fd = self.socket.as_raw_fd();
            let sent = sendmmsg(
                fd,
                &mut self.outgoing,
                &slices,
                &nowhere[..frames.len()],
                [],
                MsgFlags::empty(),
            );
            match sent.map(Iterator::count) {
                Ok(count) => frames = &frames[count.max(1)..],
                Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EMSGSIZE | Errno::ENETDOWN) => {
                    rejected += 1;
                    frames = &frames[1..];
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("the link cannot send"),
            }
        }
        Ok(rejected)
    }
}
