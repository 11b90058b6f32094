//! The TCP stack against Linux's: transfers over bad links, with Weft at one end, in the middle, or not there.

mod case;
mod matrix;
mod report;
mod world;

pub use case::Case;
pub use matrix::Matrix;
pub use report::{Cell, Report, Side};
pub use world::{FAR, LIMIT, NEAR, Wish, World, service, transfer};
