//! stats: what a container's cgroup counts.

pub use crate::cgroup::Stats;
use crate::{Result, state::Container};

/// Reads all counters.
///
/// # Errors
/// [`crate::Kind::NotFound`] when the cgroup is gone.
pub fn stats(container: &Container) -> Result<Stats> {
    container.cgroup().stats()
}
