//! `delete`: removes what a container leaves behind.

use berth_runtime::{
    Error, Kind, delete,
    state::{self, Container, Status},
};

use super::{
    Globals, Outcome,
    args::{Command, Count, Flag, Parsed},
};

/// See the module.
pub static COMMAND: Command = Command {
    name: "delete",
    summary: "delete any resources held by the container often used with detached container",
    operands: "<container-id>

Where \"<container-id>\" is the name of the container.

EXAMPLE:
       # berth delete ubuntu01",
    about: "",
    flags: &[Flag::switch(&["force", "f"], "delete it even if it still runs (kills it with SIGKILL)")],
    count: Count::Exactly(1),
    operands_last: false,
    run,
};

fn run(globals: &Globals, parsed: &Parsed) -> Outcome {
    let (id, force) = (parsed.operand(0), parsed.on("force"));
    let container = match super::container(globals, parsed) {
        Ok(container) => container,
        // A container whose state was never written, or can no longer be read.
        Err(_) if force && state::check_id(id).is_ok() => {
            delete::cleanup(&globals.root, id, delete::EXIT_TIMEOUT)?;
            return Ok(0);
        }
        Err(e) => return Err(e.into()),
    };
    remove(container, force)?;
    Ok(0)
}

/// One that is being created is another process' work, and needs force.
fn remove(container: Container, force: bool) -> Result<(), Error> {
    if !force && container.status()? == Status::Creating {
        let text = format!("cannot delete container {} that is not stopped: creating", container.id());
        return Err(Error::new(Kind::FailedPrecondition, text));
    }
    if force { delete::force_delete(&container) } else { delete::delete(&container) }
}
