//! Whether anything happens to interfaces, or to what the node answers from.

use futures_util::{FutureExt, Stream, StreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::task::JoinHandle;

use super::NetlinkError;

/// Changes from the moment of [`monitor`] or [`monitor_routes`] on.
pub struct Monitor {
    messages: Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send + Unpin>,
    task: JoinHandle<()>,
    counts: fn(&RouteNetlinkMessage) -> bool,
}

/// Watches the interfaces of this network namespace. List them after this call, so that none is
/// missed in between.
pub async fn monitor() -> Result<Monitor, NetlinkError> {
    watch(&[MulticastGroup::Link], |message| {
        use RouteNetlinkMessage::{DelLink, NewLink};
        matches!(message, NewLink(_) | DelLink(_))
    })
}

/// Watches the addresses, routes and routing rules of this network namespace.
pub async fn monitor_routes() -> Result<Monitor, NetlinkError> {
    use MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv4Rule, Ipv6Ifaddr, Ipv6Route, Ipv6Rule};
    let groups = [
        Ipv4Ifaddr, Ipv4Route, Ipv4Rule, Ipv6Ifaddr, Ipv6Route, Ipv6Rule,
    ];
    watch(&groups, |message| {
        use RouteNetlinkMessage::{DelAddress, DelRoute, DelRule, NewAddress, NewRoute, NewRule};
        matches!(
            message,
            NewAddress(_) | DelAddress(_) | NewRoute(_) | DelRoute(_) | NewRule(_) | DelRule(_)
        )
    })
}

fn watch(
    groups: &[MulticastGroup],
    counts: fn(&RouteNetlinkMessage) -> bool,
) -> Result<Monitor, NetlinkError> {
    let (connection, _, messages) =
        new_multicast_connection(groups).map_err(NetlinkError::Connect)?;
    let task = tokio::spawn(connection);
    Ok(Monitor {
        messages: Box::new(messages.map(|(message, _)| message)),
        task,
        counts,
    })
}

impl Monitor {
    /// Waits until something came, changed or went: ask for it anew. All that happened so far
    /// counts as one change. Cancelling loses nothing.
    ///
    /// # Errors
    /// When the kernel's messages have ended.
    pub async fn changed(&mut self) -> Result<(), NetlinkError> {
        let mut message = self.messages.next().await;
        let mut changed = false;
        // Bounded by what the socket holds.
        loop {
            let payload = message.ok_or(NetlinkError::MonitorEnded)?.payload;
            changed |= match payload {
                NetlinkPayload::InnerMessage(message) => (self.counts)(&message),
                NetlinkPayload::Overrun(_) => true, // Messages were lost, nobody knows which.
                _ => false,
            };
            message = match self.messages.next().now_or_never() {
                Some(next) => next,
                None if changed => return Ok(()),
                None => self.messages.next().await,
            };
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}
