//! Which worker owns a flow, where two of them have something to say about it.

use std::time::Duration;

use weft_datapath::{Egress, FlowKey, Now, Protocol, Tuple, source_hash, timeouts};

use super::super::testing::{BACKEND, Bench, CLIENT, VIP, bench};
use super::wire::{Payload, Sent, Steering, packet, v4};
use super::{at, balanced};

const WORKERS: u16 = 2;
const TARGET: u16 = 7000;

/// Workers, and hooks that steer by their owner entries.
struct Node {
    bench: Bench,
    steering: Steering,
}

impl Node {
    /// A datagram from a pod, as its hook steers it: the worker, where it came out, and as what.
    fn send(&mut self, ifindex: u32, tuple: Tuple, now: Now) -> (u16, Egress, Tuple) {
        let target = self.steering.target(&FlowKey { tuple, ifindex }) % WORKERS;
        let sent = Sent {
            ifindex,
            tuple,
            flags: 0,
            payload: Payload::default(),
        };
        let worker = &mut self.bench.workers[usize::from(target)];
        assert!(worker.io_mut().push(&sent.punted(target)));
        worker.step(now);
        let out = worker.io_mut().take_sent();
        assert_eq!(out.len(), 1);
        self.steering.apply(&self.bench.pins);
        let egress = Egress::decode(out[0][6..12].try_into().unwrap()).unwrap();
        (target, egress, *packet(&out[0]).unwrap().tuple())
    }
}

fn udp(src: (std::net::Ipv4Addr, u16), dst: (std::net::Ipv4Addr, u16)) -> Tuple {
    Tuple {
        src: v4(src.0),
        dst: v4(dst.0),
        sport: src.1,
        dport: dst.1,
        proto: Protocol::Udp,
    }
}

/// A backend answers so late that its datagram opens a direct flow, on the worker that its own address hashes to. The
/// client asks again, which another worker serves. When the direct flow is forgotten, the entry
/// that both have written stays the other's: replies go on to come from the VIP.
#[test]
fn svc_27_a_late_reply_that_is_forgotten_takes_no_entry_of_a_living_flow() {
    let server_side = source_hash(&v4(BACKEND.0), TARGET, Protocol::Udp) % WORKERS;
    let client_side = |port: &u16| source_hash(&v4(CLIENT.0), *port, Protocol::Udp) % WORKERS;
    let port = (5000..6000).find(|port| client_side(port) != server_side);
    let client = (CLIENT.0, port.unwrap());
    let (server, vip) = ((BACKEND.0, TARGET), (*VIP.ip(), VIP.port()));
    let mut node = Node {
        bench: bench(WORKERS, 64, 32),
        steering: Steering::default(),
    };
    let late = node.send(BACKEND.1, udp(server, client), at(0));
    assert_eq!(
        late,
        (server_side, Egress::peer(CLIENT.1), udp(server, client))
    );

    let translated = |worker| (worker, Egress::peer(CLIENT.1), udp(vip, client));
    let talk = |node: &mut Node, now| {
        let (worker, ..) = node.send(CLIENT.1, udp(client, vip), now);
        assert_ne!(worker, server_side);
        let back = node.send(BACKEND.1, udp(server, client), now);
        assert_eq!(back, translated(worker), "{now:?}");
    };
    talk(&mut node, at(10));
    assert_eq!(
        node.steering.raced, 1,
        "two workers have a flow with this key"
    );
    // The direct flow is over, and its worker forgets it.
    let over = at(10) + timeouts::UDP_ONE_WAY;
    talk(&mut node, over);
    let forgetful = &mut node.bench.workers[usize::from(server_side)];
    forgetful.step(over);
    assert_eq!(forgetful.shared().read().flows, 0);
    node.steering.apply(&node.bench.pins);
    for round in 1..5 {
        talk(&mut node, over + Duration::from_secs(round));
    }
    assert_eq!(node.steering.lost, 1);
    balanced(&mut node.bench);
}
