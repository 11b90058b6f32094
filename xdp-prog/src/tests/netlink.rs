use std::process::Command;
use std::time::Duration;

use crate::netlink::{
    NetlinkError, PAIR_MTU, delete_pair, ensure_pair, interfaces, monitor, monitor_routes,
};

use super::support::{block_on, ip, node};

/// What ethtool says of an interface's features, as `name: on|off` lines.
fn features(interface: &str) -> String {
    let output = Command::new("ethtool")
        .args(["-k", interface])
        .output()
        .expect("ethtool");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_pair_has_queues_and_no_offloads() {
    node(|_| {
        let pair = block_on(ensure_pair(2)).unwrap();
        assert_eq!((pair.queues, pair.mtu), (2, PAIR_MTU));
        let all = block_on(interfaces()).unwrap();
        let weft0 = all.iter().find(|i| i.name == "weft0").unwrap();
        assert_eq!(
            (weft0.tx_queues, weft0.rx_queues, weft0.up, weft0.no_arp),
            (2, 2, true, true)
        );
        assert_eq!(weft0.peer, Some(pair.weft1_ifindex));
        for end in ["weft0", "weft1"] {
            let features = features(end);
            for off in [
                "tx-checksumming: off",
                "tcp-segmentation-offload: off",
                "generic-segmentation-offload: off",
                "tx-udp-segmentation: off",
            ] {
                assert!(features.contains(off), "{end}: {off}\n{features}");
            }
        }
        let addresses = Command::new("ip")
            .args(["-o", "addr", "show", "weft0"])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&addresses.stdout),
            "",
            "no address of its own"
        );
    });
}

#[test]
fn the_pair_is_taken_over_or_made_anew() {
    node(|_| {
        let first = block_on(ensure_pair(2)).unwrap();
        assert_eq!(block_on(ensure_pair(2)).unwrap(), first);
        let other = block_on(ensure_pair(1)).unwrap();
        assert_ne!(other.weft0_ifindex, first.weft0_ifindex);
        assert_eq!(other.queues, 1);
        assert!(block_on(delete_pair()).unwrap());
        assert!(!block_on(delete_pair()).unwrap());
    });
}

#[test]
fn somebody_elses_weft0_is_left_alone() {
    node(|_| {
        ip("link add weft0 type bridge");
        let error = block_on(ensure_pair(1)).unwrap_err();
        assert!(
            matches!(&error, NetlinkError::NotOurs { kind, .. } if kind == "bridge"),
            "{error}"
        );
        assert!(!block_on(delete_pair()).unwrap());
        assert!(
            block_on(interfaces())
                .unwrap()
                .iter()
                .any(|i| i.name == "weft0")
        );
    });
}

/// What may change the address that the node has for a pod is told, and nothing else is.
#[test]
fn addresses_routes_and_rules_come_and_go() {
    node(|_| {
        ip("link add test1 type veth peer name far1");
        ip("link set far1 up");
        block_on(async {
            let mut monitor = monitor_routes().await?;
            let mut told = async |limit| {
                let changed = tokio::time::timeout(limit, monitor.changed());
                changed.await.is_ok_and(|changed| changed.is_ok())
            };
            ip("link set test1 alias nothing-to-do-with-routes");
            assert!(!told(Duration::from_millis(50)).await);
            for change in [
                "addr add 10.9.9.1/24 dev test1",
                "link set test1 up",
                "-6 addr add fd09::1/64 dev test1 nodad",
                "route add 10.8.0.0/16 via 10.9.9.2",
                "rule add to 10.7.0.0/16 lookup 77",
                "-6 rule add to fd07::/64 lookup 77",
                "route del 10.8.0.0/16",
                "addr del 10.9.9.1/24 dev test1",
            ] {
                ip(change);
                assert!(told(Duration::from_secs(5)).await, "{change}");
                while told(Duration::from_millis(20)).await {} // What comes with it.
            }
            Ok(())
        })
        .unwrap();
    });
}

#[test]
fn interfaces_come_change_and_go() {
    node(|_| {
        block_on(async {
            let mut monitor = monitor().await?;
            for change in [
                "link add test1 type veth peer name far1",
                "link set test1 up",
                "link del test1",
            ] {
                ip(change);
                let changed = tokio::time::timeout(Duration::from_secs(5), monitor.changed());
                changed.await.expect(change)?;
            }
            Ok(())
        })
        .unwrap();
    });
}
