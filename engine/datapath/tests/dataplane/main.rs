//! `process` as its callers see it: frames in, verdicts and frames out.

#[path = "../support/mod.rs"]
mod support;

mod affinity;
mod balance;
mod endpoints;
mod flows;
mod fragment_bounds;
mod fragments;
mod properties;
mod quotas;
mod rejects;
mod services;
mod simulation;
mod sources;
mod states;
mod steering;
