//! What holds for every packet.

use proptest::prelude::*;
use weft_datapath::*;

use crate::support::*;

fn net() -> impl Strategy<Value = Net> {
    prop_oneof![Just(Net::V4), Just(Net::V6)]
}

fn spec() -> impl Strategy<Value = Spec> {
    let payload = prop::collection::vec(any::<u8>(), 0..300);
    (
        net(),
        any::<bool>(),
        1u16..,
        prop_oneof![Just(SERVED), Just(BY_KERNEL)],
        payload,
        2u8..,
    )
        .prop_map(|(net, tcp, sport, port, payload, hops)| {
            let spec = match tcp {
                true => Spec::tcp(net.pod(1), sport, net.vip(80), port, SYN),
                false => Spec::udp(net.pod(1), sport, net.vip(80), port),
            };
            spec.payload(&payload).hops(hops)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// DNAT and then its reverse is the identity, byte by byte: what the backend sends back exactly as it got it
    /// (ends swapped) arrives as what the client sent (ends swapped).
    #[test]
    fn dnat_then_reverse_is_the_identity(spec in spec()) {
        let (tables, mut state) = (settled(), state(1));
        let mut there = spec.punted(CLIENT, Hook::FromPod);
        prop_assert_eq!(run(&mut there, START, &tables, &mut state), Verdict::Deliver);
        let arrived = tuple(&there);
        let out = egress(&there);
        let (ifindex, hook) = match out.inject {
            Inject::Peer => (out.ifindex, Hook::FromPod),
            Inject::Reingress => (CLIENT, Hook::ToPod),
            Inject::Neighbour => panic!("there is no peer"),
        };
        let echo = Spec { tuple: arrived.reversed(), ..spec.clone() };
        let mut back = echo.punted(ifindex, hook);
        prop_assert_eq!(run(&mut back, START, &tables, &mut state), Verdict::Deliver);
        let hops = if hook == Hook::FromPod { spec.hops - 1 } else { spec.hops };
        let expected = Spec { tuple: spec.tuple.reversed(), hops, ..spec };
        let expected = expected.frame(Egress::peer(CLIENT).encode());
        prop_assert_eq!(&back[6..], &expected[6..]);
        sound(&back);
    }

    /// Every truncation of a valid frame, at every length, is a named drop with the bytes untouched (`run` compares).
    #[test]
    fn every_truncation_is_a_named_drop(spec in spec()) {
        let (tables, mut state) = (settled(), state(1));
        let frame = spec.punted(CLIENT, Hook::FromPod);
        for len in 0..frame.len() {
            let mut cut = frame[..len].to_vec();
            let verdict = run(&mut cut, START, &tables, &mut state);
            prop_assert!(matches!(verdict, Verdict::Drop(_)), "{} of {}: {:?}", len, frame.len(), verdict);
        }
        prop_assert!(state.flows.is_empty());
    }

    /// Random bytes never panic, and a drop never writes.
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), ours: bool, ethertype in 0usize..3) {
        let (tables, mut state) = (settled(), state(1));
        let mut frame = bytes;
        if frame.len() >= 14 && ours {
            frame[6..12].copy_from_slice(&Ingress { ifindex: CLIENT, hook: Hook::FromPod, target: 0 }.encode());
            match ethertype {
                0 => frame[12..14].copy_from_slice(&[0x08, 0x00]),
                1 => frame[12..14].copy_from_slice(&[0x86, 0xdd]),
                _ => {}
            }
        }
        let _ = run(&mut frame, START, &tables, &mut state);
    }

    /// Any byte of a valid frame changed to anything never panics, and what is delivered still parses: as a packet, or as
    /// the first fragment that a bit has made of it.
    #[test]
    fn damaged_frames_never_panic(spec in spec(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let (tables, mut state) = (settled(), state(1));
        let mut frame = spec.punted(CLIENT, Hook::FromPod);
        for (at, value) in damage {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        if run(&mut frame, START, &tables, &mut state) == Verdict::Deliver {
            let parsed = parse(&frame);
            let first = matches!(&parsed, Ok(Parsed::Fragment(part)) if part.is_first());
            prop_assert!(first || matches!(parsed, Ok(Parsed::Flow(_))), "{:?}", parsed);
        }
    }

    /// ICMP errors about a flow, damaged anywhere and cut anywhere: no panic, a drop never writes (`run` compares), and
    /// what is delivered still is ICMP.
    #[test]
    fn svc_34_damaged_errors_never_panic(
        spec in spec(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        backend: bool,
    ) {
        let (tables, mut state) = (settled(), state(1));
        let mut frame = spec.punted(CLIENT, Hook::FromPod);
        prop_assume!(run(&mut frame, START, &tables, &mut state) == Verdict::Deliver);
        let net = if spec.tuple.src.is_v4() { Net::V4 } else { Net::V6 };
        let header = icmp::port_unreachable(net);
        let arrived = tuple(&frame);
        let (message, at, hook) = if backend {
            let quoted = icmp::quote(&Spec::of(arrived, ACK));
            let hook = match egress(&frame).inject {
                Inject::Peer => Hook::FromPod,
                Inject::Reingress => Hook::ToPod,
                Inject::Neighbour => panic!("there is no peer"),
            };
            let message = icmp::Message::new(arrived.dst, arrived.src, header, quoted);
            (message, egress(&frame).ifindex, hook)
        } else {
            let quoted = icmp::quote(&Spec::of(spec.tuple.reversed(), ACK));
            let message = icmp::Message::new(spec.tuple.src, spec.tuple.dst, header, quoted);
            (message, CLIENT, Hook::FromPod)
        };
        let mut frame = message.punted(at, hook);
        let whole = run(&mut frame.clone(), START, &tables, &mut state);
        prop_assert_eq!(whole, Verdict::Deliver);
        for (at, value) in damage {
            let at = 12 + at.index(frame.len() - 12);
            frame[at] = value;
        }
        frame.truncate(frame.len() - cut.index(frame.len()) / 2);
        if run(&mut frame, START, &tables, &mut state) == Verdict::Deliver {
            let parsed = parse(&frame);
            prop_assert!(matches!(parsed, Ok(Parsed::Icmp(_) | Parsed::Flow(_))), "{:?}", parsed);
        }
    }

    /// Any two workers with any seeds choose the same backend by Maglev, whatever they served before from other ports.
    #[test]
    fn svc_43_maglev_chooses_alike_everywhere(spec in spec(), seeds: [u64; 2], before in 0u16..40) {
        let tables = settled();
        let [one, other] = [(0, seeds[0], 0), (1, seeds[1], before)].map(|(worker, seed, before)| {
            let mut state = State::new(StateConfig {
                max_flows: 64,
                seed,
                worker,
                workers: 2,
                ports: Ports { weft0_mac: WEFT0 },
                hairpin: Default::default(),
            });
            let source = Ingress { ifindex: CLIENT, hook: Hook::FromPod, target: worker };
            // From its own source port, the flow would clash with one to the same backend, and take another.
            for port in (0..before).filter(|port| *port != spec.tuple.sport) {
                let earlier = Spec::udp(spec.tuple.src, port, spec.tuple.dst, ONE_BACKEND);
                let _ = run(&mut earlier.frame(source.encode()), START, &tables, &mut state);
            }
            let mut frame = spec.frame(source.encode());
            assert_eq!(run(&mut frame, START, &tables, &mut state), Verdict::Deliver);
            frame
        });
        prop_assert_eq!(one, other);
    }

    /// Tables do not depend on the order in which their parts are named.
    #[test]
    fn tables_built_in_any_order_are_equal(order in Just((0..PARTS).collect::<Vec<_>>()).prop_shuffle(), turn in 0usize..7) {
        let build = |order: &[usize], turn: usize| {
            let mut builder = TablesBuilder::new();
            for part in order {
                add_part(&mut builder, *part, turn);
            }
            builder.set_epochs(epochs());
            builder.build(1).unwrap()
        };
        let plain: Vec<usize> = (0..PARTS).collect();
        let (a, b) = (build(&plain, 0), build(&order, turn));
        prop_assert_eq!(format!("{:?}", a.services()), format!("{:?}", b.services()));
        prop_assert_eq!(a.pods(), b.pods());
        for port in a.services() {
            let found = b.service(&port.address(), port.port(), port.proto()).map(ServicePort::id);
            prop_assert_eq!(found, Some(port.id()));
        }
        for pod in a.pods() {
            prop_assert_eq!(Some(pod), b.pod_by_ifindex(pod.ifindex));
            for address in &pod.addresses {
                prop_assert_eq!(Some(pod), b.pod_by_address(address));
            }
        }
    }
}

/// Three pods, and a service of each algorithm in each family.
const PARTS: usize = 9;

/// Adds one part; the backends of a service begin at number `turn`.
fn add_part(builder: &mut TablesBuilder, part: usize, turn: usize) {
    if let Some(ifindex) = [CLIENT, BACKEND_1, BACKEND_2].get(part) {
        builder.add_pod(pod(*ifindex, Standing::Settled));
        return;
    }
    let net = Net::BOTH[part % 2];
    let mut backends: Vec<Backend> = (10..17)
        .map(|host| Backend {
            weight: u16::from(host) % 4,
            ..kernel_backend(net.pod(host), TARGET)
        })
        .collect();
    backends.rotate_left(turn);
    builder.add_service_port(ServicePortSpec {
        id: part as u32,
        address: net.vip(80),
        port: part as u16,
        proto: Protocol::Tcp,
        algorithm: [Algorithm::Maglev, Algorithm::RoundRobin, Algorithm::Random][part / 2 % 3],
        options: ServiceOptions::default(),
        backends,
    });
}
