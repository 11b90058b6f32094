//! SVC-26, K-05, K-21: RFC 9293's states as they show in the middle, and what they decide.

use std::time::Duration;

use proptest::prelude::*;
use weft_datapath::*;

use crate::support::*;

const SYN_ACK: u8 = SYN | ACK;
const FIN_ACK: u8 = FIN | ACK;

/// Who sends.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum End {
    Client,
    Server,
}
use End::{Client, Server};

/// A client that talks to the VIP through one worker, and whoever was chosen to answer.
struct Talk {
    tables: Tables,
    state: State,
    net: Net,
    proto: Protocol,
    now: Now,
    /// The last backend: its reply tuple and interface.
    server: Option<(Tuple, u32)>,
}

impl Talk {
    fn new(net: Net, proto: Protocol) -> Self {
        let builder = builder(
            &[CLIENT, BACKEND_1, BACKEND_2].map(|pod| (pod, Standing::Settled)),
            Algorithm::RoundRobin, // A new choice shows: it is never the last one.
        );
        Self {
            tables: builder.build(1).unwrap(),
            state: state(1),
            net,
            proto,
            now: START,
            server: None,
        }
    }

    fn tuple(&self) -> Tuple {
        Tuple {
            src: self.net.pod(1),
            dst: self.net.vip(80),
            sport: 40000,
            dport: SERVED,
            proto: self.proto,
        }
    }

    /// Sends and says whether it arrived, rightly translated.
    fn send(&mut self, end: End, flags: u8) -> Verdict {
        let (spec, ifindex) = match (end, self.server) {
            (Client, _) => (Spec::of(self.tuple(), flags), CLIENT),
            (Server, Some((tuple, ifindex))) => (Spec::of(tuple, flags), ifindex),
            (Server, None) => panic!("nobody to answer"),
        };
        let mut frame = spec.punted(ifindex, Hook::FromPod);
        let verdict = run(&mut frame, self.now, &self.tables, &mut self.state);
        self.state.pin_ops.clear();
        if verdict == Verdict::Deliver {
            let arrived = tuple(&frame);
            match end {
                Client => self.server = Some((arrived.reversed(), egress(&frame).ifindex)),
                Server => assert_eq!(arrived, self.tuple().reversed()),
            }
        }
        verdict
    }

    fn all(&mut self, segments: &[(End, u8)]) {
        for &(end, flags) in segments {
            assert_eq!(
                self.send(end, flags),
                Verdict::Deliver,
                "{end:?} {flags:#x}"
            );
        }
    }

    fn flow(&self) -> &Flow {
        self.state.flows.slice(0, 8).next().expect("a flow").1
    }

    fn backend(&self) -> u32 {
        self.server.expect("a backend").1
    }
}

const OPEN: [(End, u8); 3] = [(Client, SYN), (Server, SYN_ACK), (Client, ACK)];

/// A state, the segments that lead to it, and how many seconds it may be silent.
type Way = (FlowState, Vec<(End, u8)>, u64);

/// Every state of TCP.
fn ways() -> Vec<Way> {
    let after = |segments: &[(End, u8)]| [&OPEN, segments].concat();
    vec![
        (FlowState::SynSent, OPEN[..1].to_vec(), 60),
        (FlowState::SynReceived, OPEN[..2].to_vec(), 60),
        (FlowState::Established, OPEN.to_vec(), 24 * 3600),
        (FlowState::FinWait1, after(&[(Client, FIN_ACK)]), 240),
        (
            FlowState::FinWait2,
            after(&[(Client, FIN_ACK), (Server, ACK)]),
            3600,
        ),
        (
            FlowState::CloseWait,
            after(&[(Server, FIN_ACK), (Client, ACK)]),
            3600,
        ),
        (
            FlowState::Closing,
            after(&[(Client, FIN_ACK), (Server, FIN_ACK)]),
            30,
        ),
        (
            FlowState::LastAck,
            after(&[(Server, FIN_ACK), (Client, FIN_ACK)]),
            30,
        ),
        (
            FlowState::TimeWait,
            after(&[(Client, FIN_ACK), (Server, FIN_ACK), (Client, ACK)]),
            30,
        ),
        (FlowState::Closed, after(&[(Server, RST)]), 10),
    ]
}

/// K-21: in every state packets of both ends are translated, until the state's time is over.
#[test]
fn k21_every_state_translates_until_its_time_is_over() {
    for net in Net::BOTH {
        for (state, segments, seconds) in ways() {
            for end in [Client, Server] {
                for late in [false, true] {
                    let mut talk = Talk::new(net, Protocol::Tcp);
                    talk.all(&segments);
                    assert_eq!(talk.flow().state(), state, "{segments:?}");
                    let extra = Duration::from_nanos(u64::from(late));
                    talk.now = talk.now + Duration::from_secs(seconds) + extra;
                    let expected = if late {
                        Verdict::Drop(DropReason::UnknownFlow)
                    } else {
                        Verdict::Deliver
                    };
                    assert_eq!(talk.send(end, ACK), expected, "{state:?} {end:?}");
                }
            }
        }
    }
}

#[test]
fn the_ways_of_a_connection_end_where_rfc_9293_says() {
    use FlowState::{
        CloseWait, Closed, Closing, Established, FinWait1, FinWait2, LastAck, SynReceived, SynSent,
        TimeWait,
    };
    let ways: [&[(End, u8, FlowState)]; 10] = [
        // Every segment of the handshake twice.
        &[
            (Client, SYN, SynSent),
            (Client, SYN, SynSent),
            (Server, SYN_ACK, SynReceived),
            (Client, SYN, SynReceived),
            (Server, SYN_ACK, SynReceived),
            (Client, ACK, Established),
            (Server, SYN_ACK, Established),
        ],
        // Simultaneous open (section 3.5, figure 7).
        &[
            (Client, SYN, SynSent),
            (Server, SYN, SynReceived),
            (Client, SYN_ACK, Established),
            (Server, SYN_ACK, Established),
        ],
        // The client closes first; every FIN twice.
        &[
            (Client, SYN, SynSent),
            (Server, SYN_ACK, SynReceived),
            (Client, FIN_ACK, FinWait1),
            (Client, FIN_ACK, FinWait1),
            (Server, ACK, FinWait2),
            (Server, ACK, FinWait2),
            (Client, ACK, FinWait2),
            (Server, FIN_ACK, Closing),
            (Server, FIN_ACK, Closing),
            (Client, ACK, TimeWait),
            (Server, FIN_ACK, TimeWait),
            (Client, ACK, TimeWait),
        ],
        // The server closes first, and the client's data goes on.
        &[
            (Client, SYN, SynSent),
            (Server, SYN_ACK, SynReceived),
            (Client, ACK, Established),
            (Server, FIN_ACK, CloseWait),
            (Client, ACK, CloseWait),
            (Server, FIN_ACK, CloseWait),
            (Server, ACK, CloseWait),
            (Client, FIN_ACK, LastAck),
            (Client, FIN_ACK, LastAck),
            (Server, ACK, TimeWait),
        ],
        // Both close at once (section 3.6, figure 13).
        &[
            (Client, SYN, SynSent),
            (Server, SYN_ACK, SynReceived),
            (Client, ACK, Established),
            (Client, FIN_ACK, FinWait1),
            (Server, FIN_ACK, Closing),
            (Server, ACK, Closing),
            (Client, ACK, TimeWait),
        ],
        // Refused.
        &[(Client, SYN, SynSent), (Server, RST | ACK, Closed)],
        // A challenge ACK, and the reset that it asks for.
        &[
            (Client, SYN, SynSent),
            (Server, ACK, SynSent),
            (Client, RST, Closed),
        ],
        // A reset is believed: what is in flight towards who sent it changes nothing.
        &[
            (Client, SYN, SynSent),
            (Server, SYN_ACK, SynReceived),
            (Client, ACK, Established),
            (Client, RST | ACK, Closed),
            (Server, ACK, Closed),
            (Client, RST, Closed),
            (Server, ACK, Closed),
        ],
        // A blind reset is not: both ends speak on.
        &[
            (Client, SYN, SynSent),
            (Server, SYN_ACK, SynReceived),
            (Client, ACK, Established),
            (Server, RST, Closed),
            (Client, ACK, Closed),
            (Server, ACK, Established),
        ],
        // Segments that every receiver ignores: without ACK, or SYN with FIN.
        &[
            (Client, SYN, SynSent),
            (Server, SYN_ACK, SynReceived),
            (Client, 0, SynReceived),
            (Client, FIN, SynReceived),
            (Client, ACK, Established),
            (Server, FIN, Established),
            (Client, SYN | FIN | ACK, Established),
        ],
    ];
    for way in ways {
        let mut talk = Talk::new(Net::V4, Protocol::Tcp);
        for (step, &(end, flags, state)) in way.iter().enumerate() {
            talk.all(&[(end, flags)]);
            assert_eq!(talk.flow().state(), state, "step {step} of {way:?}");
        }
        assert_eq!(talk.state.flows.len(), 1);
    }
}

/// SVC-26, K-05: once an end has closed, a SYN on the tuple is a new connection and gets a new backend.
#[test]
fn svc26_a_syn_on_a_closed_or_half_closed_tuple_selects_anew() {
    for (state, segments, _) in ways() {
        let open = matches!(
            state,
            FlowState::SynSent | FlowState::SynReceived | FlowState::Established
        );
        let mut talk = Talk::new(Net::V6, Protocol::Tcp);
        talk.all(&segments);
        let (cookie, backend) = (talk.flow().cookie(), talk.backend());
        talk.all(&[(Client, SYN)]);
        assert_eq!(talk.flow().cookie() == cookie, open, "{state:?}");
        assert_eq!(talk.backend() == backend, open, "{state:?}");
        assert_eq!(talk.state.flows.len(), 1);
        if !open {
            talk.all(&OPEN[1..]);
            assert_eq!(talk.flow().state(), FlowState::Established);
        }
    }
}

/// SVC-26: a client that lost its memory reuses the port of an established connection. Its SYN and the
/// challenge ACK pass (RFC 9293 section 3.10.7.4), its reset ends the old one, its next SYN opens.
#[test]
fn svc26_a_syn_on_an_established_tuple_is_answered_by_its_backend() {
    let mut talk = Talk::new(Net::V4, Protocol::Tcp);
    talk.all(&OPEN);
    let backend = talk.backend();
    talk.all(&[(Client, SYN), (Server, ACK)]);
    assert_eq!(talk.flow().state(), FlowState::Established);
    assert_eq!(talk.backend(), backend);
    // Had it been a retransmission that was late, nothing would be broken.
    talk.all(&[(Client, ACK), (Server, ACK)]);
    talk.all(&[(Client, RST), (Client, SYN)]);
    assert_ne!(talk.backend(), backend);
    assert_eq!(talk.flow().state(), FlowState::SynSent);
}

/// SVC-27: who is never answered is looked up again and again, so it follows the tables although it
/// never falls silent; who is answered keeps its backend.
#[test]
fn svc27_a_one_way_sender_is_chosen_for_anew_and_an_answered_one_is_not() {
    for answered in [false, true] {
        let mut talk = Talk::new(Net::V4, Protocol::Udp);
        let mut backends = vec![];
        for _ in 0..100 {
            talk.all(&[(Client, 0)]);
            backends.push(talk.backend());
            if answered {
                talk.all(&[(Server, 0)]);
            }
            talk.now = talk.now + Duration::from_secs(1);
        }
        let changes = backends
            .windows(2)
            .filter(|pair| pair[0] != pair[1])
            .count();
        assert_eq!(changes, if answered { 0 } else { 3 }, "at 31, 62 and 93 s");
    }
}

#[test]
fn udp_is_one_way_until_it_is_answered() {
    let mut talk = Talk::new(Net::V6, Protocol::Udp);
    talk.all(&[(Client, 0), (Client, 0)]);
    assert_eq!(talk.flow().state(), FlowState::OneWay);
    talk.all(&[(Server, 0)]);
    assert_eq!(talk.flow().state(), FlowState::TwoWay);
    talk.now = talk.now + timeouts::UDP_TWO_WAY;
    talk.all(&[(Server, 0)]);
    talk.now = talk.now + timeouts::UDP_TWO_WAY + Duration::from_nanos(1);
    assert!(!talk.flow().valid(talk.now, &talk.tables));
}

proptest! {
    /// Whatever two ends send, a known flow is translated there and back (K-21), keeps its backend until a
    /// SYN finds it closed, and is established only if both ends have spoken.
    #[test]
    fn k21_any_exchange_keeps_one_flow_and_translates_it(
        segments in prop::collection::vec((any::<bool>(), 0u8..32), 1..60),
    ) {
        let mut talk = Talk::new(Net::V4, Protocol::Tcp);
        talk.all(&[(Client, SYN)]);
        let mut spoken = [true, false];
        for (client, flags) in segments {
            // PSH is not in the frames of these tests.
            let (end, flags) = (if client { Client } else { Server }, flags & !0x08);
            let (before, backend) = (talk.flow().clone(), talk.backend());
            if end == Server && flags == SYN && before.state().over() {
                continue; // A connection of its own, to the client.
            }
            talk.all(&[(end, flags)]);
            let after = talk.flow();
            spoken[usize::from(!client)] = true;
            prop_assert_eq!(talk.state.flows.len(), 1);
            if after.cookie() == before.cookie() {
                prop_assert_eq!(talk.backend(), backend);
            } else {
                prop_assert!(client && flags == SYN);
                prop_assert!(!before.state().opening() && before.state() != FlowState::Established);
                spoken = [true, false];
            }
            if !talk.flow().state().opening() && flags & RST == 0 {
                prop_assert!(spoken == [true, true] || talk.flow().state() == FlowState::Closed);
            }
        }
    }
}
