//! Odd, deep and large texts.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::super::{Backends, parse};
use super::{parse_one, source, valid};

#[test]
fn a_byte_order_mark_and_crlf_change_nothing() {
    let text = "[node]\r\nname = \"a\"\r\n\r\n[workers]\r\nframes = 64\r\n";
    assert_eq!(valid(&format!("\u{feff}{text}")).workers.frames, 64);
    let errors = parse_one(&format!("\u{feff}{}", text.replace("64", "63")));
    assert_eq!(
        errors.unwrap_err().to_string(),
        "node.toml:5: workers.frames: 63 is not in 64..=16384"
    );
    assert_eq!(
        parse_one("\u{feff}").unwrap_err().to_string(),
        "node.toml:1: node: required, but missing"
    );
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    let path = vec!["a"; 79].join(".");
    for depth in [79, 80, 1_000, 100_000] {
        for text in [
            format!("a = {}{}", "[".repeat(depth), "]".repeat(depth)),
            format!("a = {}1{}", "{a=".repeat(depth), "}".repeat(depth)),
            format!("a = {}", "[".repeat(depth)),
            format!("a = {}", "{a=".repeat(depth)),
            format!("{}a = 1", "a.".repeat(depth)),
            format!("[{}a]", "a.".repeat(depth)),
        ] {
            assert!(parse(&[source("node.toml", &text)]).is_err());
        }
    }
    // The deepest tree that the parser lets through, with a repeated key at its end.
    let open = format!("{{{path} = ").repeat(79);
    let text = format!("[{path}]\n{path} = {open}1{}\n[{path}]\n", "}".repeat(79));
    assert!(parse(&[source("node.toml", &text)]).is_err());
}

/// What the hooks' maps have room for, and not one more.
#[test]
fn the_first_pod_or_service_too_many_is_named() {
    let ports = |count: u32| {
        let port = |n| format!("{{ name = \"p{n}\", port = {n} }}");
        (1..=count).map(port).collect::<Vec<_>>().join(", ")
    };
    let service = |number: u32, ports: &str| {
        format!(
            "[[service]]\nname = \"s{number}\"\ncluster_ip = \"10.96.0.{number}\"\nports = [{ports}]\nendpoints = []\n"
        )
    };
    let full = format!(
        "[node]\nname = \"a\"\n{}{}",
        service(1, &ports(40_000)),
        service(2, &ports(65_536 - 2 - 40_000)),
    );
    assert!(parse_one(&full).is_ok());
    let more = format!("{full}{}{}", service(3, &ports(1)), service(4, &ports(1)));
    assert_eq!(
        parse_one(&more).unwrap_err().to_string(),
        "node.toml:13: service[2]: up to here there are 65538 cluster IPs and ports of cluster IPs, and there may be 65536"
    );
    let pods: String = (0..4_098)
        .map(|n| {
            format!(
                "[[pod]]\nname = \"p{n}\"\nip = \"10.1.{}.{}\"\ninterface = \"v{n}\"\n",
                n / 250,
                n % 250
            )
        })
        .collect();
    assert_eq!(
        parse_one(&format!("{pods}[node]\nname = \"a\"\n"))
            .unwrap_err()
            .to_string(),
        "node.toml:16385: pod[4096]: up to here there are 4097 pods, and there may be 4096"
    );
}

/// Also of ranges, over all peers.
#[test]
fn the_first_range_too_many_is_named() {
    let text = |ranges: u32| {
        let peer = |name: &str, ranges: std::ops::Range<u32>| {
            let ranges = ranges.map(|n| format!("\"10.{}.{}.0/24\"", 1 + n / 250, n % 250));
            format!(
                "[[overlay.peer]]\nname = \"{name}\"\naddress = \"192.168.7.{}\"\npods = [{}]\n",
                name.len() + 1,
                ranges.collect::<Vec<_>>().join(", ")
            )
        };
        let node = "[node]\nname = \"a\"\naddress = \"192.168.7.1\"\nuplink = \"eth0\"\n";
        format!("{node}{}{}", peer("b", 0..8_000), peer("cc", 8_000..ranges))
    };
    assert!(parse_one(&text(16_384)).is_ok());
    assert_eq!(
        parse_one(&text(16_387)).unwrap_err().to_string(),
        "node.toml:12: overlay.peer[1].pods[8384]: up to here there are 16385 ranges of peers' pods, and there may be 16384"
    );
}

fn services(services: usize, endpoints: usize) -> String {
    let mut text = String::from("[node]\nname = \"a\"\n");
    for service in 0..services {
        let (high, low) = (service / 250, service % 250);
        write!(
            text,
            "[[service]]\nname = \"s{service}\"\ncluster_ip = \"10.96.{high}.{low}\"\nports = [{{ port = 80 }}]\nendpoints = [\n"
        )
        .unwrap();
        for endpoint in 0..endpoints {
            writeln!(text, "  {{ address = \"10.{high}.{low}.{endpoint}\" }},").unwrap();
        }
        text.push_str("]\n");
    }
    text
}

/// Quadratic work would take minutes; the bounds leave room for a busy machine.
#[test]
fn large_configurations_load_quickly() {
    for (count, endpoints, bound) in [(1_000, 10, 1), (1_000, 100, 5)] {
        let sources = [source("node.toml", &services(count, endpoints))];
        let start = Instant::now();
        let config = parse(&sources).unwrap();
        let took = start.elapsed();
        assert!(took < Duration::from_secs(bound), "took {took:?}");
        assert_eq!(config.services.len(), count);
        let last = &config.services[count - 1].backends;
        assert!(matches!(last, Backends::Endpoints(list) if list.len() == endpoints));
    }
}

/// XDS-04: what the tables could not number is refused before anything changes.
#[test]
fn xds_04_a_service_has_at_most_65535_endpoints() {
    let service = |endpoints: usize| {
        let mut text = String::from(
            "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nports = [{ port = 80 }]\nendpoints = [\n",
        );
        for endpoint in 0..endpoints {
            let [_, a, b, c] = (endpoint as u32).to_be_bytes();
            writeln!(text, "  {{ address = \"10.{a}.{b}.{c}\" }},").unwrap();
        }
        text + "]\n"
    };
    let Backends::Endpoints(list) = &valid(&service(65_535)).services[0].backends else {
        panic!("endpoints");
    };
    assert_eq!(list.len(), 65_535);
    assert_eq!(
        parse_one(&service(65_536)).unwrap_err().to_string(),
        "node.toml:5: service[0].endpoints: 65536 elements, and there may be 65535"
    );
}

#[test]
fn ten_megabytes_are_fine() {
    let comments = "# é\n".repeat(2_000_000);
    let text = format!("{comments}[node]\nname = \"a\"\n[workers]\nframes = 1\n");
    assert!(text.len() >= 10_000_000);
    assert_eq!(
        parse_one(&text).unwrap_err().to_string(),
        "node.toml:2000004: workers.frames: 1 is not in 64..=16384"
    );
    let one_line = format!("[node]\nname = \"{}\"\n", "x".repeat(10_000_000));
    assert_eq!(parse_one(&one_line).unwrap_err().iter().len(), 1);
}

#[test]
fn a_text_that_is_no_toml_says_so_briefly() {
    let errors = parse_one(&"x\n".repeat(100_000)).unwrap_err();
    assert_eq!(errors.iter().len(), 20);
}
