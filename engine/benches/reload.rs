//! What a reload costs when one endpoint of 100,000 has changed: reading, the change itself, and what
//! is freed afterwards, without the kernel and the workers, which `weft reload` adds.

use std::fmt::Write;
use std::hint::black_box;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_main};
use weft::config::{Source, parse, parse_after};
use weft::control::{Control, Ends, KernelSide};
use weft_datapath::{Address, Now};
use weft_xdp::netlink::{NetlinkError, Way};
use weft_xdp::{Choice, Error, OverlayEntries, PodEntry, ServiceKey};

/// A kernel that takes everything.
struct Willing;

impl KernelSide for Willing {
    fn set_choice(&mut self, _: ServiceKey, _: Option<&Choice>) -> Result<bool, Error> {
        Ok(true)
    }

    fn set_epochs(&mut self, _: &[u32], _: &[u32]) -> Result<(), Error> {
        Ok(())
    }

    fn source_towards(&self, _: IpAddr) -> Option<IpAddr> {
        None
    }

    fn sync_overlay(&mut self, _: &OverlayEntries) -> Result<(), Error> {
        Ok(())
    }

    fn attach_uplink(&mut self, _: u32) -> Result<(), Error> {
        Ok(())
    }

    fn detach_uplink(&mut self, _: u32) -> Result<(), Error> {
        Ok(())
    }

    fn ways(&self, ends: &[Ends]) -> Result<Vec<Option<Way>>, NetlinkError> {
        Ok(vec![None; ends.len()])
    }

    fn set_pod(&mut self, _: &PodEntry) -> Result<(), Error> {
        Ok(())
    }

    fn attach_pod(&mut self, _: u32) -> Result<(), Error> {
        Ok(())
    }

    fn detach_pod(&mut self, _: u32) -> Result<(), Error> {
        Ok(())
    }

    fn remove_pod(&mut self, _: u32) -> Result<(), Error> {
        Ok(())
    }

    fn sync_services(&mut self, _: &[ServiceKey]) -> Result<(), Error> {
        Ok(())
    }

    fn change_services(&mut self, _: &[ServiceKey], _: &[ServiceKey]) -> Result<(), Error> {
        Ok(())
    }

    fn sync_endpoints(&mut self, _: &[(Address, u32)]) -> Result<(), Error> {
        Ok(())
    }
}

/// Services; the one with the number `without` lacks an endpoint.
fn text(services: usize, endpoints: usize, ports: usize, without: usize) -> String {
    let mut text = String::from("[node]\nname = \"n\"\n");
    for service in 0..services {
        let _ = write!(
            text,
            "[[service]]\nname = \"s{service}\"\ncluster_ip = \"172.16.{}.{}\"\nports = [",
            service / 256,
            service % 256
        );
        for port in 0..ports {
            let _ = write!(text, "{{ name = \"p{port}\", port = {} }}, ", 1000 + port);
        }
        text.push_str("]\nendpoints = [\n");
        for endpoint in usize::from(service == without)..endpoints {
            let [_, a, b, c] = ((service * endpoints + endpoint) as u32).to_be_bytes();
            let _ = writeln!(text, "  {{ address = \"10.{a}.{b}.{c}\" }},");
        }
        text.push_str("]\n");
    }
    text
}

fn sources(text: String) -> [Source; 1] {
    let path = PathBuf::from("node.toml");
    [Source { path, text }]
}

fn reload(c: &mut Criterion) {
    for (name, services, endpoints, ports) in [
        ("10000_services_of_10", 10_000, 10, 1),
        ("1000_services_of_100", 1_000, 100, 1),
        ("1_service_of_100_with_400_ports", 1, 100, 400),
    ] {
        let mut group = c.benchmark_group(format!("reload/{name}"));
        group.sample_size(10);
        let read = sources(text(services, endpoints, ports, 0));
        group.bench_function("parse", |b| b.iter(|| parse(black_box(&read)).unwrap()));
        let first = parse(&read).unwrap();
        let changed = sources(text(services, endpoints, ports, services / 2 + 1));
        let configs = [parse_after(&changed, Some(&first)).unwrap(), first.clone()];
        let mut control = Control::new(Willing, &first);
        group.bench_function("cold_start", |b| {
            b.iter_custom(|rounds| {
                let mut took = Duration::ZERO;
                for _ in 0..rounds {
                    control = Control::new(Willing, &first);
                    let began = Instant::now();
                    control.apply(first.clone(), &[], Now::default()).unwrap();
                    took += began.elapsed();
                }
                took
            });
        });
        group.bench_function("parse_again", |b| {
            b.iter(|| parse_after(black_box(&changed), Some(&first)).unwrap());
        });
        let mut turn = 0;
        let mut measure = |rounds: u64, free: bool| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                turn += 1;
                let config = configs[turn % 2].clone();
                let began = Instant::now();
                control.apply(config, &[], Now::default()).unwrap();
                let applied = began.elapsed();
                control.collect_retired();
                took += if free {
                    began.elapsed() - applied
                } else {
                    applied
                };
            }
            took
        };
        group.bench_function("change", |b| b.iter_custom(|rounds| measure(rounds, false)));
        group.bench_function("free", |b| b.iter_custom(|rounds| measure(rounds, true)));
        group.finish();
    }
}

mod benches {
    #![allow(missing_docs, reason = "made by a macro")]

    criterion::criterion_group!(benches, super::reload);
}

criterion_main!(benches::benches);
