//! `kill`: sends a signal to a container's process.

use berth_runtime::{Kind, kill};

use super::{
    Globals, Outcome,
    args::{Command, Count, Flag, Parsed},
};

/// See the module.
pub static COMMAND: Command = Command {
    name: "kill",
    summary: "kill sends the specified signal (default: SIGTERM) to the container's init process",
    operands: "<container-id> [signal]

Where \"<container-id>\" is the name of the container and \"[signal]\" a signal's
name, with or without SIG, or its number.

EXAMPLE:
       # berth kill ubuntu01 KILL",
    about: "",
    // Hidden, as runc has it: a container without a pid namespace of its own is killed whole anyway.
    flags: &[Flag::switch(&["all", "a"], "")],
    count: Count::Between(1, 2),
    operands_last: false,
    run,
};

fn run(globals: &Globals, parsed: &Parsed) -> Outcome {
    let container = super::container(globals, parsed)?;
    let signal = match parsed.operand(1) {
        "" => "SIGTERM",
        text => text,
    };
    let signal = kill::parse_signal(signal)?;
    if !parsed.on("all") {
        kill::kill(&container, signal)?;
        return Ok(0);
    }
    match kill::kill_all(&container, signal) {
        Err(e) if e.kind() == Kind::NotFound => Ok(0),
        result => Ok(result.map(|()| 0)?),
    }
}
