//! Why a packet was dropped or given back to the kernel. Closed lists that index the counters.

use std::fmt;

/// Defines a closed list of reasons: the enum, all of its values in order, and their names.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every reason; `ALL[reason as usize] == reason`.
            pub const ALL: [Self; [$(Self::$variant),+].len()] = [$(Self::$variant),+];

            /// The name in counters, logs and `docs/steering.md`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The reason of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|reason| reason.name() == name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

reasons! {
    /// Why a frame was dropped. `reason as usize` indexes the counters.
    DropReason {
        /// Shorter than an Ethernet header.
        EthernetHeader = "ethernet_header",
        /// The source MAC is none that the BPF programs write: nothing that Weft punted.
        ForeignFrame = "foreign_frame",
        /// Neither IPv4 nor IPv6; the BPF programs never punt such a frame.
        EtherType = "ether_type",
        /// IPv4 header truncated, of another version, or with an impossible header length.
        Ipv4Header = "ipv4_header",
        /// IPv4 total length smaller than the header or larger than the frame.
        Ipv4Length = "ipv4_length",
        /// IPv6 header truncated or of another version.
        Ipv6Header = "ipv6_header",
        /// IPv6 payload length larger than the frame, or smaller than its extension headers.
        Ipv6Length = "ipv6_length",
        /// TCP header truncated, or its data offset points outside the packet.
        TcpHeader = "tcp_header",
        /// UDP header truncated, or its length is impossible.
        UdpHeader = "udp_header",
        /// ICMP header truncated.
        IcmpHeader = "icmp_header",
        /// An ICMP error that quotes too little of a packet, a contradictory one, or one whose sender is not who
        /// the error goes to.
        IcmpError = "icmp_error",
        /// An ICMP error about a connection that ends here, other than that its packets are too long: TCP
        /// finds out by itself (RFC 5461).
        IcmpTerminated = "icmp_terminated",
        /// An ICMP error that Weft would have sent, above the limit on them, the pod's or the worker's.
        IcmpRate = "icmp_rate",
        /// IPv6 extension headers to a VIP that are not followed: too many, too long, or a routing header
        /// with segments left.
        Ipv6Extension = "ipv6_extension",
        /// An IPv6 fragment header that is truncated.
        FragmentHeader = "fragment_header",
        /// A first fragment that ends within the transport header (RFC 1858).
        FragmentTiny = "fragment_tiny",
        /// A second first fragment of one packet, with other ports, before all of it has come.
        FragmentConflict = "fragment_conflict",
        /// The first fragment of this packet was dropped or answered.
        FragmentRefused = "fragment_refused",
        /// The first fragment did not come in time for those that came before it.
        FragmentTimeout = "fragment_timeout",
        /// As many fragments of one packet wait for its first as may.
        FragmentQueue = "fragment_queue",
        /// The pod has so many fragments waiting, or packets in fragments under way, that others would
        /// soon find no room.
        FragmentShare = "fragment_share",
        /// As many fragments wait as a worker can hold.
        FragmentMemory = "fragment_memory",
        /// As many packets in fragments are under way as a worker can tell apart.
        FragmentTable = "fragment_table",
        /// A fragment of a TCP packet to or of a connection that ends here: the TCP stack takes whole packets. TCP
        /// sends none by itself.
        FragmentTerminated = "fragment_terminated",
        /// To a VIP, and neither served nor to be answered: ICMP other than errors and echo requests, echo requests
        /// where `vip_echo` is off, fragments of neither TCP nor UDP, and IPv6 without a payload.
        VipProtocol = "vip_protocol",
        /// TTL or hop limit used up where Weft forwards, and nobody to tell or no address to tell it from.
        TtlExpired = "ttl_expired",
        /// Longer than the MTU of the pod that it goes to, and nobody to tell: a later fragment of IPv4.
        PodMtu = "pod_mtu",
        /// The source address is none of the sending pod's, or, by a tunnel, of the peer's pods.
        SrcSpoof = "src_spoof",
        /// What came by an uplink is no packet of a tunnel as far as it says: truncated, in fragments, or contradictory.
        TunnelHeader = "tunnel_header",
        /// A wrapped packet whose outer checksum is wrong, or missing over IPv6.
        TunnelChecksum = "tunnel_checksum",
        /// A wrapped packet that no peer has sent.
        TunnelPeer = "tunnel_peer",
        /// A wrapped packet of another version of its encapsulation.
        TunnelVersion = "tunnel_version",
        /// A wrapped packet of another virtual network (TUN-02).
        TunnelVni = "tunnel_vni",
        /// A GENEVE control packet, which is never forwarded (RFC 8926 section 3.4).
        GeneveOam = "geneve_oam",
        /// GENEVE options that do not fit together.
        GeneveOptions = "geneve_options",
        /// A GENEVE option that must be understood, and is not (TUN-01).
        GeneveCriticalOption = "geneve_critical_option",
        /// Wrapped is neither IPv4 nor IPv6: no ARP, no other frames.
        TunnelPayload = "tunnel_payload",
        /// The way of a wrapped packet was congested, and its inner header cannot say so (RFC 6040 section 4.2).
        TunnelEcn = "tunnel_ecn",
        /// A router of the underlay has said that a wrapped packet was too long: noted, and what comes next is shorter.
        TunnelTooLong = "tunnel_too_long",
        /// To nobody: not to an enrolled pod, or to a peer that no route leads to (TUN-05).
        NoRoute = "no_route",
        /// Opens nothing and belongs to no known flow; forwarding it untranslated would mislead it.
        UnknownFlow = "unknown_flow",
        /// The only backend is the client itself, which would need a source rewrite.
        Hairpin = "hairpin",
        /// Every backend tried would give a reply tuple that another flow already has.
        TupleClash = "tuple_clash",
        /// As many flows as configured.
        FlowTableFull = "flow_table_full",
        /// The pod has opened so many flows that others would soon find no room.
        FlowShare = "flow_share",
        /// The service port has its limit of flows, or so many that others would soon find no room.
        ServiceFlowShare = "service_flow_share",
        /// More owner entries to write than one burst may cause: the edge did not flush them.
        PinRoom = "pin_room",
        /// A large packet of the bulk lane that is of no connection which ends here (any more), and too large to be
        /// passed on.
        BulkUnclaimed = "bulk_unclaimed",
        /// The answer does not fit in the frame's memory.
        FrameRoom = "frame_room",
        /// A packet to be answered whose checksum is wrong: its source may be, too.
        BadChecksum = "bad_checksum",
        /// The transmit ring was full (counted by the worker).
        TransmitFull = "transmit_full",
        /// The hand-over ring of the owning worker was full (counted by the worker).
        HandOverFull = "hand_over_full",
        /// No free frame for what another worker handed over (counted by the worker).
        FramePoolEmpty = "frame_pool_empty",
    }
}

reasons! {
    /// Why a frame was given back to the kernel, as if Weft had never touched it.
    KernelReason {
        /// A flow that may be older than the enrolment, or that the kernel opened while the worker was
        /// away: the kernel knows its translation.
        OlderThanEnrolment = "older_than_enrolment",
        /// A new flow of or to a pod that is leaving.
        Draining = "draining",
        /// Nothing Weft serves.
        NotOurs = "not_ours",
        /// A fragment that is not to a VIP, beyond what may wait: most likely direct, and the kernel's.
        FragmentOverflow = "fragment_overflow",
        /// From an interface that is no enrolled pod's in this generation of the tables.
        UnknownPod = "unknown_pod",
    }
}
