//! What control asks of the kernel, as a trait, so that a test can be the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use weft_datapath::Address;
use weft_xdp::netlink::{NetlinkError, Way};
use weft_xdp::{Choice, OverlayEntries, PodEntry, ServiceKey, Steering};

use super::peers::Ends;

/// The maps and hooks that make the kernel steer.
///
/// Every call is idempotent: asking for what is already so succeeds and changes nothing.
pub trait KernelSide {
    /// Writes what the hooks of a pod need to know.
    ///
    /// # Errors
    /// When the map is full or the kernel refuses.
    fn set_pod(&mut self, pod: &PodEntry) -> Result<(), weft_xdp::Error>;
    /// Attaches both hooks of a pod's interface.
    ///
    /// # Errors
    /// When the interface is gone or the kernel refuses.
    fn attach_pod(&mut self, ifindex: u32) -> Result<(), weft_xdp::Error>;
    /// Detaches both hooks. An interface that is gone counts as detached.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn detach_pod(&mut self, ifindex: u32) -> Result<(), weft_xdp::Error>;
    /// Forgets a pod.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn remove_pod(&mut self, ifindex: u32) -> Result<(), weft_xdp::Error>;
    /// Makes the services that the hooks know exactly these.
    ///
    /// # Errors
    /// When the map is full or the kernel refuses.
    fn sync_services(&mut self, services: &[ServiceKey]) -> Result<(), weft_xdp::Error>;
    /// Adds some services and takes others away, of which none is among the former.
    ///
    /// # Errors
    /// When the map is full or the kernel refuses.
    fn change_services(
        &mut self,
        appeared: &[ServiceKey],
        vanished: &[ServiceKey],
    ) -> Result<(), weft_xdp::Error>;
    /// Makes the pod addresses that the hooks know exactly these.
    ///
    /// # Errors
    /// When the map is full or the kernel refuses.
    fn sync_endpoints(&mut self, endpoints: &[(Address, u32)]) -> Result<(), weft_xdp::Error>;
    /// Lets the hooks choose a backend for the service port, or no more. False: there is no room for that.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn set_choice(
        &mut self,
        key: ServiceKey,
        choice: Option<&Choice>,
    ) -> Result<bool, weft_xdp::Error>;
    /// Makes the epochs that the hooks compare with these: of pods, and of backends.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn set_epochs(&mut self, pods: &[u32], members: &[u32]) -> Result<(), weft_xdp::Error>;
    /// Makes the overlay that the hooks know exactly this one.
    ///
    /// # Errors
    /// When a map is full or the kernel refuses.
    fn sync_overlay(&mut self, overlay: &OverlayEntries) -> Result<(), weft_xdp::Error>;
    /// Attaches the hook of an uplink.
    ///
    /// # Errors
    /// When the interface is gone or the kernel refuses.
    fn attach_uplink(&mut self, ifindex: u32) -> Result<(), weft_xdp::Error>;
    /// Detaches it. An interface that is gone counts as detached.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn detach_uplink(&mut self, ifindex: u32) -> Result<(), weft_xdp::Error>;
    /// The node's address that packets of its own to `address` would have, if it can reach it.
    fn source_towards(&self, address: IpAddr) -> Option<IpAddr>;
    /// The ways between those ends, one for each; `None` where no route leads.
    ///
    /// # Errors
    /// When the kernel does not answer.
    fn ways(&self, ends: &[Ends]) -> Result<Vec<Option<Way>>, NetlinkError>;
}

impl KernelSide for Steering {
    fn set_pod(&mut self, pod: &PodEntry) -> Result<(), weft_xdp::Error> {
        Self::set_pod(self, pod)
    }

    fn attach_pod(&mut self, ifindex: u32) -> Result<(), weft_xdp::Error> {
        Self::attach_pod(self, ifindex)
    }

    fn detach_pod(&mut self, ifindex: u32) -> Result<(), weft_xdp::Error> {
        Self::detach_pod(self, ifindex)
    }

    fn remove_pod(&mut self, ifindex: u32) -> Result<(), weft_xdp::Error> {
        Self::remove_pod(self, ifindex).map(drop)
    }

    fn sync_services(&mut self, services: &[ServiceKey]) -> Result<(), weft_xdp::Error> {
        Self::sync_services(self, services).map(drop)
    }

    fn change_services(
        &mut self,
        appeared: &[ServiceKey],
        vanished: &[ServiceKey],
    ) -> Result<(), weft_xdp::Error> {
        Self::change_services(self, appeared, vanished)
    }

    fn sync_endpoints(&mut self, endpoints: &[(Address, u32)]) -> Result<(), weft_xdp::Error> {
        Self::sync_endpoints(self, endpoints).map(drop)
    }

    fn set_choice(
        &mut self,
        key: ServiceKey,
        choice: Option<&Choice>,
    ) -> Result<bool, weft_xdp::Error> {
        Self::set_choice(self, key, choice)
    }

    fn set_epochs(&mut self, pods: &[u32], members: &[u32]) -> Result<(), weft_xdp::Error> {
        Self::set_epochs(self, pods, members)
    }

    fn sync_overlay(&mut self, overlay: &OverlayEntries) -> Result<(), weft_xdp::Error> {
        Self::sync_overlay(self, overlay)
    }

    fn attach_uplink(&mut self, ifindex: u32) -> Result<(), weft_xdp::Error> {
        Self::attach_uplink(self, ifindex)
    }

    fn detach_uplink(&mut self, ifindex: u32) -> Result<(), weft_xdp::Error> {
        Self::detach_uplink(self, ifindex)
    }

    fn ways(&self, ends: &[Ends]) -> Result<Vec<Option<Way>>, NetlinkError> {
        weft_xdp::ways(ends)
    }

    /// Asks by connecting a UDP socket, for which the kernel looks up a route and sends nothing.
    fn source_towards(&self, address: IpAddr) -> Option<IpAddr> {
        const ANY_PORT: u16 = 9;
        let any: IpAddr = match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((address, ANY_PORT)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    }
}
