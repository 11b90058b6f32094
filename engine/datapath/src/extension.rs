//! IPv6 extension headers: a bounded walk to what the packet carries (RFC 8200 section 4).

use crate::DropReason;
use crate::wire::ipv6;

#[cfg(test)]
mod tests;

/// Where the walk ended.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Chain {
    /// The number of what stands at `at`: the payload's protocol, a fragment header, or one of
    /// [`ipv6::FOLLOWED`] that is not followed any further.
    pub(crate) next: u8,
    /// Where it begins, from the start of the IPv6 header.
    pub(crate) at: usize,
    /// Where that number stands, from the start of the IPv6 header.
    pub(crate) named_at: usize,
}

/// Walks over the headers of [`ipv6::FOLLOWED`]. `l3` is one IPv6 packet with its whole fixed header,
/// cut to its payload length.
///
/// It stops early at a hop-by-hop header that is not the first (RFC 8200 section 4.1), at a routing header that has
/// segments left, since the destination address is not the last one then, and at the bounds.
/// [`DropReason::Ipv6Length`] when a header ends behind the packet.
#[inline]
pub(crate) fn walk(l3: &[u8]) -> Result<Chain, DropReason> {
    let mut chain = Chain {
        next: l3[ipv6::NEXT_HEADER],
        at: ipv6::LEN,
        named_at: ipv6::NEXT_HEADER,
    };
    // Bound: more headers than any honest packet has, and few enough for every packet.
    for number in 0..ipv6::EXTENSIONS_MAX {
        let Chain { next, at, .. } = chain;
        if !ipv6::FOLLOWED.contains(&next) || next == ipv6::HOP_BY_HOP && number > 0 {
            break;
        }
        let header: &[u8; ipv6::EXTENSION_UNIT] =
            l3[at..].first_chunk().ok_or(DropReason::Ipv6Length)?;
        let end = at + ipv6::EXTENSION_UNIT * (1 + usize::from(header[ipv6::EXTENSION_LENGTH]));
        if end > l3.len() {
            return Err(DropReason::Ipv6Length);
        }
        let undone = next == ipv6::ROUTING && header[ipv6::SEGMENTS_LEFT] != 0;
        if undone || end - ipv6::LEN > ipv6::EXTENSION_BYTES_MAX {
            break;
        }
        chain = Chain {
            next: header[ipv6::EXTENSION_NEXT],
            at: end,
            named_at: at + ipv6::EXTENSION_NEXT,
        };
    }
    Ok(chain)
}
