//! `make bench`: the cost of berth beside its peers and beside two floors.
//!
//! ```text
//! berth-bench ─ measures (one subject a file) ─ Results ─┬─ table, with the targets
//!                                                        ├─ JSON
//!                                                        └─ plots (SVG)
//! ```
//!
//! All contestants take part in one run and take turns: each round has every contestant once, in a new order, because
//! the machine's speed drifts from minute to minute. So only ratios within one run have a meaning, and the targets are
//! such ratios.
//!
//! Each measure file defines its [`Measure`]s as constants and a function that adds values to [`Results`]. `targets`
//! judges them, and `table` formats them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a failed expectation ends the benchmark, and programs are run as a user would run them"
)]

pub mod bare;
pub mod bare_process;
pub mod cli;
pub mod counts;
pub mod cpu;
pub mod cri_api;
pub mod density;
pub mod direct;
pub mod footprint;
pub mod growth;
pub mod grpc;
pub mod machine;
pub mod node;
pub mod operation;
pub mod order;
pub mod plot;
pub mod pods;
pub mod run;
pub mod sample;
pub mod seccomp;
pub mod size;
pub mod table;
pub mod targets;
pub mod tasks_api;
pub mod template;
pub mod through_containerd;

pub use sample::{Contestant, Measure, Results, Series, Unit};
