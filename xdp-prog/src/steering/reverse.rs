//! Whose answers a backend's datagrams are, where no entry says so: `reverse`.
//!
//! A backend of one service port alone is its own, and first packets to it need no entries. One of several, or none any
//! more, still answers what it was asked before.

use std::time::{Duration, Instant};

use weft_datapath::Address;

use crate::abi;

use super::{Error, ServiceKey, Steering};

/// Longer than a client waits for an answer.
const ANSWERS: Duration = Duration::from_secs(60);

impl Steering {
    /// The service port has these backends too.
    pub(super) fn ask<'a>(
        &mut self,
        port: ServiceKey,
        ends: impl Iterator<Item = &'a abi::ServiceKey>,
    ) -> Result<(), Error> {
        for end in ends {
            self.choices.asked.entry(*end).or_default().push(port);
            self.write_reverse(end)?;
        }
        Ok(())
    }

    /// The service port does not have these backends any more.
    pub(super) fn ask_no_more<'a>(
        &mut self,
        port: ServiceKey,
        ends: impl Iterator<Item = &'a abi::ServiceKey>,
    ) -> Result<(), Error> {
        for end in ends {
            if let Some(ports) = self.choices.asked.get_mut(end) {
                ports.retain(|other| *other != port);
                if ports.is_empty() {
                    self.choices.asked.remove(end);
                    self.choices.leaving.push_back((Instant::now(), *end));
                }
            }
            self.write_reverse(end)?;
        }
        while let Some((since, end)) = self.choices.leaving.front().copied() {
            if since.elapsed() < ANSWERS {
                break;
            }
            self.choices.leaving.pop_front();
            if !self.choices.asked.contains_key(&end) {
                self.reverse.remove(&end)?;
            }
        }
        Ok(())
    }

    /// A former process's backends that are none of ours.
    pub(super) fn forget_unknown_reverses(&self) -> Result<(), Error> {
        let mut unknown = Vec::new();
        self.reverse.for_each(|end, _: abi::Reverse| {
            if !self.choices.asked.contains_key(&end) {
                unknown.push(end);
            }
        })?;
        for end in unknown {
            self.reverse.remove(&end)?;
        }
        Ok(())
    }

    fn write_reverse(&self, end: &abi::ServiceKey) -> Result<(), Error> {
        let ports = self.choices.asked.get(end).map_or(&[][..], Vec::as_slice);
        let value = match ports {
            [sole] => reverse(*sole, abi::REVERSE_SOLE),
            // As it was, so that what is under way is answered.
            _ => self
                .reverse
                .lookup(end)?
                .map(|known| abi::Reverse { flags: 0, ..known }),
        };
        if let Some(value) = value {
            self.reverse.insert(end, &value)?;
        }
        Ok(())
    }
}

fn reverse(port: ServiceKey, flags: u32) -> Option<abi::Reverse> {
    let ServiceKey {
        address: Address(vip),
        port: Some((port, _)),
    } = port
    else {
        return None;
    };
    Some(abi::Reverse {
        vip,
        port: port.into(),
        flags: flags as u16,
    })
}
