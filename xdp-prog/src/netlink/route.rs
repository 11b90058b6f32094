//! Which way the kernel would send a packet.

use std::collections::HashMap;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteType};

use super::{NetlinkError, Session};

/// The way to another node.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The interface by which packets leave.
    pub ifindex: u32,
    /// Bytes of the longest IP packet that goes there, as far as the kernel knows: the route's MTU, what it has learnt of
    /// the path, or the interface's.
    pub mtu: u32,
}

/// The ways from the first of each pair to the second, an address of this node's and one elsewhere; `None` where there is
/// no route.
///
/// # Errors
/// When netlink does not answer.
pub async fn ways(asked: &[(IpAddr, IpAddr)]) -> Result<Vec<Option<Way>>, NetlinkError> {
    let session = Session::open()?;
    let interfaces = session.interfaces().await?;
    let mtus: HashMap<u32, u32> = interfaces.iter().map(|one| (one.index, one.mtu)).collect();
    let mut ways = Vec::with_capacity(asked.len());
    for &(from, to) in asked {
        let mut answers = session.handle.route().get(question(from, to)).execute();
        let way = match answers.try_next().await {
            Ok(Some(route)) => way(&route, &mtus),
            Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => None, // No route, or one that says so.
            Err(source) => {
                let what = format!("look up the route to {to}");
                return Err(NetlinkError::Request { what, source });
            }
        };
        ways.push(way);
    }
    Ok(ways)
}

fn question(from: IpAddr, to: IpAddr) -> RouteMessage {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .source_prefix(from, 32)
            .destination_prefix(to, 32)
            .build(),
        (IpAddr::V6(from), IpAddr::V6(to)) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .source_prefix(from, 128)
            .destination_prefix(to, 128)
            .build(),
        _ => RouteMessage::default(), // Never asked.
    }
}

fn way(route: &RouteMessage, mtus: &HashMap<u32, u32>) -> Option<Way> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let attributes = route.attributes.iter();
    let ifindex = attributes.clone().find_map(|attribute| match attribute {
        RouteAttribute::Oif(ifindex) => Some(*ifindex),
        _ => None,
    })?;
    let mut metrics = attributes.filter_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    });
    let said = metrics.find_map(|metrics| {
        metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
            _ => None,
        })
    });
    let own = mtus.get(&ifindex).copied()?;
    let mtu = said.map_or(own, |said| said.min(own));
    Some(Way { ifindex, mtu })
}
