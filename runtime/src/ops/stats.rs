//! stats: what a container's cgroup counts.

pub use crate::cgroup::{Placement, Stats};
use crate::{Result, container::state::Container};

/// Reads all counters.
///
/// # Errors
/// [`crate::Kind::NotFound`] when the cgroup is gone.
pub fn stats(container: &Container) -> Result<Stats> {
    container.cgroup().stats()
}

/// Reads what the kernel says about CPUs, memory nodes and huge pages beyond [`stats`].
///
/// # Errors
/// As [`stats`].
pub fn placement(container: &Container) -> Result<Placement> {
    container.cgroup().placement()
}
