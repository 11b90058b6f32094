//! Services' traffic, summed up from the flows that there are.
//!
//! Workers and hooks count by flow and not by service, so that a packet costs no second counter. Whoever wants to know a service's
//! rates asks again and again; between two questions each flow's progress is added to its service's sums. Nothing is kept of it
//! when nobody asks.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use weft_datapath::{Direction, FlowKey, FlowKind};

use super::{Error, Node};
use crate::admin::traffic::ServiceTraffic;
use crate::config::Stage;

/// For how long what was seen is remembered.
const MEMORY: Duration = Duration::from_mins(1);

/// A flow as it was found.
#[derive(Copy, Clone, Debug)]
struct Found {
    /// The number of its service port.
    service: u32,
    /// Whether the hooks count it, who begin anew when they take it over.
    fast: bool,
    /// What tells it from an earlier one with the same key.
    created: u64,
    packets: u64,
    bytes: u64,
}

#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
struct Sum {
    flows: u64,
    opened: u64,
    packets: u64,
    bytes: u64,
}

/// What was seen at the last question.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    asked: Option<Instant>,
    flows: HashMap<FlowKey, Found>,
    sums: BTreeMap<u32, Sum>,
}

impl Accounts {
    /// Gives the memory of flows back, if nobody has asked for a while.
    pub(super) fn look_after(&mut self) {
        if self.asked.is_some_and(|asked| asked.elapsed() > MEMORY) {
            self.asked = None;
            self.flows = HashMap::new();
        }
    }

    /// Adds what has happened since the last question. The first one is only a beginning.
    fn take(&mut self, found: impl Iterator<Item = (FlowKey, Found)>) {
        let first = self.asked.replace(Instant::now()).is_none();
        let before = std::mem::take(&mut self.flows);
        self.sums.values_mut().for_each(|sum| sum.flows = 0);
        for (key, flow) in found {
            let sum = self.sums.entry(flow.service).or_default();
            sum.flows += 1;
            self.flows.insert(key, flow);
            if first {
                continue;
            }
            let known = before.get(&key);
            // The hooks have a clock of their own, so that a flow which they took over looks younger.
            let same = |known: &&Found| known.created == flow.created || known.fast != flow.fast;
            let known = known.filter(same);
            sum.opened += u64::from(known.is_none());
            let counted = known.filter(|known| known.fast == flow.fast);
            let (packets, bytes) = counted.map_or((0, 0), |known| (known.packets, known.bytes));
            sum.packets += flow.packets.saturating_sub(packets);
            sum.bytes += flow.bytes.saturating_sub(bytes);
        }
    }
}

impl Node {
    /// The traffic of all service ports.
    ///
    /// # Errors
    /// When a worker does not say what flows it has.
    pub(super) fn traffic(&mut self) -> Result<Vec<ServiceTraffic>, Error> {
        let (own, fast) = self.both_flows()?;
        // A client's flow counts, those that the HTTP stage opens on its behalf do not.
        let own = own.iter().filter(|flow| {
            flow.kind().serves() && flow.kind() != FlowKind::Upstream && flow.packets() != [0; 2]
        });
        let own = own.filter_map(|flow| {
            let found = Found {
                service: flow.service(),
                fast: false,
                created: flow.cookie(),
                packets: flow.packets().iter().sum(),
                bytes: flow.bytes().iter().sum(),
            };
            Some((flow.key(Direction::Forward)?, found))
        });
        let fast = fast.iter().filter_map(|flow| {
            let found = Found {
                service: flow.service?,
                fast: true,
                created: flow.created,
                packets: flow.packets.iter().sum(),
                bytes: flow.bytes.iter().sum(),
            };
            Some((flow.key, found))
        });
        self.accounts.take(own.chain(fast));
        Ok(self.by_name())
    }

    fn by_name(&self) -> Vec<ServiceTraffic> {
        let tables = self.control.tables().load_full();
        let mut services = BTreeMap::new();
        // A port has the same number at each of its VIPs.
        for port in tables.services() {
            let name = self.control.names().service(port.id()).0;
            let sum = self.accounts.sums.get(&port.id());
            let sum = sum.copied().unwrap_or_default();
            services.entry(port.id()).or_insert_with(|| ServiceTraffic {
                service: format!("{name}:{}", port.port()),
                protocol: port.proto().to_string(),
                stage: stage(port.options().stage).into(),
                flows: sum.flows,
                opened: sum.opened,
                packets: sum.packets,
                bytes: sum.bytes,
            });
        }
        services.into_values().collect()
    }
}

/// As the configuration calls it.
pub(super) fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::L4 => "l4",
        Stage::Tcp(_) => "tcp",
        Stage::Http(_) => "http",
    }
}

#[cfg(test)]
mod tests {
    use weft_datapath::{Address, Protocol, Tuple};

    use super::*;

    fn key(sport: u16) -> FlowKey {
        let address = |last| Address::from(std::net::IpAddr::from([10, 0, 0, last]));
        FlowKey {
            tuple: Tuple {
                src: address(1),
                dst: address(2),
                sport,
                dport: 80,
                proto: Protocol::Tcp,
            },
            ifindex: 7,
        }
    }

    fn flow(sport: u16, created: u64, packets: u64) -> (FlowKey, Found) {
        let found = Found {
            service: 3,
            fast: false,
            created,
            packets,
            bytes: 100 * packets,
        };
        (key(sport), found)
    }

    fn sum(flows: u64, opened: u64, packets: u64) -> Sum {
        Sum {
            flows,
            opened,
            packets,
            bytes: 100 * packets,
        }
    }

    #[test]
    fn what_was_there_before_the_first_question_is_not_counted() {
        let mut accounts = Accounts::default();
        accounts.take([flow(1, 10, 500)].into_iter());
        assert_eq!(accounts.sums[&3], sum(1, 0, 0));
        accounts.take([flow(1, 10, 507), flow(2, 11, 4)].into_iter());
        assert_eq!(accounts.sums[&3], sum(2, 1, 11));
    }

    #[test]
    fn sums_do_not_fall_when_flows_end_and_a_port_used_again_is_a_new_flow() {
        let mut accounts = Accounts::default();
        accounts.take(std::iter::empty());
        accounts.take([flow(1, 10, 8)].into_iter());
        accounts.take(std::iter::empty());
        assert_eq!(accounts.sums[&3], sum(0, 1, 8));
        accounts.take([flow(1, 12, 3)].into_iter());
        accounts.take([flow(1, 13, 2)].into_iter());
        assert_eq!(accounts.sums[&3], sum(1, 3, 13));
    }

    #[test]
    fn a_flow_that_the_hooks_take_over_is_not_new_and_counts_from_nothing() {
        let mut accounts = Accounts::default();
        accounts.take(std::iter::empty());
        accounts.take([flow(1, 10, 8)].into_iter());
        let (key, mut fast) = flow(1, 99, 5);
        fast.fast = true;
        accounts.take([(key, fast)].into_iter());
        assert_eq!(accounts.sums[&3], sum(1, 1, 13));
    }

    #[test]
    fn what_was_seen_is_forgotten_when_nobody_asks() {
        let mut accounts = Accounts::default();
        accounts.take([flow(1, 10, 8)].into_iter());
        accounts.look_after();
        assert_eq!(accounts.flows.len(), 1);
        accounts.asked = Instant::now().checked_sub(2 * MEMORY);
        accounts.look_after();
        assert!(accounts.flows.is_empty());
        accounts.take([flow(1, 10, 9)].into_iter());
        assert_eq!(accounts.sums[&3], sum(1, 0, 0));
    }
}
