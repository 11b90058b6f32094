//! Every row of `docs/steering.md` through `process`, for IPv4 and IPv6.

use std::sync::LazyLock;

use weft_datapath::steering::{
    BpfVerdict, Destination, EngineVerdict, Enrolment, Entry, Opens, Row, Source, parse,
};
use weft_datapath::{
    Address, DropReason, FlowKey, FrameBuf, Hook, Ingress, KernelReason, Protocol, Stage, State,
    Tables, UpstreamSource, Verdict, process,
};

use packets::{
    echo, error, fragment, link_local, other_icmp, other_protocols, plain_icmp, unfollowed,
};

use crate::support::*;

mod packets;
mod stages;

const DOCUMENT: &str = include_str!("../../../../docs/steering.md");

/// What happens before the packet under test, and that packet.
struct Case {
    what: String,
    /// The client's connection that ends here, if the row is about its flow.
    terminated: Option<FlowKey>,
    before: Vec<Vec<u8>>,
    /// The tables of the packet under test; those before it are always settled.
    tables: Tables,
    /// Whether the worker was away shortly before it.
    away: bool,
    frame: Vec<u8>,
}

#[test]
fn every_row_is_true() {
    for row in parse(DOCUMENT).unwrap() {
        for net in Net::BOTH {
            let cases = cases(&row, net);
            // Host and outside traffic to a pod without an entry, what carries the mark, and what poses as a node's never reaches us.
            let unreachable = matches!(row.source, Source::Reingressed)
                || row.destination == Destination::Tunnel
                || row.destination == Destination::VipExtension && net == Net::V4;
            assert!(
                unreachable || !cases.is_empty(),
                "line {}: no packet for it",
                row.line
            );
            for case in cases {
                check(&row, net, case);
            }
        }
    }
}

fn check(row: &Row, net: Net, case: Case) {
    let mut state = state(1);
    let opened = match case.terminated {
        // Of those there can be nothing before but the first fragment of the packet.
        Some(key) => {
            stages::open(key, &mut state);
            Verdict::Drop(DropReason::FragmentTerminated)
        }
        None => Verdict::Deliver,
    };
    static SETTLED: LazyLock<Tables> =
        LazyLock::new(|| stages::tables(&stages::settled(), Stage::L4));
    for mut frame in case.before {
        let verdict = run(&mut frame, START, &SETTLED, &mut state);
        assert_eq!(verdict, opened, "{}", case.what);
    }
    if case.away {
        state.was_away(GRACE_UNTIL);
    }
    let verdict = verdict(case.frame, &case.tables, &mut state);
    let expected = match (row.engine, row.bpf) {
        (EngineVerdict::Deliver, _) => Verdict::Deliver,
        (EngineVerdict::Reply, _) => Verdict::Reply,
        (EngineVerdict::Hold, _) => Verdict::Hold,
        (EngineVerdict::Terminate(claim), _) => Verdict::Terminate(claim),
        (EngineVerdict::Kernel(reason), _) => Verdict::Kernel(reason),
        (EngineVerdict::Drop(reason), _) => Verdict::Drop(reason),
        // Should it reach the engine after all, because maps and tables change one after the other, the
        // engine must do as the BPF program would have done.
        (EngineVerdict::NotAsked, BpfVerdict::Kernel) => Verdict::Kernel(KernelReason::NotOurs),
        (EngineVerdict::NotAsked, BpfVerdict::Drop(reason)) => Verdict::Drop(reason),
        (EngineVerdict::NotAsked, BpfVerdict::Punt) => {
            panic!("line {}: punted, but not asked", row.line)
        }
    };
    assert_eq!(
        verdict, expected,
        "line {}, {net:?}, {}: {row:?}",
        row.line, case.what
    );
}

fn verdict(mut frame: Vec<u8>, tables: &Tables, state: &mut State) -> Verdict {
    let len = frame.len();
    frame.resize(2048, 0);
    process(&mut FrameBuf::new(&mut frame, len), START, tables, state)
}

/// The stages of (client, others) that a row's enrolment stands for, and whether the worker was away.
fn stages(row: &Row) -> Vec<(Standing, Standing, bool)> {
    let away = matches!(row.enrolment, Enrolment::Grace | Enrolment::Any);
    let here = enrolments(row).into_iter().map(|(a, b)| (a, b, false));
    here.chain(away.then_some((Standing::Settled, Standing::Settled, true)))
        .collect()
}

fn enrolments(row: &Row) -> Vec<(Standing, Standing)> {
    use Standing::{Draining, Grace, Settled};
    let both_count = matches!(
        row.destination,
        Destination::EnrolledPod | Destination::EnrolledPodTcp | Destination::EnrolledPodUdp
    ); // The other pod's, too: of another node's nothing is known.
    let grace = [(Grace, Settled), (Settled, Grace), (Grace, Grace)];
    let draining = [
        (Draining, Settled),
        (Settled, Draining),
        (Draining, Grace),
        (Grace, Draining),
    ];
    let take =
        |list: &[(Standing, Standing)]| list[..if both_count { list.len() } else { 1 }].to_vec();
    match row.enrolment {
        Enrolment::Grace => take(&grace),
        Enrolment::Settled => vec![(Settled, Settled)],
        Enrolment::Draining => take(&draining),
        Enrolment::Any => [&grace[..], &draining, &[(Settled, Settled)]].concat(),
    }
}

/// Protocol and flags that a row's destination and `opens` stand for.
fn openings(row: &Row) -> Vec<(Protocol, u8)> {
    let tcp = row.destination != Destination::EnrolledPodUdp;
    let udp = row.entry != Entry::Terminated
        && !matches!(
            row.destination,
            Destination::EnrolledPodTcp
                | Destination::ServicePortWithStage
                | Destination::StageFirstFragment
        );
    let mut list = Vec::new();
    if tcp && row.opens != Opens::No {
        list.push((Protocol::Tcp, SYN));
    }
    if tcp && row.opens != Opens::Yes {
        list.extend([
            (Protocol::Tcp, ACK),
            (Protocol::Tcp, SYN | ACK),
            (Protocol::Tcp, FIN | ACK),
        ]);
    }
    if udp && row.opens != Opens::No {
        list.push((Protocol::Udp, 0));
    }
    list
}

fn spec(proto: Protocol, flags: u8, from: (Address, u16), to: (Address, u16)) -> Spec {
    match proto {
        Protocol::Tcp => Spec::tcp(from.0, from.1, to.0, to.1, flags),
        Protocol::Udp => Spec::udp(from.0, from.1, to.0, to.1),
    }
}

fn cases(row: &Row, net: Net) -> Vec<Case> {
    let mut cases = Vec::new();
    for (client, others, away) in stages(row) {
        for (proto, flags) in openings(row) {
            let plain = |frames: Frames| (None, frames);
            let frames: Vec<(Option<FlowKey>, Frames)> = match row.hook {
                _ if row.entry == Entry::Terminated => stages::frames(row, net, flags),
                Hook::FromPod => from_pod(row, net, proto, flags)
                    .into_iter()
                    .map(plain)
                    .collect(),
                Hook::ToPod => to_pod(row, net, proto, flags)
                    .into_iter()
                    .map(plain)
                    .collect(),
            };
            for (terminated, (before, frame)) in frames {
                // The client of a reply to "other local pod" has left the tables.
                let pods = [(CLIENT, client), (BACKEND_1, others), (BACKEND_2, others)];
                let to_other = [Destination::OtherPod, Destination::OtherPodError];
                let left =
                    usize::from(to_other.contains(&row.destination) && row.entry != Entry::None);
                // A flow of the port under test may have been opened before the port was served as it is now.
                let stage = match row.destination {
                    Destination::ServicePort => Stage::L4,
                    _ => Stage::Tcp(UpstreamSource::Client),
                };
                let tables = stages::tables(&pods[left..], stage);
                let what = format!("{client:?}/{others:?} away={away} {proto} {flags:#x}");
                cases.push(Case {
                    what,
                    terminated,
                    before,
                    tables,
                    away,
                    frame,
                });
            }
        }
    }
    cases
}

type Frames = (Vec<Vec<u8>>, Vec<u8>);

fn from_pod(row: &Row, net: Net, proto: Protocol, flags: u8) -> Vec<Frames> {
    let client = (net.pod(1), 40000);
    let vip = |port| (net.vip(80), port);
    let send = |to, flags| spec(proto, flags, client, to).punted(CLIENT, Hook::FromPod);
    // What opens the flow that the row calls ours; the reply under test never opens one.
    let open = |to| send(to, SYN);
    let entries: &[bool] = match row.entry {
        Entry::None => &[false],
        Entry::Ours => &[true],
        Entry::Any => &[false, true],
        Entry::Terminated => panic!("line {}: elsewhere", row.line),
    };
    let mut frames = Vec::new();
    match row.source {
        Source::EnrolledPod => {}
        Source::SpoofingPod => {
            // Backend 2's veth, the client's address.
            for &ours in entries {
                let to = match row.destination {
                    Destination::ServicePort => vip(SERVED),
                    Destination::EnrolledPod => (net.pod(2), 80),
                    Destination::AnythingElse => (net.internet(), 443),
                    other => panic!(
                        "line {}: no packet for a spoofing pod to {other:?}",
                        row.line
                    ),
                };
                let known = ours && row.destination != Destination::AnythingElse;
                let before = if known { vec![open(to)] } else { vec![] };
                frames.push((
                    before,
                    spec(proto, flags, client, to).punted(BACKEND_2, Hook::FromPod),
                ));
            }
            return frames;
        }
        // Seen again by the BPF program alone.
        Source::Reingressed => return frames,
        other => panic!("line {}: {other:?} is no enrolled pod", row.line),
    }
    let plain = |to| vec![(vec![], send(to, flags))];
    let no_entry = || {
        assert_ne!(
            row.entry,
            Entry::Ours,
            "line {}: no such flow can be",
            row.line
        )
    };
    match row.destination {
        Destination::ServicePort => {
            for &ours in entries {
                for port in if ours {
                    [SERVED, BY_KERNEL]
                } else {
                    [SERVED, ONE_BACKEND]
                } {
                    frames.push((
                        if ours { vec![open(vip(port))] } else { vec![] },
                        send(vip(port), flags),
                    ));
                }
            }
            return frames;
        }
        Destination::ServicePortWithStage => {
            let ours = row.entry == Entry::Ours;
            let cases = stages::PORTS.map(|port| {
                let before = ours.then(|| open(vip(port)));
                (before.into_iter().collect(), send(vip(port), flags))
            });
            return cases.into();
        }
        Destination::EnrolledPod | Destination::EnrolledPodTcp | Destination::EnrolledPodUdp
            if row.entry == Entry::Ours =>
        {
            let server = (net.pod(2), 80);
            let backend = (net.pod(2), TARGET);
            let back = |from| spec(proto, flags, from, client).punted(BACKEND_1, Hook::FromPod);
            return vec![
                (vec![open(server)], send(server, flags)),
                (vec![open(server)], back(server)),
                (vec![open(vip(ONE_BACKEND))], back(backend)),
            ];
        }
        Destination::OtherPod if row.entry == Entry::Ours => {
            let back =
                spec(proto, flags, (net.pod(2), TARGET), client).punted(BACKEND_1, Hook::FromPod);
            return vec![(vec![open(vip(ONE_BACKEND))], back)];
        }
        Destination::VipFirstFragment
        | Destination::VipLaterFragment
        | Destination::EnrolledPodFirstFragment
        | Destination::EnrolledPodLaterFragment => {
            let ours = row.entry == Entry::Ours;
            let frames = match row.destination {
                Destination::VipFirstFragment | Destination::VipLaterFragment => [
                    (vec![open(vip(SERVED))], send(vip(SERVED), flags)),
                    (vec![open(vip(BY_KERNEL))], send(vip(BY_KERNEL), flags)),
                ],
                _ => {
                    let reply = spec(proto, flags, (net.pod(2), TARGET), client);
                    let direct = (vec![open((net.pod(2), 80))], send((net.pod(2), 80), flags));
                    let reply = reply.punted(BACKEND_1, Hook::FromPod);
                    [(vec![open(vip(ONE_BACKEND))], reply), direct]
                }
            };
            return frames.map(|frames| fragment(row, ours, frames)).into();
        }
        Destination::StageFirstFragment => {
            let packet = (vec![], send(vip(stages::TO_POD), flags));
            return vec![fragment(row, false, packet)];
        }
        Destination::Hairpin if row.entry == Entry::Ours => {
            let seen = (net.hairpin(), client.1);
            let back = spec(proto, flags, (net.pod(1), TARGET), seen);
            return vec![(
                vec![open(vip(ONLY_CLIENT))],
                back.punted(CLIENT, Hook::FromPod),
            )];
        }
        Destination::VipError => {
            let known = row.entry == Entry::Ours;
            return [ONE_BACKEND, BY_KERNEL]
                .into_iter()
                .map(|port| {
                    let before = known.then(|| open(vip(port)));
                    let error = error(client, vip(port), proto).punted(CLIENT, Hook::FromPod);
                    (before.into_iter().collect(), error)
                })
                .collect();
        }
        Destination::EnrolledPodError | Destination::OtherPodError if row.entry == Entry::Ours => {
            let (server, backend) = ((net.pod(2), 80), (net.pod(2), TARGET));
            let service = (
                vec![open(vip(ONE_BACKEND))],
                error(backend, client, proto).punted(BACKEND_1, Hook::FromPod),
            );
            if row.destination == Destination::OtherPodError {
                return vec![service];
            }
            let direct = [
                error(client, server, proto).punted(CLIENT, Hook::FromPod),
                error(server, client, proto).punted(BACKEND_1, Hook::FromPod),
            ];
            let direct = direct.map(|error| (vec![open(server)], error));
            return [service].into_iter().chain(direct).collect();
        }
        _ => no_entry(),
    }
    match row.destination {
        Destination::ServicePort => frames,
        Destination::ServicePortWithoutBackends => plain(vip(WITHOUT_BACKENDS)),
        Destination::VipOtherPort => plain(vip(UNUSED)),
        Destination::EnrolledPod | Destination::EnrolledPodTcp | Destination::EnrolledPodUdp => {
            plain((net.pod(2), 80))
        }
        Destination::Hairpin => plain((net.hairpin(), 80)),
        Destination::OtherPod => plain((net.pod(4), 80)),
        Destination::Overlay => plain((net.pod(200), 80)),
        Destination::Tunnel => vec![],
        Destination::Node => plain((net.node(), 80)),
        Destination::AnythingElse => plain((net.internet(), 80)),
        Destination::LinkLocal => plain((link_local(net), 80)),
        Destination::VipExtension => match net {
            Net::V4 => vec![],
            Net::V6 => unfollowed(send(vip(SERVED), flags)),
        },
        Destination::VipError => panic!("line {}: above", row.line),
        Destination::VipEcho => plain_icmp(echo(net, net.vip(80))),
        Destination::VipOtherIcmp => other_icmp(net),
        Destination::VipOtherProtocol => other_protocols(net, send(vip(SERVED), flags)),
        Destination::EnrolledPodError => plain_icmp(error(client, (net.pod(2), 80), proto)),
        Destination::OtherPodError => plain_icmp(error(client, (net.pod(4), 80), proto)),
        Destination::EnrolledPodOtherProtocol => {
            let mut frames = other_protocols(net, send((net.pod(2), 80), flags));
            frames.extend(plain_icmp(echo(net, net.pod(2))));
            frames
        }
        other => panic!("line {}: no packet to {other:?}", row.line),
    }
}

fn to_pod(row: &Row, net: Net, proto: Protocol, flags: u8) -> Vec<Frames> {
    let client = (net.pod(1), 40000);
    let from = match row.source {
        Source::OtherPod => net.pod(4),
        Source::Host => net.node(),
        Source::Outside => net.internet(),
        other => panic!(
            "line {}: the kernel does not deliver from {other:?}",
            row.line
        ),
    };
    let backend = (net.pod(4), TARGET);
    let open = spec(proto, SYN, client, (net.vip(80), BY_KERNEL)).punted(CLIENT, Hook::FromPod);
    let arriving = |from| match row.destination {
        // From whoever sends it, about what went to the backend.
        Destination::EnrolledPodError => {
            let mut error = error(backend, client, proto);
            error.src = from;
            error.punted(CLIENT, Hook::ToPod)
        }
        _ => {
            let at = if from == backend.0 {
                backend
            } else {
                (from, 80)
            };
            spec(proto, flags, at, client).punted(CLIENT, Hook::ToPod)
        }
    };
    // A hostNetwork backend and one that is not enrolled are the same to the engine: by the kernel.
    let (ours, frames) = match (row.entry, row.destination) {
        (Entry::None, _) => (false, (vec![], arriving(from))),
        (Entry::Ours, Destination::EnrolledPodError) => (true, (vec![open], arriving(from))),
        (Entry::Ours, _) => (true, (vec![open], arriving(backend.0))),
        (Entry::Any | Entry::Terminated, _) => panic!("line {}: say which", row.line),
    };
    match row.destination {
        Destination::EnrolledPod | Destination::EnrolledPodError => vec![frames],
        Destination::EnrolledPodFirstFragment | Destination::EnrolledPodLaterFragment => {
            vec![fragment(row, ours, frames)]
        }
        other => panic!("line {}: the kernel delivers to {other:?}", row.line),
    }
}

/// A v4-mapped address inside IPv6 is never looked up, even where it spells a VIP or a pod.
#[test]
fn a_mapped_address_is_the_kernels() {
    let tables = tables(Standing::Settled, Standing::Settled);
    let mut frame =
        Spec::tcp(Net::V6.pod(1), 4, Net::V6.vip(80), SERVED, SYN).punted(CLIENT, Hook::FromPod);
    frame[22..38].copy_from_slice(&Net::V4.pod(1).0);
    frame[38..54].copy_from_slice(&Net::V4.vip(80).0);
    assert_eq!(
        Ingress::decode(frame[6..12].try_into().unwrap())
            .unwrap()
            .ifindex,
        CLIENT
    );
    assert_eq!(
        verdict(frame, &tables, &mut state(1)),
        Verdict::Kernel(KernelReason::NotOurs)
    );
}
