//! Weft's laboratory: network-namespace labs, the demo, end-to-end scenarios and A/B benchmarks.
//!
//! A [`lab::Lab`] is a node with pods, all network namespaces of this machine; nothing outside of
//! them is touched, and everything in them goes when the lab does, however it ends
//! ([`janitor`]). The node process is a subprocess ([`weft`]), driven by its command line as an
//! operator would.
#![forbid(unsafe_code)]

pub mod balancer;
pub mod binaries;
pub mod bookinfo;
pub mod capture;
pub mod client;
pub mod command;
pub mod config;
pub mod conntrack;
pub mod demo;
pub mod far;
pub mod fleet;
pub mod grpc;
pub mod http;
pub mod impairment;
pub mod janitor;
pub mod kubeproxy;
pub mod lab;
mod link;
pub mod load;
pub mod machine;
pub mod measure;
pub mod namespace;
pub mod nftables;
pub mod oracle;
pub mod ovs;
pub mod packet;
pub mod pattern;
mod poll;
pub mod process;
pub mod progress;
pub mod proxy;
pub mod random;
pub mod raw;
pub mod sequence;
pub mod servers;
pub mod snapshot;
pub mod sweep;
pub mod tcp;
pub mod tools;
pub mod two_nodes;
pub mod wait;
pub mod weft;
