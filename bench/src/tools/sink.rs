//! Counts and drops UDP packets as they enter a pod: the end of a rate measurement.
//!
//! Runs inside the receiving pod's namespace. It says `ready <id of the counter's map>`, answers every line on standard input with
//! `<packets> <nanoseconds of CLOCK_MONOTONIC>`, and goes away with its standard input.

use anyhow::{Context, Result};
use libbpf_rs::{Map, MapCore, MapFlags, ObjectBuilder, TC_INGRESS, TcHookBuilder};
use std::io::{BufRead, Write};
use std::os::fd::AsFd;
use std::time::Instant;

/// `bpf/sink.bpf.c`, compiled by the build script.
static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sink.bpf.o"));

/// Attaches the program to `interface` for `count` UDP ports from `port` on, and answers until
/// standard input ends.
pub fn serve(interface: &str, port: u16, count: u16) -> Result<()> {
    let index = rustix::net::netdevice::name_to_index(
        rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            None,
        )?,
        interface,
    )
    .with_context(|| format!("no interface {interface} here"))?;
    // The qdisc may be there from the last run: no error, and no line of libbpf's about it.
    libbpf_rs::set_print(None);
    let object = ObjectBuilder::default()
        .open_memory(OBJECT)?
        .load()
        .context("cannot load sink")?;
    let (mut ports, mut packets, mut program) = (None, None, None);
    for map in object.maps() {
        match map.name().to_str() {
            Some("sink_port") => ports = Some(map),
            Some("sink_packets") => packets = Some(map),
            _ => {}
        }
    }
    for candidate in object.progs() {
        program = Some(candidate);
    }
    let (ports, packets) = (
        ports.context("no port map")?,
        packets.context("no packet map")?,
    );
    let program = program.context("no program")?;
    let last = port
        .checked_add(count.saturating_sub(1))
        .context("no such ports")?;
    let range = [port, last].map(|port| u32::from(port).to_ne_bytes());
    ports.update(&[0; 4], &range.concat(), MapFlags::ANY)?;

    let mut hook = TcHookBuilder::new(program.as_fd())
        .ifindex(index.cast_signed())
        .replace(true)
        .handle(1)
        .priority(1)
        .hook(TC_INGRESS);
    hook.create().context("cannot make the clsact qdisc")?;
    hook.attach().context("cannot attach the sink")?;
    let result = answer(&packets);
    hook.detach()?;
    hook.destroy()?;
    result
}

/// Packets counted so far.
pub fn total(packets: &impl MapCore) -> Result<u64> {
    let values = packets
        .lookup_percpu(&[0; 4], MapFlags::ANY)?
        .context("no counter")?;
    Ok(values
        .iter()
        .filter_map(|value| value.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes)))
        .sum())
}

fn answer(packets: &Map<'_>) -> Result<()> {
    let epoch = Instant::now();
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "ready {}", packets.info()?.info.id)?;
    stdout.flush()?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let total = total(packets)?;
        writeln!(stdout, "{total} {}", epoch.elapsed().as_nanos())?;
        stdout.flush()?;
    }
    Ok(())
}
