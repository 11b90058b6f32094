//! Weft's own GENEVE option, and what others there are.

use crate::wire::{be16, geneve};
use crate::{Address, DropReason};

/// The class of Weft's options, one of those that are free for experiments (RFC 8926 section 7).
const CLASS: u16 = 0xff77;
/// The service address and port that the inner client has asked. Not critical: who does not know it forwards all the same.
const FRONT: u8 = 0x01;
/// Behind the address: the port, and two bytes that are zero.
const PORT_LEN: usize = 4;

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
    /// Bytes of the option on the wire.
    pub(crate) fn wire_len(&self) -> usize {
        geneve::OPTION_UNIT + self.octets().len() + PORT_LEN
    }

    fn octets(&self) -> &[u8] {
        match self.address.is_v4() {
            true => &self.address.0[12..],
            false => &self.address.0,
        }
    }

    /// Writes the option; `into` has [`Self::wire_len`] bytes.
    pub(super) fn write(&self, into: &mut [u8]) {
        let data = into.len() - geneve::OPTION_UNIT;
        into[geneve::OPTION_CLASS].copy_from_slice(&CLASS.to_be_bytes());
        into[geneve::OPTION_TYPE] = FRONT;
        into[geneve::OPTION_LENGTH] = (data / geneve::OPTION_UNIT) as u8;
        let (address, port) = into[geneve::OPTION_UNIT..].split_at_mut(data - PORT_LEN);
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

/// Walks over all options, in whatever order, and returns Weft's own.
///
/// # Errors
/// [`DropReason::GeneveOptions`] where they do not fill their room, [`DropReason::GeneveCriticalOption`] where one must be
/// understood and is not.
pub(super) fn read(mut options: &[u8]) -> Result<Option<Front>, DropReason> {
    let mut front = None;
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
            (CLASS, FRONT) => front = Front::read(data),
            (_, kind) if kind & geneve::OPTION_CRITICAL != 0 => {
                return Err(DropReason::GeneveCriticalOption);
            }
            _ => {}
        }
        options = rest;
    }
    Ok(front)
}
