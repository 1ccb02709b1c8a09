//! The operation stats: reads the counters of a container's cgroup.

pub use crate::cgroup::{Placement, Stats};
use crate::{Result, container::state::Container};

/// Reads all counters.
///
/// # Errors
/// [`crate::Kind::NotFound`] if the cgroup does not exist.
pub fn stats(container: &Container) -> Result<Stats> {
    container.cgroup().stats()
}

/// Reads CPUs, memory nodes and huge page sizes, which [`stats`] leaves out.
///
/// # Errors
/// As [`stats`].
pub fn placement(container: &Container) -> Result<Placement> {
    container.cgroup().placement()
}
