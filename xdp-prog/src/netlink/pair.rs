//! The punt pair, `weft0` and `weft1`.

use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute, LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::abi;

use super::{Interface, NetlinkError, Session, features, is};

/// The end that faces the kernel: packets are punted into it, and injected frames come out of it.
pub const WEFT0: &str = "weft0";
/// The end that faces user space: the AF_XDP sockets are bound to its queues.
pub const WEFT1: &str = "weft1";

/// Their MACs, fixed because the first byte tells frames of the node's own stack from punted ones.
const MACS: [[u8; 6]; 2] = {
    let [a, b, c, d] = abi::WEFT0_MAC_HIGH.to_be_bytes();
    let [_, _, e, f] = abi::WEFT0_MAC_LOW.to_be_bytes();
    [[a, b, c, d, e, f], [a, b, c, d, e, f + 1]]
};

/// The largest MTU with which native XDP on a veth keeps a packet in one page: 4096 bytes less 256
/// of headroom, 320 of `skb_shared_info` and the Ethernet header, `veth_xdp_set()` in Linux. It fits
/// an AF_XDP frame of 4096 bytes, too.
pub const PAIR_MTU: u32 = 3506;

/// The punt pair as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairInfo {
    /// Index of `weft0`.
    pub weft0_ifindex: u32,
    /// Index of `weft1`.
    pub weft1_ifindex: u32,
    /// MAC of `weft0`: the destination of what is injected for a pod.
    pub weft0_mac: [u8; 6],
    /// Queues, one a worker.
    pub queues: u32,
    /// Its MTU.
    pub mtu: u32,
}

/// Makes the punt pair, or takes over the one there is. One with another number of queues is made
/// anew, since a veth cannot change that.
///
/// `weft0` has every checksum and segmentation offload off, so that the kernel completes checksums
/// and segments before `weft1`. Neither end has an address, ARP or IPv6 autoconfiguration.
pub async fn ensure_pair(workers: u16) -> Result<PairInfo, NetlinkError> {
    let session = Session::open()?;
    let queues = u32::from(workers).max(1);
    let there = (session.by_name(WEFT0).await?, session.by_name(WEFT1).await?);
    for end in [&there.0, &there.1].into_iter().flatten() {
        if end.kind.as_deref() != Some("veth") {
            let kind = end
                .kind
                .clone()
                .unwrap_or_else(|| "device of its own".to_owned());
            return Err(NetlinkError::NotOurs {
                name: end.name.clone(),
                kind,
            });
        }
    }
    match &there {
        (Some(weft0), Some(weft1)) if is_pair(weft0, weft1, queues) => {}
        (weft0, weft1) => {
            for end in [weft0, weft1].into_iter().flatten() {
                session.delete(end.index).await?;
            }
            session.create(queues).await?;
        }
    }
    for name in [WEFT0, WEFT1] {
        let end = session
            .by_name(name)
            .await?
            .ok_or_else(|| NetlinkError::Gone(name.into()))?;
        session.set_up(&end).await?;
        features::offloads_off(name, end.index).await?;
    }
    let gone = |name: &str| NetlinkError::Gone(name.to_owned());
    let weft0 = session.by_name(WEFT0).await?.ok_or_else(|| gone(WEFT0))?;
    let weft1 = session.by_name(WEFT1).await?.ok_or_else(|| gone(WEFT1))?;
    Ok(PairInfo {
        weft0_ifindex: weft0.index,
        weft1_ifindex: weft1.index,
        weft0_mac: weft0.mac.ok_or_else(|| gone(WEFT0))?,
        queues,
        mtu: weft0.mtu.min(weft1.mtu),
    })
}

/// Brings a bulk lane's device up, as quiet as the pair. Its index.
pub async fn set_up_bulk(name: &str) -> Result<u32, NetlinkError> {
    let session = Session::open()?;
    let device = session.by_name(name).await?;
    let device = device.ok_or_else(|| NetlinkError::Gone(name.to_owned()))?;
    session.set_up(&device).await?;
    Ok(device.index)
}

/// Whether all of these bulk lanes are there and up.
pub async fn bulk_works(lanes: &[u32]) -> Result<bool, NetlinkError> {
    let session = Session::open()?;
    for lane in lanes {
        if !session.by_index(*lane).await?.is_some_and(|lane| lane.up) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What bulk lanes lost, whose worker did not read fast enough. Zero for one that is gone.
pub async fn bulk_losses(lanes: &[u32]) -> Result<u64, NetlinkError> {
    let session = Session::open()?;
    let mut lost = 0;
    for lane in lanes {
        lost += session
            .by_index(*lane)
            .await?
            .map_or(0, |lane| lane.tx_dropped);
    }
    Ok(lost)
}

/// Whether both ends are still those of `pair`, and up.
pub async fn pair_works(pair: &PairInfo) -> Result<bool, NetlinkError> {
    let session = Session::open()?;
    let works = |end: Option<Interface>| end.is_some_and(|end| end.up);
    Ok(works(session.by_index(pair.weft0_ifindex).await?)
        && works(session.by_index(pair.weft1_ifindex).await?))
}

/// What the punt pair lost since it was made: punted packets that `weft0` could not pass on, then
/// injected frames that `weft1` could not. Zero for an end that is gone.
pub async fn pair_losses() -> Result<(u64, u64), NetlinkError> {
    let session = Session::open()?;
    let lost = |end: Option<Interface>| end.map_or(0, |end| end.tx_dropped);
    let punted = lost(session.by_name(WEFT0).await?);
    Ok((punted, lost(session.by_name(WEFT1).await?)))
}

/// Deletes the punt pair. False if there was none.
pub async fn delete_pair() -> Result<bool, NetlinkError> {
    let session = Session::open()?;
    let mut deleted = false;
    // One end takes the other along, unless they are not a pair.
    for name in [WEFT0, WEFT1] {
        if let Some(end) = session.by_name(name).await?
            && end.kind.as_deref() == Some("veth")
        {
            session.delete(end.index).await?;
            deleted = true;
        }
    }
    Ok(deleted)
}

fn is_pair(weft0: &Interface, weft1: &Interface, queues: u32) -> bool {
    let counts = [
        weft0.tx_queues,
        weft0.rx_queues,
        weft1.tx_queues,
        weft1.rx_queues,
    ];
    let linked =
        |from: &Interface, to: &Interface| from.peer == Some(to.index) && !from.peer_elsewhere;
    linked(weft0, weft1)
        && linked(weft1, weft0)
        && [weft0.mac, weft1.mac] == MACS.map(Some)
        && counts.iter().all(|count| *count == queues)
}

impl Session {
    async fn create(&self, queues: u32) -> Result<(), NetlinkError> {
        let queues = [
            LinkAttribute::NumTxQueues(queues),
            LinkAttribute::NumRxQueues(queues),
        ];
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(WEFT1.to_owned())
            .build();
        peer.attributes.extend(queues.clone());
        peer.attributes
            .push(LinkAttribute::Address(MACS[1].to_vec()));
        let mut message = LinkMessageBuilder::<LinkVeth>::new(WEFT0, WEFT1)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        message.attributes.extend(queues);
        message
            .attributes
            .push(LinkAttribute::Address(MACS[0].to_vec()));
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(|source| NetlinkError::Request {
                what: format!("make the pair {WEFT0}, {WEFT1}"),
                source,
            })
    }

    async fn delete(&self, index: u32) -> Result<(), NetlinkError> {
        match self.handle.link().del(index).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if is(&error, libc::ENODEV) => Ok(()),
            Err(source) => Err(NetlinkError::Request {
                what: format!("delete {index}"),
                source,
            }),
            Ok(()) => Ok(()),
        }
    }

    /// No addresses of its own, the right MTU, and up. Asks only for what is not so yet: an MTU
    /// cannot be touched for nothing while XDP is attached.
    async fn set_up(&self, end: &Interface) -> Result<(), NetlinkError> {
        let change = |message: LinkMessage, what: &'static str| async move {
            self.handle
                .link()
                .set(message)
                .execute()
                .await
                .map_err(|source| NetlinkError::Request {
                    what: format!("{what} of {}", end.name),
                    source,
                })
        };
        let at = || LinkUnspec::new_with_index(end.index);
        let mut quiet = at().build();
        quiet
            .attributes
            .push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
                vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
            )]));
        // A kernel without IPv6 has nothing to switch off.
        if let Err(error) = change(quiet, "set addr_gen_mode").await {
            tracing::debug!(%error, "no IPv6 here");
        }
        let switch = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", end.name);
        if let Err(error) = std::fs::write(&switch, "1") {
            // Not fatal: the stack's multicast reports are dropped at the other end, and counted.
            tracing::debug!(%error, switch, "IPv6 stays on");
        }
        if end.mtu != PAIR_MTU {
            change(at().mtu(PAIR_MTU).build(), "set the MTU").await?;
        }
        if !end.no_arp || !end.up {
            change(at().arp(false).up().build(), "switch ARP off and bring up").await?;
        }
        Ok(())
    }
}
