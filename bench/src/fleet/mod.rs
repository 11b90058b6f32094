//! Many backends and many flows, all held in this process, every message checked against what the configuration
//! allowed while it was under way.
//!
//! A client asks, a server says who it is. A question says since which configuration it has been on its way, so that a server
//! can tell for each one, answered or not, whether it should ever have come to it. What is wrong becomes a [fault](Faults).

mod client;
mod history;
mod message;
mod servers;
mod tally;

pub use client::{Crew, Plan, Tuple};
pub use history::{History, Set};
pub use message::Place;
pub use servers::Servers;
pub use tally::Tally;

use std::sync::{Arc, Mutex, PoisonError};

/// Faults that are kept in full.
const KEPT: usize = 20;

/// What was found wrong. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<(usize, Vec<String>)>>);

impl Faults {
    /// Adds one.
    pub fn add(&self, fault: String) {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        faults.0 += 1;
        if faults.1.len() < KEPT {
            faults.1.push(fault);
        }
    }

    /// How many there are, and the first of them.
    pub fn so_far(&self) -> (usize, Vec<String>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
