//! Seeded simulations: two stacks, or a stack and a model of a peer, with a bad network between them.

mod goodput;
mod model;
mod pair;
#[path = "../support/mod.rs"]
mod support;
