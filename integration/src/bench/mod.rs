//! `make bench`: what berth costs, beside its peers and beside the least that anything could cost.
//!
//! ```text
//! berth-bench ─ measures (one subject a file) ─ Results ─┬─ table, with the targets
//!                                                        ├─ JSON
//!                                                        └─ plots (SVG)
//! ```
//!
//! All contestants run in one go and take turns: each round has every contestant once, in a fresh order, because the
//! machine's speed drifts from minute to minute. So only ratios within one run mean anything, and they are what the
//! targets are written in.
//!
//! Each measure file defines its [`Measure`]s as constants and has a function that puts values into [`Results`] by
//! [`Results::add`]. Nothing here judges: the targets are in one file, the words of the table in another.

pub mod bare;
pub mod direct;
pub mod footprint;
pub mod order;
pub mod sample;

pub use sample::{Contestant, Measure, Results, Series, Unit};
