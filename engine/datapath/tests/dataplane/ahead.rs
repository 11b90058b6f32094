//! A look ahead over a burst reads and decides nothing, whatever the burst is.

use proptest::prelude::*;
use weft_datapath::*;

use crate::support::fragments::piece;
use crate::support::*;

/// A frame of a burst: well formed or not, of a flow, a fragment of one, or of somebody else.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let packet = (0..6usize, 0..4u16, any::<bool>(), any::<bool>());
    let damage = prop::option::of((any::<prop::sample::Index>(), any::<u8>()));
    let cut = prop::option::of(any::<prop::sample::Index>());
    (packet, damage, cut).prop_map(|((what, sport, v6, stray), damage, cut)| {
        let net = if v6 { Net::V6 } else { Net::V4 };
        let (client, vip, sport) = (net.pod(1), net.vip(80), 40000 + sport);
        let spec = match what {
            0 => Spec::tcp(client, sport, vip, SERVED, SYN),
            1 => Spec::tcp(client, sport, vip, SERVED, ACK),
            2 => Spec::udp(client, sport, vip, BY_KERNEL),
            3 => Spec::udp(client, sport, vip, 9),
            4 => Spec::tcp(client, sport, net.pod(2), 8080, SYN),
            _ => Spec::udp(client, sport, vip, SERVED).payload(&[7; 64]),
        };
        let mut frame = spec.punted(CLIENT, Hook::FromPod);
        if what == 5 {
            frame = piece(&frame, u32::from(sport), 0, 32);
        }
        if stray {
            let of = Ingress {
                ifindex: CLIENT,
                hook: Hook::FromPod,
                target: 1,
            };
            frame[6..12].copy_from_slice(&of.encode());
        }
        if let Some((at, value)) = damage {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        if let Some(at) = cut {
            frame.truncate(at.index(frame.len() + 1));
        }
        frame
    })
}

/// Decides without a look of its own.
fn decide(frame: &mut Vec<u8>, tables: &Tables, state: &mut State) -> Verdict {
    let mut memory = [0; 2048];
    memory[..frame.len()].copy_from_slice(frame);
    let mut buf = FrameBuf::new(&mut memory, frame.len());
    let verdict = process(&mut buf, START, tables, state);
    *frame = buf.bytes().to_vec();
    verdict
}

proptest! {
    /// With and without it, every verdict and every byte is the same, and nothing of one burst is left for the next.
    #[test]
    fn a_look_ahead_changes_nothing(bursts in prop::collection::vec(prop::collection::vec(frame(), 0..80), 1..6), several: bool) {
        let tables = settled();
        let workers = if several { 2 } else { 1 };
        let mut worlds = [state(workers), state(workers)];
        let mut ahead = LookAhead::default();
        for mut burst in bursts {
            for frame in &burst {
                ahead.note(frame, &worlds[0]);
            }
            ahead.fetch(&tables, &worlds[0]);
            for frame in &mut burst {
                let mut other = frame.clone();
                let verdict = decide(frame, &tables, &mut worlds[0]);
                prop_assert_eq!(verdict, decide(&mut other, &tables, &mut worlds[1]));
                prop_assert_eq!(&*frame, &other);
            }
            for state in &mut worlds {
                state.pin_ops.clear();
            }
        }
        prop_assert_eq!(worlds[0].flows.len(), worlds[1].flows.len());
    }
}
