//! The operation update: changes the limits of an existing container.

use oci_spec::runtime::LinuxResources;

use crate::{
    Error, Kind, Result,
    container::state::{Container, Status},
    leaves::rdt,
};

/// Writes the limits that `resources` names, and the schemata of `rdt`. If one fails, the others are restored.
///
/// # Errors
/// [`Kind::FailedPrecondition`] if the container is stopped. As [`rdt::Update::check`], before anything is written. For
/// a limit that the kernel refuses: its file, value and errno.
pub fn update(container: &Container, resources: &LinuxResources, rdt: rdt::Update<'_>) -> Result<()> {
    let group = container.state().rdt.as_ref();
    if !rdt.is_empty() {
        rdt.check(group, rdt::root()?.as_deref())?;
    }
    if container.status()? == Status::Stopped {
        return Err(Error::new(Kind::FailedPrecondition, "container not running"));
    }
    let snapshot = container.cgroup().update(resources)?;
    rdt.apply(group).map_err(|e| snapshot.roll_back(e))
}
