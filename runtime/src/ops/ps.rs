//! ps: the processes of a container.

use crate::{Kind, Result, container::state::Container, ops::kill};

/// The pids of everything in the container's cgroup, in the runtime's pid namespace, and init's wherever it is.
///
/// # Errors
/// When the cgroup cannot be read; one that is gone holds nothing.
pub fn ps(container: &Container) -> Result<Vec<i32>> {
    if !container.is_of_this_boot() {
        return Ok(Vec::new());
    }
    let mut pids = match container.cgroup().pids() {
        Err(e) if e.kind() == Kind::NotFound => Vec::new(),
        other => other?,
    };
    if let Err(at) = pids.binary_search(&container.pid())
        && kill::living(container)?.is_some()
    {
        pids.insert(at, container.pid());
    }
    Ok(pids)
}
