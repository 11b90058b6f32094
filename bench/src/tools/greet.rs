//! One packet there and back over each of many UDP flows, after which whoever is in between knows both directions.

use super::flood::any;
use super::flows::Plan;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_millis(200);
/// How often a flow is tried.
const TRIES: usize = 3;

/// Flows that both ends have sent over.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Greeted {
    /// How many.
    pub flows: u32,
}

/// Greets every flow of the plan, whose destinations echo.
pub fn run(plan: Plan) -> Result<Greeted> {
    plan.check()?;
    for number in 0..plan.flows {
        let (from, port) = plan.ports_of(number);
        let to = SocketAddr::new(plan.to.ip(), port);
        greet(from, to).with_context(|| format!("flow {number}, from port {from} to {to}"))?;
    }
    Ok(Greeted { flows: plan.flows })
}

fn greet(from: u16, to: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind((any(to), from))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut byte = [0];
    let answered = (0..TRIES).any(|_| {
        let asked = socket.send(&[1]).and_then(|_| socket.recv(&mut byte));
        asked.is_ok()
    });
    ensure!(answered, "no answer");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_flow_is_answered_once() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let seen = std::thread::spawn(move || {
            let mut byte = [0];
            let mut answer = || {
                let (_, from) = server.recv_from(&mut byte).unwrap();
                server.send_to(&byte, from).unwrap();
                from.port()
            };
            (0..20).map(|_| answer()).collect::<BTreeSet<_>>()
        });
        let plan = Plan {
            to,
            ports: 1,
            flows: 20,
            packets: 0,
            warm_up: 0,
        };
        assert_eq!(run(plan).unwrap().flows, 20);
        assert_eq!(seen.join().unwrap().len(), 20);
    }
}
