//! Upgrades, and connections that are no HTTP.

use std::time::Duration;

use weft_l7::ServiceConfig;
use weft_l7::observe::{Flag, Protocol};

use crate::support::*;

const UPGRADE: &str =
    "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Section 4.2, WebSocket: 101, then opaque.
#[test]
fn an_upgrade_becomes_a_tunnel() {
    let mut world = World::new(service());
    // The endpoint's first frame comes with its answer.
    let (mut client, mut endpoint, seen) = world.exchange(UPGRADE, &format!("{SWITCH}first"));
    let asked =
        "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    assert_eq!(seen, asked);
    let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nfirst";
    assert_eq!(client.read(), answer);
    assert!(world.stage.record().is_none(), "it is not over");
    client.send("GET /admin HTTP/1.1\n\0\r\n\r\n");
    world.run();
    assert_eq!(endpoint.read(), "GET /admin HTTP/1.1\n\0\r\n\r\n");
    endpoint.send("pong");
    endpoint.0.shutdown_now();
    world.pass(Duration::from_secs(1_000));
    assert_eq!(client.read(), "pong");
    assert!(client.is_ended());
    client.send("last");
    client.0.shutdown_now();
    world.run();
    assert_eq!(endpoint.read(), "last");
    assert!(endpoint.is_ended());
    let record = world.record();
    assert_eq!((record.status, record.flag), (101, None));
    assert_eq!((record.received, record.sent), (29, 9));
    assert_eq!(
        (world.metrics().tunnels, world.stage.tasks(SERVICE)),
        (1, 0)
    );
}

#[test]
fn a_refused_upgrade_leaves_http_and_what_was_pipelined() {
    let mut world = World::new(service());
    let mut client = world.client();
    client.send(UPGRADE.to_owned() + &get("/next"));
    let mut endpoint = world.opened();
    assert!(endpoint.read().starts_with("GET /chat"));
    endpoint.send(ok("no"));
    world.run();
    assert_eq!(client.read(), ok("no"));
    assert_eq!(endpoint.read(), "GET /next HTTP/1.1\r\nhost: a\r\n\r\n");
    endpoint.send(ok("next"));
    world.run();
    assert_eq!(client.read(), ok("next"));
}

#[test]
fn nobody_switches_who_was_not_asked_to() {
    let mut world = World::new(service());
    let (mut client, mut endpoint, _) = world.exchange(&get("/"), SWITCH);
    assert_eq!(status(&client.read()), 502);
    assert_eq!(world.record().flag, Some(Flag::UpstreamProtocol));
    world.run();
    assert!(endpoint.is_reset() || endpoint.is_ended());
}

#[test]
fn a_reset_of_a_tunnel_is_passed_on() {
    let mut world = World::new(service());
    let (client, mut endpoint, _) = world.exchange(UPGRADE, SWITCH);
    client.0.faults().fail(std::io::ErrorKind::ConnectionReset);
    world.run();
    assert!(endpoint.is_reset());
    assert_eq!(world.stage.tasks(SERVICE), 0);
}

fn with_tcp() -> ServiceConfig {
    ServiceConfig {
        tcp: Some(BACKEND),
        ..service()
    }
}

/// ENV-02: a client that waits for the server to speak first gets its server after a bounded time.
#[test]
fn env_02_server_first_protocols_work() {
    let mut world = World::new(with_tcp());
    let mut client = world.client();
    world.pass(Duration::from_millis(990));
    assert_eq!(world.network.borrow().connects, 0);
    world.pass(Duration::from_millis(20));
    let mut endpoint = world.opened();
    endpoint.send("220 mail\r\n");
    world.run();
    assert_eq!(client.read(), "220 mail\r\n");
    client.send("EHLO a\r\n");
    world.run();
    assert_eq!(endpoint.read(), "EHLO a\r\n");
    client.0.shutdown_now();
    endpoint.0.shutdown_now();
    world.run();
    assert!(client.is_ended() && endpoint.is_ended());
    assert_eq!(world.stage.tasks(SERVICE), 0);
    let record = world.record();
    assert_eq!((record.protocol, record.flag), (Protocol::Tcp, None));
    assert_eq!((record.received, record.sent), (8, 10));
    assert_eq!(record.endpoint, Some(address(1)));
    let metrics = world.metrics();
    assert_eq!((metrics.tunnels, metrics.total()), (1, 0));
    assert_eq!((metrics.received, metrics.sent), (8, 10));
}

/// ENV-02: what is no HTTP is passed on whole; what is, is served.
#[test]
fn env_02_protocols_are_told_apart() {
    for split in [1, 3, 100] {
        let mut world = World::new(with_tcp());
        let mut client = world.client();
        client.0.faults().split(split);
        client.send("*1\r\n$4\r\nPING\r\n");
        world.run();
        assert_eq!(world.opened().read(), "*1\r\n$4\r\nPING\r\n");
        let mut client = world.client();
        client.0.faults().split(split);
        client.send(get("/x"));
        world.run();
        assert_eq!(world.opened().read(), "GET /x HTTP/1.1\r\nhost: a\r\n\r\n");
    }
}

/// ENV-02: a protocol of text is not HTTP for having a word in capitals and a space. One that ends no line waits for a bounded time.
#[test]
fn env_02_protocols_of_text_are_tunnels() {
    for said in ["HELO foo\r\n", "USER x\r\n", "USER x\n"] {
        for split in [1, 3, 100] {
            let mut world = World::new(with_tcp());
            let mut client = world.client();
            client.0.faults().split(split);
            client.send(said);
            world.run();
            assert_eq!(world.opened().read(), said);
        }
    }
    for said in ["USER x".into(), format!("USER {}", "x".repeat(1_000))] {
        let mut world = World::new(with_tcp());
        let mut client = world.client();
        client.send(&said);
        world.pass(Duration::from_millis(1_010));
        assert_eq!(world.opened().read(), said);
    }
}

#[test]
fn a_tunnel_without_an_endpoint_resets_its_client() {
    let mut world = World::new(with_tcp());
    let refused = std::io::ErrorKind::ConnectionRefused;
    world
        .network
        .borrow_mut()
        .refuses
        .insert(address(1), refused);
    let mut client = world.client();
    client.send("*1\r\n");
    world.run();
    assert!(client.is_reset());
    let record = world.record();
    let why = (record.flag, record.detail);
    assert_eq!(why, (Some(Flag::ConnectFailed), Some("refused")));
    assert_eq!(record.endpoint, Some(address(1)));
    let metrics = world.metrics();
    assert_eq!(metrics.flags[Flag::ConnectFailed as usize], 1);
    assert_eq!((metrics.tunnels, metrics.total()), (0, 0));
}

#[test]
fn a_tunnel_whose_endpoint_refuses_later_or_never_answers_says_so() {
    let mut world = World::new(with_tcp());
    world.network.borrow_mut().silent.push(address(1));
    let mut client = world.client();
    client.send("*1\r\n");
    let endpoint = world.opened();
    let refused = std::io::ErrorKind::ConnectionRefused;
    endpoint.0.faults().fail(refused);
    world.run();
    assert!(client.is_reset());
    let record = world.record();
    let why = (record.flag, record.detail);
    assert_eq!(why, (Some(Flag::ConnectFailed), Some("refused")));
    let mut client = world.client();
    client.send("*1\r\n");
    world.pass(Duration::from_secs(6));
    assert!(client.is_reset());
    assert_eq!(world.record().flag, Some(Flag::ConnectTimeout));
    assert_eq!(world.metrics().tunnels, 0);
}

#[test]
fn a_tunnel_says_who_reset_it() {
    for (of_client, flag) in [(true, Flag::ClientGone), (false, Flag::UpstreamCut)] {
        let mut world = World::new(with_tcp());
        let mut client = world.client();
        client.send("*1\r\n");
        let mut endpoint = world.opened();
        endpoint.read();
        let gone = if of_client { &client } else { &endpoint };
        gone.0.faults().fail(std::io::ErrorKind::ConnectionReset);
        world.run();
        let record = world.record();
        assert_eq!((record.flag, record.received), (Some(flag), 4));
    }
}
