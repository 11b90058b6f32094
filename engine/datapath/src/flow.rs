//! Flows: what is remembered of a connection, and where it is found.

mod index;
mod record;
mod table;
#[cfg(test)]
mod tests;

pub use record::{Flow, FlowEnd, FlowKind, FlowSource, NewFlow, TcpPhase};
pub use table::{Direction, FlowId, FlowTable, InsertError};
