//! update: other limits for a container that is there.

use oci_spec::runtime::LinuxResources;

use crate::{
    Error, Kind, Result,
    state::{Container, Status},
};

/// Writes the limits that `resources` names.
///
/// # Errors
/// [`Kind::FailedPrecondition`] when the container is stopped; the file, value and errno of a limit that the kernel
/// refuses.
pub fn update(container: &Container, resources: &LinuxResources) -> Result<()> {
    if container.status()? == Status::Stopped {
        return Err(Error::new(Kind::FailedPrecondition, "container not running"));
    }
    container.cgroup().update(resources)
}
