//! `mounts`: more mounts in a running container, or fewer.

use std::path::Path;

use berth_runtime::{Error, bundle, live_mounts, state::Container};

use super::{
    Globals, Outcome,
    args::{Command, Count, Parsed},
};

/// See the module.
pub static COMMAND: Command = Command {
    name: "mounts",
    summary: "add mounts to a running container, or remove them",
    operands: "add|remove <container-id> <file>

Where \"<file>\" has a JSON list like mounts of config.json.",
    about: "Bind mounts and, without a user namespace, tmpfs can be added, all of the list or none.
To remove them, only the destinations are looked at.",
    flags: &[],
    count: Count::Exactly(3),
    operands_last: false,
    run,
};

fn run(globals: &Globals, parsed: &Parsed) -> Outcome {
    let change = match parsed.operand(0) {
        "add" => live_mounts::add,
        "remove" => live_mounts::remove,
        other => return Err(Error::invalid(format!("mounts {other:?}: neither add nor remove")).into()),
    };
    let container = Container::load(&globals.root, parsed.operand(1))?;
    change(&container, &bundle::load_mounts(Path::new(parsed.operand(2)))?)?;
    Ok(0)
}
