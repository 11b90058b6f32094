//! Tests against the running kernel, each in network namespaces of its own. They need root; without
//! it they say so and pass, except in CI.

mod extensions;
mod hooks;
mod icmp;
mod lab;
mod lifecycle;
mod netlink;
mod packets;
mod pins;
mod sockets;
mod support;
mod table;
