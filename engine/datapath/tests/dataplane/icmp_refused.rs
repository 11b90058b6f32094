//! ICMP errors that get no further (SVC-34, AMB-06).

use weft_datapath::*;

use crate::icmp::*;
use crate::support::icmp::{Message, port_unreachable, quote};
use crate::support::*;

/// AMB-06, SVC-34: a pod speaks of what it received and of nothing else.
#[test]
fn amb_06_svc_34_no_pod_speaks_of_anothers_flow() {
    for net in Net::BOTH {
        let spec = open(net, Protocol::Udp, ONE_BACKEND);
        let (tables, mut state, arrived) = flow(&spec);
        let header = port_unreachable(net);
        let forged = Verdict::Drop(DropReason::IcmpError);
        for (from, at, quoted, expected) in [
            // Another pod, as itself: about what the backend got, and about what the client sent.
            (net.pod(3), BACKEND_2, arrived, forged),
            (net.pod(3), BACKEND_2, spec.tuple, forged),
            // The backend about the VIP, which it never saw.
            (net.pod(2), BACKEND_1, spec.tuple, forged),
            // Another pod as the backend.
            (
                net.pod(2),
                BACKEND_2,
                arrived,
                Verdict::Drop(DropReason::SrcSpoof),
            ),
        ] {
            let message = Message::new(from, net.pod(1), header, quote(&packet_of(quoted)));
            let verdict = verdict(&tables, &mut state, &message, at, Hook::FromPod);
            assert_eq!(verdict, expected, "{from} about {quoted}");
        }
        // The client about its own direction, at its own veth: it receives no such packets.
        let message = Message::new(
            net.pod(1),
            net.vip(80),
            header,
            quote(&packet_of(spec.tuple)),
        );
        let verdict = verdict(&tables, &mut state, &message, CLIENT, Hook::FromPod);
        assert_eq!(verdict, forged);
        // A flow whose replies come by the kernel: not to be spoken of by the client itself.
        let spec = open(net, Protocol::Udp, BY_KERNEL);
        let (tables, mut state, arrived) = flow(&spec);
        let message = Message::new(net.pod(1), net.pod(1), header, quote(&packet_of(arrived)));
        let verdict = run(
            &mut message.punted(CLIENT, Hook::FromPod),
            START,
            &tables,
            &mut state,
        );
        assert_eq!(verdict, Verdict::Kernel(KernelReason::NotOurs));
    }
}

/// An error goes to the sender of what it quotes, and quotes headers that agree.
#[test]
fn svc_34_contradictions_are_one_named_drop() {
    for net in Net::BOTH {
        let spec = open(net, Protocol::Udp, ONE_BACKEND);
        let (tables, mut state, arrived) = flow(&spec);
        let header = port_unreachable(net);
        let whole = quote(&packet_of(arrived));
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut body = whole.clone();
            change(&mut body);
            Message::new(net.pod(2), net.pod(1), header, body)
        };
        let mut messages = vec![
            Message::new(net.pod(2), net.pod(3), header, whole.clone()),
            Message::new(net.pod(2), net.vip(80), header, whole.clone()),
            changed(&|body| body[0] = 0x75),
            changed(&|body| body.clear()),
        ];
        match net {
            Net::V4 => {
                messages.push(changed(&|body| body[0] = 0x44)); // A header of 16 bytes.
                messages.push(changed(&|body| body[0] = 0x4f)); // One of 60 bytes.
                messages.push(changed(&|body| body[2..4].copy_from_slice(&[0, 19])));
                messages.push(changed(&|body| body[2..4].copy_from_slice(&[0, 27])));
            }
            Net::V6 => {
                messages.push(changed(&|body| body[4..6].copy_from_slice(&[0, 7])));
                messages.push(changed(&|body| {
                    body[8..24].copy_from_slice(&v4(10, 0, 0, 1).0)
                }));
                messages.push(changed(&|body| (body[6], body[41]) = (60, 200)));
            }
        }
        for message in messages {
            let verdict = verdict(&tables, &mut state, &message, BACKEND_1, Hook::FromPod);
            assert_eq!(verdict, Verdict::Drop(DropReason::IcmpError), "{message:?}");
        }
    }
}

/// Redirects and source quench are no errors about a packet, and end at a VIP.
#[test]
fn svc_34_redirects_never_pass_a_vip() {
    for (net, kinds) in [(Net::V4, vec![4, 5]), (Net::V6, vec![0, 5, 127, 137])] {
        let spec = open(net, Protocol::Udp, ONE_BACKEND);
        let (tables, mut state, _) = flow(&spec);
        for kind in kinds {
            let body = quote(&packet_of(spec.tuple.reversed()));
            let message = Message::new(net.pod(1), net.vip(80), (kind, 0, [0; 4]), body);
            let verdict = verdict(&tables, &mut state, &message, CLIENT, Hook::FromPod);
            assert_eq!(verdict, Verdict::Drop(DropReason::VipProtocol), "{kind}");
        }
    }
}
