//! Backends: their endpoints, the choice among them, and pools of connections to each.

mod backend;
mod body;
mod config;
mod connection;
mod endpoint;
mod open;
mod task;

pub(crate) use backend::Backend;
pub(crate) use body::{Intake, Patience, RequestBody};
pub use config::{
    Algorithm, BackendConfig, BackendLimits, BackendProtocol, EndpointConfig, EndpointState, Picker,
};
pub(crate) use connection::{Codec, Lease};
pub(crate) use endpoint::{Endpoint, Key, Underway};
pub(crate) use open::{AcquireError, acquire, connect};
