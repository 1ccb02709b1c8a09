//! `mounts`: adds mounts to a running container, or removes them.

use std::path::PathBuf;

use berth_runtime::{Error, bundle, live_mounts, state::Container};

use crate::{
    Globals, Outcome,
    args::{Command, Count, Usage},
};

/// The arguments of `mounts`.
#[derive(Debug, Default)]
pub struct MountsArgs {
    action: String,
    id: String,
    file: PathBuf,
}

/// The command.
pub static COMMAND: Command<MountsArgs> = Command {
    usage: Usage {
        name: "mounts",
        summary: "add mounts to a running container, or remove them",
        operands: "add|remove <container-id> <file>

The file holds a JSON array like mounts of config.json.",
        description: "Bind mounts can be added, and tmpfs if the container has no user namespace.
Either all mounts of the array are added or none. To remove mounts, the command
looks at their destinations only.",
        count: Count::Exactly(3),
        ..Usage::DEFAULT
    },
    flags: &[],
    operands: |args, operands| {
        args.action = operands.one();
        args.id = operands.one();
        args.file = operands.one().into();
    },
    run,
};

fn run(globals: &Globals, args: MountsArgs) -> Outcome {
    let change = match args.action.as_str() {
        "add" => live_mounts::add,
        "remove" => live_mounts::remove,
        other => return Err(Error::invalid(format!("mounts {other:?}: neither add nor remove")).into()),
    };
    let container = Container::load(&globals.root, &args.id)?;
    change(&container, &bundle::load_mounts(&args.file)?)?;
    Ok(0)
}
