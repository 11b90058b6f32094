//! Two connections joined: a proxy, byte for byte.

use std::io::ErrorKind;
use std::time::Duration;

use weft_stack::*;

use crate::support::*;

/// A client, a proxy and a server on one wire: the proxy is `b` for the client, and `a` for the server.
struct Chain {
    client: Host,
    proxy: Host,
    server: Host,
    now: weft_datapath::Now,
}

const NET: (&str, &str, &str) = ("10.1.0.5", "10.96.0.10", "10.2.0.7");

impl Chain {
    fn new() -> Self {
        Self {
            client: Host::new(&config(1), small()),
            proxy: Host::new(&config(2), small()),
            server: Host::new(&config(3), small()),
            now: weft_datapath::Now::from_nanos(1_000_000_000),
        }
    }

    /// With buffers of the proxy's that begin small.
    fn growing() -> Self {
        let mut chain = Self::new();
        let options = &mut chain.proxy.listeners.0;
        options.first_buffer = 4 << 10;
        options.receive_buffer = 64 << 10;
        options.send_buffer = 64 << 10;
        chain
    }

    fn exchange(&mut self) {
        for _ in 0..10_000 {
            for host in [&mut self.client, &mut self.proxy, &mut self.server] {
                host.poll(self.now);
            }
            let mut moved = false;
            let [client, server] = [&mut self.client, &mut self.server];
            for frame in client
                .wire
                .frames
                .drain(..)
                .chain(server.wire.frames.drain(..))
            {
                moved = true;
                self.proxy.receive(frame, self.now).unwrap();
            }
            for frame in std::mem::take(&mut self.proxy.wire.frames) {
                moved = true;
                let tuple = packet::Tcp::read(&frame);
                let to = if tuple.dst.0 == address(NET.2) {
                    &mut self.server
                } else {
                    &mut self.client
                };
                to.receive(frame, self.now).unwrap();
            }
            if !moved {
                return;
            }
        }
        panic!("frames without end");
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now = self.now + Duration::from_millis(1);
            self.exchange();
        }
    }

    /// The client's stream, and the server's behind the proxy.
    fn open(&mut self) -> (Stream, Stream) {
        let net = Net {
            client: address(NET.0),
            server: address(NET.1),
        };
        let client = self.client.connect(&net, 40_000, self.now);
        self.exchange();
        // The client has spoken before there is anybody behind the proxy.
        write(&client, b"early ");
        self.exchange();
        let accepted = self.proxy.stack.accept().unwrap();
        let behind = Net {
            client: address("10.3.0.1"),
            server: address(NET.2),
        };
        let upstream = self.proxy.connect(&behind, 50_000, self.now);
        self.proxy.stack.splice(accepted.stream, upstream);
        self.exchange();
        let server = self.server.stack.accept().unwrap().stream;
        assert_eq!(read(&server).0, b"early ");
        (client, server)
    }
}

/// Sends `bytes` from one end to the other.
fn carry(chain: &mut Chain, from: &Stream, to: &Stream, bytes: &[u8]) {
    let (mut said, mut heard) = (0, Vec::new());
    for _ in 0..100_000 {
        said += write(from, &bytes[said..]);
        chain.exchange();
        heard.extend(read(to).0);
        chain.now = chain.now + Duration::from_micros(100);
        if heard.len() == bytes.len() {
            break;
        }
    }
    assert!(heard == bytes, "{} of {}", heard.len(), bytes.len());
}

/// Both ends send at once, and each gets what the other sends; a round every `pace`.
fn both_ways(
    chain: &mut Chain,
    [client, server]: [&Stream; 2],
    [up, down]: [&[u8]; 2],
    pace: Duration,
) {
    let (mut said, mut answered) = (0, 0);
    let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
    for _ in 0..10_000 {
        said += write(client, &up[said..]);
        answered += write(server, &down[answered..]);
        chain.exchange();
        at_server.extend(read(server).0);
        at_client.extend(read(client).0);
        chain.now = chain.now + pace;
        if (at_server.len(), at_client.len()) == (up.len(), down.len()) {
            break;
        }
    }
    assert!(at_server == up && at_client == down);
}

/// Buffers begin small and grow for a connection that moves data, in each direction by itself, whatever the other does.
#[test]
fn buffers_grow_with_what_they_carry() {
    let mut chain = Chain::growing();
    let (client, server) = chain.open();
    let sockets = |chain: &Chain| chain.proxy.event(Event::Woken);
    let before = sockets(&chain);
    carry(&mut chain, &client, &server, &pattern(10_000));
    assert_eq!(sockets(&chain), before, "little was moved");
    carry(&mut chain, &client, &server, &pattern(200_000));
    let up = sockets(&chain);
    assert!(
        (1..=2).contains(&(up - before)),
        "one end receives, the other sends: {}",
        up - before
    );
    carry(&mut chain, &server, &client, &pattern(200_000));
    let down = sockets(&chain);
    assert!((1..=2).contains(&(down - up)), "and back: {}", down - up);
    carry(&mut chain, &client, &server, &pattern(200_000));
    carry(&mut chain, &server, &client, &pattern(200_000));
    assert_eq!(sockets(&chain), down, "grown once and for all");
}

/// The last data of an answer may be what makes a buffer earn its growth, and the end come before that data is
/// acknowledged: it must get through all the same.
#[test]
fn an_end_that_meets_a_growing_buffer_is_passed_on() {
    for last in [1, 500, 1_000, 2_000, 3_000] {
        let mut chain = Chain::growing();
        let (client, server) = chain.open();
        shutdown(&client); // So the client's side is never idle again.
        chain.exchange();
        assert_eq!(read(&server), (vec![], true));
        let before = pattern(4 * (4 << 10) - last);
        carry(&mut chain, &server, &client, &before);
        // The last data, and then the end, while the client's acknowledgements are under way.
        assert_eq!(write(&server, &pattern(last)), last);
        for step in 0..2 {
            chain.server.poll(chain.now);
            for frame in std::mem::take(&mut chain.server.wire.frames) {
                chain.proxy.receive(frame, chain.now).unwrap();
            }
            chain.proxy.poll(chain.now);
            if step == 0 {
                shutdown(&server);
            }
        }
        let (mut heard, mut ended) = (Vec::new(), false);
        for _ in 0..100 {
            chain.exchange();
            let (data, end) = read(&client);
            heard.extend(data);
            ended |= end;
            chain.now = chain.now + Duration::from_millis(1);
        }
        assert!(
            heard == pattern(last) && ended,
            "{last}: {} heard, ended: {ended}",
            heard.len()
        );
    }
}

#[test]
fn buffers_grow_with_both_directions_busy() {
    let mut chain = Chain::growing();
    let (client, server) = chain.open();
    let (up, down) = (pattern(400_000), pattern(300_000));
    both_ways(
        &mut chain,
        [&client, &server],
        [&up, &down],
        Duration::from_micros(100),
    );
}

#[test]
fn env_03_bytes_pass_both_ways_and_halves_close_by_themselves() {
    let mut chain = Chain::new();
    let (client, server) = chain.open();
    let (up, down) = (pattern(100_000), pattern(150_000));
    both_ways(
        &mut chain,
        [&client, &server],
        [&up, &down],
        Duration::from_micros(200),
    );
    shutdown(&client);
    chain.exchange();
    assert_eq!(read(&server), (vec![], true), "the end is passed on");
    write(&server, b"one more thing");
    chain.exchange();
    assert_eq!(
        read(&client),
        (b"one more thing".to_vec(), false),
        "half-close is kept"
    );
    shutdown(&server);
    chain.exchange();
    assert_eq!(read(&client), (vec![], true));
    drop((client, server));
    chain.pass(Duration::from_millis(100));
    let left = chain.proxy.stack.holdings();
    assert_eq!((left.connections, left.sockets), (0, 0));
    assert_eq!(chain.proxy.event(Event::Closed), 2);
}

#[test]
fn a_slow_reader_slows_the_writer() {
    let mut chain = Chain::new();
    let (client, server) = chain.open();
    let data = pattern(500_000);
    let mut sent = 0;
    for _ in 0..100 {
        sent += write(&client, &data[sent..]);
        chain.pass(Duration::from_millis(5));
    }
    // Six buffers of 16 KiB lie between the two, four of them the proxy's.
    assert!(sent <= 7 * (16 << 10), "{sent}");
    let mut got = Vec::new();
    for _ in 0..10_000 {
        got.extend(read(&server).0);
        sent += write(&client, &data[sent..]);
        chain.pass(Duration::from_millis(1));
        if got.len() == data.len() {
            break;
        }
    }
    assert!(got == data);
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    for from_client in [true, false] {
        let mut chain = Chain::new();
        let (client, server) = chain.open();
        let (one, other) = if from_client {
            (client, server)
        } else {
            (server, client)
        };
        one.abort();
        chain.exchange();
        assert_eq!(read_error(&other), Some(ErrorKind::ConnectionReset));
        drop((one, other));
        chain.exchange();
        assert_eq!(chain.proxy.stack.holdings().connections, 0);
    }
}

#[test]
fn a_server_that_refuses_resets_the_client() {
    let mut chain = Chain::new();
    let net = Net {
        client: address(NET.0),
        server: address(NET.1),
    };
    let client = chain.client.connect(&net, 40_000, chain.now);
    chain.exchange();
    let accepted = chain.proxy.stack.accept().unwrap();
    let mut connect = net.connect(50_000);
    connect.remote = (address(NET.2), 81);
    let upstream = chain
        .proxy
        .stack
        .connect(&connect, &small(), chain.now)
        .unwrap();
    chain.proxy.stack.splice(accepted.stream, upstream);
    chain.exchange();
    assert_eq!(read_error(&client), Some(ErrorKind::ConnectionReset));
    assert_eq!(chain.proxy.stack.holdings().connections, 0);
}

#[test]
fn an_idle_proxy_holds_no_buffers() {
    let mut chain = Chain::new();
    let (client, server) = chain.open();
    chain.pass(Duration::from_secs(3));
    assert_eq!(chain.proxy.stack.holdings().sockets, 0);
    write(&client, b"awake?");
    chain.exchange();
    assert_eq!(read(&server).0, b"awake?");
    write(&server, b"yes");
    chain.exchange();
    assert_eq!(read(&client).0, b"yes");
}

#[test]
fn both_ends_gone_before_the_splice() {
    let mut chain = Chain::new();
    let net = Net {
        client: address(NET.0),
        server: address(NET.1),
    };
    let client = chain.client.connect(&net, 40_000, chain.now);
    chain.exchange();
    let accepted = chain.proxy.stack.accept().unwrap();
    client.abort();
    chain.exchange();
    let behind = Net {
        client: address("10.3.0.1"),
        server: address(NET.2),
    };
    let upstream = chain.proxy.connect(&behind, 50_000, chain.now);
    chain.proxy.stack.splice(accepted.stream, upstream);
    chain.pass(Duration::from_millis(10));
    assert_eq!(chain.proxy.stack.holdings().connections, 0);
}

/// Both directions at once over a path to the client that loses packets: every byte and both ends get through, whatever
/// was growing or being recovered meanwhile.
#[test]
fn both_ways_over_a_path_that_loses_packets() {
    for seed in 1..=60 {
        let mut chain = Chain::growing();
        let (client, server) = chain.open();
        let mut random = u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15);
        let mut lost = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random.is_multiple_of(50)
        };
        let (up, down) = (pattern(150_000), pattern(120_000));
        let (mut said, mut answered) = (0, 0);
        let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
        let (mut server_ended, mut client_ended) = (false, false);
        for _ in 0..60_000 {
            said += write(&client, &up[said..]);
            answered += write(&server, &down[answered..]);
            if said == up.len() {
                shutdown(&client);
            }
            if answered == down.len() {
                shutdown(&server);
            }
            for host in [&mut chain.client, &mut chain.proxy, &mut chain.server] {
                host.poll(chain.now);
            }
            for frame in std::mem::take(&mut chain.client.wire.frames) {
                if !lost() {
                    chain.proxy.receive(frame, chain.now).unwrap();
                }
            }
            for frame in std::mem::take(&mut chain.server.wire.frames) {
                chain.proxy.receive(frame, chain.now).unwrap();
            }
            for frame in std::mem::take(&mut chain.proxy.wire.frames) {
                if packet::Tcp::read(&frame).dst.0 == address(NET.2) {
                    chain.server.receive(frame, chain.now).unwrap();
                } else if !lost() {
                    chain.client.receive(frame, chain.now).unwrap();
                }
            }
            let (data, end) = read(&server);
            at_server.extend(data);
            server_ended |= end;
            let (data, end) = read(&client);
            at_client.extend(data);
            client_ended |= end;
            if server_ended && client_ended {
                break;
            }
            chain.now = chain.now + Duration::from_micros(500);
        }
        assert!(
            at_server == up && at_client == down,
            "{seed}: {} and {}",
            at_server.len(),
            at_client.len()
        );
        assert!(
            server_ended && client_ended,
            "{seed}: {server_ended} {client_ended}"
        );
    }
}

/// A client that has said its end and acknowledges several segments at a time: the server's end gets through wherever in
/// the data such an acknowledgement meets it.
#[test]
fn an_end_behind_acknowledgements_of_bursts_is_passed_on() {
    for len in (15_000..40_000).step_by(331) {
        let mut chain = Chain::new();
        let (client, server) = chain.open();
        shutdown(&client);
        chain.pass(Duration::from_millis(10));
        let said = pattern(len);
        let (mut answered, mut heard, mut ended) = (0, Vec::new(), false);
        let mut to_client = Vec::new();
        for _ in 0..2_000 {
            // All that the proxy has room for is there before the client says anything.
            for _ in 0..50 {
                answered += write(&server, &said[answered..]);
                if answered == said.len() {
                    shutdown(&server);
                }
                chain.server.poll(chain.now);
                for frame in std::mem::take(&mut chain.server.wire.frames) {
                    chain.proxy.receive(frame, chain.now).unwrap();
                }
                chain.proxy.poll(chain.now);
                for frame in std::mem::take(&mut chain.proxy.wire.frames) {
                    if packet::Tcp::read(&frame).dst.0 == address(NET.2) {
                        chain.server.receive(frame, chain.now).unwrap();
                    } else {
                        to_client.push(frame);
                    }
                }
            }
            for frame in to_client.drain(..) {
                chain.client.receive(frame, chain.now).unwrap();
            }
            chain.client.poll(chain.now);
            if let Some(frame) = std::mem::take(&mut chain.client.wire.frames).pop_back() {
                chain.proxy.receive(frame, chain.now).unwrap();
            }
            let (data, end) = read(&client);
            heard.extend(data);
            ended |= end;
            if ended {
                break;
            }
            chain.now = chain.now + Duration::from_micros(500);
        }
        assert!(heard == said && ended, "{len}: {} {ended}", heard.len());
    }
}
