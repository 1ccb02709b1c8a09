//! The operation stats: reads the counters of a container's cgroup.

pub use crate::cgroup::{Placement, Stats};
use crate::{Result, cgroup::Cgroup, container::state::Container};

/// Reads all counters.
///
/// # Errors
/// [`crate::Kind::NotFound`] if the cgroup does not exist.
pub fn stats(container: &Container) -> Result<Stats> {
    container.cgroup().stats()
}

/// Reads the counters of a pod's cgroup, the `cgroup_parent` of the CRI: a path, or the name of a systemd slice.
///
/// # Errors
/// [`crate::Kind::NotFound`] if the cgroup does not exist; as [`Cgroup::of_pod`].
pub fn of_pod(cgroup_parent: &str) -> Result<Stats> {
    Cgroup::of_pod(cgroup_parent)?.stats()
}

/// Reads CPUs, memory nodes and huge page sizes, which [`stats`] leaves out.
///
/// # Errors
/// As [`stats`].
pub fn placement(container: &Container) -> Result<Placement> {
    container.cgroup().placement()
}
