//! The operation ps: lists the processes of a container.

use crate::{Kind, Result, container::state::Container, ops::kill};

/// Returns the pids of all processes in the container's cgroup, and of init even if it has left the cgroup. The pids
/// are those of the runtime's pid namespace.
///
/// # Errors
/// The cgroup cannot be read. A cgroup that does not exist has no processes.
pub fn ps(container: &Container) -> Result<Vec<i32>> {
    if !container.is_of_this_boot() {
        return Ok(Vec::new());
    }
    let mut pids = match container.cgroup().pids() {
        Err(e) if e.kind() == Kind::NotFound => Vec::new(),
        other => other?,
    };
    if let Err(at) = pids.binary_search(&container.pid())
        && kill::open_init(container)?.is_some()
    {
        pids.insert(at, container.pid());
    }
    Ok(pids)
}
