//! Interfaces: the punt pair, what else there is, and what changes.
//!
//! Every function works in the network namespace of the thread that calls it, and wants a tokio
//! runtime around it (a current-thread one does).

use std::io;

use futures_util::TryStreamExt;
use rtnetlink::packet_core::ErrorMessage;
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};
use tokio::task::JoinHandle;

mod features;
mod monitor;
mod pair;
mod route;

pub use monitor::{Monitor, monitor, monitor_routes};
pub use pair::{
    PAIR_MTU, PairInfo, WEFT0, WEFT1, bulk_losses, bulk_works, delete_pair, ensure_pair,
    pair_losses, pair_works, set_up_bulk,
};
pub use route::{Way, ways};

/// Why netlink could not do something.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Connect(#[source] io::Error),
    /// The kernel refused a request.
    #[error("netlink: cannot {what}")]
    Request {
        /// What was asked.
        what: String,
        /// Why not.
        source: rtnetlink::Error,
    },
    /// The kernel refused a request about an interface's features.
    #[error("ethtool netlink: cannot {what} of {interface}: {reason}")]
    Features {
        /// What was asked.
        what: &'static str,
        /// The interface.
        interface: String,
        /// Why not.
        reason: String,
    },
    /// An interface has the name of the punt pair but is none.
    #[error(
        "interface `{name}` exists and is a {kind}, not a veth: rename it, Weft needs its name"
    )]
    NotOurs {
        /// Its name.
        name: String,
        /// Its kind.
        kind: String,
    },
    /// The kernel stopped telling what happens.
    #[error("netlink: the messages about interfaces or routes have ended")]
    MonitorEnded,
    /// An interface that was just there is gone.
    #[error("interface `{0}` is gone")]
    Gone(String),
}

/// How an interface runs its XDP program.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// It has none.
    None,
    /// In the driver.
    Native,
    /// In the stack, on socket buffers.
    Generic,
    /// In the device.
    Offload,
    /// Several at once.
    Several,
}

impl XdpMode {
    /// Its name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offload => "offload",
            Self::Several => "several",
        }
    }
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Bytes above layer 2.
    pub mtu: u32,
    /// `veth`, `bridge`, ...; none for physical ones and loopback.
    pub kind: Option<String>,
    /// The index of its peer or lower device, in that one's namespace.
    pub peer: Option<u32>,
    /// Whether the peer is in another namespace.
    pub peer_elsewhere: bool,
    /// Its MAC, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether packets can pass: of a veth, that both ends are up.
    pub carrier: bool,
    /// Whether ARP is off.
    pub no_arp: bool,
    /// Transmit queues.
    pub tx_queues: u32,
    /// Receive queues.
    pub rx_queues: u32,
    /// How it runs its XDP program.
    pub xdp: XdpMode,
    /// Packets that it could not send on, since it was made.
    pub tx_dropped: u64,
}

impl Interface {
    /// Whether it is one end of a veth pair.
    pub fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }

    fn from_message(message: &LinkMessage) -> Self {
        let mut interface = Self {
            index: message.header.index,
            name: String::new(),
            mtu: 0,
            kind: None,
            peer: None,
            peer_elsewhere: false,
            mac: None,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            no_arp: message.header.flags.contains(LinkFlags::Noarp),
            tx_queues: 0,
            rx_queues: 0,
            xdp: XdpMode::None,
            tx_dropped: 0,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
                LinkAttribute::Link(peer) => interface.peer = Some(*peer),
                LinkAttribute::LinkNetNsId(_) => interface.peer_elsewhere = true,
                LinkAttribute::Address(mac) => interface.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::NumTxQueues(queues) => interface.tx_queues = *queues,
                LinkAttribute::NumRxQueues(queues) => interface.rx_queues = *queues,
                LinkAttribute::LinkInfo(info) => interface.kind = kind(info),
                LinkAttribute::Xdp(xdp) => interface.xdp = xdp_mode_of(xdp),
                LinkAttribute::Stats64(stats) => interface.tx_dropped = stats.tx_dropped,
                _ => {}
            }
        }
        interface
    }
}

fn kind(info: &[LinkInfo]) -> Option<String> {
    info.iter().find_map(|info| match info {
        LinkInfo::Kind(InfoKind::Other(name)) => Some(name.clone()),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

fn xdp_mode_of(xdp: &[LinkXdp]) -> XdpMode {
    let attached = xdp.iter().find_map(|xdp| match xdp {
        LinkXdp::Attached(attached) => Some(*attached),
        _ => None,
    });
    match attached {
        Some(XdpAttached::Driver) => XdpMode::Native,
        Some(XdpAttached::SocketBuffer) => XdpMode::Generic,
        Some(XdpAttached::Hardware) => XdpMode::Offload,
        Some(XdpAttached::Multiple) => XdpMode::Several,
        _ => XdpMode::None,
    }
}

/// All interfaces of this network namespace.
pub async fn interfaces() -> Result<Vec<Interface>, NetlinkError> {
    Session::open()?.interfaces().await
}

/// How the interface runs its XDP program, asked of the kernel.
pub async fn xdp_mode(ifindex: u32) -> Result<XdpMode, NetlinkError> {
    let found = Session::open()?.by_index(ifindex).await?;
    Ok(found
        .ok_or_else(|| NetlinkError::Gone(format!("index {ifindex}")))?
        .xdp)
}

/// A connection and the task that drives it.
struct Session {
    handle: rtnetlink::Handle,
    task: JoinHandle<()>,
}

impl Session {
    fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Connect)?;
        Ok(Self {
            handle,
            task: tokio::spawn(connection),
        })
    }

    async fn interfaces(&self) -> Result<Vec<Interface>, NetlinkError> {
        let messages: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|source| NetlinkError::Request {
                what: "list interfaces".to_owned(),
                source,
            })?;
        Ok(messages.iter().map(Interface::from_message).collect())
    }

    async fn by_index(&self, index: u32) -> Result<Option<Interface>, NetlinkError> {
        let mut found = self.handle.link().get().match_index(index).execute();
        one(
            found.try_next().await,
            &format!("look up interface {index}"),
        )
    }

    async fn by_name(&self, name: &str) -> Result<Option<Interface>, NetlinkError> {
        let mut found = self
            .handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute();
        one(
            found.try_next().await,
            &format!("look up interface `{name}`"),
        )
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An interface that is not there is an answer, not an error.
fn one(
    answer: Result<Option<LinkMessage>, rtnetlink::Error>,
    what: &str,
) -> Result<Option<Interface>, NetlinkError> {
    match answer {
        Ok(message) => Ok(message.as_ref().map(Interface::from_message)),
        Err(rtnetlink::Error::NetlinkError(error)) if is(&error, libc::ENODEV) => Ok(None),
        Err(source) => Err(NetlinkError::Request {
            what: what.to_owned(),
            source,
        }),
    }
}

/// Whether the kernel's answer is this errno.
fn is(error: &ErrorMessage, errno: i32) -> bool {
    error.raw_code() == -errno
}
