//! Two stacks in memory under a virtual clock: streams from end to end.

#[path = "../support/mod.rs"]
mod support;

mod echo;
mod ends;
mod flood;
mod limits;

mod pressure;
mod reuse;
mod sleep;
mod splice;
mod wakers;
