use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// A server that answers each request after a pause, in pieces.
fn server(pause: Duration) -> SocketAddr {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let to = listener.local_addr().unwrap();
    let serve = move |mut stream: TcpStream| {
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            let last = String::from_utf8_lossy(&buffer[..length]).contains("close");
            thread::sleep(pause);
            for piece in ["HTTP/1.1 200 OK\r\nContent-", "Length: 3\r\n\r\na", "bc"] {
                stream.write_all(piece.as_bytes()).unwrap();
                thread::yield_now();
            }
            if last {
                return;
            }
        }
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    to
}

fn plan(to: SocketAddr) -> Plan {
    Plan {
        to,
        path: "/".into(),
        connections: 4,
        once: false,
        rate: None,
        time: Duration::from_millis(200),
    }
}

#[test]
fn as_many_are_asked_as_are_answered() {
    for once in [false, true] {
        let plan = Plan {
            once,
            ..plan(server(Duration::ZERO))
        };
        let found = run(&plan).unwrap();
        assert_eq!(found.failed, 0);
        assert!(found.count > 4 && found.p50 <= found.p999, "{found:?}");
    }
}

#[test]
fn at_a_given_rate_a_server_that_stands_still_is_late_for_all_it_should_have_answered() {
    // Four connections, each answered every 20 ms: 200 a second, of 1,000 that are due.
    let plan = Plan {
        rate: Some(1000.0),
        ..plan(server(Duration::from_millis(20)))
    };
    let found = run(&plan).unwrap();
    assert_eq!((found.count, found.failed), (200, 0));
    assert!(found.p50 > 300_000.0, "{found:?}");
}
