//! pause and resume.

use crate::{
    Error, Kind, Result,
    state::{Container, Status},
};

/// Freezes a container.
///
/// # Errors
/// [`Kind::FailedPrecondition`] unless it is running or created.
pub fn pause(container: &Container) -> Result<()> {
    match container.status()? {
        Status::Running | Status::Created => container.cgroup().freeze(),
        status => Err(wrong(container, status, "pause", "running or created")),
    }
}

/// Thaws a container.
///
/// # Errors
/// [`Kind::FailedPrecondition`] unless it is paused.
pub fn resume(container: &Container) -> Result<()> {
    match container.status()? {
        Status::Paused => container.cgroup().thaw(),
        status => Err(wrong(container, status, "resume", "paused")),
    }
}

fn wrong(container: &Container, status: Status, verb: &str, wanted: &str) -> Error {
    let text = match (verb, status) {
        (_, Status::Stopped) => "container not running".to_owned(),
        ("resume", _) => "container not paused".to_owned(),
        _ => format!("cannot {verb} container {}: it is {status}, not {wanted}", container.id()),
    };
    Error::new(Kind::FailedPrecondition, text)
}
