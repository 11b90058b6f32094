//! What is to be seen of the stage, as plain data: whoever runs it writes logs and exports metrics.

mod flag;
mod metrics;
mod record;
mod trace;

pub use flag::Flag;
pub use metrics::{BUCKETS, Histogram, Series, ServiceMetrics};
pub use record::{AccessRecord, Protocol};
pub(crate) use record::{Log, Recorder, Sink, cut, first_line};
pub use trace::TraceContext;
pub(crate) use trace::propagate;
