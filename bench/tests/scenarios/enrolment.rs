//! Pods come and go at runtime (AMB-01), cannot claim each other's addresses (AMB-06), and leave
//! nothing for whoever gets their interface or address next.

use crate::fixture::{Fixture, flawless, progress, web, with_weft};
use anyhow::{Context, Result};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;
use weft_lab::capture::{Capture, packets};
use weft_lab::client::{Datagrams, Talk, ask_tcp, ask_udp};
use weft_lab::config::Config;
use weft_lab::lab::{Family, PodOptions};
use weft_lab::servers::{self, PEER_PORT};
use weft_lab::weft::Weft;

#[test]
fn amb01_enrolling_and_unenrolling_under_load_fails_and_misroutes_nothing() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        fixture.install_shadow_rules()?;
        let all = fixture.config_by_address();
        let weft = Weft::start(&fixture.lab, &all)?;
        let loads = fixture.loads(Duration::from_millis(1));
        for round in 0..12 {
            let mut config = all.clone();
            match round % 4 {
                0 => config.unenrol(&fixture.backends[1]),
                1 => config.unenrol(&fixture.client),
                2 => config
                    .unenrol(&fixture.client)
                    .unenrol(&fixture.backends[0]),
                _ => &mut config,
            };
            weft.reload(&config)?;
            progress(&loads, 20)?;
        }
        flawless(loads).with_context(|| weft.text(&["status"]).unwrap_or_default())?;
        weft.audit().map(drop)
    })
}

#[test]
fn amb01_flows_older_than_the_enrolment_go_on() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        fixture.install_shadow_rules()?;
        let mut flows = open_flows(&fixture)?;
        let mut config = fixture.config_by_address();
        config.workers.fast_path = "off".into(); // What is punted tells whose a flow is.
        let weft = Weft::start(&fixture.lab, &config)?;
        for _ in 0..5 {
            for flow in &mut flows {
                flow.assert_goes_on().context("a flow older than weft")?;
            }
            thread::sleep(Duration::from_millis(50));
        }
        // New ones are Weft's.
        let before = fixture.punted()?;
        ask_tcp(&fixture.client.namespace, web(Family::V4, PEER_PORT))?;
        assert!(fixture.punted()? > before);
        weft.audit().map(drop)
    })
}

#[test]
fn amb01_flows_of_a_pod_that_leaves_finish_while_it_drains() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        fixture.install_shadow_rules()?;
        let mut config = fixture.config_by_address();
        config.node.drain = Some("20s".into());
        let weft = Weft::start(&fixture.lab, &config)?;
        let mut flows = open_flows(&fixture)?;
        config.unenrol(&fixture.client);
        weft.reload(&config)?;
        for _ in 0..5 {
            for flow in &mut flows {
                flow.assert_unchanged()
                    .context("a flow of a draining pod")?;
            }
            // New ones are the kernel's at once, and work.
            for family in Family::BOTH {
                ask_tcp(&fixture.client.namespace, web(family, PEER_PORT))?;
                ask_udp(&fixture.client.namespace, web(family, PEER_PORT))?;
            }
        }
        weft.audit().map(drop)
    })
}

#[test]
fn amb06_a_spoofing_pod_is_dropped_and_counted_before_any_lookup() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let weft = fixture.weft()?;
        let [victim, bystander, _] = &fixture.backends;
        let [v4, v6] = victim.ips;
        // The client claims the victim's addresses.
        fixture.client.namespace.ip(&format!(
            "addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\n"
        ))?;
        let before = weft.counter("src_spoof")?;
        let directory = fixture.lab.directory();
        let received = Capture::start(&bystander.namespace, "eth0", "udp", &directory, "spoofed")?;
        let mut sent = 0;
        for family in Family::BOTH {
            let targets: [SocketAddr; 2] =
                [web(family, PEER_PORT), bystander.at(family, PEER_PORT)];
            let source: IpAddr = victim.ip(family);
            sent += fixture.client.namespace.enter(|| -> Result<u64> {
                let socket = UdpSocket::bind((source, 0))?;
                for target in targets.iter().cycle().take(50) {
                    socket.send_to(b"spoofed", target)?;
                }
                Ok(50)
            })??;
        }
        assert_eq!(weft.counter("src_spoof")? - before, sent);
        assert_eq!(packets(&received.stop()?)?, [""; 0], "arrived");
        // Its own addresses still work.
        let own = Talk::open(
            &fixture.client.namespace,
            bystander.at(Family::V4, PEER_PORT),
        );
        assert!(
            own.is_ok() || fixture.client.ip(Family::V4) == v4,
            "{own:?}"
        );
        weft.audit().map(drop)
    })
}

#[test]
fn amb01_a_deleted_pods_interface_and_address_can_be_reused() -> Result<()> {
    with_weft(|| {
        let mut fixture = Fixture::new()?;
        let weft = fixture.weft()?;
        let mut flows = open_flows(&fixture)?;
        for flow in &mut flows {
            flow.assert_unchanged()?;
        }
        let number = last_octet(fixture.backends[2].ip(Family::V4));
        for round in 0..3_u32 {
            // The pod is killed under Weft's feet, before any configuration says so.
            let ifindex = ifindex(&fixture, &fixture.backends[2].interface)?;
            let gone = fixture.backends[2].clone();
            fixture.lab.delete_pod(&gone.name)?;
            // Its address, and in the last rounds its interface index, go to another pod at once.
            let name = format!("d{round}");
            let options = PodOptions {
                number: Some(number),
                ifindex: (round > 0).then_some(ifindex),
                ..PodOptions::default()
            };
            let pod = fixture.lab.pod_with(&name, options)?;
            servers::peer(&mut fixture.lab, &pod.namespace, &name)?;
            fixture.backends[2] = pod;
            weft.reload(&fixture.config())?;
            let mut seen = std::collections::BTreeSet::new();
            for family in Family::BOTH {
                for _ in 0..40 {
                    seen.insert(ask_tcp(&fixture.client.namespace, web(family, PEER_PORT))?.name);
                    seen.insert(ask_udp(&fixture.client.namespace, web(family, PEER_PORT))?.name);
                }
            }
            let expected = ["a".to_owned(), "b".to_owned(), name];
            assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
        }
        weft.audit().map(drop)
    })
}

#[test]
fn amb01_a_long_run_of_enrolments_ends_with_the_last_write() -> Result<()> {
    with_weft(|| {
        let fixture = Fixture::new()?;
        let all = fixture.config_by_address();
        let weft = Weft::start(&fixture.lab, &all)?;
        let mut less: Config = all.clone();
        less.unenrol(&fixture.backends[2]);
        // As many as fit into a bounded time; each is a full reload by the command line.
        let start = std::time::Instant::now();
        let mut reloads = 0;
        while start.elapsed() < Duration::from_secs(5) {
            weft.reload(if reloads % 2 == 0 { &less } else { &all })?;
            reloads += 1;
        }
        weft.reload(&all)?;
        let owned = weft.text(&["owned"])?;
        for pod in fixture.backends.iter().chain([&fixture.client]) {
            assert!(
                owned.contains(&pod.interface),
                "{} after {reloads}:\n{owned}",
                pod.name
            );
        }
        assert!(!owned.contains(&fixture.outsider.interface), "{owned}");
        weft.audit().map(drop)
    })
}

/// A flow that is open over a change, and who served it at first.
enum Flow {
    Tcp(Box<Talk>),
    Udp(Datagrams, String),
}

impl Flow {
    /// The flow goes on: TCP at the same server. UDP has no beginning that could be missed, so a
    /// datagram of an older flow may choose anew, but it is answered and its client is seen.
    fn assert_goes_on(&mut self) -> Result<()> {
        match self {
            Self::Tcp(_) => self.assert_unchanged(),
            Self::Udp(datagrams, _) => {
                assert_eq!(datagrams.ask()?.client, datagrams.local);
                Ok(())
            }
        }
    }

    fn assert_unchanged(&mut self) -> Result<()> {
        let (answer, local, name) = match self {
            Self::Tcp(talk) => (talk.ask()?, talk.local, talk.greeting.name.clone()),
            Self::Udp(datagrams, name) => (datagrams.ask()?, datagrams.local, name.clone()),
        };
        assert_eq!((answer.client, answer.name), (local, name));
        Ok(())
    }
}

/// Six flows of each protocol and family to the web service.
fn open_flows(fixture: &Fixture) -> Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for family in Family::BOTH {
        let to = web(family, PEER_PORT);
        for _ in 0..6 {
            flows.push(Flow::Tcp(Box::new(Talk::open(
                &fixture.client.namespace,
                to,
            )?)));
            let datagrams = Datagrams::open(&fixture.client.namespace, to)?;
            let name = datagrams.ask()?.name;
            flows.push(Flow::Udp(datagrams, name));
        }
    }
    Ok(flows)
}

fn last_octet(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}

fn ifindex(fixture: &Fixture, interface: &str) -> Result<u32> {
    let mut command = fixture.lab.node.command("ip");
    let line = weft_lab::command::run(command.args(["-o", "link", "show", "dev", interface]))?;
    let index = line.split(':').next().context("ip said nothing")?;
    Ok(index.trim().parse()?)
}
