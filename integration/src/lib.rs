//! The library of the integration tests: runtimes on the command line, a shim without containerd, a containerd with its
//! clients and images, test machines, and the check that a test leaves nothing behind. `tests/` has the tests; `bench/`
//! has the benchmark.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a failed expectation is a panic, and programs are run as a user would run them"
)]

pub mod attack;
pub mod budget;
pub mod bundle;
pub mod case;
pub mod cgroup;
pub mod cgroup_versions;
pub mod command;
pub mod comparison;
pub mod conformance;
pub mod console;
pub mod containerd;
pub mod counts;
pub mod cri_bundle;
pub mod criu;
pub mod delegation;
pub mod dependencies;
pub mod executable;
pub mod fake_bus;
pub mod fault;
pub mod footprint;
pub mod hardening;
pub mod host_files;
pub mod image;
pub mod leak;
pub mod ledger;
pub mod lsm;
pub mod matrix;
pub mod mounts;
pub mod output;
pub mod pod;
pub mod probe;
pub mod procs;
pub mod race;
pub mod reservation;
pub mod runtime;
pub mod scratch;
pub mod session;
pub mod shim;
pub mod soak;
pub mod strace;
pub mod systemd;
pub mod tar;
pub mod task;
pub mod test_names;
pub mod tools;
pub mod vm;
pub mod wait;
