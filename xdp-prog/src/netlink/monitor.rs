//! Whether anything happens to interfaces.

use futures_util::{FutureExt, Stream, StreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::task::JoinHandle;

use super::NetlinkError;

/// Changes from the moment of [`monitor`] on.
pub struct LinkMonitor {
    messages: Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send + Unpin>,
    task: JoinHandle<()>,
}

/// Watches the interfaces of this network namespace. List them after this call, so that none is
/// missed in between.
pub async fn monitor() -> Result<LinkMonitor, NetlinkError> {
    let (connection, _, messages) =
        new_multicast_connection(&[MulticastGroup::Link]).map_err(NetlinkError::Connect)?;
    let task = tokio::spawn(connection);
    Ok(LinkMonitor {
        messages: Box::new(messages.map(|(message, _)| message)),
        task,
    })
}

impl LinkMonitor {
    /// Waits until an interface came, changed or went: list them anew. All that happened so far
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
            changed |= matches!(
                payload,
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_)
                ) | NetlinkPayload::Overrun(_) // Messages were lost, nobody knows which.
            );
            message = match self.messages.next().now_or_never() {
                Some(next) => next,
                None if changed => return Ok(()),
                None => self.messages.next().await,
            };
        }
    }
}

impl Drop for LinkMonitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}
