//! The binary as containerd runs it: started, called, killed and deleted. The tests need root and Linux, and no
//! containerd.
//!
//! Each test kills its servers by pid at its end. Each socket is in a directory of its test, except with the two older
//! forms of the protocol, which cannot name a directory.
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
