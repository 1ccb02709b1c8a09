//! The operations pause and resume.

use crate::{
    Error, Kind, Result,
    container::state::{Container, Status},
};

/// Freezes a container.
///
/// # Errors
/// [`Kind::FailedPrecondition`] unless it is running or created, or if its init has left its cgroup: the freezer would
/// not reach it.
pub fn pause(container: &Container) -> Result<()> {
    match container.status()? {
        Status::Running | Status::Created => {
            let (cgroup, init) = (container.cgroup(), container.pid());
            if !cgroup.freezer_reaches(init)? {
                let text =
                    format!("cannot pause container {}: its process {init} is not in its cgroup", container.id());
                return Err(Error::new(Kind::FailedPrecondition, text));
            }
            cgroup.freeze()
        }
        Status::Stopped => Err(Error::new(Kind::FailedPrecondition, "container not running")),
        status => {
            let text = format!("cannot pause container {}: container not running ({status})", container.id());
            Err(Error::new(Kind::FailedPrecondition, text))
        }
    }
}

/// Thaws a container.
///
/// # Errors
/// [`Kind::FailedPrecondition`] unless it is paused.
pub fn resume(container: &Container) -> Result<()> {
    match container.status()? {
        Status::Paused => container.cgroup().thaw(),
        _ => Err(Error::new(Kind::FailedPrecondition, "container not paused")),
    }
}
