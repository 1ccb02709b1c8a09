//! The real binary, as containerd runs it: started, talked to, killed, deleted. Needs root and Linux, no containerd.
//!
//! Every server is killed by its pid when its test ends, and every socket lies in a directory of the test, but for the
//! two forms of the protocol that cannot name one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and runs the binary as any program would"
)]

mod delete;
mod harness;
mod serve;
mod start;
