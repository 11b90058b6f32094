//! What the programs counted.

use libbpf_rs::{MapCore, MapFlags};

use crate::abi::Counter;
use crate::maps::{MapError, into_io};

/// One value for each [`Counter`], summed over CPUs.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Counters([u64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Counter::ALL.len()])
    }
}

impl Counters {
    /// Every counter with its value.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL
            .into_iter()
            .map(|counter| (counter, self[counter]))
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = Self::default();
        for counter in Counter::ALL {
            difference.0[counter as usize] = self[counter].saturating_sub(earlier[counter]);
        }
        difference
    }
}

impl std::ops::Index<Counter> for Counters {
    type Output = u64;

    fn index(&self, counter: Counter) -> &u64 {
        &self.0[counter as usize]
    }
}

/// Reads the per-CPU array and sums it up.
pub(super) fn read(map: &impl MapCore) -> Result<Counters, MapError> {
    let mut counters = Counters::default();
    for counter in Counter::ALL {
        let cpus = map
            .lookup_percpu(&(counter as u32).to_ne_bytes(), MapFlags::ANY)
            .map_err(|error| MapError::Operation {
                map: "counters".to_owned(),
                operation: "look up",
                source: into_io(&error),
            })?
            .unwrap_or_default();
        counters.0[counter as usize] = cpus
            .iter()
            .filter_map(|value| Some(u64::from_ne_bytes(*value.first_chunk()?)))
            .sum();
    }
    Ok(counters)
}
