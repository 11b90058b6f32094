//! Packets and fragments that rows stand for.

use weft_datapath::steering::{Destination, Row};
use weft_datapath::{Address, Checksum, Hook, Protocol};

use super::{Frames, spec};
use crate::support::fragments::cut;
use crate::support::icmp::{Message, port_unreachable, quote};
use crate::support::*;

pub fn link_local(net: Net) -> Address {
    match net {
        Net::V4 => v4(169, 254, 1, 1),
        Net::V6 => "ff02::fb".parse().unwrap(),
    }
}

/// The fragment of the packet that a row is about. What opened its flow, and for a later fragment also the first
/// one, comes before if the flow is to be `ours`.
pub fn fragment(row: &Row, ours: bool, (mut before, frame): Frames) -> Frames {
    let mut payload = frame;
    let at = if payload[12] == 0x08 { 16 } else { 18 };
    let len = u16::from_be_bytes([payload[at], payload[at + 1]]) + 64;
    payload[at..at + 2].copy_from_slice(&len.to_be_bytes());
    payload.extend([0; 64]);
    let mut pieces = cut(&payload, 1, 48).into_iter();
    let (first, later) = (pieces.next().unwrap(), pieces.next().unwrap());
    before.truncate(if ours { before.len() } else { 0 });
    match row.destination {
        Destination::VipFirstFragment
        | Destination::StageFirstFragment
        | Destination::EnrolledPodFirstFragment => (before, first),
        _ => {
            before.extend(ours.then_some(first));
            (before, later)
        }
    }
}

/// A routing header with segments left, and destination options of more bytes than are followed.
pub fn unfollowed(frame: Vec<u8>) -> Vec<Frames> {
    let undone = extended(frame.clone(), &[(43, &[0, 1, 0, 0, 0, 0])]);
    let long = extended(frame, &[(60, &[0; 262])]);
    vec![(vec![], undone), (vec![], long)]
}

/// Port unreachable from one end of a flow to the other, about what that end sent.
pub fn error(from: (Address, u16), to: (Address, u16), proto: Protocol) -> Message {
    let net = if from.0.is_v4() { Net::V4 } else { Net::V6 };
    let quoted = quote(&spec(proto, ACK, to, from));
    Message::new(from.0, to.0, port_unreachable(net), quoted)
}

pub fn echo(net: Net, to: Address) -> Message {
    let number = if net == Net::V4 { 8 } else { 128 };
    Message::new(net.pod(1), to, (number, 0, [0, 1, 0, 1]), b"ping".to_vec())
}

/// An echo reply, a redirect, and a type that nobody has defined.
pub fn other_icmp(net: Net) -> Vec<Frames> {
    let types = if net == Net::V4 {
        [0, 5, 200]
    } else {
        [129, 137, 200]
    };
    let frames = types.map(|number| {
        let mut message = echo(net, net.vip(80));
        message.header.0 = number;
        (vec![], message.punted(CLIENT, Hook::FromPod))
    });
    frames.into()
}

pub fn plain_icmp(message: Message) -> Vec<Frames> {
    vec![(vec![], message.punted(CLIENT, Hook::FromPod))]
}

/// SCTP, GRE, and ICMP of the other family.
pub fn other_protocols(net: Net, frame: Vec<u8>) -> Vec<Frames> {
    let change = |number: u8| {
        let mut frame = frame.clone();
        match net {
            Net::V4 => {
                frame[23] = number;
                frame[24..26].fill(0);
                let sum = Checksum::default().with(&frame[14..34]).finish();
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            Net::V6 => frame[20] = number,
        }
        (vec![], frame)
    };
    let icmp = if net == Net::V4 { 58 } else { 1 };
    vec![change(icmp), change(132), change(47)]
}
