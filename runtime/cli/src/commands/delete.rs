//! `delete`: removes a container.

use berth_runtime::{
    Error, Kind, delete,
    state::{self, Container, Status},
};

use super::load;
use crate::{
    Globals, Outcome,
    args::{Binding, Command, Usage},
};

/// The arguments of `delete`.
#[derive(Debug, Default)]
pub struct DeleteArgs {
    id: String,
    force: bool,
}

/// The command.
pub static COMMAND: Command<DeleteArgs> = Command {
    usage: Usage {
        name: "delete",
        summary: "remove a container with its cgroup and its state",
        operands: "<container-id>

The container must have stopped, unless --force is given.

EXAMPLE:
       # berth delete web",
        ..Usage::DEFAULT
    },
    flags: &[Binding::switch(&["force", "f"], "kill a running container with SIGKILL first", |args, on| {
        args.force = on;
    })],
    operands: |args, operands| args.id = operands.one(),
    run,
};

fn run(globals: &Globals, args: DeleteArgs) -> Outcome {
    let container = match load(globals, &args.id) {
        Ok(container) => container,
        // The state of the container was never written, or is damaged.
        Err(_) if args.force && state::check_id(&args.id).is_ok() => {
            delete::cleanup(&globals.root, &args.id, delete::EXIT_TIMEOUT)?;
            return Ok(0);
        }
        Err(e) => return Err(e.into()),
    };
    remove(&container, &args)?;
    Ok(0)
}

/// Removes the container. Another process is at work on a container that is being created, so that needs `--force`.
fn remove(container: &Container, args: &DeleteArgs) -> Result<(), Error> {
    if !args.force && container.status()? == Status::Creating {
        let text = format!("cannot delete container {} that is not stopped: creating", container.id());
        return Err(Error::new(Kind::FailedPrecondition, text));
    }
    if !args.force {
        return delete::delete(container);
    }
    match delete::force_delete(container) {
        // Another process has deleted it meanwhile.
        Err(e) if e.kind() == Kind::NotFound => Ok(()),
        deleted => deleted,
    }
}
