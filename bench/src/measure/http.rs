//! Requests over HTTP/1.1 through what works at layer 7.

use super::placement::{LOAD_CORE, Placement};
use super::services::{grpc_port, web_port};
use super::topology::Topology;
use super::{Figure, Sample, idle_memory, tool};
use crate::http::Connection;
use crate::lab::Family;
use crate::servers;
use crate::tools::grpc;
use crate::tools::http_load::Requests;
use anyhow::{Result, ensure};
use std::net::SocketAddr;
use std::time::Duration;

/// Requests a second at half load: about half of what Envoy answers with 32 connections on a machine of two cores. One rate for
/// all, because a path that was given half of what it can do itself would be the slower the more it can do.
const HALF: &str = "10000";
/// For how long requests are sent.
const TIME: Duration = Duration::from_secs(2);

/// Who asks for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asks {
    /// For 1 KB over so many connections, as fast as it comes.
    Small(usize),
    /// For 1 KB over 32 connections, at [`HALF`].
    HalfLoad,
    /// For 1 MB over 8 connections.
    Large,
    /// For 1 KB over a connection of its own each time, 32 at a time.
    Once,
    /// Once, over each of very many connections.
    Idle,
    /// By gRPC: unary calls of 64 bytes both ways, eight at a time on each of four connections.
    Grpc,
}

/// Measures once at `placement`.
pub fn measure(topology: &Topology, placement: &Placement, asks: Asks) -> Result<Sample> {
    let server = (!placement.floats).then_some(placement.server_core);
    let to = topology.target(Family::V4, web_port(server));
    if asks == Asks::Idle {
        return idle_memory::measure(topology, to, open);
    }
    let core = (!placement.floats).then(|| LOAD_CORE.to_string());
    let core = core.as_ref().map_or(vec![], |core| vec!["--core", core]);
    let time = topology.effort().time(TIME).as_secs_f64().to_string();
    if asks == Asks::Grpc {
        let to = topology.target(Family::V4, grpc_port(server)).to_string();
        let words = [
            "grpc-load",
            &to,
            "--connections",
            "4",
            "--streams",
            "8",
            "--seconds",
            &time,
        ];
        let words = [&words[..], &core].concat();
        let found: grpc::Found = tool::run(&topology.client.namespace, &words)?;
        ensure!(found.errors == 0, "{} calls failed", found.errors);
        ensure!(found.calls > 0, "no call was answered");
        let cpu = found.busy * 1e6 / found.calls as f64;
        let figures = [
            (Figure::Rate, found.rate),
            (Figure::Median, found.p50),
            (Figure::Tail, found.p99),
        ];
        return Ok(Sample::of(figures, cpu));
    }
    let (path, connections, more) = match asks {
        Asks::Small(connections) => (servers::SMALL, connections, vec![]),
        Asks::HalfLoad => (servers::SMALL, 32, vec!["--rate", HALF]),
        Asks::Large => (servers::LARGE, 8, vec![]),
        Asks::Once | Asks::Idle | Asks::Grpc => (servers::SMALL, 32, vec!["--once"]),
    };
    let (to, connections) = (to.to_string(), connections.to_string());
    let words = [
        "http-load",
        &to,
        "--path",
        path,
        "--connections",
        &connections,
        "--seconds",
        &time,
    ];
    let words = [&words[..], &more, &core].concat();
    let found: Requests = tool::run(&topology.client.namespace, &words)?;
    ensure!(found.failed == 0, "{} requests failed", found.failed);
    ensure!(found.count > 0, "no request was answered");
    let count = found.count as f64;
    Ok(Sample::of(
        [
            (Figure::Rate, count / found.seconds),
            (Figure::Median, found.p50),
            (Figure::Tail, found.p99),
            (Figure::FarTail, found.p999),
        ],
        found.busy * 1e6 / count,
    ))
}

/// A connection that a request has been answered on.
fn open(to: SocketAddr) -> Result<Connection> {
    let mut connection = Connection::open_here(to)?;
    let answer = connection.get(servers::SMALL)?;
    ensure!(answer.status == 200, "status {}", answer.status);
    Ok(connection)
}
