//! End-to-end scenarios in labs of network namespaces, one at a time.
//!
//! The names carry the ids of the behaviours they prove. They need root; without it they say so and
//! pass, except where `CI=true` is set, where nothing may be skipped.
#![forbid(unsafe_code)]

mod balancer;
mod benchmark;
mod bookinfo;
mod churn;
mod client_address;
mod cluster_ip;
mod command_line;
mod crash;
mod endpoints;
mod enrolment;
mod examples;
mod failure;
mod fast_path;
mod fixture;
mod fleet;
mod fragments;
mod hostile;
mod http_faults;
mod http_fixture;
mod http_grpc;
mod http_hostile;
mod http_limits;
mod http_restart;
mod http_routes;
mod http_seen;
mod http_stage;
mod icmp;
mod isolation;
mod kernel;
mod operator;
mod oracle;
mod order;
mod overlay;
mod overlay_faults;
mod overlay_fixture;
mod overlay_frames;
mod overlay_hostile;
mod overlay_matrix;
mod overlay_mtu;
mod overlay_ovs;
mod overlay_uplinks;
mod ownership;
mod path_mtu;
mod reloads;
mod sources;
mod stages;
mod syn_flood;
mod table_changes;
mod tcp_links;
mod tcp_stage;
mod top;
mod unenrolled;
mod upgrade;
mod upgrade_refused;
mod workers;
