//! `start`: lets a created container's process begin.

use std::os::fd::AsFd;

use berth_runtime::{
    Error, Kind, Result, start,
    state::{Container, Status},
};

use super::{
    Globals, Outcome,
    args::{Command, Count, Parsed},
    sd_notify::{Manager, Relay},
};

/// See the module.
pub static COMMAND: Command = Command {
    name: "start",
    summary: "executes the user defined process in a created container",
    operands: "<container-id>

Where \"<container-id>\" is the name of a container made by the command create.",
    about: "",
    flags: &[],
    count: Count::Exactly(1),
    operands_last: false,
    run,
};

fn run(globals: &Globals, parsed: &Parsed) -> Outcome {
    let container = super::container(globals, parsed)?;
    let refusal = match container.status()? {
        Status::Created => {
            start(&container)?;
            return Ok(0);
        }
        Status::Stopped => "cannot start a container that has stopped".to_owned(),
        Status::Running => "cannot start an already running container".to_owned(),
        other => format!("cannot start a container in the {other} state"),
    };
    Err(Error::new(Kind::FailedPrecondition, refusal).into())
}

/// Starts it, and with a service manager that wants to know waits until it is ready or has ended.
fn start(container: &Container) -> Result<()> {
    let Some(manager) = Manager::of_environment()? else { return start::start(container, None) };
    let relay = Relay::bind(manager, container.dir())?;
    let pidfd = container.pidfd()?;
    start::start(container, None)?;
    relay.until_ready(container.pid(), pidfd.as_fd())
}
