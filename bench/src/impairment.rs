//! What a bad link does to frames, under a clock and with a seed that are arguments.
//!
//! A [`Lane`] is one direction of a link: frames are offered to it when they arrive and come out when they are due, in
//! this order of events: longer than the link takes, lost, corrupted, doubled, held back, queued at the rate, delayed.

use crate::random::Random;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Longest frame of a link: an MTU of 1500, Ethernet, and a tag or two.
pub const ROOM: usize = 2048;
/// Frames of one direction under way; 25 MB in one second at most.
const LINE_MAX: usize = 1 << 14;
/// A frame out of order comes behind at most as many later ones,
const OVERTAKEN: usize = 8;
/// and at most this late, in nanoseconds, when none follow.
const HELD_LIMIT: u64 = 2_000_000;
/// Bits before this one are the Ethernet header, which no corruption touches: that would only be a loss.
const FIRST_BIT: usize = 14 * 8;

/// What one direction of a link does. Probabilities are fractions of 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Impairment {
    /// Frames that are lost.
    pub loss: f64,
    /// Frames that come behind up to [`OVERTAKEN`] later ones.
    pub reorder: f64,
    /// Frames that come twice.
    pub duplicate: f64,
    /// Frames in which one bit is flipped.
    pub corrupt: f64,
    /// How long each is under way.
    pub delay: Duration,
    /// Bits a second; as fast as it can when `None`.
    pub rate: Option<u64>,
    /// Bytes that may wait at the rate before the next is dropped.
    pub queue: usize,
    /// Bytes of an IP packet beyond which it is dropped without a word.
    pub mtu: Option<usize>,
}

impl FromStr for Impairment {
    type Err = anyhow::Error;

    /// Words such as `loss=0.1% delay=1ms rate=100mbit queue=65536 mtu=1400`; none for a perfect link.
    fn from_str(text: &str) -> Result<Self> {
        let mut found = Self::default();
        for word in text.split_whitespace() {
            let Some((key, value)) = word.split_once('=') else {
                bail!("{word}: not key=value")
            };
            match key {
                "loss" => found.loss = fraction(value)?,
                "reorder" => found.reorder = fraction(value)?,
                "duplicate" => found.duplicate = fraction(value)?,
                "corrupt" => found.corrupt = fraction(value)?,
                "delay" => found.delay = duration(value)?,
                "rate" => found.rate = Some(rate(value)?),
                "queue" => found.queue = value.parse().context("queue")?,
                "mtu" => found.mtu = Some(value.parse().context("mtu")?),
                _ => bail!("{word}: a link knows no {key}"),
            }
        }
        ensure!(
            found.rate.is_none() || found.queue >= ROOM,
            "a rate needs a queue of at least {ROOM} bytes"
        );
        Ok(found)
    }
}

impl fmt::Display for Impairment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        for (key, share) in [
            ("loss", self.loss),
            ("reorder", self.reorder),
            ("duplicate", self.duplicate),
            ("corrupt", self.corrupt),
        ] {
            if share > 0.0 {
                words.push(format!("{key}={}%", share * 100.0));
            }
        }
        if !self.delay.is_zero() {
            words.push(format!("delay={}us", self.delay.as_micros()));
        }
        if let Some(rate) = self.rate {
            words.push(format!("rate={rate}bit queue={}", self.queue));
        }
        if let Some(mtu) = self.mtu {
            words.push(format!("mtu={mtu}"));
        }
        f.write_str(&words.join(" "))
    }
}

fn fraction(value: &str) -> Result<f64> {
    let number = value.strip_suffix('%').context("a share ends with %")?;
    let share: f64 = number.parse().with_context(|| value.to_owned())?;
    ensure!((0.0..=100.0).contains(&share), "{value} is not in 0..100%");
    Ok(share / 100.0)
}

fn duration(value: &str) -> Result<Duration> {
    let (number, micros) = match (value.strip_suffix("ms"), value.strip_suffix("us")) {
        (Some(number), _) => (number, 1000.0),
        (_, Some(number)) => (number, 1.0),
        _ => bail!("{value}: a time ends with ms or us"),
    };
    let number: f64 = number.parse().with_context(|| value.to_owned())?;
    ensure!((0.0..1e7).contains(&number), "{value} is too long a time");
    Ok(Duration::from_nanos((number * micros * 1000.0) as u64))
}

fn rate(value: &str) -> Result<u64> {
    let number = value.strip_suffix("bit").context("a rate ends with bit")?;
    let (number, unit) = match (number.strip_suffix('m'), number.strip_suffix('k')) {
        (Some(number), _) => (number, 1_000_000),
        (_, Some(number)) => (number, 1000),
        _ => (number, 1),
    };
    let number: u64 = number.parse().with_context(|| value.to_owned())?;
    let bits = number.checked_mul(unit).context("too high a rate")?;
    ensure!(bits >= 1000, "{value} is too low a rate");
    Ok(bits)
}

/// One Ethernet frame in a buffer of fixed size.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The buffer.
    pub room: Box<[u8; ROOM]>,
    /// How much of it the frame is.
    pub length: usize,
}

impl Default for Frame {
    fn default() -> Self {
        Self {
            room: Box::new([0; ROOM]),
            length: 0,
        }
    }
}

impl Frame {
    /// The frame.
    pub fn bytes(&self) -> &[u8] {
        &self.room[..self.length]
    }
}

/// What became of the frames of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Frames offered.
    pub offered: u64,
    /// Frames that came out, doubles included.
    pub passed: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// Passed on late on purpose.
    pub reordered: u64,
    /// Doubled on purpose.
    pub duplicated: u64,
    /// Changed on purpose.
    pub corrupted: u64,
    /// Dropped at the tail of the queue before the rate.
    pub tail_dropped: u64,
    /// Longer than the link's MTU.
    pub oversize: u64,
    /// Dropped because more were under way than the link can hold: it was not up to its load.
    pub overflowed: u64,
    /// Not taken by the interface at the other end.
    pub rejected: u64,
}

/// A frame that others overtake.
#[derive(Debug)]
struct Held {
    frame: Frame,
    overtakers: usize,
    due: u64,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Lane {
    impairment: Impairment,
    random: Random,
    /// In the order of their times.
    line: VecDeque<(u64, Frame)>,
    held: Option<Held>,
    /// When the last frame will have been sent at the rate.
    busy_until: u64,
    free: Vec<Frame>,
    /// What has happened so far.
    pub counters: Counters,
}

impl Lane {
    /// An empty one.
    pub fn new(impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            random: Random::new(seed),
            line: VecDeque::new(),
            held: None,
            busy_until: 0,
            free: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// From now on it does this; what is under way stays in its order.
    pub fn impair(&mut self, impairment: Impairment) {
        self.impairment = impairment;
    }

    /// A buffer to receive into.
    pub fn buffer(&mut self) -> Frame {
        self.free.pop().unwrap_or_default()
    }

    /// Takes a buffer back.
    pub fn release(&mut self, frame: Frame) {
        if self.free.len() < LINE_MAX {
            self.free.push(frame);
        }
    }

    /// Takes a frame that has arrived. Times are nanoseconds of any one clock.
    pub fn offer(&mut self, mut frame: Frame, now: u64) {
        self.counters.offered += 1;
        let Impairment {
            loss,
            duplicate,
            corrupt,
            mtu,
            ..
        } = self.impairment;
        if frame.length > ROOM || mtu.is_some_and(|mtu| frame.length > mtu + 14) {
            self.counters.oversize += 1;
            return self.release(frame);
        }
        if self.happens(loss) {
            self.counters.lost += 1;
            return self.release(frame);
        }
        if self.happens(corrupt) && frame.length * 8 > FIRST_BIT {
            let bit = FIRST_BIT + self.random.below(frame.length * 8 - FIRST_BIT);
            frame.room[bit / 8] ^= 1 << (bit % 8);
            self.counters.corrupted += 1;
        }
        if self.happens(duplicate) {
            let mut twin = self.buffer();
            twin.length = frame.length;
            twin.room[..frame.length].copy_from_slice(frame.bytes());
            self.counters.duplicated += 1;
            self.queue(twin, now);
        }
        self.queue(frame, now);
    }

    /// The next frame whose time has come.
    pub fn due(&mut self, now: u64) -> Option<Frame> {
        if self.line.front().is_some_and(|(due, _)| *due <= now) {
            let (_, frame) = self.line.pop_front()?;
            self.counters.passed += 1;
            return Some(frame);
        }
        let held = self.held.take_if(|held| held.due + HELD_LIMIT <= now)?;
        self.counters.passed += 1;
        Some(held.frame)
    }

    /// When the next frame is due.
    pub fn next(&self) -> Option<u64> {
        let front = self.line.front().map(|(due, _)| *due);
        let held = self.held.as_ref().map(|held| held.due + HELD_LIMIT);
        front.into_iter().chain(held).min()
    }

    /// Draws only where something can happen, so that a case's sequence does not depend on other cases' keys.
    fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.unit() < share
    }

    fn queue(&mut self, frame: Frame, now: u64) {
        if self.line.len() >= LINE_MAX {
            self.counters.overflowed += 1;
            return self.release(frame);
        }
        let mut sent = now;
        if let Some(rate) = self.impairment.rate {
            let start = self.busy_until.max(now);
            let waiting = u128::from(start - now) * u128::from(rate) / 8_000_000_000;
            if waiting + frame.length as u128 > self.impairment.queue as u128 {
                self.counters.tail_dropped += 1;
                return self.release(frame);
            }
            sent = start + frame.length as u64 * 8_000_000_000 / rate;
            self.busy_until = sent;
        }
        let delay = u64::try_from(self.impairment.delay.as_nanos()).unwrap_or(u64::MAX / 2);
        let last = self.line.back().map_or(0, |(due, _)| *due);
        let due = (sent + delay).max(last);
        let share = self.impairment.reorder;
        if self.held.is_none() && self.happens(share) {
            self.counters.reordered += 1;
            let overtakers = 1 + self.random.below(OVERTAKEN);
            self.held = Some(Held {
                frame,
                overtakers,
                due,
            });
            return;
        }
        self.line.push_back((due, frame));
        if let Some(held) = &mut self.held {
            held.overtakers -= 1;
        }
        if let Some(held) = self.held.take_if(|held| held.overtakers == 0) {
            self.line.push_back((due, held.frame));
        }
    }
}

#[cfg(test)]
mod tests;
