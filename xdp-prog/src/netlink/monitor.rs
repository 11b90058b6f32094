//! What happens to interfaces.

use std::collections::HashSet;

use futures_util::{Stream, StreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::task::JoinHandle;

use super::{Interface, NetlinkError, Session};

/// One thing that happened to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It is new.
    Added(Interface),
    /// Something about it is different.
    Changed(Interface),
    /// It is gone.
    Removed {
        /// Its index.
        index: u32,
        /// Its last name.
        name: String,
    },
    /// Events were lost: list the interfaces anew.
    Overrun,
}

/// Events from the moment of [`monitor`] on.
pub struct LinkMonitor {
    messages: Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send + Unpin>,
    known: HashSet<u32>,
    task: JoinHandle<()>,
}

/// Watches the interfaces of this network namespace. Those that are there already are known, not
/// new; list them after this call, so that none is missed in between.
pub async fn monitor() -> Result<LinkMonitor, NetlinkError> {
    let (connection, _, messages) =
        new_multicast_connection(&[MulticastGroup::Link]).map_err(NetlinkError::Connect)?;
    let task = tokio::spawn(connection);
    let known = Session::open()?
        .interfaces()
        .await?
        .iter()
        .map(|i| i.index)
        .collect();
    Ok(LinkMonitor {
        messages: Box::new(messages.map(|(message, _)| message)),
        known,
        task,
    })
}

impl LinkMonitor {
    /// The next event; `None` when the socket has failed. Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<LinkEvent> {
        loop {
            let message = self.messages.next().await?;
            let event = match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    let interface = Interface::from_message(&link);
                    if self.known.insert(interface.index) {
                        LinkEvent::Added(interface)
                    } else {
                        LinkEvent::Changed(interface)
                    }
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                    let Interface { index, name, .. } = Interface::from_message(&link);
                    self.known.remove(&index);
                    LinkEvent::Removed { index, name }
                }
                NetlinkPayload::Overrun(_) => LinkEvent::Overrun,
                _ => continue,
            };
            return Some(event);
        }
    }
}

impl Drop for LinkMonitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}
