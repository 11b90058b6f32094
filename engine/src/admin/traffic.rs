//! What the admin socket says of services' traffic, for `weft top`.

use serde::{Deserialize, Serialize};

/// A port of a service, with all of its VIPs. Sums grow while somebody asks for them at least once a minute; what was there before
/// the first question is not in them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTraffic {
    /// `namespace/name:port`.
    pub service: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `l4`, `tcp` or `http`.
    pub stage: String,
    /// Clients' flows there are.
    pub flows: u64,
    /// Flows that were new.
    pub opened: u64,
    /// Packets from clients and to them; in HTTP stages only those from clients.
    pub packets: u64,
    /// Their bytes, as IP packets.
    pub bytes: u64,
}
