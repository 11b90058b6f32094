//! Running the stage's tasks on the caller's thread, by the caller's clock.

mod deadline;
mod executor;
mod timers;

pub(crate) use deadline::Deadline;
pub(crate) use executor::{Executor, GroupId};
pub(crate) use timers::{Alarm, Timers};
