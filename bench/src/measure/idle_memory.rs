//! What a connection costs that nothing happens in.

use super::placement::Placement;
use super::services::crowd_port;
use super::topology::Topology;
use super::{Figure, Sample};
use crate::lab::Family;
use crate::machine::{busy_time, open_files, resident};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

/// Connections of a run, if a proxy, which has two descriptors for each, may open as many files.
const COUNT: usize = 10_000;
/// Files that a process opens beside those.
const SPARE: usize = 1000;
/// How long nothing happens before a connection counts as idle, and the process is looked at.
const IDLE: Duration = Duration::from_secs(3);
/// Time between two connections, so that most are idle before the last is there: a node process bounds those that
/// are not (8,192 sockets, two a connection).
const PACE: Duration = Duration::from_micros(500);
/// How long one connection may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Measures connections that a byte has gone through, once at `placement`.
pub fn measure_tcp(topology: &Topology, placement: &Placement) -> Result<Sample> {
    let to = topology.target(Family::V4, crowd_port(placement.server_core));
    measure(topology, to, open)
}

/// Measures once: resident memory of the process with connections that `open` makes, less that without them. An
/// operation, for the processor time, is making one.
pub fn measure<T: Send>(
    topology: &Topology,
    to: SocketAddr,
    open: fn(SocketAddr) -> Result<T>,
) -> Result<Sample> {
    let process = topology.process()?;
    let most = usize::try_from(open_files())?.saturating_sub(SPARE) / 2;
    let count = topology.effort().operations(COUNT).min(most);
    ensure!(count > 0, "too few files may be open: ulimit -n");
    let client = &topology.client.namespace;
    // What the first connection needs is not what each one needs.
    client.enter(|| open(to)).context("no connection")??;
    let idle = topology.effort().time(IDLE);
    sleep(idle);
    let (before, busy) = (resident(process)?, busy_time()?);
    let paced = |_| {
        sleep(PACE);
        open(to)
    };
    let connections = client
        .enter(|| (0..count).map(paced).collect::<Result<Vec<_>>>())?
        .context("one of very many connections")?;
    let busy = busy_time()? - busy;
    sleep(idle);
    let after = resident(process)?;
    drop(connections);
    let count = count as f64;
    Ok(Sample::of(
        [(Figure::Memory, after.saturating_sub(before) as f64 / count)],
        busy.as_secs_f64() * 1e6 / count,
    ))
}

/// A connection that a byte has gone through to the server and back.
fn open(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}
