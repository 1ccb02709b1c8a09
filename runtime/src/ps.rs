//! ps: the processes of a container.

use crate::{Kind, Result, state::Container};

/// The pids of everything in the container's cgroup, in the runtime's pid namespace.
///
/// # Errors
/// When the cgroup cannot be read; one that is gone holds nothing.
pub fn ps(container: &Container) -> Result<Vec<i32>> {
    match container.cgroup().pids() {
        Err(e) if e.kind() == Kind::NotFound => Ok(Vec::new()),
        other => other,
    }
}
