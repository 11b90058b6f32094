//! Weft's own GENEVE options, and what others there are.

use crate::wire::{be16, geneve};
use crate::{Address, CLIENT_NAME_MAX, DropReason, Flow, NameId, Tables, is_name_byte};

#[cfg(test)]
mod tests;

/// The class of Weft's options, one of those that are free for experiments (RFC 8926 section 7). None of them is critical: who
/// does not know them forwards all the same.
const CLASS: u16 = 0xff77;
/// The service address and port that the inner client has asked.
const FRONT: u8 = 0x01;
/// Behind the address: the port, and two bytes that are zero.
const PORT_LEN: usize = 4;
/// The inner client's name; zeros fill the last word.
const CLIENT: u8 = 0x02;

const _: () = {
    /// Bytes of data that an option has at most, and of all options together.
    const OPTION_MAX: usize = 31 * geneve::OPTION_UNIT;
    const ALL_MAX: usize = 63 * geneve::OPTION_UNIT;
    assert!(CLIENT_NAME_MAX <= OPTION_MAX);
    assert!(2 * geneve::OPTION_UNIT + 16 + PORT_LEN + CLIENT_NAME_MAX <= ALL_MAX);
};

/// The service that the client of a wrapped packet has asked (U-15, TER-7): in packets of a flow that nobody has answered
/// yet.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Front {
    /// The VIP.
    pub address: Address,
    /// The port there.
    pub port: u16,
}

impl Front {
    /// What the client of a flow to a service has asked.
    pub(crate) fn of(flow: &Flow) -> Self {
        let tuple = flow.tuple();
        Self {
            address: tuple.dst,
            port: tuple.dport,
        }
    }

    /// Bytes of the option on the wire.
    fn wire_len(&self) -> usize {
        geneve::OPTION_UNIT + self.octets().len() + PORT_LEN
    }

    fn octets(&self) -> &[u8] {
        match self.address.is_v4() {
            true => &self.address.0[12..],
            false => &self.address.0,
        }
    }

    /// Writes the option; `into` has [`Self::wire_len`] bytes.
    fn write(&self, into: &mut [u8]) {
        let data = header(FRONT, into);
        let (address, port) = data.split_at_mut(data.len() - PORT_LEN);
        address.copy_from_slice(self.octets());
        port[..2].copy_from_slice(&self.port.to_be_bytes());
        port[2..].fill(0);
    }

    fn read(data: &[u8]) -> Option<Self> {
        let (address, port) = data.split_at_checked(data.len().checked_sub(PORT_LEN)?)?;
        let address = match address.len() {
            4 => Address::from_v4(*address.first_chunk()?),
            16 => Address(*address.first_chunk()?),
            _ => return None,
        };
        Some(Self {
            address,
            port: be16(port, 0..2),
        })
    }
}

/// What a peer has said of a flow.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Said {
    /// The service that the client has asked its own node for, which has translated.
    pub front: Option<Front>,
    /// The client pod's name.
    pub client: Option<NameId>,
}

/// What a peer is to know of a flow that it has not answered yet.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Opening {
    pub(crate) front: Option<Front>,
    /// The client's veth.
    pub(crate) client: u32,
}

impl Opening {
    /// The options that say it. A name that no option holds is not said: it would be another pod's, cut.
    pub(crate) fn options<'t>(&self, tables: &'t Tables) -> Options<'t> {
        let name = tables
            .pod_by_ifindex(self.client)
            .map(|pod| pod.name.as_bytes());
        Options {
            front: self.front,
            client: name.filter(|name| (1..=CLIENT_NAME_MAX).contains(&name.len())),
        }
    }
}

/// Weft's options of one packet.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Options<'n> {
    pub(crate) front: Option<Front>,
    /// The client pod's name: 1 to [`CLIENT_NAME_MAX`] bytes for which [`is_name_byte`] holds.
    pub(crate) client: Option<&'n [u8]>,
}

impl<'n> Options<'n> {
    /// Bytes on the wire.
    pub(super) fn wire_len(&self) -> usize {
        self.front.map_or(0, |front| front.wire_len()) + self.client.map_or(0, client_len)
    }

    /// Those for which there are so many bytes; the service comes first.
    pub(super) fn within(self, room: usize) -> Self {
        let front = self.front.filter(|front| front.wire_len() <= room);
        let room = room - front.map_or(0, |front| front.wire_len());
        let client = self.client.filter(|name| client_len(name) <= room);
        Self { front, client }
    }

    /// Writes them; `into` has [`Self::wire_len`] bytes.
    pub(super) fn write(&self, into: &mut [u8]) {
        let (front, client) = into.split_at_mut(self.front.map_or(0, |front| front.wire_len()));
        if let Some(own) = self.front {
            own.write(front);
        }
        if let Some(name) = self.client {
            let (text, padding) = header(CLIENT, client).split_at_mut(name.len());
            text.copy_from_slice(name);
            padding.fill(0);
        }
    }

    /// Walks over all options, in whatever order, and returns Weft's own.
    ///
    /// # Errors
    /// [`DropReason::GeneveOptions`] where they do not fill their room, [`DropReason::GeneveCriticalOption`] where one must be
    /// understood and is not.
    pub(super) fn read(mut options: &'n [u8]) -> Result<Self, DropReason> {
        let mut own = Self::default();
        // Bound: 252 bytes, at least 4 an option.
        while !options.is_empty() {
            let header: &[u8; geneve::OPTION_UNIT] =
                options.first_chunk().ok_or(DropReason::GeneveOptions)?;
            let length = usize::from(header[geneve::OPTION_LENGTH] & 0x1f) * geneve::OPTION_UNIT;
            let (data, rest) = options[geneve::OPTION_UNIT..]
                .split_at_checked(length)
                .ok_or(DropReason::GeneveOptions)?;
            let class = be16(header, geneve::OPTION_CLASS);
            match (class, header[geneve::OPTION_TYPE]) {
                (CLASS, FRONT) => own.front = Front::read(data),
                (CLASS, CLIENT) => own.client = read_client(data),
                (_, kind) if kind & geneve::OPTION_CRITICAL != 0 => {
                    return Err(DropReason::GeneveCriticalOption);
                }
                _ => {}
            }
            options = rest;
        }
        Ok(own)
    }
}

/// Writes an option's header, and returns where its data goes.
fn header(kind: u8, into: &mut [u8]) -> &mut [u8] {
    let (header, data) = into.split_at_mut(geneve::OPTION_UNIT);
    header[geneve::OPTION_CLASS].copy_from_slice(&CLASS.to_be_bytes());
    header[geneve::OPTION_TYPE] = kind;
    header[geneve::OPTION_LENGTH] = (data.len() / geneve::OPTION_UNIT) as u8;
    data
}

/// Bytes on the wire of the option with a client's name.
fn client_len(name: &[u8]) -> usize {
    geneve::OPTION_UNIT + name.len().next_multiple_of(geneve::OPTION_UNIT)
}

/// The name, without what fills its last word. What no configuration could call a pod is nobody's name: it ends in logs and on
/// terminals.
fn read_client(data: &[u8]) -> Option<&[u8]> {
    let length = data.iter().rposition(|byte| *byte != 0)? + 1;
    let name = &data[..length];
    name.iter().all(|byte| is_name_byte(*byte)).then_some(name)
}
