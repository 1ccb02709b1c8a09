//! `start`: lets a created container's process begin.

use berth_runtime::{Error, Kind, start, state::Status};

use super::{
    Globals, Outcome,
    args::{Command, Count, Parsed},
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
            start::start(&container, None)?;
            return Ok(0);
        }
        Status::Stopped => "cannot start a container that has stopped".to_owned(),
        Status::Running => "cannot start an already running container".to_owned(),
        other => format!("cannot start a container in the {other} state"),
    };
    Err(Error::new(Kind::FailedPrecondition, refusal).into())
}
