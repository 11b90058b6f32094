//! `process` as its callers see it: frames in, verdicts and frames out.

#[path = "../support/mod.rs"]
mod support;

mod balance;
mod bounds;
mod flows;
mod properties;
mod rejects;
mod services;
mod simulation;
mod sources;
mod steering;
