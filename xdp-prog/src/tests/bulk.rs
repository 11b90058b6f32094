//! Bulk TCP over the punt pair.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use crate::Counter;

use super::lab::*;
use super::support::{PodNamespace, monotonic_ns, node};

const BULK: usize = 4 << 20;

/// Sends [`BULK`] bytes over one connection.
fn bulk(client: &PodNamespace, server: &PodNamespace) {
    let listener = server.inside(|| TcpListener::bind((server.v4, 80)).unwrap());
    let mut client = client.inside(|| TcpStream::connect((server.v4, 80)).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || client.write_all(&vec![0x5a; BULK]).unwrap());
        let mut all = Vec::new();
        server.read_to_end(&mut all).unwrap();
        assert!(all.len() == BULK && all.iter().all(|byte| *byte == 0x5a));
    });
}

#[test]
fn bulk_tcp_arrives_in_segments_with_whole_checksums() {
    node(|node| {
        let (steering, a, b) = two_pods(node);
        let before = steering.counters().unwrap();
        let seen = with_worker(&steering, Way::Peer, &[&a, &b], || bulk(&a, &b));
        assert_eq!(seen.wrong_checksums, 0, "{seen:?}");
        assert!(seen.longest <= 1514, "{seen:?}");
        let counters = steering.counters().unwrap().since(&before);
        // A GSO packet counts as what the wire sees: the sum is exact. The connection's last packets
        // may come when the worker has closed its socket already.
        assert_eq!(
            counters[Counter::FromPodPunted],
            counters[Counter::XskRedirected] + counters[Counter::XskAbsent]
        );
        assert!(counters[Counter::XskAbsent] < 10);
        assert!(counters[Counter::FromPodPunted] as usize > BULK / 1460);
    });
}

/// The same where the worker has just died: whatever GRO does on the way, the sums are exact.
#[test]
fn bulk_tcp_survives_an_empty_socket_slot() {
    node(|node| {
        let (steering, a, b) = two_pods(node);
        steering.heartbeat(0).unwrap().beat(monotonic_ns());
        let before = steering.counters().unwrap();
        bulk(&a, &b);
        let counters = steering.counters().unwrap().since(&before);
        let punted = counters[Counter::FromPodPunted];
        assert!(punted as usize > BULK / 1460);
        for same in [
            Counter::XskAbsent,
            Counter::FailopenReingress,
            Counter::Reingressed,
        ] {
            assert_eq!(counters[same], punted, "{}", same.name());
        }
    });
}
