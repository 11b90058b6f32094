//! `process` as its callers see it: frames in, verdicts and frames out.

#[path = "../support/mod.rs"]
mod support;

mod affinity;
mod ahead;
mod answers;
mod balance;
mod bounds;
mod endpoints;
mod extensions;
mod flows;
mod fragment_bounds;
mod fragments;
mod icmp;
mod icmp_refused;
mod leaving;
mod memory;
mod midflow;
mod overlay;
mod pod_mtu;
mod properties;
mod quotas;
mod rejects;
mod services;
mod simulation;
mod sources;
mod states;
mod steering;
mod terminate;
