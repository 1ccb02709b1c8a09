//! `start`: lets the process of a created container begin.

use std::os::fd::AsFd;

use berth_runtime::{
    Error, Kind, Result, start,
    state::{Container, Status},
};

use super::{ContainerArgs, load};
use crate::{
    Globals, Outcome,
    args::{Command, Usage},
    sd_notify::{Manager, Relay},
};

/// The command.
pub static COMMAND: Command<ContainerArgs> = Command {
    usage: Usage {
        name: "start",
        summary: "run the process of a container that create has made",
        operands: "<container-id>",
        ..Usage::DEFAULT
    },
    flags: &[],
    operands: |args, operands| args.id = operands.one(),
    run,
};

fn run(globals: &Globals, args: ContainerArgs) -> Outcome {
    let container = load(globals, &args.id)?;
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

/// Starts the container. If a service manager waits for a notification, returns when the container is ready or has ended.
fn start(container: &Container) -> Result<()> {
    let Some(manager) = Manager::from_environment()? else { return start::start(container, None) };
    let relay = Relay::bind(manager, container.dir())?;
    let pidfd = container.pidfd()?;
    start::start(container, None)?;
    relay.until_ready(container.pid(), pidfd.as_fd())
}
