//! The runtime core: config.json in, a container out. No async; both front doors call these verbs.

pub mod cgroup;
pub mod error;
pub mod features;
pub mod seccomp;
pub mod spec;

pub use error::{Context, Error, Kind, Result};
