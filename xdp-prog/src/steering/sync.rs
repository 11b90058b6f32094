//! Services and endpoints: the full set is said, the difference is written.

use std::collections::HashMap;

use weft_datapath::{Address, Protocol};
use zerocopy::FromZeros;
use zerocopy::byteorder::big_endian::U16;

use crate::abi;
use crate::maps::{MapError, Plain, TypedMap};

use super::{Error, Steering, key};

/// A destination that Weft takes over.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The VIP.
    pub address: Address,
    /// A port of it; `None` stands for everything that the VIP receives.
    pub port: Option<(u16, Protocol)>,
}

impl ServiceKey {
    /// One port of a VIP.
    pub const fn port(address: Address, port: u16, protocol: Protocol) -> Self {
        Self {
            address,
            port: Some((port, protocol)),
        }
    }

    /// The VIP itself: other ports, other protocols, fragments.
    pub const fn wildcard(address: Address) -> Self {
        Self {
            address,
            port: None,
        }
    }

    pub(super) fn to_abi(self) -> abi::ServiceKey {
        let (port, proto) = self
            .port
            .map_or((0, 0), |(port, proto)| (port, proto.number()));
        abi::ServiceKey {
            vip: self.address.0,
            port: U16::new(port),
            proto,
            pad: 0,
        }
    }

    /// What the hooks know of it: that it is one.
    fn value(self) -> abi::Service {
        abi::Service::new_zeroed()
    }

    fn from_abi(key: &abi::ServiceKey) -> Self {
        let port = Protocol::from_number(key.proto).map(|proto| (key.port.get(), proto));
        Self {
            address: Address(key.vip),
            port,
        }
    }
}

/// How many entries a sync touched.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Entries that are new or have changed.
    pub inserted: usize,
    /// Entries that are gone.
    pub removed: usize,
}

impl Steering {
    /// Makes the services exactly these. New ones are there before old ones go, so a VIP that
    /// only changes a port is never without an entry.
    pub fn sync_services(&self, wanted: &[ServiceKey]) -> Result<Changes, Error> {
        let wanted = wanted
            .iter()
            .map(|key| (key.to_abi(), key.value()))
            .collect();
        Ok(sync(&self.services, wanted)?)
    }

    /// Adds services, then takes others away: the difference, where what is there is known. What vanishes must not
    /// be among the former.
    pub fn change_services(
        &self,
        appeared: &[ServiceKey],
        vanished: &[ServiceKey],
    ) -> Result<(), Error> {
        let appeared: Vec<_> = appeared
            .iter()
            .map(|key| (key.to_abi(), key.value()))
            .collect();
        let vanished: Vec<_> = vanished.iter().map(|key| key.to_abi()).collect();
        exchange(&self.services, &appeared, &vanished)?;
        Ok(())
    }

    /// The services there are, in order.
    pub fn services(&self) -> Result<Vec<ServiceKey>, Error> {
        let mut services = Vec::new();
        self.services
            .for_each(|key, _: abi::Service| services.push(ServiceKey::from_abi(&key)))?;
        services.sort_unstable();
        Ok(services)
    }

    /// Makes the addresses of enrolled pods exactly these.
    pub fn sync_endpoints(&self, wanted: &[(Address, u32)]) -> Result<Changes, Error> {
        let wanted = wanted
            .iter()
            .map(|(address, ifindex)| {
                (
                    key(address),
                    abi::Endpoint {
                        ifindex: *ifindex,
                        flags: 0,
                    },
                )
            })
            .collect();
        Ok(sync(&self.endpoints, wanted)?)
    }

    /// The addresses of enrolled pods, in order.
    pub fn endpoints(&self) -> Result<Vec<(Address, u32)>, Error> {
        let mut endpoints = Vec::new();
        self.endpoints
            .for_each(|key, value| endpoints.push((Address(key), value.ifindex)))?;
        endpoints.sort_unstable();
        Ok(endpoints)
    }
}

/// Inserts what is missing or different, then removes what is not wanted.
pub(super) fn sync<K, V>(map: &TypedMap<K, V>, wanted: HashMap<K, V>) -> Result<Changes, MapError>
where
    K: Plain + Eq + std::hash::Hash,
    V: Plain + PartialEq,
{
    let mut there = HashMap::new();
    map.for_each(|key, value| {
        there.insert(key, value);
    })?;
    let different = |(key, value): &(K, V)| there.get(key) != Some(value);
    let appeared: Vec<(K, V)> = wanted
        .iter()
        .map(|(key, value)| (*key, *value))
        .filter(different)
        .collect();
    let mut vanished: Vec<K> = there.keys().copied().collect();
    vanished.retain(|key| !wanted.contains_key(key));
    exchange(map, &appeared, &vanished)
}

/// Inserts, then removes: what is wanted before and after is never missing. Only where not both fit
/// into the map, what is to go makes room first.
fn exchange<K: Plain, V: Plain>(
    map: &TypedMap<K, V>,
    appeared: &[(K, V)],
    vanished: &[K],
) -> Result<Changes, MapError> {
    let remove_all = || -> Result<usize, MapError> {
        vanished.iter().try_fold(
            0,
            |removed, key| Ok(removed + usize::from(map.remove(key)?)),
        )
    };
    let mut removed = None;
    for (key, value) in appeared {
        if let Err(error) = map.insert(key, value) {
            if removed.is_some() || vanished.is_empty() {
                return Err(error);
            }
            removed = Some(remove_all()?);
            map.insert(key, value)?;
        }
    }
    Ok(Changes {
        inserted: appeared.len(),
        removed: removed.map_or_else(remove_all, Ok)?,
    })
}
