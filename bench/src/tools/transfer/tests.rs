use super::server::accept;
use super::*;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(5);
/// Long against the time that a busy machine may keep a sender from its processor: of that, the sender waits for less.
const PAUSE: Duration = Duration::from_secs(1);

fn server() -> SocketAddr {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let to = listener.local_addr().unwrap();
    std::thread::spawn(move || accept(&listener, LIMIT));
    to
}

fn plan(mode: Mode) -> Plan {
    Plan {
        to: server(),
        mode,
        bytes: 4_000_001,
        count: 100,
        pause: PAUSE,
        limit: LIMIT,
        seed: 77,
    }
}

#[test]
fn every_mode_works_over_loopback() {
    for mode in Mode::ALL {
        let plan = plan(mode);
        let found = run(plan).unwrap_or_else(|error| panic!("{mode:?}: {error:#}"));
        let bytes = match mode {
            Mode::Both | Mode::HalfClose => 2 * plan.bytes,
            Mode::Ping => 100,
            Mode::Connections => 6400,
            Mode::Abort | Mode::Aborted => found.bytes.min(2 * plan.bytes - 1),
            _ => plan.bytes,
        };
        assert_eq!(found.bytes, bytes, "{mode:?}");
        let stalls = matches!(mode, Mode::StallUpload | Mode::StallDownload);
        let long = PAUSE.as_secs_f64() * 1e3 * 2.0 / 3.0;
        assert_eq!(found.sender_stall >= long, stalls, "{found:?}");
        let told = matches!(mode, Mode::Abort | Mode::Aborted);
        assert_eq!(found.notice.is_some(), told, "{found:?}");
        let id = clap::ValueEnum::to_possible_value(&mode).unwrap();
        assert_eq!(id.get_name(), mode.id());
    }
}

#[test]
fn a_clean_end_in_the_middle_is_an_error() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let to = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        order::Order::receive(&mut stream).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // The client's bytes are taken to the end, so that no reset hides the end.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let error = run(Plan {
        to,
        bytes: 1000,
        ..plan(Mode::Aborted)
    })
    .unwrap_err();
    assert!(error.to_string().contains("no reset"), "{error:#}");
}
