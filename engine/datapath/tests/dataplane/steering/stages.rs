//! The rows about service ports whose connections end here.

use std::sync::LazyLock;

use weft_datapath::steering::{Destination, Row, Source};
use weft_datapath::*;

use super::Frames;
use super::packets::{error, fragment};
use crate::support::icmp::errors;
use crate::support::*;

/// Ports of the VIP that may have a stage, each with one backend: an enrolled pod, the same spoken to from the node's
/// address, one that the kernel brings packets to, and the client itself.
pub const TO_POD: u16 = 90;
const FROM_NODE: u16 = 91;
const TO_KERNEL: u16 = 92;
const TO_CLIENT: u16 = 93;
pub const PORTS: [u16; 4] = [TO_POD, FROM_NODE, TO_KERNEL, TO_CLIENT];

/// The pods of rows that say nothing of enrolment.
pub fn settled() -> [(u32, Standing); 3] {
    [CLIENT, BACKEND_1, BACKEND_2].map(|ifindex| (ifindex, Standing::Settled))
}

/// The tables of every test, and the ports above with that stage.
pub fn tables(pods: &[(u32, Standing)], stage: Stage) -> Tables {
    let mut builder = builder(pods, Algorithm::Maglev);
    for (at, net) in Net::BOTH.into_iter().enumerate() {
        builder.set_node_address(BACKEND_1, net.node());
        builder.set_overlay(overlay());
        for port in PORTS {
            let backend = match port {
                TO_KERNEL => kernel_backend(net.pod(4), TARGET),
                TO_CLIENT => enrolled_backend(net, CLIENT, TARGET),
                _ => enrolled_backend(net, BACKEND_1, TARGET),
            };
            let stage = match stage {
                Stage::Tcp(_) if port == FROM_NODE => Stage::Tcp(UpstreamSource::Node),
                stage => stage,
            };
            builder.add_service_port(ServicePortSpec {
                id: 1000 * at as u32 + u32::from(port),
                address: net.vip(80),
                port,
                proto: Protocol::Tcp,
                algorithm: Algorithm::Maglev,
                options: ServiceOptions {
                    stage,
                    ..ServiceOptions::default()
                },
                backends: vec![backend],
            });
        }
    }
    builder.build(2).unwrap()
}

/// What the worker does once the client's connection is accepted. Says between which ends that to the backend is.
pub fn open(key: FlowKey, state: &mut State) -> Tuple {
    static TABLES: LazyLock<Tables> =
        LazyLock::new(|| tables(&settled(), Stage::Tcp(UpstreamSource::Client)));
    let id = state.terminate(key, START, &TABLES).unwrap();
    state.flows.at(id).unwrap().backend_tuple()
}

/// The client's connections that a row with the entry `terminated` is about, and its packets.
pub fn frames(row: &Row, net: Net, flags: u8) -> Vec<(Option<FlowKey>, Frames)> {
    let ports: &[u16] = match (row.hook, row.destination) {
        (Hook::ToPod, _) => &[TO_KERNEL],
        (_, Destination::Hairpin) => &[TO_CLIENT],
        (_, Destination::Node | Destination::NodeError | Destination::NodeTooLong) => &[FROM_NODE],
        (_, Destination::ServicePort | Destination::ServicePortWithStage) => &PORTS,
        (_, Destination::VipError | Destination::VipTooLong) => &PORTS,
        (_, Destination::VipFirstFragment | Destination::VipLaterFragment) => &PORTS,
        _ => &[TO_POD],
    };
    let case = |port: &u16| {
        let client = Spec::tcp(net.pod(1), 40000, net.vip(80), *port, flags);
        let key = FlowKey {
            tuple: client.tuple,
            ifindex: CLIENT,
        };
        // Every worker of these tests chooses the same.
        let backend = Spec::of(open(key, &mut state(1)).reversed(), flags);
        (Some(key), frame(row, net, &client, &backend))
    };
    ports.iter().map(case).collect()
}

/// The packet that a row is about: of the client, or of its backend.
fn frame(row: &Row, net: Net, client: &Spec, backend: &Spec) -> Frames {
    let (from, at) = match (row.hook, row.destination) {
        (Hook::ToPod, _) => (backend, CLIENT),
        (_, Destination::Hairpin) => (backend, CLIENT),
        (
            _,
            Destination::ServicePort
            | Destination::ServicePortWithStage
            | Destination::VipError
            | Destination::VipTooLong
            | Destination::VipFirstFragment
            | Destination::VipLaterFragment,
        ) => (client, CLIENT),
        _ => (backend, BACKEND_1),
    };
    let too_long = match row.destination {
        Destination::VipTooLong | Destination::EnrolledPodTooLong | Destination::NodeTooLong => {
            true
        }
        Destination::VipError | Destination::EnrolledPodError | Destination::NodeError => false,
        Destination::VipFirstFragment
        | Destination::VipLaterFragment
        | Destination::EnrolledPodFirstFragment
        | Destination::EnrolledPodLaterFragment => {
            return fragment(row, true, (vec![], from.punted(at, row.hook)));
        }
        _ => return (vec![], from.punted(at, row.hook)),
    };
    let Tuple {
        src,
        dst,
        sport,
        dport,
        ..
    } = from.tuple;
    let mut error = error((src, sport), (dst, dport), Protocol::Tcp);
    if too_long {
        error.header = errors(net)[1];
    }
    error.src = match row.source {
        Source::Host => net.node(),
        Source::Outside => net.internet(),
        _ => src,
    };
    (vec![], error.punted(at, row.hook))
}

/// A peer with one pod.
fn overlay() -> OverlaySpec {
    OverlaySpec {
        port: 6081,
        peers: vec![PeerSpec {
            port: TUNNELS,
            remote: v4(192, 168, 7, 2),
            local: v4(192, 168, 7, 1),
            uplink: 7,
            mtu: 1450,
            native: false,
            ranges: Net::BOTH
                .map(|net| (Prefix::new(net.pod(200), 128), SlotRef::FIXED))
                .to_vec(),
        }],
        ..OverlaySpec::default()
    }
}
