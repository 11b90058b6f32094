//! Small tools that run inside a lab's namespaces as subcommands of `weft-lab`.

pub mod flood;
pub mod rr;
pub mod serve;
pub mod sink;
