//! Packets in pieces, and in one piece again.

use weft_datapath::Checksum;

use super::{Net, Spec, sound};

const IP: usize = 14;

fn is_v4(frame: &[u8]) -> bool {
    frame[12..14] == [0x08, 0x00]
}

fn seal(frame: &mut [u8]) {
    frame[IP + 10..IP + 12].fill(0);
    let sum = Checksum::default().with(&frame[IP..IP + 20]).finish();
    frame[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
}

/// One fragment of the packet in `frame` (without options or extension headers): `payload[from..to]` of what
/// follows its IP header.
pub fn piece(frame: &[u8], id: u32, from: usize, to: usize) -> Vec<u8> {
    let header = if is_v4(frame) { 20 } else { 40 };
    let payload = &frame[IP + header..];
    let more = u16::from(to < payload.len());
    let mut piece = frame[..IP + header].to_vec();
    if is_v4(frame) {
        piece[IP + 2..IP + 4].copy_from_slice(&((header + to - from) as u16).to_be_bytes());
        piece[IP + 4..IP + 6].copy_from_slice(&(id as u16).to_be_bytes());
        let field = (from / 8) as u16 | more << 13;
        piece[IP + 6..IP + 8].copy_from_slice(&field.to_be_bytes());
        seal(&mut piece);
    } else {
        piece[IP + 4..IP + 6].copy_from_slice(&((8 + to - from) as u16).to_be_bytes());
        let next = std::mem::replace(&mut piece[IP + 6], 44);
        piece.extend([next, 0]);
        piece.extend((from as u16 | more).to_be_bytes());
        piece.extend(id.to_be_bytes());
    }
    piece.extend(&payload[from..to]);
    piece
}

/// All fragments of a packet, in order, of at most `size` bytes of payload, a multiple of 8.
pub fn cut(frame: &[u8], id: u32, size: usize) -> Vec<Vec<u8>> {
    let len = frame.len() - IP - if is_v4(frame) { 20 } else { 40 };
    (0..len)
        .step_by(size)
        .map(|from| piece(frame, id, from, len.min(from + size)))
        .collect()
}

/// The packet of these fragments, which may come in any order and twice, but must have all of it. Its
/// lengths and checksums are those of the first fragment, so that `sound` sees what a receiver would.
pub fn whole(pieces: &[Vec<u8>]) -> Vec<u8> {
    let header = if is_v4(&pieces[0]) { 20 } else { 40 };
    let mut payload: Vec<u8> = Vec::new();
    let mut parts: Vec<(usize, &[u8])> = pieces
        .iter()
        .map(|piece| {
            let ip = &piece[IP..];
            if header == 20 {
                let sum = Checksum::default().with(&ip[..20]).finish();
                assert_eq!(sum, 0, "header checksum of a fragment");
                let field = u16::from_be_bytes([ip[6], ip[7]]);
                (usize::from(field & 0x1fff) * 8, &ip[20..])
            } else {
                assert_eq!(ip[6], 44);
                let field = u16::from_be_bytes([ip[42], ip[43]]);
                (usize::from(field & 0xfff8), &ip[48..])
            }
        })
        .collect();
    parts.sort();
    parts.dedup();
    for (offset, bytes) in parts {
        assert_eq!(payload.len(), offset, "a gap");
        payload.extend(bytes);
    }
    let first = pieces.iter().min_by_key(|piece| {
        let at = if header == 20 { 20 } else { 56 };
        u16::from_be_bytes([piece[at], piece[at + 1]]) & if header == 20 { 0x1fff } else { 0xfff8 }
    });
    let mut frame = first.unwrap()[..IP + header].to_vec();
    let len = payload.len() as u16;
    if header == 20 {
        frame[IP + 2..IP + 4].copy_from_slice(&(20 + len).to_be_bytes());
        frame[IP + 6..IP + 8].fill(0);
        seal(&mut frame);
    } else {
        frame[IP + 4..IP + 6].copy_from_slice(&len.to_be_bytes());
        frame[IP + 6] = first.unwrap()[IP + 40];
    }
    frame.extend(payload);
    sound(&frame);
    frame
}

/// A datagram of `len` bytes of text that differs from place to place.
pub fn text(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 % 251) as u8).collect()
}

/// A question of `len` bytes from the client's port to a port of the VIP.
pub fn question(net: Net, sport: u16, port: u16, len: usize) -> Spec {
    Spec::udp(net.pod(1), sport, net.vip(80), port).payload(&text(len))
}
