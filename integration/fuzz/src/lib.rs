//! Fuzz targets. Each one is a function of bytes that panics when an oracle disagrees with berth: another implementation, a
//! model, or a property that must hold. `main.rs` runs one under libFuzzer; the smoke test in `tests/` replays the corpus and
//! seeded mutations of it without instrumentation.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test crate: a failed expectation is a panic"
)]

pub mod input;
pub mod mutate;
pub mod scratch;
pub mod targets;

// The references of the test `seccomp_oracle`, which name each other from the root of their crate.
#[cfg(target_arch = "x86_64")]
#[allow(dead_code, reason = "the targets use a part")]
#[path = "../../../runtime/tests/seccomp_oracle/model.rs"]
mod model;
#[cfg(target_arch = "x86_64")]
#[allow(dead_code, reason = "the targets use a part")]
#[path = "../../../runtime/tests/seccomp_oracle/profiles.rs"]
mod profiles;
#[cfg(target_arch = "x86_64")]
#[allow(dead_code, reason = "the targets use a part")]
#[path = "../../../runtime/tests/seccomp_oracle/reference.rs"]
mod reference;

/// A target: its name, and its function.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    targets::ALL.iter().find(|target| target.name == name)
}
