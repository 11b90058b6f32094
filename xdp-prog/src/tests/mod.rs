//! Tests against the running kernel, each in network namespaces of its own. They need root; without
//! it they say so and pass, except in CI.

mod bulk;
mod extensions;
mod fast;
mod first;
mod flow_table;
mod hooks;
mod icmp;
mod lab;
mod lifecycle;
mod netlink;
mod orphans;
mod packets;
mod pins;
mod pod_mtu;
mod program;
mod punt;
mod sockets;
mod sums;
mod support;
mod table;
mod targets;
mod world;
mod wrap;
