//! Flows: what is remembered of a connection, and where it is found.

mod index;
mod new;
mod record;
mod state;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use index::{Index, KeyHash};
pub use new::{FlowEnd, FlowKind, FlowSource, NewFlow};
pub use record::Flow;
pub use state::FlowState;
pub use table::{Direction, FlowId, FlowTable, InsertError};
