//! Two stacks in memory under a virtual clock: streams from end to end.

#[path = "../support/mod.rs"]
mod support;

mod echo;
