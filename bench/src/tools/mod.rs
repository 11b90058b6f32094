//! Small tools that run inside a lab's namespaces as subcommands of `weft-lab`.

pub mod bookinfo;
pub mod crowd;
pub mod crr;
pub mod flood;
pub mod flows;
pub mod greet;
pub mod grpc;
pub mod http_load;
pub mod link;
pub mod lookup;
pub mod rr;
pub mod serve;
pub mod sink;
pub mod transfer;
pub mod web;
