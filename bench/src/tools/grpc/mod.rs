//! A gRPC server, and a client that measures calls; both on one thread. [`crate::grpc`] has the methods.

mod load;
mod serve;

pub use load::{Found, Load};
pub use serve::serve;
