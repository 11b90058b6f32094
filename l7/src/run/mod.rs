//! Running the stage's tasks on the caller's thread, by the caller's clock.

mod executor;
mod timers;

pub(crate) use executor::{Executor, GroupId, Ran};
pub(crate) use timers::{Alarm, Timers};
