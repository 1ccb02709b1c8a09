//! update: other limits for a container that is there.

use oci_spec::runtime::LinuxResources;

use crate::{
    Error, Kind, Result, cgroup,
    container::state::{Container, Status},
    leaves::rdt,
};

/// Writes the limits that `resources` names, and the schemas of `rdt`.
///
/// # Errors
/// [`Kind::FailedPrecondition`] when the container is stopped; the file, value and errno of a limit that the kernel
/// refuses; as [`rdt::Update::check`], before anything is written. Nothing of an update that fails stays in force.
pub fn update(container: &Container, resources: &LinuxResources, rdt: rdt::Update<'_>) -> Result<()> {
    let group = container.state().rdt.as_ref();
    if !rdt.is_empty() {
        rdt.check(group, rdt::root()?.as_deref())?;
    }
    if container.status()? == Status::Stopped {
        return Err(Error::new(Kind::FailedPrecondition, "container not running"));
    }
    cgroup::check(resources, "resources")?;
    let before = container.cgroup().update(resources)?;
    rdt.apply(group).map_err(|e| before.put_back(e))
}
