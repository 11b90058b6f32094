//! What must hold of every verdict.

use weft_datapath::*;

use super::*;
use crate::frames::residues;
use crate::outer::{Inner, L3, unwrapped};

impl Node {
    /// What the verdict says of the frame is true of it.
    pub(super) fn judge(&mut self, before: &[u8], after: &[u8], verdict: Verdict) {
        let source = before.get(6..12).map(|mac| mac.try_into().unwrap());
        let Some(uplink) = source.as_ref().and_then(Uplink::decode) else {
            let ingress = source.as_ref().and_then(Ingress::decode);
            let Some(ingress) = ingress.filter(|_| before.len() >= L3) else {
                assert!(matches!(verdict, Verdict::Drop(_)));
                return assert_eq!(before, after);
            };
            return self.judge_packet(before, after, verdict, ingress);
        };
        let owner = uplink.target % self.workers;
        if owner != 0 {
            assert_eq!((verdict, before), (Verdict::HandOver(owner), after));
            return;
        }
        let Some((peer, inner)) = self.acceptable(before) else {
            let Verdict::Drop(reason) = verdict else {
                panic!("{verdict:?} of what is not right");
            };
            assert!(of_tunnels(reason), "{reason:?}");
            return assert_eq!(before, after, "{reason:?} must leave the bytes alone");
        };
        let ingress = Ingress {
            ifindex: tunnel(peer),
            hook: Hook::FromPod,
            target: uplink.target,
        };
        let mut frame = inner.frame(ingress.encode());
        if inner.packet[0] >> 4 != if inner.ethertype == 0x0800 { 4 } else { 6 } {
            return assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?}");
        }
        let Some(ecn) = inner.carried_ecn() else {
            assert_eq!(
                (verdict, before),
                (Verdict::Drop(DropReason::TunnelEcn), after)
            );
            return;
        };
        if ecn != inner.inner_ecn() {
            carry(&mut frame, ecn);
        }
        if verdict == Verdict::Deliver {
            self.judge_name(&frame, &inner, ingress.ifindex);
        }
        self.judge_packet(&frame, after, verdict, ingress);
    }

    /// The peer, and what is inside, if a node must take it: from the peer, to this node, and from one of the peer's own to
    /// a pod here.
    fn acceptable(&self, frame: &[u8]) -> Option<(usize, Inner)> {
        let inner = unwrapped(frame, &self.joint)?;
        let outer = self.joint.outer;
        let peer = (0..PEERS).find(|peer| peer_address(outer, *peer) == inner.from)?;
        let [src, dst] = inner.ends()?;
        let own = self.home(&src) == Some(Home::Peer(peer)) || src == peer_address(outer, peer);
        let here = matches!(self.home(&dst), Some(Home::Here(_)));
        (inner.to == underlay(outer, 1) && own && here).then_some((peer, inner))
    }

    fn judge_packet(&mut self, before: &[u8], after: &[u8], verdict: Verdict, ingress: Ingress) {
        let from_peer = (0..PEERS).find(|peer| tunnel(*peer) == ingress.ifindex);
        match verdict {
            Verdict::Deliver => self.delivered(before, after, ingress, from_peer),
            Verdict::Reply => self.replied(before, after, ingress, from_peer),
            Verdict::Kernel(_) => {
                assert_eq!(from_peer, None, "nothing of a peer's is the kernel's");
                assert_eq!(before[12..], after[12..], "as if never touched");
            }
            Verdict::Terminate(claim) => panic!("nothing ends here: {claim:?}"),
            Verdict::HandOver(owner) => {
                assert!(owner < self.workers);
                assert_eq!(but_for_segments(before), but_for_segments(after));
            }
            // All there but for the outer headers, when it turns out that nothing leads there.
            Verdict::Drop(DropReason::NoRoute) if self.linked != [true; PEERS] => {}
            Verdict::Hold | Verdict::Drop(_) => {
                let (before, after) = (but_for_segments(before), but_for_segments(after));
                assert_eq!(before, after, "{verdict:?} must leave the bytes alone");
            }
        }
    }

    /// What was delivered as its receiver has it, and who that is: outer headers are right, and off.
    fn received(&self, after: &[u8]) -> (Vec<u8>, Home) {
        let egress = Egress::decode(after[6..12].try_into().unwrap()).expect("an injected frame");
        assert_eq!(after[..6], WEFT0);
        match egress.inject {
            Inject::Peer => {
                assert!(VETHS.contains(&egress.ifindex), "{egress:?}");
                (after.to_vec(), Home::Here(egress.ifindex))
            }
            Inject::Neighbour => {
                assert_eq!(egress.ifindex, UPLINK);
                sound(after);
                let inner = unwrapped(after, &self.joint).expect("outer headers are right");
                let outer = self.joint.outer;
                assert_eq!(inner.from, underlay(outer, 1));
                let peer = (0..PEERS).find(|peer| peer_address(outer, *peer) == inner.to);
                let peer = peer.expect("to a peer");
                assert!(self.linked[peer], "no way there");
                assert_eq!(inner.udp_sum, outer == Net::V6 || self.joint.checksum);
                assert_eq!(inner.ecn, inner.inner_ecn(), "RFC 6040, normal mode");
                let longest = usize::from(self.joint.mtu) - inner.options;
                assert!(
                    inner.packet.len() <= longest,
                    "too long for the way: {inner:?}"
                );
                if inner.client.is_some() {
                    assert_eq!(inner.client, self.named(&inner), "the client is named");
                }
                (inner.frame([0; 6]), Home::Peer(peer))
            }
            Inject::Reingress => panic!("there is nothing behind the kernel"),
        }
    }

    /// The name of the pod here that has sent it.
    fn named(&self, inner: &Inner) -> Option<String> {
        let src = inner.ends()?[0];
        let is = |nth: &usize| {
            Net::BOTH
                .map(|net| host(net, 1, HOSTS[*nth]))
                .contains(&src)
        };
        (0..VETHS.len()).find(is).map(pod_name)
    }

    /// A flow that a peer's packet has just opened has the name that came with it.
    fn judge_name(&self, frame: &[u8], inner: &Inner, tunnel: u32) {
        let Ok(Parsed::Flow(packet)) = parse(frame) else {
            return;
        };
        let key = FlowKey {
            tuple: *packet.tuple(),
            ifindex: tunnel,
        };
        let found = self.state.flows.find(&key);
        let opened = found.filter(|(_, direction)| *direction == Direction::Forward);
        if let Some(flow) = opened.and_then(|(id, _)| self.state.flows.at(id))
            && flow.packets() == [1, 0]
        {
            let id = flow.said().client;
            let name = id.and_then(|id| self.state.client_names.name(id));
            assert_eq!(name, inner.client);
        }
    }

    fn delivered(
        &mut self,
        before: &[u8],
        after: &[u8],
        ingress: Ingress,
        from_peer: Option<usize>,
    ) {
        let (got, receiver) = self.received(after);
        assert!(from_peer.is_none() || matches!(receiver, Home::Here(_)));
        assert!(parse(&got).is_ok(), "what is delivered still parses");
        let (mut sums, sums_after) = (residues(before), residues(&got));
        // Of what was too long the first fragment has gone.
        let cut = self.state.has_rest();
        if cut {
            sums[1] = None;
        }
        assert_eq!(sums, sums_after, "right stays right, wrong stays as wrong");
        let [src, dst] = Inner::of(before).ends().expect("two ends");
        let [src_after, dst_after] = Inner::of(&got).ends().expect("two ends");
        let sender = match from_peer {
            Some(peer) => Home::Peer(peer),
            None => Home::Here(ingress.ifindex),
        };
        let itself = from_peer.is_some_and(|peer| src == peer_address(self.joint.outer, peer));
        assert!(
            itself || self.home(&src) == Some(sender),
            "AMB-06: {src} is not {sender:?}'s"
        );
        let to_itself = match receiver {
            Home::Peer(peer) => dst_after == peer_address(self.joint.outer, peer),
            Home::Here(_) => false,
        };
        assert!(
            to_itself || self.home(&dst_after) == Some(receiver),
            "{dst_after} is not {receiver:?}'s"
        );
        if from_peer.is_some() {
            assert_eq!(dst_after, dst, "a peer asks for pods, and for nothing else");
        }
        let hops = |frame: &[u8]| match frame[L3] >> 4 {
            4 => frame[L3 + 8],
            _ => frame[L3 + 7],
        };
        assert_eq!(hops(&got), hops(before) - 1, "who forwards counts the hop");
        let (Ok(Parsed::Flow(sent)), Ok(Parsed::Flow(passed))) = (parse(before), parse(&got))
        else {
            if (src, dst) == (src_after, dst_after) && !matches!(parse(before), Ok(Parsed::Icmp(_)))
            {
                let be16 = |at: usize| {
                    usize::from(before[L3 + at]) << 8 | usize::from(before[L3 + at + 1])
                };
                let (header, length) = match before[L3] >> 4 {
                    4 => (20, be16(2)),
                    _ => (40, 40 + be16(4)),
                };
                let (a, b) = (but_for_segments(before), but_for_segments(&got));
                let start = L3 - 12;
                // Padding does not travel far.
                let end = if cut { b.len() } else { start + length };
                let rest = start + header..end;
                assert_eq!(a[rest.clone()], b[rest], "nothing of it was Weft's");
            }
            return;
        };
        let (sent, passed) = (sent.tuple(), passed.tuple());
        let vips =
            [&sent.dst, &passed.src].map(|end| *end == Net::V4.vip(80) || *end == Net::V6.vip(80));
        if vips == [false; 2] {
            // But for another source port, where two flows would look the same.
            let (mut back, mut forth) = (*passed, *passed);
            (back.dport, forth.sport) = (sent.dport, sent.sport);
            assert!(sent == &back || sent == &forth, "{sent} became {passed}");
        }
        let (a, b) = (but_for_segments(before), but_for_segments(&got));
        let ports = packet(before).l4() + 4 - 12..;
        let changed = a[ports.clone()].iter().zip(&b[ports]);
        let changed = changed.filter(|(a, b)| a != b).count();
        assert!(changed <= 2, "nothing but the checksum behind the ports");
        let answer = sent.reversed();
        let answers = from_peer.is_none_or(|peer| self.linked[peer]);
        self.last = Some(Passed {
            frame: got,
            receiver,
            expected: answers.then_some((sender, answer)),
        });
    }

    /// Our own answer: sound, to the sender, from whom it asked or from the node.
    fn replied(&self, before: &[u8], after: &[u8], ingress: Ingress, from_peer: Option<usize>) {
        let (got, receiver) = self.received(after);
        let sender = match from_peer {
            Some(peer) => Home::Peer(peer),
            None => Home::Here(ingress.ifindex),
        };
        assert_eq!(receiver, sender);
        let [src, dst] = Inner::of(before).ends().expect("two ends");
        let [from, to] = Inner::of(&got).ends().expect("two ends");
        let node = Net::BOTH.map(|net| underlay(net, 1));
        assert!(to == src && (from == dst || node.contains(&from)));
        sound(&got);
    }
}

/// Sets the congestion bits of a frame's packet, and the checksum as far from right as it was.
fn carry(frame: &mut [u8], ecn: u8) {
    if frame[L3] >> 4 == 6 {
        frame[L3 + 1] = frame[L3 + 1] & 0xcf | ecn << 4;
        return;
    }
    let before = u16::from_be_bytes([frame[L3], frame[L3 + 1]]);
    frame[L3 + 1] = frame[L3 + 1] & 0xfc | ecn;
    let after = u16::from_be_bytes([frame[L3], frame[L3 + 1]]);
    // RFC 1624, equation 3.
    let sum = u16::from_be_bytes([frame[L3 + 10], frame[L3 + 11]]);
    let sum = !crate::frames::fold(u64::from(!sum) + u64::from(!before) + u64::from(after));
    frame[L3 + 10..L3 + 12].copy_from_slice(&sum.to_be_bytes());
}

/// The frame behind its MACs, without what the clamp of a SYN changes.
fn but_for_segments(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame[12..].to_vec();
    let at = 2;
    let (tcp, l4) = match frame.get(at).map_or(0, |first| first >> 4) {
        4 => (
            frame.get(at + 9) == Some(&6),
            at + usize::from(frame[at] & 15) * 4,
        ),
        _ => (frame.get(at + 6) == Some(&6), at + 40),
    };
    let Some(segment) = frame
        .get_mut(l4..)
        .filter(|segment| tcp && segment.len() >= 20)
    else {
        return frame;
    };
    if segment[13] & SYN != 0 {
        let header = usize::from(segment[12] >> 4) * 4;
        segment[16..18].fill(0);
        let end = header.min(segment.len());
        segment[20.min(end)..end].fill(0);
    }
    frame
}

/// Whether the reason is one of those that a wrapped packet itself gives.
fn of_tunnels(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::TunnelHeader
            | DropReason::TunnelChecksum
            | DropReason::TunnelPeer
            | DropReason::TunnelVersion
            | DropReason::TunnelVni
            | DropReason::TunnelPayload
            | DropReason::GeneveOam
            | DropReason::GeneveOptions
            | DropReason::GeneveCriticalOption
            | DropReason::SrcSpoof
            | DropReason::NoRoute
            | DropReason::TunnelEcn
    )
}
