//! The client's name, which the packets that open a flow carry (U-15, TER-15).

use super::*;

const NAME: &str = "default/client-0";

fn named(name: &'static str) -> Joint {
    Joint {
        name,
        ..Joint::PLAIN
    }
}

/// Words of options in a frame with outer IPv4 headers, and their bytes.
fn options(frame: &[u8]) -> (u8, &[u8]) {
    let words = frame[42] & 0x3f;
    (words, &frame[50..50 + usize::from(words) * 4])
}

/// The frame with other bytes in place of its options, as long as they are, and no checksum that knows of it.
fn saying(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[50..50 + options.len()].copy_from_slice(options);
    frame
}

/// Between pods, and to a service at layer 4: the far node knows the client by name until long after it has answered.
#[test]
fn u_15_ter_15_the_far_node_knows_the_client_by_its_name() {
    for net in Net::BOTH {
        for proto in [Protocol::Tcp, Protocol::Udp] {
            for (to, port) in [(Side::B.pod(net), TARGET), (net.vip(80), SERVED)] {
                let [mut a, mut b] = joined(named(NAME));
                let mut asked = between(net, proto, SYN);
                (asked.tuple.dst, asked.tuple.dport) = (to, port);
                let wrapped = a.sends(&asked);
                let front = match (net, port) {
                    (_, TARGET) => 0,
                    (Net::V4, _) => 3,
                    (Net::V6, _) => 6,
                };
                let (words, data) = options(&wrapped);
                assert_eq!(words, front + 5, "{net:?} {proto:?} {port}");
                let data = &data[usize::from(front) * 4..];
                assert_eq!(data[..4], [0xff, 0x77, 2, 4]);
                assert_eq!(&data[4..], NAME.as_bytes());
                sound(&b.receives(&wrapped));
                assert_eq!(b.client_names(), [Some(NAME.into())]);

                let seen = between(net, proto, SYN).tuple;
                let back = b.sends(&Spec::of(seen.reversed(), SYN | ACK));
                assert_eq!(options(&back).0, 0, "what it answers has nothing to say");
                a.receives(&back);
                let next = a.sends(&Spec::of(asked.tuple, ACK));
                assert_eq!(options(&next).0, 0);
                b.receives(&next);
                assert_eq!(b.client_names(), [Some(NAME.into())]);
                assert_eq!(
                    a.client_names(),
                    [None],
                    "its own pods it knows by themselves"
                );
            }
        }
    }
}

/// What a stage opens on its client's behalf says who that is and what it has asked.
#[test]
fn u_15_ter_15_a_connection_that_a_stage_opens_names_its_client() {
    let net = Net::V4;
    for stage in [
        Stage::Tcp(UpstreamSource::Client),
        Stage::Http(UpstreamSource::Node),
    ] {
        let [mut a, mut b] = joined(named(NAME));
        let mut builder = TablesBuilder::editing(&a.tables);
        let vip = (net.vip(80), SERVED, Protocol::Tcp);
        let mut spec = a
            .tables
            .service(&vip.0, vip.1, vip.2)
            .unwrap()
            .spec()
            .clone();
        spec.options.stage = stage;
        builder.remove_service_port(vip).add_service_port(spec);
        a.tables = builder.build(2).unwrap();
        let client = FlowKey {
            tuple: Spec::tcp(Side::A.pod(net), 40000, vip.0, vip.1, 0).tuple,
            ifindex: VETH,
        };
        let through = a.tables.service(&vip.0, vip.1, vip.2).unwrap();
        let id = match stage {
            Stage::Http(source) => {
                let wanted = UpstreamSpec {
                    service: (1, None),
                    client,
                    through,
                    backend: (Side::B.pod(net), TARGET),
                    source,
                };
                a.state.connect(&wanted, START, &a.tables)
            }
            _ => a.state.terminate(client, START, &a.tables),
        };
        let flow = a.state.flows.at(id.unwrap()).unwrap();
        let mut frame = Spec::of(flow.backend_tuple(), SYN).frame(Egress::peer(TUNNEL).encode());
        let length = frame.len();
        frame.resize(length + 256, 0);
        let mut buf = FrameBuf::new(&mut frame, length);
        wrap_for_peer(&mut buf, &a.tables, &a.state).unwrap();
        b.receives(buf.bytes());
        assert_eq!(b.client_names(), [Some(NAME.into())], "{stage:?}");
        let front = Front {
            address: vip.0,
            port: vip.1,
        };
        assert_eq!(b.said()[0].front, Some(front), "{stage:?}");
    }
}

/// The service comes before the name, and both after the packet.
#[test]
fn u_15_what_makes_a_packet_too_long_is_left_out_the_name_first() {
    let net = Net::V4;
    for (room, words, name) in [
        (32, 8, true),
        (31, 3, false),
        (12, 3, false),
        (11, 0, false),
    ] {
        let [mut a, mut b] = joined(named(NAME));
        let datagram = Spec::udp(Side::A.pod(net), 40000, net.vip(80), SERVED);
        let wrapped = a.sends(&datagram.payload(&vec![1; 1450 - 28 - room]));
        assert_eq!(options(&wrapped).0, words, "{room}");
        b.receives(&wrapped);
        let expected = name.then(|| NAME.to_owned());
        assert_eq!(b.client_names(), [expected], "{room}");
    }
}

/// As long as an option can be; a longer one would be another name, cut.
#[test]
fn u_15_ter_15_a_name_that_no_option_holds_is_not_said() {
    let longest: &'static str = "a".repeat(CLIENT_NAME_MAX).leak();
    let longer: &'static str = "a".repeat(CLIENT_NAME_MAX + 1).leak();
    for (name, words) in [(longest, 32), (longer, 0), ("", 0)] {
        let [mut a, mut b] = joined(named(name));
        let wrapped = a.sends(&between(Net::V4, Protocol::Udp, 0));
        assert_eq!(options(&wrapped).0, words);
        b.receives(&wrapped);
        let expected = (words > 0).then(|| name.to_owned());
        assert_eq!(b.client_names(), [expected]);
    }
}

/// With VXLAN and without a tunnel there is no place for it.
#[test]
fn u_15_without_options_there_is_no_name() {
    for joint in [Joint::ALL[2], Joint::ALL[3]] {
        let [mut a, mut b] = joined(Joint {
            name: NAME,
            ..joint
        });
        b.receives(&a.sends(&between(Net::V4, Protocol::Udp, 0)));
        assert_eq!(b.client_names(), [None]);
    }
}

/// What no configuration could call a pod is nobody's name; the packet passes all the same.
#[test]
fn u_15_a_name_that_is_none_is_ignored() {
    let [mut a, _] = joined(named("four"));
    let wrapped = a.sends(&between(Net::V4, Protocol::Udp, 0));
    assert_eq!(options(&wrapped).0, 2);
    for (data, expected) in [
        (b"four", Some("four")),
        (b"4/.-", Some("4/.-")),
        (b"two\0", Some("two")),
        (b"a\0\0\0", Some("a")),
        (b"\0\0\0\0", None),
        (b"\0our", None),
        (b"f\0ur", None),
        (b"fo\nr", None),
        (b"\x1b[0m", None),
        (b"f ur", None),
        (b"fo\xc3\xbc", None),
    ] {
        let mut b = Node::new(Side::B, Joint::PLAIN);
        let option = [&[0xff, 0x77, 2, 1], &data[..]].concat();
        b.receives(&saying(&wrapped, &option));
        assert_eq!(b.client_names(), [expected.map(Into::into)], "{data:?}");
    }
}

/// However many names a peer makes up: memory is bounded, a flow's name is its own or none, and another peer's stay.
#[test]
fn u_15_names_that_a_peer_makes_up_push_out_its_own() {
    let [mut a, mut b] = joined(named("00000000"));
    let mut sent = Vec::new();
    for number in 0..2000_u16 {
        let mut spec = between(Net::V4, Protocol::Udp, 0);
        spec.tuple.sport = 1 + number;
        let wrapped = a.sends(&spec);
        let name = format!("{number:08}");
        let option = [&[0xff, 0x77, 2, 2], name.as_bytes()].concat();
        b.receives(&saying(&wrapped, &option));
        sent.push(name);
    }
    let known = b.client_names();
    assert_eq!(known.len(), sent.len());
    for (known, sent) in known.iter().zip(&sent) {
        assert!(known.as_ref().is_none_or(|known| known == sent));
    }
    let remembered = known.iter().flatten().count();
    assert!((900..=1024).contains(&remembered), "{remembered} names");
    assert!(known.last().unwrap().is_some());
}
