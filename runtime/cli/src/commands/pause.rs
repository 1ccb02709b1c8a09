//! `pause` and `resume`.

use berth_runtime::{Result, pause, state::Container};

use super::{ContainerArgs, load};
use crate::{
    Globals, Outcome,
    args::{Command, Usage},
};

/// The command `pause`.
pub static PAUSE: Command<ContainerArgs> = Command {
    usage: Usage {
        name: "pause",
        summary: "freeze all processes of a container",
        operands: "<container-id>",
        ..Usage::DEFAULT
    },
    flags: &[],
    operands: |args, operands| args.id = operands.one(),
    run: |globals, args| carry_out(globals, &args, pause::pause),
};

/// The command `resume`.
pub static RESUME: Command<ContainerArgs> = Command {
    usage: Usage {
        name: "resume",
        summary: "thaw the processes of a paused container",
        operands: "<container-id>",
        ..Usage::DEFAULT
    },
    flags: &[],
    operands: |args, operands| args.id = operands.one(),
    run: |globals, args| carry_out(globals, &args, pause::resume),
};

fn carry_out(globals: &Globals, args: &ContainerArgs, operation: fn(&Container) -> Result<()>) -> Outcome {
    operation(&load(globals, &args.id)?)?;
    Ok(0)
}
