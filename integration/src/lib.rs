//! Harness.
// Test code: a failed expectation is a panic, and kernel numbers are converted freely.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

pub mod bundle;
pub mod case;
pub mod mounts;
pub mod probe;
pub mod residue;
pub mod runtime;
pub mod tools;
